"""The consumer groups of listeners on the stream of events, as Redis sees them.

Each database has a group of its own, whose name begins with ``GROUP``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable

from redis import Redis, RedisError, ResponseError

from secretflow_task.broker.keys import GROUP, STREAM

# A listener that works asks for events several times a second.
DEAD_MILLISECONDS = 15_000
# How Redis 6.2 to 8 say that there is no stream, or no group.
_MISSING = ("no such key", "NOGROUP", "The XGROUP subcommand requires the key to exist")


@dataclass(frozen=True)
class ListenerGroup:
    """What a group has written.

    Attributes:
        readers: the listeners that were heard a moment ago.
        pending: entries that one of its listeners has read, and not written.
        lag_seconds: age of the oldest entry that is not written; 0 if all are.
    """

    name: str
    readers: tuple[str, ...]
    pending: int
    lag_seconds: float


def listener_groups(redis: Redis) -> list[ListenerGroup]:
    """All groups of listeners, by name.

    Args:
        redis: a client, whether it decodes or not.

    Raises:
        redis.RedisError: Redis is away.
    """
    return [
        ListenerGroup(name, readers(redis, name), _pending(redis, name), lag)
        for name, lag in lags(redis).items()
    ]


def lags(redis: Any) -> dict[str, float]:
    """The age in seconds of the oldest entry that each group has not written, 0 if all are.

    Raises:
        redis.RedisError: Redis is away.
    """
    delivered = _delivered(redis)
    with redis.pipeline(transaction=False) as pipeline:
        pipeline.time()
        for name, position in delivered.items():
            pipeline.xpending(STREAM, name)
            pipeline.xrange(STREAM, min=f"({position}", count=1)
        now, *answers = pipeline.execute(raise_on_error=False)
    if isinstance(now, RedisError):
        raise now
    found: dict[str, float] = {}
    for name, pending, unread in zip(delivered, answers[::2], answers[1::2]):
        if isinstance(pending, RedisError) or isinstance(unread, RedisError):
            continue  # it was removed meanwhile, or this user may not look
        # What was read comes before what was not.
        oldest = pending["min"] or (unread[0][0] if unread else None)
        found[name] = 0.0 if oldest is None else _age_seconds(now, text(oldest))
    return found


def readers(redis: Any, name: str) -> tuple[str, ...]:
    """The consumers of a group that were heard a moment ago; none where there is no such group.

    Raises:
        redis.RedisError: Redis is away.
    """
    consumers = _or_none(redis.xinfo_consumers, STREAM, name) or []
    heard = [one["name"] for one in consumers if one["idle"] <= DEAD_MILLISECONDS]
    return tuple(sorted(map(text, heard)))


def remove(redis: Any, name: str) -> bool:
    """Remove a group; whether there was one. A listener that still uses it makes it again.

    Raises:
        redis.RedisError: Redis is away.
    """
    return bool(_or_none(redis.xgroup_destroy, STREAM, name))


def text(answer: bytes | str) -> str:
    """An answer of a client that decodes, or of one that does not."""
    return answer.decode(errors="replace") if isinstance(answer, bytes) else answer


def _delivered(redis: Any) -> dict[str, str]:
    """The last entry that each group has read, by the group's name."""
    groups = _or_none(redis.xinfo_groups, STREAM) or []
    found = {text(group["name"]): text(group["last-delivered-id"]) for group in groups}
    own = sorted(name for name in found if name == GROUP or name.startswith(f"{GROUP}:"))
    return {name: found[name] for name in own}


def _pending(redis: Any, name: str) -> int:
    summary = _or_none(redis.xpending, STREAM, name)
    return int(summary["pending"]) if summary else 0


def _or_none(call: Callable[..., Any], *arguments: str) -> Any:
    """What Redis answers; None where there is no stream, or no such group any more."""
    try:
        return call(*arguments)
    except ResponseError as error:
        if str(error).startswith(_MISSING):
            return None
        raise


def _age_seconds(now: tuple[int, int], position: str) -> float:
    """The age of an entry: its id begins with the milliseconds of the same clock."""
    return max(0.0, now[0] + now[1] / 1e6 - int(position.partition("-")[0]) / 1000)
