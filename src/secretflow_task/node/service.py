"""The running node: Celery in front, Redis behind, executions in between."""

from __future__ import annotations

import signal
import threading
import time
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Iterator

from celery import Celery
from celery.worker import state
from kombu.exceptions import OperationalError
from redis import ConnectionError, Redis, RedisError  # pylint: disable=redefined-builtin

from secretflow_task.broker.celery_app import create_app, redeliver
from secretflow_task.broker.celery_tasks import ExecutionFailed, Outcome, register
from secretflow_task.broker.commands import INSPECTING, OBEYED
from secretflow_task.broker.connection import connect
from secretflow_task.broker.nodes import living_nodes
from secretflow_task.broker.queue import Waiting
from secretflow_task.broker.results import ResultWriter
from secretflow_task.broker.revocations import Revocations
from secretflow_task.broker.transport import Gate
from secretflow_task.config.settings import Settings
from secretflow_task.contract.errors import BadSetting, TaskCancelled
from secretflow_task.node import prompt_pool
from secretflow_task.node.assembly import assembled
from secretflow_task.node.controls import Controls
from secretflow_task.node.door.commands import commands_of
from secretflow_task.node.door.server import Door
from secretflow_task.node.health import NOTHING_TAKEN
from secretflow_task.node.job.template import Template
from secretflow_task.node.metrics.counters import Metrics
from secretflow_task.node.metrics.server import Monitor
from secretflow_task.node.node import Node
from secretflow_task.node.ownership import Lease, RedisOwnership
from secretflow_task.node.publisher import Publisher, Unsent
from secretflow_task.node.queue_watch import QueueWatch
from secretflow_task.node.running import RunningExecutions
from secretflow_task.node.store.event_store import EventStore
from secretflow_task.node.watchdog import Slots, Watchdog
from secretflow_task.utils.log import get_logger

log = get_logger()

_TAKE_BACK_SECONDS = 5.0
_RETRY_SECONDS = 2.0
_WATCHDOG_SECONDS = 2.0  # how long it waits for Redis


def serve(settings: Settings, template: Template | None = None) -> int:
    """Consume requests until SIGTERM or SIGINT; returns the exit code of Celery's worker.

    The first signal lets running executions end, for `drain_seconds` at most; a second one, or
    SIGQUIT, ends them at once. Either way each reports how it ended before this returns. SIGHUP
    reads the address book again and renews the template.

    Args:
        template: what jobs are started from, instead of a process with SecretFlow.

    Raises:
        BadSetting: a port is taken.
        EngineUnavailable: SecretFlow does not load.
        StoreInUse: another node uses the state folder.
        StoreTooNew: a newer version of the worker wrote the store.
        StoreUnusable: the store cannot be opened or upgraded.
    """
    redis = connect(settings, idle=True)
    metrics = Metrics()
    with ExitStack() as stack:
        monitor = stack.enter_context(Monitor(settings, metrics))
        store = stack.enter_context(EventStore(settings.state_dir))
        running = RunningExecutions(store)
        publisher = _publisher(settings, store, running, redis, metrics)
        ownership = RedisOwnership(redis, store.node_id)

        node = stack.enter_context(
            assembled(
                settings,
                store,
                running,
                ownership,
                lambda _event: publisher.wake(),
                template=template,
                metrics=metrics,
            )
        )
        _check_that_it_is_the_only_link(settings, store.node_id, redis)
        stack.enter_context(Lease(ownership, node, partial(redeliver, settings)))
        stack.enter_context(node)
        app = create_app(
            settings,
            store.node_id,
            stack.enter_context(ResultWriter(metrics.result_dropped)),
            _gate(settings, metrics),
        )
        stack.enter_context(publisher)
        watch = QueueWatch(redis, settings.queues, node, partial(_store_result, app))
        node.on_cancel_elsewhere = stack.enter_context(watch).wake
        stack.callback(monitor.close)
        stack.callback(node.stop)  # first of all: its last events go out before the others close
        controls = Controls(node, app)
        monitor.watch(node, publisher, lambda: state.should_stop is not None)
        register(app, node, Revocations(redis))
        _take_back_soon(settings, store.node_id)
        worker = stack.enter_context(_watched_worker(settings, app, node, controls))
        controls.begin(worker)
        stack.enter_context(Door(settings.state_dir, commands_of(node, controls, watch)))
        controls.announce()
        worker.start()
    log.info("The node has stopped.", action="node_stopped")
    return int(worker.exitcode or 0)


def _gate(settings: Settings, metrics: Metrics) -> Gate:
    obeyed = OBEYED
    if settings.remote_inspect:
        obeyed |= INSPECTING
    return Gate(
        settings.request_limit_bytes,
        obeyed,
        set_aside=metrics.entry_rejected,
        ignored=metrics.command_ignored,
    )


@contextmanager
def _watched_worker(
    settings: Settings, app: Celery, node: Node, controls: Controls
) -> Iterator[Any]:
    """Celery's worker, not started, and the watchdog that looks whether it takes requests."""
    slots = Slots(settings.concurrency)
    worker = _worker_class(app, controls)(
        # Threads: a prefork child is daemonic and may not have children.
        pool=prompt_pool.install(app, slots),
        concurrency=settings.concurrency,
        queues=list(settings.queues),
        hostname=f"sfworker@{settings.name}",
        without_gossip=True,
        without_mingle=True,
        quiet=True,
    )
    with _watchdog(settings, slots, worker, node, controls):
        yield worker


def _watchdog(
    settings: Settings, slots: Slots, worker: Any, node: Node, controls: Controls
) -> Watchdog:
    def lose_the_connection() -> None:
        raise ConnectionError("The watchdog wants a new one.")

    def restart() -> None:
        node.metrics.consumer_restarted()
        # In the event loop, which then does what it does for a lost connection.
        worker.hub.call_soon(lose_the_connection)

    watchdog = Watchdog(
        settings,
        connect(settings, timeout_seconds=_WATCHDOG_SECONDS),
        slots,
        consuming=lambda: state.should_stop is None and not controls.paused,
        restart=restart,
    )
    node.health.watch(NOTHING_TAKEN, watchdog.stalled)
    return watchdog


def _store_result(app: Celery, waiting: Waiting, outcome: Outcome) -> None:
    """Let who waits for Celery's own result of a request hear of its end, too."""
    failure = outcome.failure or TaskCancelled()
    if waiting.celery_id:
        error = ExecutionFailed(f"{failure.code}: {failure.public_message}")
        app.backend.mark_as_failure(waiting.celery_id, error)


def _publisher(
    settings: Settings,
    store: EventStore,
    running: RunningExecutions,
    redis: Redis,
    metrics: Metrics,
) -> Publisher:
    def abandon(stale: Unsent) -> None:
        running.abandon(stale.event.execution_id, stale.event.party, stale.epoch)

    return Publisher(
        store,
        redis,
        maxlen=settings.stream_maxlen,
        limit_bytes=settings.stream_limit_bytes,
        also_list=settings.status_list,
        on_stale=abandon,
        on_sent=metrics.published,
    )


def _check_that_it_is_the_only_link(settings: Settings, node_id: str, redis: Redis) -> None:
    """The peers know a party by one address, and only the node there may say how an execution
    ended.
    """
    if not settings.peer_listen:
        return
    try:
        others = [other for other in living_nodes(redis) if other.get("id") != node_id]
    except RedisError:
        return
    for other in others:
        if shared := set(other.get("linked", ())) & set(settings.parties):
            raise BadSetting(
                f"{other['name']} is the node of {min(shared)} for other organisations, and runs.",
                hint="One node of a party has SFWORKER_PEER_LISTEN, and a queue of its own.",
            )


def _take_back_soon(settings: Settings, node_id: str) -> None:
    """`_take_back`, for which the start of the node waits a little."""
    taking_back = threading.Thread(target=_take_back, args=(settings, node_id), daemon=True)
    taking_back.start()
    taking_back.join(_TAKE_BACK_SECONDS)


def _take_back(settings: Settings, node_id: str) -> None:
    """Put what an earlier process of this node had taken and not acknowledged back into the queue.

    When that is done late, something may go back that this process has taken: it drops the second
    delivery.
    """
    warned = False
    while True:
        try:
            return redeliver(settings, node_id)
        except (OperationalError, RedisError, OSError) as error:
            if not warned:
                warned, problem = True, type(error).__name__
                log.warning(
                    "Redis cannot be used; the node goes on trying. `sfworker doctor` says more.",
                    action="redis_away",
                    problem=problem,
                )
        time.sleep(_RETRY_SECONDS)


def _worker_class(app: Celery, controls: Controls) -> Any:
    class Worker(app.Worker):  # type: ignore[misc]
        """A worker whose signals stop the node: Celery's own would leave the jobs of a threads pool
        alone.
        """

        def setup_logging(self, colorize: bool | None = None) -> bool:
            """Leave the log as `log.configure` has made it."""
            del colorize
            return True

        def install_platform_tweaks(self, worker: Any) -> None:
            """Take SIGTERM, SIGINT, SIGQUIT and SIGHUP."""
            del worker
            signal.signal(signal.SIGHUP, controls.on_hang_up)
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
                signal.signal(number, controls.on_signal)

    return Worker
