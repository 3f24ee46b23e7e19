"""What `sfworker doctor` finds out about Redis, also as a user who may not ask it everything."""

from __future__ import annotations

import time
import uuid
from typing import Any, Callable, cast

from redis import (  # pylint: disable=redefined-builtin
    AuthenticationError,
    BusyLoadingError,
    ConnectionError,
    Redis,
    RedisError,
    TimeoutError,
)
from redis.exceptions import (
    AuthenticationWrongNumberOfArgsError,
    NoPermissionError,
    OutOfMemoryError,
)

from secretflow_task.broker.connection import NoMaster, connect
from secretflow_task.broker.keys import STREAM
from secretflow_task.cli.finding import Finding
from secretflow_task.config.settings import Settings

_CLOCK_SECONDS = 2.0
_ANSWER_SECONDS = 3.0  # the operator waits
_TRIAL_SECONDS = 5
_PAGE = "the page Redis of the operations guide"
_START = "Start Redis 6.2 or newer, or correct SFWORKER_REDIS_URL."
# The first that fits.
_KNOWN: tuple[tuple[type[Exception], str, str], ...] = (
    (
        NoMaster,
        "this Redis is a replica, which stores nothing",
        "Let SFWORKER_REDIS_URL lead to the master, or name the Sentinels (sentinel://).",
    ),
    (
        OutOfMemoryError,
        "Redis is full (maxmemory)",
        "Raise maxmemory, or find what fills it: `redis-cli --bigkeys`.",
    ),
    (
        BusyLoadingError,
        "Redis is loading its data",
        "Wait; if it lasts, read the log of Redis.",
    ),
    (
        AuthenticationWrongNumberOfArgsError,
        "Redis takes no user and password",
        "Take them out of SFWORKER_REDIS_URL, or set them in Redis.",
    ),
    (
        AuthenticationError,
        "Redis refuses the user or the password",
        "Correct them in SFWORKER_REDIS_URL; without a user it is Redis' user `default`.",
    ),
    (TimeoutError, "Redis does not answer in time", _START),
)


def opened(settings: Settings) -> Redis:
    """A client that waits as long as an operator does."""
    return connect(settings, timeout_seconds=_ANSWER_SECONDS, decode_responses=True)


def explain(error: Exception) -> tuple[str, str]:
    """What an error of Redis means, and what to do."""
    for kind, state, mend in _KNOWN:
        if isinstance(error, kind):
            return state, mend
    text = str(error)
    if isinstance(error, NoPermissionError):
        # Redis names the command, or says that it is about a key or a channel.
        return f"a right is missing: {text}", f"Give the user the rights of {_PAGE}."
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return (
            "TLS: the certificate of Redis is not trusted, or is of another name",
            "Name the authority by ?ssl_ca_certs=FILE, and the host as the certificate does.",
        )
    if "SSL" in text or "Connection closed by server" in text:
        return (
            "TLS: no agreement with Redis",
            "Is it rediss:// with TLS, redis:// without? Does Redis ask for a certificate?",
        )
    if isinstance(error, ConnectionError):
        return "Redis cannot be reached", _START
    return type(error).__name__, _START


def _asking(ask: Callable[[Redis], Finding]) -> Callable[[Settings], Finding]:
    """A check that says of a Redis that cannot be asked why."""

    def check(settings: Settings) -> Finding:
        try:
            with opened(settings) as redis:
                return ask(redis)
        except (RedisError, OSError, ValueError) as error:
            return Finding(f"unknown: {explain(error)[0]}")

    return check


def server(settings: Settings) -> Finding:
    """Whether it can be reached and written, and its version where that may be asked."""
    try:
        with opened(settings) as redis:
            redis.ping()
            redis.set(f"sfworker:doctor:{uuid.uuid4().hex}", "1", ex=_TRIAL_SECONDS)
            return _version(redis)
    except (RedisError, OSError, ValueError) as error:
        return Finding(*explain(error))


def _version(redis: Redis) -> Finding:
    try:
        information: Any = redis.info("server")
    except NoPermissionError:
        return Finding("it answers; this user may not ask for its version (+info)")
    version = str(information["redis_version"])
    major, minor = map(int, version.split(".")[:2])
    return Finding(version, "" if (major, minor) >= (6, 2) else "Use Redis 6.2 or newer.")


@_asking
def memory(redis: Redis) -> Finding:
    """Whether it throws away what it has when it is full."""
    try:
        information: Any = redis.info("memory")
    except NoPermissionError:
        return Finding("not seen: this user may not ask for it (+info)")
    policy = str(information.get("maxmemory_policy", "unknown"))
    evicts = policy.startswith("allkeys")
    return Finding(
        policy,
        "Set maxmemory-policy to noeviction: requests and events would vanish." if evicts else "",
    )


@_asking
def rights(redis: Redis) -> Finding:
    """Whether the user may do what a node does beyond writing its own keys."""
    name = uuid.uuid4().hex
    trials: dict[str, Callable[[], object]] = {
        f"the stream {STREAM}": lambda: redis.xlen(STREAM),
        "scripts (+@scripting)": lambda: redis.eval("return 1", 0),
        "Celery's bindings (~_kombu.binding.*)": lambda: redis.smembers("_kombu.binding.x"),
        "Celery's results (~celery-task-meta-*)": lambda: redis.setex(
            f"celery-task-meta-doctor-{name}", _TRIAL_SECONDS, "1"
        ),
    }
    missing = []
    for what, trial in trials.items():
        try:
            trial()
        except NoPermissionError:
            missing.append(what)
    if missing:
        return Finding(f"not allowed: {', '.join(missing)}", f"Give the rights of {_PAGE}.")
    return Finding("those of a node")


@_asking
def clock(redis: Redis) -> Finding:
    """How far the clocks are apart."""
    before = time.time()
    seconds, micros = cast(tuple[int, int], redis.time())
    behind = (before + time.time()) / 2 - (seconds + micros / 1e6)
    wrong = abs(behind) > _CLOCK_SECONDS
    return Finding(
        f"{behind:+.3f} s against Redis", "Synchronise the clocks (NTP)." if wrong else ""
    )
