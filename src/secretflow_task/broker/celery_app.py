"""The Celery application, for the node that consumes requests and the client that sends them."""

from __future__ import annotations

from typing import Any

from celery import Celery
from celery.app.events import Events
from celery.events import EventDispatcher
from kombu import Connection
from redis import RedisError

from secretflow_task.broker.commands import CANCEL_COMMAND
from secretflow_task.broker.entry import SENT_AT, TASK_NAME
from secretflow_task.broker.keys import unacknowledged_keys
from secretflow_task.broker.results import ResultWriter
from secretflow_task.broker.transport import Gate
from secretflow_task.config.settings import Settings

__all__ = ["CANCEL_COMMAND", "SENT_AT", "TASK_NAME", "create_app", "redeliver"]

# What an event of Celery may say of a task; others hold its arguments, its result or a traceback.
_TOLD = frozenset(
    ("uuid", "name", "root_id", "parent_id", "retries", "eta", "expires", "expired", "requeue")
    + ("runtime", "exception", "terminated", "signum")
)


class _Dispatcher(EventDispatcher):  # type: ignore[misc]  # Celery has no types
    def send(self, kind: str, **fields: Any) -> Any:  # pylint: disable=arguments-differ
        """Send an event, which Flower and celery-exporter follow, without the request's content."""
        if kind.startswith("task-"):
            fields = {name: value for name, value in fields.items() if name in _TOLD}
        if "exception" in fields:
            fields["exception"] = fields["exception"].partition("(")[0] + "()"
        return super().send(kind, **fields)


class _Events(Events):  # type: ignore[misc]
    dispatcher_cls = _Dispatcher


def create_app(
    settings: Settings,
    node_id: str | None = None,
    results: ResultWriter | None = None,
    gate: Gate | None = None,
) -> Celery:
    """A Celery application on the Redis of ``settings``: JSON only, one request at a time per free
    slot.

    Args:
        node_id: for a node that consumes: what it has not acknowledged is kept under its own name,
            so that others know what to take when it dies.
        results: for a node that consumes: what stores Celery's results; without it each call does.
        gate: for a node that consumes: what of the queue, and of the commands, it takes.
    """
    app = Celery(
        "secretflow_worker",
        broker=settings.redis.shown,
        backend="sfworker+redis://",
        events=_Events,
        set_as_current=False,
    )
    # By this name: kombu, as `celery report` uses it, cannot read a URL that begins with a class.
    app.loader.override_backends = {"sfworker": _NODE_RESULTS if results else _RESULTS}
    app.conf.update(
        accept_content=["json"],
        task_serializer="json",
        result_serializer="json",
        result_expires=24 * 3600,
        task_default_queue=settings.queues[0],
        task_acks_late=True,
        task_acks_on_failure_or_timeout=True,
        worker_prefetch_multiplier=1,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        # An execution goes on without Redis.
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_send_task_events=True,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        # Redis refuses, since it is full or a replica: that passes as a lost connection does.
        broker_channel_error_retry=True,
        broker_transport=_TRANSPORT,
        broker_transport_options=_on(settings) | _transport_options(node_id),
        result_backend_transport_options={"address": settings.redis, "writer": results},
    )
    if gate:
        app.conf.broker_transport = _GUARDED
        app.conf.broker_transport_options |= {
            "gate": gate,
            "max_connections": _CONNECTIONS + _LISTS_OF_A_QUEUE * len(settings.queues),
        }
    return app


def _on(settings: Settings) -> dict[str, Any]:
    """What our transport needs beyond kombu's options."""
    return {"address": settings.redis, "unsettled": {}}


def _transport_options(node_id: str | None, visibility_seconds: int = 24 * 3600) -> dict[str, Any]:
    # Redis delivers again what is not acknowledged in time; the node drops the second delivery.
    options: dict[str, Any] = {"visibility_timeout": visibility_seconds}
    options |= {"socket_timeout": _SOCKET_SECONDS, "socket_keepalive": True}
    if node_id:
        options |= unacknowledged_keys(node_id)
        options["unacked_mutex_expire"] = _MUTEX_SECONDS
    return options


def redeliver(settings: Settings, node_id: str) -> None:
    """Put back into the queue what a node that is gone has taken from it and not acknowledged.

    Raises:
        kombu.exceptions.OperationalError, redis.RedisError: Redis is away, or somebody else is at
        it.
    """
    options = _on(settings) | _transport_options(node_id, _EVERYTHING)
    url = settings.redis.shown
    with Connection(url, transport=_GUARDED, transport_options=options) as connection:
        connection.connect()  # tries once
        # kombu's own way, which takes what is older than the visibility timeout.
        channel = connection.channel()
        channel.qos.restore_visible(num=_REDELIVERED, interval=1)
        if channel.client.hlen(channel.unacked_key):
            raise RedisError("The requests of the node are locked, maybe by itself before it died.")


_TRANSPORT = "secretflow_task.broker.channel:Transport"
_RESULTS = "secretflow_task.broker.results:ResultBackend"
_NODE_RESULTS = "secretflow_task.broker.results:NodeBackend"
_GUARDED = "secretflow_task.broker.transport:Transport"
_CONNECTIONS = 10  # of a channel, without those that wait at the lists
_LISTS_OF_A_QUEUE = 4  # one for each of kombu's priorities
_REDELIVERED = 1000  # more than any node takes at once
_EVERYTHING = -(10**9)  # seconds: also what a node with another clock took in our future
_MUTEX_SECONDS = 10  # how long a node that dies while it looks through its requests holds them up
_SOCKET_SECONDS = 30.0  # longer than kombu waits for a request in one call
