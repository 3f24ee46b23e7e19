"""How an execution between nodes ended, for whoever asks: this node after a restart, or another
one.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Any, Callable, Mapping

from secretflow_task.config.settings import Settings
from secretflow_task.contract.errors import NodeLost, SettlementUnknown, WorkerError
from secretflow_task.contract.messages import Status
from secretflow_task.contract.plan import Plan
from secretflow_task.contract.requests import TaskRequest
from secretflow_task.node.link.peer.hub import PeerHub
from secretflow_task.node.link.peer.outcome import outcome_of, read_error
from secretflow_task.node.link.peer.wire import Message
from secretflow_task.node.reporter import Reporter
from secretflow_task.node.store.event_store import EventStore
from secretflow_task.node.store.executions import TakenExecution

_ASK_SECONDS = 1.0


@dataclass(frozen=True)
class Inquiry:
    """Asks the other nodes of an execution that an earlier process of this one left.

    Attributes:
        ask: asks a party's node about an execution; None when it cannot be asked.
        report: publishes a RUNNING event.
        settle_seconds: how long who has voted waits for the decision.
        lost_seconds: how long a coordinator may take to notice that this node was lost.
    """

    store: EventStore
    ask: Callable[[str, str], Message | None]
    report: Callable[[TaskRequest, str, Mapping[str, Any]], None]
    settle_seconds: float
    lost_seconds: float

    @staticmethod
    def of(settings: Settings, store: EventStore, hub: PeerHub, reporter: Reporter) -> Inquiry:
        """That of a node with a link to others."""
        lost_seconds = 2 * settings.peer_lost_seconds
        return Inquiry(store, hub.ask, reporter.running, settings.settle_seconds, lost_seconds)

    def failure(
        self,
        executions: list[TakenExecution],
        strangers: list[str],
        voted: bool,
        closing: threading.Event,
    ) -> WorkerError | None:
        """In what the execution has failed; None for success.

        Args:
            executions: it at each of its parties here.
            voted: all of them have voted, so that it may have succeeded.
            closing: set when the answer is not needed any more.
        """
        execution_id = executions[0].request.execution_id
        coordinator = settling_parties(executions[0].request)[0]
        if coordinator in strangers:
            return self._ask_the_coordinator(executions, coordinator, voted, closing)
        if self.store.decided(execution_id):
            return None
        return self._ask_the_members(executions, strangers)

    def _ask_the_coordinator(
        self,
        executions: list[TakenExecution],
        coordinator: str,
        voted: bool,
        closing: threading.Event,
    ) -> WorkerError | None:
        """A party that has not voted knows that it failed, but not why."""
        for execution in executions if voted else []:
            self.report(
                execution.request, execution.party, {"stage": "settling", "progress": 0.999}
            )
        deadline = time.monotonic() + (self.settle_seconds if voted else self.lost_seconds)
        while time.monotonic() < deadline and not closing.is_set():
            outcome = self._outcome(coordinator, executions[0].request.execution_id)
            if outcome["status"] == "SUCCESS" and voted:
                return None
            if outcome["status"] == "FAILURE":
                return read_error(outcome["error"])
            if outcome["status"] == "UNKNOWN":
                break
            closing.wait(_ASK_SECONDS)
        return SettlementUnknown(party=coordinator) if voted else _lost(executions)

    def _ask_the_members(self, executions: list[TakenExecution], members: list[str]) -> WorkerError:
        """What the others have seen of this node's end, so that all report the same."""
        for party in members:
            outcome = self._outcome(party, executions[0].request.execution_id)
            if outcome["status"] == "FAILURE":
                return read_error(outcome["error"])
        return _lost(executions)

    def _outcome(self, party: str, execution_id: str) -> Message:
        known = self.ask(party, execution_id)
        return known if known and "status" in known else {"status": "RUNNING"}


def _lost(executions: list[TakenExecution]) -> WorkerError:
    return NodeLost(party=min(execution.party for execution in executions))


def settling_parties(request: TaskRequest) -> list[str]:
    """The parties of a request that settle together, sorted; none when it cannot be understood."""
    try:
        plan = Plan.of(request)
    except WorkerError:
        return []
    return [] if plan.fixed else plan.parties


def known_outcome(store: EventStore, execution_id: str, askers: frozenset[str]) -> Message:
    """What the store knows of how an execution ended, for parties that took part in it."""
    taken = store.taken(execution_id)
    if not taken or not askers & set(settling_parties(taken[0].request) or askers):
        return {"kind": "outcome", "status": "UNKNOWN"}
    statuses = {store.status(execution_id, execution.party) for execution in taken}
    if store.decided(execution_id) or statuses == {Status.SUCCESS}:
        return {"kind": "outcome", "status": "SUCCESS"}
    if Status.FAILURE not in statuses:
        return outcome_of(None)
    data = store.failure(execution_id)
    return outcome_of(WorkerError.from_event_data(data) if data else NodeLost())
