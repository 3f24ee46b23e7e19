"""Carries out one assignment: ports, the settlement of its parties, a supervised job for each, and
cleaning.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any, Mapping

from secretflow_task.broker.celery_tasks import Outcome
from secretflow_task.config.settings import Settings
from secretflow_task.contract.errors import NodeLost, WorkerError
from secretflow_task.contract.job_spec import JobSpec
from secretflow_task.contract.messages import Status
from secretflow_task.node.assignment import Assignment
from secretflow_task.node.job.ending import NODE_LOG, Ending
from secretflow_task.node.job.supervisor import Supervisor
from secretflow_task.node.job.template import Template
from secretflow_task.node.job.workplace import Workplace
from secretflow_task.node.kept_results import KeptResults
from secretflow_task.node.link.protocol import PeerLink, Unsettled
from secretflow_task.node.metrics.counters import Metrics
from secretflow_task.node.ownership import Ownership
from secretflow_task.node.ports import Ports, leased_ports
from secretflow_task.node.reporter import Reporter
from secretflow_task.node.running import RunningExecutions
from secretflow_task.node.settlements import Settlements
from secretflow_task.node.store.event_store import EventStore
from secretflow_task.utils.log import execution_context, get_logger

log = get_logger()


@dataclass
class Runner:
    """Runs executions, each in the thread that calls."""

    settings: Settings
    store: EventStore
    results: KeptResults
    ownership: Ownership
    settlements: Settlements
    running: RunningExecutions
    reporter: Reporter
    template: Template
    workplace: Workplace
    metrics: Metrics

    def run(self, assignment: Assignment, epoch: int) -> Outcome:
        """Run an execution to its end at all its parties here, and tell of it."""
        started = time.monotonic()
        parties = assignment.plan.parties
        log.info("The execution starts.", action="execution_started", parties=parties)
        with ExitStack() as stack:
            try:
                self.reporter.accepted(assignment.request, assignment.hosted)
                endings = self._run_parties(assignment, epoch, stack)
            except Unsettled:
                log.warning("The execution is left undecided.", action="execution_undecided")
                return Outcome(assignment.execution_id, Status.RUNNING)
            except Exception as error:  # pylint: disable=broad-exception-caught  # settle the claim
                log.exception("The execution could not be started.", action="start_failed")
                public = error if isinstance(error, WorkerError) else WorkerError(hint=NODE_LOG)
                endings = dict.fromkeys(assignment.hosted, Ending.of(public))
                self.settlements.refuse(assignment, public)
            self.reporter.ended(assignment.request, endings)
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

    def _run_parties(
        self, assignment: Assignment, epoch: int, stack: ExitStack
    ) -> dict[str, Ending]:
        """How the execution ended at each party here; nothing is left of it then but outputs and
        logs.

        ``stack`` closes the link to the others, which should be when the end has been told.
        """
        ports = self._lease_ports(assignment, stack)
        settlement = stack.enter_context(closing(self.settlements.open(assignment, ports)))
        stack.enter_context(self.running.registered(assignment, settlement))
        if assignment.strangers:
            self.reporter.waits(assignment.request, assignment.hosted, assignment.strangers)
        try:
            settlement.join()
        except WorkerError as error:
            return dict.fromkeys(assignment.hosted, Ending.of(error))
        specs = [self._spec(assignment, party, ports) for party in assignment.hosted]

        def supervise(spec: JobSpec) -> Ending:
            return self._supervise(assignment, epoch, spec, settlement.links[spec.party])

        with ExitStack() as jobs:
            for spec in specs:
                link = settlement.links[spec.party]
                jobs.callback(self._clean, assignment, spec, link)
            threads = jobs.enter_context(ThreadPoolExecutor(len(specs), "supervisor"))
            endings = threads.map(supervise, specs)
            return dict(zip(assignment.hosted, endings))

    def _lease_ports(self, assignment: Assignment, stack: ExitStack) -> Ports:
        parties = assignment.plan.parties
        ports = stack.enter_context(leased_ports(2 * len(parties), self.settings.ports))
        return Ports(dict(zip(parties, ports)), dict(zip(parties, ports[len(parties) :])))

    def _spec(self, assignment: Assignment, party: str, ports: Ports) -> JobSpec:
        return self.workplace.spec(assignment, party, ports)

    def _clean(self, assignment: Assignment, spec: JobSpec, link: PeerLink) -> None:
        self.workplace.clean(assignment.plan, spec, link.succeeded)

    def _supervise(
        self, assignment: Assignment, epoch: int, spec: JobSpec, link: PeerLink
    ) -> Ending:
        with execution_context(**spec.request.log_ids, party=spec.party):
            try:
                job = self.template.spawn(spec)
            except Exception as error:  # pylint: disable=broad-exception-caught  # tell the peers
                log.exception("The job process could not be started.", action="spawn_failed")
                own = WorkerError(hint=NODE_LOG, party=spec.party)
                public = error if isinstance(error, WorkerError) else own
                link.fail(public)
                return Ending.of(link.failed or public)
            host = _Host(self, assignment, spec.party, epoch)
            limits = self.workplace.limits(assignment.plan)
            supervisor = Supervisor(spec, job, link, host, limits)
            with self.metrics.watching(supervisor.usage):
                return supervisor.run()


@dataclass(frozen=True)
class _Host:
    """The node, as the supervisor of one party sees it."""

    runner: Runner
    assignment: Assignment
    party: str
    epoch: int

    def report(self, data: Mapping[str, Any]) -> None:
        """Publish a RUNNING event."""
        self.runner.reporter.running(self.assignment.request, self.party, data)

    def vote(self, result: Mapping[str, Any]) -> Mapping[str, Any]:
        """Keep the result, a large one as a file; raises `NodeLost`, `OutputNotWritable`."""
        execution_id, hosted = self.assignment.execution_id, self.assignment.hosted
        if self.runner.ownership.holds(execution_id, hosted, self.epoch) is False:
            raise NodeLost()
        told = self.runner.results.keep(execution_id, self.party, result)
        if self.assignment.linked:
            self.runner.store.vote(execution_id, self.party, told)
        else:
            self.runner.store.keep_result(execution_id, self.party, told)
        return told

    def withdraw(self) -> None:
        """Forget the result."""
        self.runner.results.forget(self.assignment.execution_id, self.party)
        self.runner.store.forget_result(self.assignment.execution_id, self.party)
