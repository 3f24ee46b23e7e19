"""The node: takes a request, runs it at the parties that it hosts, and says how it ended.

A request goes through `Intake`, which takes or refuses it, and `Runner`, which carries it out; both
tell what becomes of it to `Reporter`. None of them calls back.
"""

from __future__ import annotations

import sqlite3
import threading
from contextlib import suppress
from typing import Any, Callable

from secretflow_task.broker.celery_tasks import NodeStopping, Outcome
from secretflow_task.config.settings import Settings
from secretflow_task.contract.errors import (
    BadSetting,
    EngineUnavailable,
    TaskCancelled,
    WorkerError,
)
from secretflow_task.contract.plan import Plan
from secretflow_task.contract.requests import TaskRequest
from secretflow_task.node.folders import folders_of
from secretflow_task.node.health import Health
from secretflow_task.node.intake import Intake
from secretflow_task.node.link.peer.hub import PeerHub
from secretflow_task.node.recovery import Recovery
from secretflow_task.node.reporter import Reporter
from secretflow_task.node.runner import Runner
from secretflow_task.utils.log import execution_context, get_logger

log = get_logger()

_HOUSEKEEPING_SECONDS = 3600.0
_HOUSEKEEPING_END_SECONDS = 5.0


class Node:
    """Runs executions; a context manager that settles what was left, and ends what runs.

    Args:
        hub: the link to other nodes; None for a node without one.
        closing: set when the node ends, for whoever waits.

    Attributes:
        on_cancel_elsewhere: called when something is cancelled that does not run here.
    """

    def __init__(
        self,
        intake: Intake,
        runner: Runner,
        recovery: Recovery,
        hub: PeerHub | None,
        closing: threading.Event,
    ) -> None:
        self.settings: Settings = runner.settings
        self.store = runner.store
        self.template = runner.template
        self.metrics = runner.metrics
        self.executions = runner.running
        self.folders = folders_of(self.settings)
        self.health = Health()
        self._reporter: Reporter = runner.reporter
        self._intake = intake
        self._runner = runner
        self._recovery = recovery
        self._hub = hub
        self._closing = closing
        self.on_cancel_elsewhere: Callable[[], object] = lambda: None
        self._housekeeping = threading.Thread(
            target=self._keep_house, name="housekeeping", daemon=True
        )

    def __enter__(self) -> Node:
        self._runner.workplace.clear()
        self._recovery.settle(self._closing)
        self._housekeeping.start()
        return self

    def __exit__(self, *exc: Any) -> None:
        self.stop()
        self._closing.set()
        self._housekeeping.join(_HOUSEKEEPING_END_SECONDS)
        self.template.close()

    def execute(self, *arguments: Any, sent_at: object = None) -> Outcome:
        """Run a request, ``(task_request_id, params)`` or ``(params,)``, to its end at all hosted
        parties.

        A request that was taken before is not run again, and nothing is published for it.

        Args:
            sent_at: when it was sent, in seconds since 1970, as far as the sender says so.

        Raises:
            NodeStopping: another node should take it.
            InvalidTaskConfig: the arguments are no request; `refuse` tells of it.
        """
        if self.executions.closed:
            raise NodeStopping
        request = TaskRequest.from_arguments(*arguments)
        with execution_context(**request.log_ids):
            self._reporter.taken(request, sent_at)
            try:
                plan = Plan.of(request)
            except WorkerError as error:
                return self._intake.refuse(request, error)
            return self.run(plan)

    def refuse(self, request: TaskRequest, error: WorkerError) -> Outcome:
        """Tell every party here for which a request may be that it is not run.

        Raises:
            NodeStopping: another node should do it.
        """
        if self.executions.closed:
            raise NodeStopping
        with execution_context(**request.log_ids):
            self._reporter.taken(request, None)
            return self._intake.refuse(request, error)

    def run(self, plan: Plan) -> Outcome:
        """Run a validated request to its end at all its parties here."""
        taken = self._intake.take(plan)
        if isinstance(taken, Outcome):
            return taken
        return self._runner.run(taken.assignment, taken.epoch)

    def running(self) -> dict[str, tuple[TaskRequest, list[str]]]:
        """The executions that run now, with their parties at this node."""
        return self.executions.requests()

    def cancel(self, execution_id: str) -> bool:
        """End a running execution; whether it runs here. Else it may wait in a queue."""
        if self.executions.end(execution_id, TaskCancelled()):
            return True
        self.on_cancel_elsewhere()
        return False

    def result(self, execution_id: str, party: str) -> dict[str, Any]:
        """A result that was too large for its event, as the text of its JSON.

        Raises:
            ResultNotHere: none is kept here.
        """
        return {"text": self._runner.results.read(execution_id, party)}

    def settle_cancelled(self, request: TaskRequest) -> Outcome:
        """Tell of a request that was cancelled before it was taken, and is never run.

        Raises:
            NodeStopping: another node should do it.
        """
        with execution_context(**request.log_ids):
            return self._intake.settle_cancelled(request)

    def settle_lost(self, request: TaskRequest, parties: list[str]) -> None:
        """Say for a node that is gone how an execution ended that it had taken, unless that is
        known.
        """
        self._intake.settle_lost(request, parties)

    def describe(self) -> dict[str, Any]:
        """How the node is: what it runs, what became of its events, and what it cannot do."""
        linked = list(self.settings.parties) if self.settings.peer_listen else []
        return {
            "id": self.store.node_id,
            "name": self.settings.name,
            "queues": list(self.settings.queues),
            "parties": list(self.settings.parties),
            "linked": linked,
            "running": len(self.running()),
            "events_waiting": self.store.waiting(),
            "events_dropped": self.store.dropped,
            "problems": [problem.to_dict() for problem in self.health.problems()],
        }

    def reload(self) -> dict[str, list[str]]:
        """Read the address book and the own certificate again.

        Returns:
            The parties that were added, removed and changed; nothing for a node without a link.

        Raises:
            BadSetting: they cannot be used; the old ones stay.
        """
        if self._hub is None:
            return {}
        try:
            changes = self._hub.reload()
        except BadSetting as error:
            problem = error.message
            log.error(
                "The address book is refused; the old one stays.",
                action="address_book_refused",
                problem=problem,
            )
            raise
        self.metrics.know_peers(self._hub.dialler.book.peers)
        log.info(
            "The address book was read again.",
            action="address_book_reloaded",
            added=changes["added"],
            removed=changes["removed"],
            changed=changes["changed"],
        )
        return changes

    def renew(self) -> None:
        """Start the next jobs from a new template process; those that run end with the old one.

        Raises:
            EngineUnavailable: it does not load SecretFlow; the old one stays.
        """
        try:
            self.template.renew()
        except EngineUnavailable as error:
            problem = error.message
            log.error(
                "The template is not renewed; the old one stays.",
                action="template_not_renewed",
                problem=problem,
            )
            raise
        log.info("The template was renewed.", action="template_renewed")

    def hang_up(self) -> None:
        """`reload` and `renew`, each whatever becomes of the other; the log says how it went."""
        with suppress(BadSetting):
            self.reload()
        with suppress(EngineUnavailable):
            self.renew()

    def stop(self) -> None:
        """End all running executions, and start none from now on."""
        self.executions.close()
        self._runner.ownership.stop()
        self.executions.end_all()

    def _keep_house(self) -> None:
        """Forget now and every hour what is old: a node lives for months."""
        while True:
            try:
                self._runner.workplace.forget_old()
                self._runner.results.forget_old()
                self.store.forget_old()
            except (OSError, sqlite3.Error) as error:
                problem = type(error).__name__
                log.warning(
                    "What is old is not forgotten yet.",
                    action="housekeeping_failed",
                    problem=problem,
                )
            if self._closing.wait(_HOUSEKEEPING_SECONDS):
                return
