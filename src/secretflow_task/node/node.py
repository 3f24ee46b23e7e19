"""The node: takes a request, runs it at the parties that it hosts, and says how it ended."""

from __future__ import annotations

import hashlib
import re
import shutil
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Callable, Iterator, Mapping

from secretflow_task.celery_app import TASK_NAME
from secretflow_task.celery_tasks import NodeStopping
from secretflow_task.config.settings import Settings
from secretflow_task.data_loader import PathRules
from secretflow_task.errors import (
    InvalidTaskConfig,
    NodeLost,
    PeerUnreachable,
    RequestMismatch,
    TaskCancelled,
    WorkerError,
)
from secretflow_task.utils.psi_traces import remove_traces
from secretflow_task.job_spec import JobSpec
from secretflow_task.messages import PARTY_NAME, Status, StatusEvent, TaskRequest
from secretflow_task.node.job_logs import forget_old
from secretflow_task.node.outputs import put_back, remove_staged
from secretflow_task.node.ownership import Claim, Ownership, SoleOwnership, Verdict
from secretflow_task.node.peer_link import LocalExecution, PeerLink
from secretflow_task.node.ports import leased_ports
from secretflow_task.node.store import EventStore, Execution
from secretflow_task.node.supervisor import Limits, Supervisor, success
from secretflow_task.node.template import Template
from secretflow_task.requests import Plan
from secretflow_task.run import staging_folders
from secretflow_task.task_config import STEP_PREFIX, TaskConfig, Use
from secretflow_task.utils.log import execution_context, get_logger

log = get_logger()

_MOST_PARTIES = 16
_STOP_SECONDS = 30.0
_HOUSEKEEPING_SECONDS = 3600.0
_SHUT_DOWN = "The node was shut down."
# What a request ends with that is not run, by what the nodes on the same Redis have agreed.
_REFUSALS: dict[Verdict, type[WorkerError]] = {Verdict.LOST: NodeLost, Verdict.CANCELLED: TaskCancelled}
_NODE_LOG = "Read the log of the node; `sfworker doctor` checks its folders, ports and disk."


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
    """Runs executions; a context manager over its store and its template.

    ``on_event`` is called, from any thread, with every event after it is stored. It and ``ownership``, which
    decides between this node and others on the same queue, may be set later.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        on_event: Callable[[StatusEvent], None] = lambda event: None,
        template: Template | None = None,
    ) -> None:
        self.settings = settings
        self.on_event = on_event
        self.ownership: Ownership = SoleOwnership()
        self._mutex = threading.Lock()
        self._running: dict[str, tuple[Plan, LocalExecution]] = {}
        self._claiming: set[str] = set()
        self._closing = False
        self._left = threading.Event()
        self._template = template or Template(settings.template_timeout_seconds)
        self._stack = ExitStack()

    def __enter__(self) -> Node:
        self.store = self._stack.enter_context(EventStore(self.settings.state_dir))
        with self._stack:
            for folder in (self.settings.work_dir, self._logs):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._template.start()
            self._settle_what_was_left()
            self._stack = self._stack.pop_all()
        threading.Thread(target=self._keep_house, name="housekeeping", daemon=True).start()
        return self

    def __exit__(self, *exc: Any) -> None:
        self.stop()
        self._left.set()
        self._template.close()
        self._stack.__exit__(*exc)

    def _keep_house(self) -> None:
        """Forget now and every hour what is old: a node lives for months."""
        while True:
            try:
                forget_old(self._logs, self.settings.job_log_days)
                self.store.forget_old()
            except (OSError, sqlite3.Error) as error:
                problem = type(error).__name__
                log.warning(
                    "What is old is not forgotten yet.", action="housekeeping_failed", problem=problem
                )
            if self._left.wait(_HOUSEKEEPING_SECONDS):
                return

    def recycle(self) -> None:
        """Start the next jobs from a new template process."""
        self._template.recycle()

    def execute(self, *arguments: Any) -> Outcome:
        """Run a request, ``(task_request_id, params)`` or ``(params,)``, to its end at all hosted parties.

        A request that was taken before is not run again, and nothing is published for it.

        Raises:
            NodeStopping: another node should take it.
            InvalidTaskConfig: the arguments hold no id, so that nothing can be published.
        """
        if self._closing:
            raise NodeStopping
        request = TaskRequest.from_arguments(*arguments)
        with execution_context(execution_id=request.execution_id, task_type=request.task_type):
            try:
                plan = Plan.of(request)
            except WorkerError as error:
                return self._refuse(request, error)
            return self.run(plan)

    def run(self, plan: Plan) -> Outcome:
        """Run a validated request to its end at all its parties."""
        request = plan.request
        try:
            self._check(plan)
        except WorkerError as error:
            return self._refuse(request, error)
        claim = self._claim(request, plan.parties)
        if claim.verdict is Verdict.DROP:
            return self._known(request, plan.parties)
        if claim.verdict in _REFUSALS:
            return self._end_unstarted(plan, _REFUSALS[claim.verdict]())
        log.info("The execution starts.", action="execution_started", parties=plan.parties)
        try:
            failures = self._run_parties(plan)
        except Exception as error:  # pylint: disable=broad-exception-caught  # every claim must be settled
            log.exception("The execution could not be started.", action="start_failed")
            public = error if isinstance(error, WorkerError) else WorkerError(hint=_NODE_LOG)
            failures = [self._settle(request, party, public) for party in plan.parties]
        failure = next((failure for failure in failures if failure), None)
        status = Status.FAILURE if failure else Status.SUCCESS
        log.info(
            "The execution ended.",
            action="execution_ended",
            status=status.value,
            code=failure and failure.code,
        )
        return Outcome(request.execution_id, status, failure)

    def _claim(self, request: TaskRequest, parties: list[str]) -> Claim:
        """Take an execution, by agreement with the other nodes and in the own store, in this order."""
        key = request.execution_id
        with self._mutex:
            if key in self._claiming:
                return Claim(Verdict.DROP)
            self._claiming.add(key)
        try:
            claim = self.ownership.claim(request, parties)
            if claim.verdict is Verdict.OWN:
                # A process of this node that was killed before it wrote the claim down leaves nothing here.
                unknown = not any(self.store.knows(key, party) for party in parties)
                claim = replace(claim, verdict=Verdict.LOST if unknown else Verdict.DROP)
            if claim.verdict is not Verdict.DROP:
                lost = claim.verdict is Verdict.LOST
                if not self.store.claim(request, *parties, epoch=claim.epoch, seqs=claim.seqs, again=lost):
                    return Claim(Verdict.DROP)
            return claim
        finally:
            with self._mutex:
                self._claiming.discard(key)

    def _end_unstarted(self, plan: Plan, error: WorkerError) -> Outcome:
        log.info("The execution is not started.", action="execution_not_started", code=error.code)
        for party in plan.parties:
            self._settle(plan.request, party, error)
        return Outcome(plan.request.execution_id, Status.FAILURE, error)

    def settle_lost(self, request: TaskRequest, parties: list[str]) -> None:
        """Say for a node that is gone how an execution ended that it had taken, unless that is known."""
        with execution_context(execution_id=request.execution_id, task_type=request.task_type):
            if self._claim(request, parties).verdict is not Verdict.DROP:
                log.info("An execution of a dead node is settled.", action="execution_inherited")
                for party in parties:
                    self._settle(request, party, NodeLost())

    def running(self) -> dict[str, tuple[TaskRequest, list[str]]]:
        """The executions that run now, with their parties at this node."""
        with self._mutex:
            return {key: (plan.request, plan.parties) for key, (plan, _) in self._running.items()}

    def describe(self) -> dict[str, Any]:
        """How the node is: what it runs, and what became of its events."""
        running, store = len(self.running()), self.store
        events = {"events_waiting": store.waiting(), "events_dropped": store.dropped}
        return {"name": self.settings.name, "running": running, **events}

    def cancel(self, execution_id: str) -> bool:
        """End a running execution; whether it runs here."""
        return self._end(execution_id, TaskCancelled())

    def abandon(self, execution_id: str, party: str) -> None:
        """Forget an execution silently: another node has taken it over and says how it ended."""
        self.store.give_up(execution_id, party)
        self._end(execution_id, NodeLost())

    def stop(self) -> None:
        """End all running executions, and start none from now on."""
        with self._mutex:
            self._closing = True
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
            return link.failed is error  # else it had ended, though it is still being cleaned up

    @property
    def _logs(self) -> Path:
        return self.settings.state_dir / "logs"

    @property
    def _work(self) -> Path:
        """The folder of this node's jobs: the work folder may hold other nodes' jobs, or anything."""
        return self.settings.work_dir / self.store.node_id[:8]

    def _check(self, plan: Plan) -> None:
        """Refuse what this node may not do, before anything is started."""
        listed = isinstance(dict(plan.request.params.get("sf_init_config") or {}).get("parties"), list)
        strangers = set() if listed else set(plan.parties) - set(self.settings.parties)
        if strangers:
            raise PeerUnreachable(f"This node does not host {sorted(strangers)[0]} and has no link to it.")
        rules = {party: self._rules(party) for party in plan.parties}
        for use in _paths_of(plan):
            if use.party in rules:
                rules[use.party].resolve(use.path, use.purpose)
        _check_outputs_apart(plan, rules)

    def _rules(self, party: str) -> PathRules:
        roots = tuple(Path(root) for root in self.settings.allowed_roots)
        return PathRules(party, self.settings.data_root.absolute(), roots).settled()

    def _run_parties(self, plan: Plan) -> list[WorkerError | None]:
        with ExitStack() as stack:
            ports = stack.enter_context(leased_ports(2 * len(plan.parties), self.settings.ports))
            execution = stack.enter_context(closing(LocalExecution(plan.parties)))
            stack.enter_context(self._registered(plan, execution))
            specs = [self._spec(plan, party, ports) for party in plan.parties]
            for spec in specs:
                stack.callback(self._clean, plan, spec)
            threads = stack.enter_context(ThreadPoolExecutor(len(specs), "supervisor"))
            return list(
                threads.map(lambda spec: self._supervise(plan, spec, execution.links[spec.party]), specs)
            )

    @contextmanager
    def _registered(self, plan: Plan, execution: LocalExecution) -> Iterator[None]:
        with self._mutex:
            if self._closing:
                raise NodeLost(_SHUT_DOWN)
            self._running[plan.request.execution_id] = (plan, execution)
        try:
            yield
        finally:
            with self._mutex:
                del self._running[plan.request.execution_id]

    def _supervise(self, plan: Plan, spec: JobSpec, link: PeerLink) -> WorkerError | None:
        with execution_context(execution_id=plan.request.execution_id, party=spec.party):
            try:
                return self._supervisor(plan, spec, link).run()
            except Exception as error:  # pylint: disable=broad-exception-caught  # the peers must hear of it
                log.exception("The supervisor failed.", action="supervisor_failed")
                public = (
                    error if isinstance(error, WorkerError) else WorkerError(hint=_NODE_LOG, party=spec.party)
                )
                link.fail(public)
                return self._settle(plan.request, spec.party, link.failed or public)

    def _spec(self, plan: Plan, party: str, ports: list[int]) -> JobSpec:
        execution_id = plan.request.execution_id
        folder = self._work / f"{execution_id}.{party}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700, parents=True)
        count = len(plan.parties)
        fed, spu = (
            {name: f"127.0.0.1:{port}" for name, port in zip(plan.parties, some)}
            for some in (ports[:count], ports[count:])
        )
        return JobSpec(
            request=plan.request,
            party=party,
            rules=self._rules(party),
            folder=folder,
            log_path=self._logs / f"{execution_id}.{party}.log",
            staging=_staging_name(execution_id, party),
            fed_addresses=fed,
            spu_addresses=spu,
            several=count > 1,
        )

    def _supervisor(self, plan: Plan, spec: JobSpec, link: PeerLink) -> Supervisor:
        def publish(status: Status, data: Mapping[str, Any]) -> None:
            if status.terminal:  # whoever reads it finds nothing left of the job
                self._clean(plan, spec)
            self._publish(plan.request, spec.party, status, data)

        def vote(result: Mapping[str, Any]) -> None:
            execution_id = plan.request.execution_id
            if not self.ownership.holds(execution_id, plan.parties):
                raise NodeLost()
            self.store.keep_result(execution_id, spec.party, result)

        return Supervisor(spec, self._template.spawn(spec), link, publish, vote, self._limits(plan))

    def _limits(self, plan: Plan) -> Limits:
        """The node's limits; a request may ask for less time."""
        settings = self.settings
        own = settings.job_timeouts_seconds.get(plan.task.task_type, settings.job_timeout_seconds)
        return Limits(
            job_seconds=min(own, plan.timeout_seconds or own),
            prepare_seconds=settings.prepare_timeout_seconds,
            grace_seconds=settings.terminate_grace_seconds,
            silence_seconds=settings.silence_seconds,
            memory_bytes=settings.memory_limit_bytes,
            log_bytes=settings.job_log_limit_bytes,
        )

    def _clean(self, plan: Plan, spec: JobSpec) -> None:
        """Delete everything that a job wrote outside its outputs and its log; never raises."""
        shutil.rmtree(spec.folder, ignore_errors=True)
        try:
            remove_staged(_staging_folders(plan, spec.party, spec.rules, spec.staging))
            remove_traces(spec.log_path)
        except (OSError, WorkerError):
            log.exception("Something of a job is left.", action="clean_failed")

    def _clean_staging(self, execution: Execution, succeeded: bool) -> None:
        """Undo what a job of an earlier process had moved, if it failed, and remove what it had staged."""
        party, rules = execution.party, self._rules(execution.party)
        name = _staging_name(execution.request.execution_id, party)
        folders = _staging_folders(Plan.of(execution.request), party, rules, name)
        if not succeeded:
            put_back(folders, rules)
        remove_staged(folders)

    def _publish(self, request: TaskRequest, party: str, status: Status, data: Mapping[str, Any]) -> None:
        event = self.store.append(
            StatusEvent(
                execution_id=request.execution_id,
                task_request_id=request.task_request_id,
                party=party,
                status=status,
                data=data,
                worker_container=self.settings.name,
                task_name=TASK_NAME,
                task_id=request.task_id,
                subtask_id=request.subtask_id,
            )
        )
        if event is not None:
            self.on_event(event)

    def _refuse(self, request: TaskRequest, error: WorkerError) -> Outcome:
        """Settle a request that cannot run, at every party that it seems to be for."""
        log.warning(error.public_message, action="request_refused", code=error.code)
        parties = _parties_of(request, self.settings)
        if self._claim(request, parties).verdict is Verdict.DROP:
            return self._known(request, parties)
        for party in parties:
            self._settle(request, party, error)
        return Outcome(request.execution_id, Status.FAILURE, error)

    def _settle(self, request: TaskRequest, party: str, error: WorkerError) -> WorkerError:
        self._publish(request, party, Status.FAILURE, {"progress": 0.0, **error.as_event_data()})
        return error

    def _known(self, request: TaskRequest, parties: list[str]) -> Outcome:
        """What this node knows of an execution that it does not run for this delivery.

        Parties that the first delivery did not have are told that its id is taken.
        """
        log.info("The request was delivered before.", action="duplicate_delivery")
        strangers = [party for party in parties if not self.store.knows(request.execution_id, party)]
        for party in strangers if len(strangers) < len(parties) else []:
            if self.store.claim(request, party):
                self._settle(request, party, RequestMismatch("The execution id was used before."))
        statuses = {self.store.status(request.execution_id, party) or Status.RUNNING for party in parties}
        status = statuses.pop() if len(statuses) == 1 else Status.RUNNING
        return Outcome(request.execution_id, status, repeated=True)

    def _settle_what_was_left(self) -> None:
        """An earlier process of this node was killed: what it ran has ended with it.

        It has succeeded if all parties had settled, as `PeerLink` defines it; else all have failed alike.
        """
        shutil.rmtree(self._work, ignore_errors=True)
        for execution in self.store.unfinished():
            request, party = execution.request, execution.party
            with execution_context(execution_id=request.execution_id, party=party):
                result = self.store.agreed_result(request.execution_id, party)
                log.warning("An execution of an earlier process is settled.", action="execution_left")
                try:
                    self._clean_staging(execution, succeeded=result is not None)
                except (OSError, WorkerError):  # such as folders that are no longer allowed
                    log.exception("Something of a job is left.", action="clean_failed")
                if result is not None:
                    self._publish(request, party, Status.SUCCESS, success(result))
                else:
                    lost = {"progress": 0.0, **NodeLost(party=party).as_event_data()}
                    failure = self.store.failure(request.execution_id) or lost
                    self._publish(request, party, Status.FAILURE, failure)


def _staging_folders(plan: Plan, party: str, rules: PathRules, name: str) -> set[Path]:
    own = [use for use in _paths_of(plan) if use.party == party]
    targets = [rules.resolve(use.path, use.purpose) for use in own]
    return {folder for target in targets for folder in staging_folders(target, name)}


def _paths_of(plan: Plan) -> list[Use]:
    """The files and folders that a request names; none for a task without a config model."""
    config = plan.config
    uses = config.inputs() + config.outputs() + config.models() if isinstance(config, TaskConfig) else []
    return [use for use in uses if not use.path.startswith(STEP_PREFIX)]


def _check_outputs_apart(plan: Plan, rules: Mapping[str, PathRules]) -> None:
    """Raise `InvalidTaskConfig` when two parties of this node would write one file: the last would win."""
    writers: dict[Path, str] = {}
    outputs = plan.config.outputs() if isinstance(plan.config, TaskConfig) else []
    for use in outputs:
        if use.party not in rules or use.path.startswith(STEP_PREFIX) or use.shared:
            continue
        path = rules[use.party].resolve(use.path, use.purpose)
        if writers.setdefault(path, use.party) != use.party:
            raise InvalidTaskConfig(
                f"{writers[path]} and {use.party} would write the same file of {use.purpose}.",
                hint="Give them different names, or each party a folder of its name in SFWORKER_DATA_ROOT.",
            )


def _staging_name(execution_id: str, party: str) -> str:
    """Short, hidden, and the same again after a restart."""
    digest = hashlib.sha256(f"{execution_id}/{party}".encode()).hexdigest()[:16]
    return f".sfworker-{digest}"


def _parties_of(request: TaskRequest, settings: Settings) -> list[str]:
    """Whom to tell about a request that could not be understood."""
    init = request.params.get("sf_init_config")
    listed = init.get("parties") if isinstance(init, Mapping) else None
    if isinstance(listed, (list, Mapping)) and 0 < len(listed) <= _MOST_PARTIES:
        if all(isinstance(party, str) and re.fullmatch(PARTY_NAME, party) for party in listed):
            return sorted(set(listed))
    return sorted(settings.parties) or ["unknown"]
