"""The one place where a connection to Redis is made, apart from Celery's own."""

from __future__ import annotations

from typing import Any

from redis import Redis

from secretflow_task.config.settings import Settings

_HEALTH_CHECK_SECONDS = 30


def connect(
    settings: Settings,
    *,
    timeout_seconds: float = 10.0,
    decode_responses: bool = False,
    idle: bool = False,
) -> Redis:
    """A client of the Redis of ``settings``, which connects when it is first used.

    Args:
        timeout_seconds: how long Redis may take to accept a connection, and to answer a call; then
            the call raises `redis.TimeoutError`. Longer than any call blocks.
        decode_responses: answer with text, not bytes.
        idle: the client is unused for minutes, in which a firewall may drop its connection
            unnoticed: keep it alive, and try it before the next call.
    """
    # Without a time of its own, connecting has that of a call.
    options: dict[str, Any] = {
        "socket_timeout": timeout_seconds,
        "decode_responses": decode_responses,
    }
    if idle:
        options["socket_keepalive"] = True  # a unix socket knows no such option
        options["health_check_interval"] = _HEALTH_CHECK_SECONDS
    return Redis.from_url(settings.redis_url.get_secret_value(), **options)
