"""kombu's transport on our own connections to Redis, with acknowledgements that free their slot."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, ClassVar

from kombu.transport import redis, virtual
from redis import ConnectionPool, RedisError

from secretflow_task.broker.connection import pool_of, wary
from secretflow_task.config.redis_url import RedisAddress
from secretflow_task.utils.log import get_logger

log = get_logger()


class QoS(redis.QoS):  # type: ignore[misc]  # kombu has no types
    """Which messages are delivered and not acknowledged: so many are taken at once.

    kombu keeps the slot of a message whose acknowledgement Redis did not take. Here the slot is
    free, and Redis is told again until it hears, also after a new connection.
    """

    def ack(self, delivery_tag: str) -> None:
        """Acknowledge a message."""
        self._settle(delivery_tag, requeue=False)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Forget a message, or put it back into its queue."""
        self._settle(delivery_tag, requeue)

    def restore_visible(self, *arguments: Any, **options: Any) -> None:
        """Put back what was not acknowledged for too long; the event loop calls it every 10 s."""
        with suppress(RedisError, OSError):  # later
            self._tell()
        super().restore_visible(*arguments, **options)

    def _settle(self, delivery_tag: str, requeue: bool) -> None:
        virtual.QoS.ack(self, delivery_tag)
        unsettled = self.channel.unsettled
        unsettled[delivery_tag] = requeue
        if len(unsettled) > 1:  # Redis is away: the event loop does not wait for it at each message
            return
        try:
            self._tell()
        except (RedisError, OSError) as error:
            problem = type(error).__name__
            log.warning(
                "A request cannot be acknowledged yet; its slot is free.",
                action="acknowledgement_waits",
                problem=problem,
            )

    def _tell(self) -> None:
        """Tell Redis what it has not heard, in order."""
        unsettled = self.channel.unsettled
        while unsettled:
            delivery_tag, requeue = next(iter(unsettled.items()))
            if requeue:
                self.restore_by_tag(delivery_tag, leftmost=True)
            else:
                self._remove_from_indices(delivery_tag).execute()
            del unsettled[delivery_tag]


# pylint: disable-next=abstract-method  # of AMQP, which virtual transports do not need
class Channel(redis.Channel):  # type: ignore[misc]
    """A channel whose connections are made as all of ours are.

    Attributes:
        address: where Redis is.
        unsettled: what Redis has not been told, ``{delivery tag: whether it goes back}``; the same
            object in all channels of a node. Used by the thread of the event loop only.
    """

    QoS = QoS
    address: RedisAddress
    unsettled: dict[str, bool]
    keyprefix_fanout: str
    from_transport_options: ClassVar[tuple[str, ...]] = (
        *redis.Channel.from_transport_options,
        "address",
        "unsettled",
    )

    def _get_pool(self, asynchronous: bool = False) -> ConnectionPool:
        self.keyprefix_fanout = self.keyprefix_fanout.format(db=self.address.database)
        return pool_of(
            self.address,
            variant=self._watched if asynchronous else wary,
            socket_timeout=self.socket_timeout,
            socket_keepalive=self.socket_keepalive,
            health_check_interval=self.health_check_interval,
            max_connections=self.max_connections,
        )

    def _watched(self, kind: Any) -> Any:
        """A class of connections that the event loop listens to, until they are closed."""
        channel = self

        class Watched(wary(kind)):  # type: ignore[misc]
            """Leaves the event loop when it is closed."""

            def disconnect(self, *arguments: Any) -> None:
                """Close it."""
                super().disconnect(*arguments)
                # pylint: disable=protected-access  # as kombu's own class does
                if channel._registered:
                    channel._on_connection_disconnect(self)

        return Watched


class Transport(redis.Transport):  # type: ignore[misc]
    """kombu's transport; its URL is for people to read only."""

    Channel = Channel
    can_parse_url = True

    def as_uri(self, uri: str, include_password: bool = False, mask: str = "**") -> str:
        """The address for logs."""
        del include_password, mask
        return uri
