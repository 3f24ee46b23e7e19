"""The running node: Celery in front, Redis behind, executions in between."""

from __future__ import annotations

import threading
from contextlib import ExitStack, contextmanager
from typing import Any, Iterator

from celery.signals import worker_shutting_down
from kombu.exceptions import OperationalError
from redis import Redis, RedisError

from secretflow_task.celery_app import create_app, redeliver
from secretflow_task.celery_tasks import register
from secretflow_task.config.settings import Settings
from secretflow_task.node.node import Node
from secretflow_task.node.ownership import RedisOwnership
from secretflow_task.utils.log import get_logger
from secretflow_task.utils.status_notifier import Publisher

log = get_logger()


def serve(settings: Settings) -> int:
    """Consume requests until SIGTERM or SIGINT; returns the exit code of Celery's worker.

    The first signal lets running executions end, for `drain_seconds` at most; a second one, or SIGQUIT,
    ends them at once. Either way each reports how it ended before this returns.

    Raises:
        EngineUnavailable: SecretFlow does not load.
        StoreInUse: another node uses the state folder.
    """
    url = settings.redis_url.get_secret_value()
    redis = Redis.from_url(url, socket_timeout=10, socket_keepalive=True, health_check_interval=30)
    with ExitStack() as stack:
        node = stack.enter_context(Node(settings))
        app = create_app(settings, node.store.node_id)
        publisher = stack.enter_context(_publisher(node, redis))
        node.on_event = lambda event: publisher.wake()
        stack.callback(node.stop)  # its last events go out before the publisher closes
        node.ownership = stack.enter_context(_ownership(node, redis))
        register(app, node)
        worker = app.Worker(
            pool="threads",  # a prefork child is daemonic and may not have children
            concurrency=settings.concurrency,
            queues=list(settings.queues),
            hostname=f"sfworker@{settings.name}",
            without_gossip=True,
            without_mingle=True,
            quiet=True,
        )
        stack.enter_context(_draining(node, settings.drain_seconds))
        _take_back(settings, node.store.node_id)
        log.info("The node takes requests.", action="node_ready", queues=list(settings.queues))
        worker.start()
    return int(worker.exitcode or 0)


def _publisher(node: Node, redis: Redis) -> Publisher:
    settings = node.settings
    return Publisher(
        node.store,
        redis,
        maxlen=settings.stream_maxlen,
        also_list=settings.status_list,
        on_stale=lambda event: node.abandon(event.execution_id),
    )


def _ownership(node: Node, redis: Redis) -> RedisOwnership:
    def inherit(node_id: str) -> None:
        redeliver(node.settings, node_id)

    return RedisOwnership(
        redis, node.store.node_id, running=node.running, cancel=node.cancel, inherit=inherit
    )


def _take_back(settings: Settings, node_id: str) -> None:
    """Put what an earlier process of this node had taken and not acknowledged back into the queue."""
    try:
        redeliver(settings, node_id)
    except (OperationalError, RedisError, OSError) as error:
        log.warning(
            "Redis cannot be reached; the node goes on trying. `sfworker doctor` says more.",
            action="redis_away",
            problem=type(error).__name__,
        )


@contextmanager
def _draining(node: Node, drain_seconds: float) -> Iterator[None]:
    """While the block runs, a shutdown of Celery's worker ends the executions in time."""
    timers: list[threading.Timer] = []

    def on_shutdown(how: str = "", **_signal: Any) -> None:
        # In a thread: a signal comes at any moment, also when this one holds the node's lock.
        seconds = 0.0 if timers or how == "Cold" else drain_seconds
        log.info("The node stops.", action="node_stopping", drain_seconds=seconds)
        timers.append(threading.Timer(seconds, node.stop))
        timers[-1].daemon = True
        timers[-1].start()

    worker_shutting_down.connect(on_shutdown, weak=False)
    try:
        yield
    finally:
        worker_shutting_down.disconnect(on_shutdown)
        for timer in timers:
            timer.cancel()
