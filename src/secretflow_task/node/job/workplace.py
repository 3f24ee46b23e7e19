"""What a node's jobs are given to work with, and what of it must go when they have ended."""

from __future__ import annotations

import shutil
from pathlib import Path

from secretflow_task.config.settings import Settings
from secretflow_task.contract.errors import WorkerError
from secretflow_task.contract.job_spec import JobSpec
from secretflow_task.contract.paths import staging_name
from secretflow_task.contract.plan import Plan
from secretflow_task.node.assignment import Assignment, rules_of
from secretflow_task.node.job import logs as job_logs
from secretflow_task.node.job.limits import Limits
from secretflow_task.node.job.outputs import put_back, remove_staged
from secretflow_task.node.job.psi_traces import remove_traces
from secretflow_task.node.job.staging import folders_to_clean
from secretflow_task.node.ports import Ports
from secretflow_task.node.store.executions import TakenExecution
from secretflow_task.utils.log import get_logger, problem_of

log = get_logger()


class Workplace:
    """The folders of a node's jobs; the work folder may hold other nodes' jobs, or anything."""

    def __init__(self, settings: Settings, node_id: str) -> None:
        self._settings = settings
        self._logs = settings.state_dir / "logs"
        self._work: Path = settings.work_dir / node_id[:8]
        for folder in (settings.work_dir, self._logs):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def clear(self) -> None:
        """Remove what the jobs of an earlier process left."""
        shutil.rmtree(self._work, ignore_errors=True)

    def forget_old(self) -> None:
        """Delete old logs."""
        job_logs.forget_old(self._logs, self._settings.job_log_days)

    def spec(self, assignment: Assignment, party: str, ports: Ports) -> JobSpec:
        """What the job of a party is told; its folder is made."""
        folder = self._work / assignment.folder(party)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700, parents=True)
        fed, spu = assignment.addresses(ports)
        return JobSpec(
            request=assignment.request,
            party=party,
            rules=rules_of(party, self._settings),
            folder=folder,
            log_path=job_logs.log_path(self._logs, assignment.execution_id, party),
            staging=staging_name(assignment.execution_id, party),
            fed_addresses=fed,
            spu_addresses=spu,
            several=len(assignment.hosted) > 1,
            between_nodes=bool(assignment.strangers),
            listening=assignment.listening(party, self._settings.join_seconds),
            log_level=self._settings.log_level,
            log_json=self._settings.log_json,
        )

    def limits(self, plan: Plan) -> Limits:
        """The node's limits; a request may ask for less time."""
        settings = self._settings
        own = settings.job_timeouts_seconds.get(plan.task.task_type, settings.job_timeout_seconds)
        return Limits(
            job_seconds=min(own, plan.timeout_seconds or own),
            prepare_seconds=settings.prepare_timeout_seconds,
            grace_seconds=settings.terminate_grace_seconds,
            silence_seconds=settings.silence_seconds,
            memory_bytes=settings.memory_limit_bytes,
            log_bytes=settings.job_log_limit_bytes,
        )

    @staticmethod
    def clean(plan: Plan, spec: JobSpec, succeeded: bool) -> None:
        """Delete everything that a job wrote outside its outputs and its log; never raises."""
        shutil.rmtree(spec.folder, ignore_errors=True)
        try:
            remove_staged(folders_to_clean(plan, spec.party, spec.rules, spec.staging), succeeded)
            remove_traces(spec.log_path)
        except (OSError, WorkerError) as error:
            log.error(
                "Files of a job could not be removed.",
                action="clean_failed",
                problem=problem_of(error),
            )

    def clean_left(self, execution: TakenExecution, succeeded: bool) -> None:
        """Undo what a job of an earlier process had moved, if it failed, and remove what it had
        staged.
        """
        party, rules = execution.party, rules_of(execution.party, self._settings)
        name = staging_name(execution.request.execution_id, party)
        folders = folders_to_clean(Plan.of(execution.request), party, rules, name)
        if not succeeded:
            put_back(folders, rules)
        remove_staged(folders, succeeded)
