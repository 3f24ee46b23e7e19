"""The node: takes a request, runs it at the parties that it hosts, and says how it ended."""

from __future__ import annotations

import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Callable, ContextManager, Iterable, Iterator, Mapping

from secretflow_task.broker.celery_app import TASK_NAME
from secretflow_task.broker.celery_tasks import NodeStopping
from secretflow_task.config.settings import Settings
from secretflow_task.contract.errors import NodeLost, RequestMismatch, TaskCancelled, WorkerError
from secretflow_task.contract.job_spec import JobSpec
from secretflow_task.contract.messages import Status, StatusEvent, TaskRequest
from secretflow_task.contract.requests import Plan
from secretflow_task.node.assignment import Assignment, parties_of
from secretflow_task.node.inquiry import Inquiry, known_outcome
from secretflow_task.node.job.ending import NODE_LOG, Ending
from secretflow_task.node.job.supervisor import Supervisor
from secretflow_task.node.job.template import Template
from secretflow_task.node.job.workplace import Workplace
from secretflow_task.node.link.fixed import ProbedSettlement
from secretflow_task.node.link.local import LocalSettlement
from secretflow_task.node.link.peer.hub import PeerHub
from secretflow_task.node.link.protocol import PeerLink, Settlement, Unsettled
from secretflow_task.node.metrics.counters import Metrics
from secretflow_task.node.ownership import Claim, Ownership, SoleOwnership, Verdict
from secretflow_task.node.ports import Ports, leased_ports
from secretflow_task.node.recovery import Recovery
from secretflow_task.node.store.event_store import EventStore
from secretflow_task.utils.log import execution_context, get_logger

log = get_logger()

_STOP_SECONDS = 30.0
_HOUSEKEEPING_SECONDS = 3600.0
_HOUSEKEEPING_END_SECONDS = 5.0
_GIVE_BACK_SECONDS = 2.0
_SHUT_DOWN = "The node was shut down."
# What a request ends with that is not run, by what the nodes on the same Redis have agreed.
_REFUSALS: dict[Verdict, type[WorkerError]] = {
    Verdict.LOST: NodeLost,
    Verdict.CANCELLED: TaskCancelled,
}


@dataclass(frozen=True)
class Outcome:
    """How an execution ended at this node: its status, and the first party's failure if it failed.

    Attributes:
        repeated: the request was delivered before, and this delivery ran nothing.
    """

    execution_id: str
    status: Status
    failure: WorkerError | None = None
    repeated: bool = False


class Node:
    """Runs executions; a context manager over its store, its template and its part in the ownership.

    Args:
        on_event: called, from any thread, with every event after it is stored; may be set later.
        metrics: counts what happens here.
        ownership: makes what decides between this node and others on the same queue, when the store is open.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        on_event: Callable[[StatusEvent], None] = lambda event: None,
        template: Template | None = None,
        metrics: Metrics | None = None,
        ownership: Callable[[Node], ContextManager[Ownership]] = lambda node: nullcontext(
            SoleOwnership()
        ),
    ) -> None:
        self.settings = settings
        self.on_event = on_event
        self.metrics = metrics or Metrics()
        self.ownership: Ownership = SoleOwnership()
        self._ownership_of = ownership
        self._mutex = threading.Lock()
        self._running: dict[str, tuple[Assignment, Settlement]] = {}
        self._claiming: set[str] = set()
        self._closing = False
        self._left = threading.Event()
        self._workplace: Workplace
        self._housekeeping = threading.Thread(
            target=self._keep_house, name="housekeeping", daemon=True
        )
        self.template = template or Template(settings.template_timeout_seconds)
        self._stack = ExitStack()
        self._hub: PeerHub | None = None

    def __enter__(self) -> Node:
        self.store = self._stack.enter_context(EventStore(self.settings.state_dir))
        with self._stack:
            self._workplace = Workplace(self.settings, self.store.node_id)
            self._stack.callback(self._workplace.clear)
            if self.settings.peer_listen:
                answer = partial(known_outcome, self.store)
                self._hub = self._stack.enter_context(
                    PeerHub(self.settings, self.store.decide, answer)
                )
                self.metrics.know_peers(self._hub.dialler.book.peers)
            self.template.start()
            self.ownership = self._stack.enter_context(self._ownership_of(self))
            self._workplace.clear()
            recovery = Recovery(
                self.store, self.ownership, self._inquiry(), self._workplace.clean_left, self._tell
            )
            recovery.settle(self._left)
            self._stack = self._stack.pop_all()
        self._housekeeping.start()
        return self

    def __exit__(self, *exc: Any) -> None:
        self.stop()
        self._left.set()
        self._housekeeping.join(_HOUSEKEEPING_END_SECONDS)
        self.template.close()
        self._stack.__exit__(*exc)

    def _inquiry(self) -> Inquiry | None:
        settings, lost_seconds = self.settings, 2 * self.settings.peer_lost_seconds
        if self._hub is None:
            return None
        return Inquiry(
            self.store, self._hub.ask, self.report, settings.settle_seconds, lost_seconds
        )

    def _keep_house(self) -> None:
        """Forget now and every hour what is old: a node lives for months."""
        while True:
            try:
                self._workplace.forget_old()
                self.store.forget_old()
            except (OSError, sqlite3.Error) as error:
                problem = type(error).__name__
                log.warning(
                    "What is old is not forgotten yet.",
                    action="housekeeping_failed",
                    problem=problem,
                )
            if self._left.wait(_HOUSEKEEPING_SECONDS):
                return

    def recycle(self) -> None:
        """Start the next jobs from a new template process, and read the address book again."""
        if self._hub:
            self._hub.reload()
            self.metrics.know_peers(self._hub.dialler.book.peers)
        self.template.recycle()

    def execute(self, *arguments: Any, sent_at: object = None) -> Outcome:
        """Run a request, ``(task_request_id, params)`` or ``(params,)``, to its end at all hosted parties.

        A request that was taken before is not run again, and nothing is published for it.

        Args:
            sent_at: when it was sent, in seconds since 1970, as far as the sender says so.

        Raises:
            NodeStopping: another node should take it.
            InvalidTaskConfig: the arguments hold no id, so that nothing can be published.
        """
        if self._closing:
            raise NodeStopping
        request = TaskRequest.from_arguments(*arguments)
        with execution_context(**request.log_ids):
            with _counting():
                self.metrics.taken(request.task_type, sent_at)
            try:
                plan = Plan.of(request)
            except WorkerError as error:
                return self._refuse(request, parties_of(request, self.settings), error)
            return self.run(plan)

    def run(self, plan: Plan) -> Outcome:
        """Run a validated request to its end at all its parties here."""
        request = plan.request
        try:
            assignment = Assignment.of(plan, self.settings, self._knows)
        except WorkerError as error:
            return self._refuse(request, parties_of(request, self.settings), error)
        try:
            assignment.check(self.settings)
        except WorkerError as error:
            return self._refuse(request, assignment.hosted, error, assignment)
        claim = self._claim(request, assignment.hosted)
        if claim.verdict is Verdict.DROP:
            return self._known(request, assignment.hosted)
        if claim.verdict in _REFUSALS:
            log.info(
                "The execution is not started.",
                action="execution_not_started",
                code=claim.verdict.value,
            )
            return self._end_unstarted(
                request, assignment.hosted, _REFUSALS[claim.verdict](), assignment
            )
        return self._carry_out(assignment, claim.epoch)

    def _knows(self, party: str) -> bool:
        """Whether there is a link to a party's node."""
        return self._hub is not None and self._hub.knows(party)

    def _carry_out(self, assignment: Assignment, epoch: int) -> Outcome:
        started = time.monotonic()
        log.info(
            "The execution starts.", action="execution_started", parties=assignment.plan.parties
        )
        with ExitStack() as stack:
            try:
                endings = self._run_parties(assignment, epoch, stack)
            except Unsettled:
                log.warning("The execution is left undecided.", action="execution_undecided")
                return Outcome(assignment.execution_id, Status.RUNNING)
            except (
                Exception
            ) as error:  # pylint: disable=broad-exception-caught  # a claim must be settled
                log.exception("The execution could not be started.", action="start_failed")
                public = error if isinstance(error, WorkerError) else WorkerError(hint=NODE_LOG)
                endings = dict.fromkeys(assignment.hosted, Ending.of(public))
                self._tell_peers(assignment, public)
            self._tell(assignment.request, endings)
        failure = next((ending.failure for ending in endings.values() if ending.failure), None)
        status = Status.FAILURE if failure else Status.SUCCESS
        log.info(
            "The execution ended.",
            action="execution_ended",
            status=status.value,
            seconds=round(time.monotonic() - started, 3),
            code=failure and failure.code,
            failed_party=failure and failure.party,
        )
        return Outcome(assignment.execution_id, status, failure)

    def _claim(self, request: TaskRequest, parties: list[str], only_lost: bool = False) -> Claim:
        """Take an execution, by agreement with the other nodes and in the own store, in this order."""
        key = request.execution_id
        with self._mutex:
            if key in self._claiming:
                return Claim(Verdict.DROP)
            self._claiming.add(key)
        try:
            claim = self.ownership.claim(request, parties, only_lost)
            if claim.verdict is Verdict.OWN:
                # A process of this node that was killed before it wrote the claim down leaves nothing here.
                unknown = not any(self.store.knows(key, party) for party in parties)
                claim = replace(claim, verdict=Verdict.LOST if unknown else Verdict.DROP)
            return (
                claim
                if claim.verdict is Verdict.DROP
                else self._write_down(request, parties, claim)
            )
        finally:
            with self._mutex:
                self._claiming.discard(key)

    def _write_down(self, request: TaskRequest, parties: list[str], claim: Claim) -> Claim:
        lost = claim.verdict is Verdict.LOST
        try:
            if not self.store.claim(
                request, *parties, epoch=claim.epoch, seqs=claim.seqs, again=lost
            ):
                self.ownership.release(
                    request, parties
                )  # Redis had forgotten what ended here long ago
                return Claim(Verdict.DROP)
        except (
            sqlite3.Error
        ) as error:  # such as a full disk: another node, or a later time, may do better
            problem = type(error).__name__
            log.error(
                "A request cannot be taken; it goes back.",
                action="claim_not_stored",
                problem=problem,
            )
            if not lost:
                self.ownership.release(request, parties)
            self._left.wait(_GIVE_BACK_SECONDS)
            raise NodeStopping from None
        if (
            lost and request.execution_id in self.running()
        ):  # here: this node was taken for dead, and is not
            self._end(request.execution_id, NodeLost())
            return Claim(Verdict.DROP)
        return claim

    def _end_unstarted(
        self,
        request: TaskRequest,
        parties: list[str],
        error: WorkerError,
        assignment: Assignment | None = None,
    ) -> Outcome:
        """Settle what does not run here, also at the other nodes of ``assignment``."""
        self._fail(request, parties, error)
        if assignment:
            self._tell_peers(assignment, error)
        return Outcome(request.execution_id, Status.FAILURE, error)

    def _tell_peers(self, assignment: Assignment, error: WorkerError) -> None:
        if self._hub and assignment.linked:
            self._hub.tell(assignment.agenda, error)

    def settle_lost(self, request: TaskRequest, parties: list[str]) -> None:
        """Say for a node that is gone how an execution ended that it had taken, unless that is known."""
        with execution_context(**request.log_ids):
            if self._claim(request, parties, only_lost=True).verdict is Verdict.LOST:
                log.info("An execution of a dead node is settled.", action="execution_inherited")
                self._fail(request, parties, NodeLost())

    def running(self) -> dict[str, tuple[TaskRequest, list[str]]]:
        """The executions that run now, with their parties at this node."""
        with self._mutex:
            return {
                key: (assignment.request, assignment.hosted)
                for key, (assignment, _) in self._running.items()
            }

    def describe(self) -> dict[str, Any]:
        """How the node is: what it runs, and what became of its events."""
        running, store = len(self.running()), self.store
        events = {"events_waiting": store.waiting(), "events_dropped": store.dropped}
        linked = list(self.settings.parties) if self.settings.peer_listen else []
        own = {"id": store.node_id, "name": self.settings.name, "linked": linked}
        return {**own, "running": running, **events}

    def cancel(self, execution_id: str) -> bool:
        """End a running execution; whether it runs here."""
        return self._end(execution_id, TaskCancelled())

    def abandon(self, execution_id: str, party: str, epoch: int) -> None:
        """Forget an execution silently: since ``epoch`` it was taken over by who says how it ended."""
        self.store.give_up(execution_id, party, epoch)
        self._end(execution_id, NodeLost())

    def stop(self) -> None:
        """End all running executions, and start none from now on."""
        with self._mutex:
            self._closing = True
        self.ownership.stop()
        for execution_id in self.running():
            self._end(execution_id, NodeLost(_SHUT_DOWN))
        deadline = time.monotonic() + _STOP_SECONDS
        while self.running() and time.monotonic() < deadline:
            time.sleep(0.02)

    def _end(self, execution_id: str, error: WorkerError) -> bool:
        with self._mutex:
            if execution_id not in self._running:
                return False
            _, execution = self._running[execution_id]
            link = next(iter(execution.links.values()))
        link.fail(error)
        failure = link.failed  # None when a coordinator elsewhere answers later
        # Else it had ended, though it is still being cleaned up.
        return not link.succeeded and (failure is None or failure.code == error.code)

    def _run_parties(
        self, assignment: Assignment, epoch: int, stack: ExitStack
    ) -> dict[str, Ending]:
        """How the execution ended at each party here; nothing is left of it then but outputs and logs.

        ``stack`` closes the link to the others, which should be when the end has been told.
        """
        ports = self._leased(assignment, stack)
        execution = stack.enter_context(closing(self._execution(assignment, ports)))
        stack.enter_context(self._registered(assignment, execution))
        try:
            execution.join()
        except WorkerError as error:
            return dict.fromkeys(assignment.hosted, Ending.of(error))
        specs = [self._spec(assignment, party, ports) for party in assignment.hosted]
        with ExitStack() as jobs:
            for spec in specs:
                jobs.callback(self._clean, assignment.plan, spec, execution.links[spec.party])
            threads = jobs.enter_context(ThreadPoolExecutor(len(specs), "supervisor"))
            endings = threads.map(
                lambda spec: self._supervise(
                    spec, execution.links[spec.party], _Host(self, assignment, spec.party, epoch)
                ),
                specs,
            )
            return dict(zip(assignment.hosted, endings))

    def _clean(self, plan: Plan, spec: JobSpec, link: PeerLink) -> None:
        self._workplace.clean(plan, spec, link.succeeded)

    def _leased(self, assignment: Assignment, stack: ExitStack) -> Ports:
        parties = assignment.plan.parties
        ports = stack.enter_context(leased_ports(2 * len(parties), self.settings.ports))
        return Ports(dict(zip(parties, ports)), dict(zip(parties, ports[len(parties) :])))

    def _execution(self, assignment: Assignment, ports: Ports) -> Settlement:
        if self._hub and assignment.linked:
            return self._hub.open(assignment.agenda, ports)
        if assignment.strangers:
            addresses, _ = assignment.addresses(ports)
            return ProbedSettlement(
                assignment.hosted[0], {party: addresses[party] for party in assignment.strangers}
            )
        return LocalSettlement(assignment.hosted)

    @contextmanager
    def _registered(self, assignment: Assignment, execution: Settlement) -> Iterator[None]:
        with self._mutex:
            if self._closing:
                raise NodeLost(_SHUT_DOWN)
            self._running[assignment.execution_id] = (assignment, execution)
        try:
            yield
        finally:
            with self._mutex:
                del self._running[assignment.execution_id]

    def _spec(self, assignment: Assignment, party: str, ports: Ports) -> JobSpec:
        return self._workplace.spec(assignment, party, ports)

    def _supervise(self, spec: JobSpec, link: PeerLink, host: _Host) -> Ending:
        with execution_context(**spec.request.log_ids, party=spec.party):
            try:
                job = self.template.spawn(spec)
            except (
                Exception
            ) as error:  # pylint: disable=broad-exception-caught  # the peers must hear of it
                log.exception("The job process could not be started.", action="spawn_failed")
                own = WorkerError(hint=NODE_LOG, party=spec.party)
                public = error if isinstance(error, WorkerError) else own
                link.fail(public)
                return Ending.of(link.failed or public)
            supervisor = Supervisor(
                spec, job, link, host, self._workplace.limits(host.assignment.plan)
            )
            with self.metrics.watching(supervisor.usage):
                return supervisor.run()

    def report(self, request: TaskRequest, party: str, data: Mapping[str, Any]) -> None:
        """Publish a RUNNING event."""
        if event := self.store.append(self._event(request, party, Status.RUNNING, data)):
            self._announce(event)

    def _tell(self, request: TaskRequest, endings: Mapping[str, Ending]) -> None:
        """Publish the terminal events of all parties here, together."""
        events = [
            self._event(request, party, ending.status, ending.data)
            for party, ending in endings.items()
        ]
        kept = self.store.append_all(events)
        for event in kept:
            self._announce(event)
        if kept:
            with _counting():
                seconds = time.time() - self.store.taken_at(request.execution_id)
                self.metrics.ended(request.task_type, list(endings.values()), seconds)

    def _announce(self, event: StatusEvent) -> None:
        with _counting():
            self.metrics.stored(event)
        self.on_event(event)

    def _event(
        self, request: TaskRequest, party: str, status: Status, data: Mapping[str, Any]
    ) -> StatusEvent:
        return StatusEvent(
            execution_id=request.execution_id,
            task_request_id=request.task_request_id,
            party=party,
            status=status,
            data=data,
            worker_container=self.settings.name,
            task_name=TASK_NAME,
            task_id=request.task_id,
            subtask_id=request.subtask_id,
            task_type=request.task_type,
        )

    def _refuse(
        self,
        request: TaskRequest,
        parties: list[str],
        error: WorkerError,
        assignment: Assignment | None = None,
    ) -> Outcome:
        """Settle a request that cannot run, at every party here that it seems to be for."""
        problem = error.public_message
        log.warning(
            "The request is refused.", action="request_refused", code=error.code, problem=problem
        )
        if self._claim(request, parties).verdict is Verdict.DROP:
            return self._known(request, parties)
        return self._end_unstarted(request, parties, error, assignment)

    def _fail(self, request: TaskRequest, parties: Iterable[str], error: WorkerError) -> None:
        self._tell(request, dict.fromkeys(parties, Ending.of(error)))

    def _known(self, request: TaskRequest, parties: list[str]) -> Outcome:
        """What this node knows of an execution that it does not run for this delivery.

        Parties that the first delivery did not have are told that its id is taken.
        """
        log.info("The request was delivered before.", action="duplicate_delivery")
        strangers = [
            party for party in parties if not self.store.knows(request.execution_id, party)
        ]
        for party in strangers if len(strangers) < len(parties) else []:
            if self.store.claim(request, party):
                self._fail(request, [party], RequestMismatch("The execution id was used before."))
        statuses = {
            self.store.status(request.execution_id, party) or Status.RUNNING for party in parties
        }
        status = statuses.pop() if len(statuses) == 1 else Status.RUNNING
        return Outcome(request.execution_id, status, repeated=True)


@contextmanager
def _counting() -> Iterator[None]:
    """Let the block, which counts what happens, not keep it from happening."""
    try:
        yield
    except (
        Exception
    ):  # pylint: disable=broad-exception-caught  # whatever it is, the request matters more
        log.exception("Something could not be counted.", action="counting_failed")


@dataclass(frozen=True)
class _Host:
    """The node, as the supervisor of one party sees it."""

    node: Node
    assignment: Assignment
    party: str
    epoch: int

    def report(self, data: Mapping[str, Any]) -> None:
        """Publish a RUNNING event."""
        self.node.report(self.assignment.request, self.party, data)

    def vote(self, result: Mapping[str, Any]) -> None:
        """Keep the result; raises `NodeLost` when another node has taken the execution over."""
        execution_id, store = self.assignment.execution_id, self.node.store
        if self.node.ownership.holds(execution_id, self.assignment.hosted, self.epoch) is False:
            raise NodeLost()
        keep = store.vote if self.assignment.linked else store.keep_result
        keep(execution_id, self.party, result)

    def withdraw(self) -> None:
        """Forget the result."""
        self.node.store.forget_result(self.assignment.execution_id, self.party)
