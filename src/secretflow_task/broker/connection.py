"""The one place where a connection to Redis is made, Celery's own included."""

from __future__ import annotations

from typing import Any, Callable

from redis import (  # pylint: disable=redefined-builtin
    Connection,
    ConnectionError,
    ConnectionPool,
    ReadOnlyError,
    Redis,
    SSLConnection,
    UnixDomainSocketConnection,
)
from redis.sentinel import (
    Sentinel,
    SentinelConnectionPool,
    SentinelManagedConnection,
    SentinelManagedSSLConnection,
)

from secretflow_task.config.redis_url import RedisAddress
from secretflow_task.config.settings import Settings

_HEALTH_CHECK_SECONDS = 30
_SENTINEL_SECONDS = 2.0  # how long one may take to answer before the next one is asked


class NoMaster(ConnectionError):
    """The server has become a replica, which stores nothing."""


def wary(kind: Any) -> Any:
    """A class of connections that end when their server has become a replica: the name or the
    Sentinels that led to it lead to another one by now.
    """

    class Wary(kind):  # type: ignore[misc]
        """Tells a lost master from a lost connection."""

        def read_response(self, *arguments: Any, **options: Any) -> Any:
            """Read an answer."""
            try:
                return super().read_response(*arguments, **options)
            except ReadOnlyError:
                self.disconnect()
                raise NoMaster("The server has become a replica.") from None
            except ConnectionError as error:
                # Sentinel's classes say the same by this error.
                if isinstance(error.__context__, ReadOnlyError):
                    raise NoMaster("The server has become a replica.") from None
                raise

    return Wary


def pool_of(
    address: RedisAddress,
    *,
    variant: Callable[[Any], Any] = wary,
    **options: Any,
) -> ConnectionPool:
    """A pool of connections, which are made when they are first used.

    Args:
        variant: makes the class of the connections from one of redis-py's.
        options: further ones of redis-py's connections; ``socket_keepalive`` is left out where
            there is none.
    """
    if address.socket:
        options.pop("socket_keepalive", None)
    options |= {
        "db": address.database,
        "username": address.username,
        "password": address.password,
        **(address.tls or {}),
    }
    if address.socket:
        kind = variant(UnixDomainSocketConnection)
        return ConnectionPool(connection_class=kind, path=address.socket, **options)
    if address.master:
        kind = variant(
            SentinelManagedConnection if address.tls is None else SentinelManagedSSLConnection
        )
        return SentinelConnectionPool(  # type: ignore[no-untyped-call]
            address.master, _sentinels(address), connection_class=kind, **options
        )
    ((host, port),) = address.hosts
    kind = variant(Connection if address.tls is None else SSLConnection)
    return ConnectionPool(connection_class=kind, host=host, port=port, **options)


def _sentinels(address: RedisAddress) -> Any:
    own: dict[str, Any] = {
        "username": address.sentinel_username,
        "password": address.sentinel_password,
        "socket_timeout": _SENTINEL_SECONDS,
    }
    if address.tls is not None:
        own |= {"ssl": True, **address.tls}
    return Sentinel(address.hosts, sentinel_kwargs=own)  # type: ignore[no-untyped-call]


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
        options["socket_keepalive"] = True
        options["health_check_interval"] = _HEALTH_CHECK_SECONDS
    return Redis.from_pool(pool_of(settings.redis, **options))
