"""What becomes of a request that is delivered: it is taken, refused, or was delivered before.

Taking one needs the agreement of the other nodes on the same queue and a place in the own store, in
this order.
"""

from __future__ import annotations

import sqlite3
import threading
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Iterator

from secretflow_task.broker.celery_tasks import NodeStopping, Outcome
from secretflow_task.config.settings import Settings
from secretflow_task.contract.errors import NodeLost, RequestMismatch, TaskCancelled, WorkerError
from secretflow_task.contract.messages import Status
from secretflow_task.contract.plan import Plan
from secretflow_task.contract.requests import TaskRequest, parties_to_tell
from secretflow_task.node.assignment import Assignment
from secretflow_task.node.ownership import Claim, Ownership, Verdict
from secretflow_task.node.reporter import Reporter
from secretflow_task.node.running import RunningExecutions
from secretflow_task.node.settlements import Settlements
from secretflow_task.node.store.event_store import EventStore
from secretflow_task.utils.log import execution_context, get_logger

log = get_logger()

_GIVE_BACK_SECONDS = 2.0
# What a request ends with that is not run, by what the nodes on the same Redis have agreed.
_REFUSALS: dict[Verdict, type[WorkerError]] = {
    Verdict.LOST: NodeLost,
    Verdict.CANCELLED: TaskCancelled,
}


@dataclass(frozen=True)
class Taken:
    """What this node is to run.

    Attributes:
        epoch: how often the execution was taken.
    """

    assignment: Assignment
    epoch: int


class Intake:
    """Decides about each request.

    Args:
        closing: set when the node ends.
    """

    def __init__(
        self,
        settings: Settings,
        store: EventStore,
        ownership: Ownership,
        settlements: Settlements,
        running: RunningExecutions,
        reporter: Reporter,
        closing: threading.Event,
    ) -> None:
        self._settings = settings
        self._store = store
        self._ownership = ownership
        self._settlements = settlements
        self._running = running
        self._reporter = reporter
        self._closing = closing
        self._mutex = threading.Lock()
        self._claiming: set[str] = set()

    def take(self, plan: Plan) -> Taken | Outcome:
        """Take a validated request to be run; or how it ended, when it is not.

        Raises:
            NodeStopping: another node should take it.
        """
        request = plan.request
        try:
            assignment = Assignment.of(plan, self._settings, self._settlements.knows)
        except WorkerError as error:
            return self.refuse(request, error)
        try:
            assignment.check(self._settings)
        except WorkerError as error:
            return self._refuse(request, assignment.hosted, error, assignment)
        claim = self._claim(request, assignment.hosted)
        if claim.verdict is Verdict.DROP:
            return self._known(request, assignment.hosted)
        if claim.verdict in _REFUSALS:
            verdict = claim.verdict.value
            log.info("The execution is not started.", action="execution_not_started", code=verdict)
            return self._end(request, assignment.hosted, _REFUSALS[claim.verdict](), assignment)
        return Taken(assignment, claim.epoch)

    def refuse(self, request: TaskRequest, error: WorkerError) -> Outcome:
        """Settle a request that was not understood, at every party here that it seems to be for.

        Raises:
            NodeStopping: another node should do it.
        """
        return self._refuse(request, parties_to_tell(request, self._settings.parties), error)

    def settle_cancelled(self, request: TaskRequest) -> Outcome:
        """Settle a request that was cancelled before it was taken, and is never run.

        Raises:
            NodeStopping: another node should do it.
        """
        assignment = None
        try:
            assignment = Assignment.of(Plan.of(request), self._settings, self._settlements.knows)
            parties = assignment.hosted
        except WorkerError:  # also what could not be understood was cancelled
            parties = parties_to_tell(request, self._settings.parties)
        verdict = self._claim(request, parties).verdict
        if verdict is Verdict.DROP:
            return self._known(request, parties)
        log.info("A request is cancelled where it waits.", action="queued_cancelled")
        error = _REFUSALS.get(verdict, TaskCancelled)()
        return self._end(request, parties, error, assignment)

    def settle_lost(self, request: TaskRequest, parties: list[str]) -> None:
        """Say for a node that is gone how an execution ended that it had taken, unless that is
        known.
        """
        with execution_context(**request.log_ids):
            if self._claim(request, parties, only_lost=True).verdict is Verdict.LOST:
                log.info("An execution of a dead node is settled.", action="execution_inherited")
                self._reporter.failed(request, parties, NodeLost())

    def _refuse(
        self,
        request: TaskRequest,
        parties: list[str],
        error: WorkerError,
        assignment: Assignment | None = None,
    ) -> Outcome:
        problem = error.public_message
        log.warning(
            "The request is refused.", action="request_refused", code=error.code, problem=problem
        )
        if self._claim(request, parties).verdict is Verdict.DROP:
            return self._known(request, parties)
        return self._end(request, parties, error, assignment)

    def _end(
        self,
        request: TaskRequest,
        parties: list[str],
        error: WorkerError,
        assignment: Assignment | None,
    ) -> Outcome:
        """Settle what does not run here, also at the other nodes of ``assignment``."""
        self._reporter.failed(request, parties, error)
        if assignment:
            self._settlements.refuse(assignment, error)
        return Outcome(request.execution_id, Status.FAILURE, error)

    def _known(self, request: TaskRequest, parties: list[str]) -> Outcome:
        """What this node knows of an execution that it does not run for this delivery.

        Parties that the first delivery did not have are told that its id is taken.
        """
        log.info("The request was delivered before.", action="duplicate_delivery")
        execution_id = request.execution_id
        strangers = [party for party in parties if not self._store.knows(execution_id, party)]
        if len(strangers) < len(parties):
            for party in strangers:
                if self._store.claim(request, party):
                    error = RequestMismatch("The execution id was used before.")
                    self._reporter.failed(request, [party], error)
        statuses = {self._store.status(execution_id, party) for party in parties}
        status = Status.RUNNING
        if len(statuses) == 1:
            status = statuses.pop() or Status.RUNNING
        return Outcome(execution_id, status, repeated=True)

    def _claim(self, request: TaskRequest, parties: list[str], only_lost: bool = False) -> Claim:
        """Take an execution: first by agreement with the other nodes, then in the own store."""
        with self._claiming_alone(request.execution_id) as alone:
            if not alone:
                return Claim(Verdict.DROP)
            claim = self._ownership.claim(request, parties, only_lost)
            if claim.verdict is Verdict.OWN:
                # A process of this node that was killed before it wrote the claim down leaves
                # nothing here.
                known = any(self._store.knows(request.execution_id, party) for party in parties)
                claim = replace(claim, verdict=Verdict.DROP if known else Verdict.LOST)
            if claim.verdict is Verdict.DROP:
                return claim
            return self._write_down(request, parties, claim)

    @contextmanager
    def _claiming_alone(self, execution_id: str) -> Iterator[bool]:
        """Whether no other thread claims the same execution while the block runs."""
        with self._mutex:
            alone = execution_id not in self._claiming
            self._claiming.add(execution_id)
        try:
            yield alone
        finally:
            if alone:
                with self._mutex:
                    self._claiming.discard(execution_id)

    def _write_down(self, request: TaskRequest, parties: list[str], claim: Claim) -> Claim:
        lost = claim.verdict is Verdict.LOST
        try:
            taken = self._store.claim(
                request, *parties, epoch=claim.epoch, seqs=claim.seqs, again=lost
            )
        except sqlite3.Error as error:  # such as a full disk: another node, or later, may do better
            problem = type(error).__name__
            log.error(
                "A request cannot be taken; it goes back.",
                action="claim_not_stored",
                problem=problem,
            )
            if not lost:
                self._ownership.release(request, parties)
            self._closing.wait(_GIVE_BACK_SECONDS)
            raise NodeStopping from None
        if not taken:  # Redis had forgotten what ended here long ago
            self._ownership.release(request, parties)
            return Claim(Verdict.DROP)
        if lost and request.execution_id in self._running.requests():
            # This node was taken for dead, and is not: what it runs reports its own end.
            self._running.end(request.execution_id, NodeLost())
            return Claim(Verdict.DROP)
        return claim
