"""The running node: Celery in front, Redis behind, executions in between."""

from __future__ import annotations

from contextlib import ExitStack

from redis import Redis, RedisError

from secretflow_task.celery_app import create_app
from secretflow_task.celery_tasks import register
from secretflow_task.config.settings import Settings
from secretflow_task.node.node import Node
from secretflow_task.utils.log import get_logger
from secretflow_task.utils.status_notifier import Publisher

log = get_logger()


def serve(settings: Settings) -> int:
    """Consume requests until SIGTERM or SIGINT; returns the exit code of Celery's worker.

    Raises:
        EngineUnavailable: SecretFlow does not load.
        StoreInUse: another node uses the state folder.
    """
    app = create_app(settings)
    url = settings.redis_url.get_secret_value()
    redis = Redis.from_url(url, socket_timeout=10, socket_keepalive=True, health_check_interval=30)
    with ExitStack() as stack:
        node = stack.enter_context(Node(settings))
        outbox = Publisher(node.store, redis, maxlen=settings.stream_maxlen, also_list=settings.status_list)
        publisher = stack.enter_context(outbox)
        node.on_event = lambda event: publisher.wake()
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
        _say_if_away(redis)
        log.info("The node takes requests.", action="node_ready", queues=list(settings.queues))
        worker.start()
    return int(worker.exitcode or 0)


def _say_if_away(redis: Redis) -> None:
    try:
        redis.ping()
    except RedisError as error:
        log.warning(
            "Redis cannot be reached; the node goes on trying. `sfworker doctor` says more.",
            action="redis_away",
            problem=type(error).__name__,
        )
