"""Puts a node together: each part is made when all that it needs is there."""

from __future__ import annotations

import threading
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Callable, Iterator

from secretflow_task.config.settings import Settings
from secretflow_task.contract.messages import StatusEvent
from secretflow_task.node.health import TEMPLATE_MISSING
from secretflow_task.node.inquiry import Inquiry, known_outcome
from secretflow_task.node.intake import Intake
from secretflow_task.node.job.template import Template
from secretflow_task.node.job.workplace import Workplace
from secretflow_task.node.kept_results import KeptResults
from secretflow_task.node.link.peer.hub import PeerHub
from secretflow_task.node.metrics.counters import Metrics
from secretflow_task.node.node import Node
from secretflow_task.node.ownership import Ownership, SoleOwnership
from secretflow_task.node.recovery import Recovery
from secretflow_task.node.reporter import Reporter
from secretflow_task.node.runner import Runner
from secretflow_task.node.running import RunningExecutions
from secretflow_task.node.settlements import Settlements
from secretflow_task.node.store.event_store import EventStore


@contextmanager
def assembled(
    settings: Settings,
    store: EventStore,
    running: RunningExecutions,
    ownership: Ownership,
    announce: Callable[[StatusEvent], object],
    *,
    template: Template | None = None,
    metrics: Metrics | None = None,
) -> Iterator[Node]:
    """A node whose template and link to other nodes are up; enter it to settle what was left.

    Args:
        running: of the same store.
        ownership: decides between this node and others on the same queue.
        announce: called, from any thread, with every event after it is stored.

    Raises:
        BadSetting: the port for other nodes is taken, or the address book is wrong.
        EngineUnavailable: SecretFlow does not load.
    """
    metrics = metrics or Metrics()
    template = template or Template(settings.template_timeout_seconds)
    closing = threading.Event()
    workplace = Workplace(settings, store.node_id)
    with ExitStack() as stack:
        stack.callback(workplace.clear)
        hub = None
        if settings.peer_listen:
            answer = partial(known_outcome, store)
            hub = stack.enter_context(PeerHub(settings, store.decide, answer))
            metrics.know_peers(hub.dialler.book.peers)
        stack.callback(template.close)  # also when the node is never entered
        template.start()
        limit_bytes = settings.event_limit_bytes
        results = KeptResults(settings.state_dir, limit_bytes, settings.result_days)
        reporter = Reporter(store, settings.name, metrics, announce, limit_bytes)
        settlements = Settlements(hub)
        intake = Intake(settings, store, ownership, settlements, running, reporter, closing)
        runner = Runner(
            settings,
            store,
            results,
            ownership,
            settlements,
            running,
            reporter,
            template,
            workplace,
            metrics,
        )
        inquiry = Inquiry.of(settings, store, hub, reporter) if hub else None
        recovery = Recovery(store, ownership, inquiry, workplace.clean_left, reporter.ended)
        node = Node(intake, runner, recovery, hub, closing)
        node.health.watch(TEMPLATE_MISSING, lambda: not template.ready)
        node.health.watch_folders(node.folders)
        yield node


@contextmanager
def lone_node(
    settings: Settings,
    announce: Callable[[StatusEvent], object],
    *,
    ownership: Ownership | None = None,
    template: Template | None = None,
    metrics: Metrics | None = None,
) -> Iterator[Node]:
    """A running node that shares its requests with no other, and sends its events nowhere.

    Raises:
        StoreInUse: another node uses the state folder.
    """
    with EventStore(settings.state_dir) as store:
        running = RunningExecutions(store)
        ownership = ownership or SoleOwnership()
        parts = assembled(
            settings, store, running, ownership, announce, template=template, metrics=metrics
        )
        with parts as node, node:
            yield node
