"""What an earlier process of this node, which was killed, left: how it ended, and what of it must go."""

from __future__ import annotations

import sqlite3
import threading
from dataclasses import dataclass
from typing import Callable, Mapping

from secretflow_task.errors import NodeLost, WorkerError
from secretflow_task.messages import TaskRequest
from secretflow_task.node.ownership import Ownership
from secretflow_task.node.store import EventStore, Execution
from secretflow_task.node.supervisor import Ending, success
from secretflow_task.utils.log import execution_context, get_logger

log = get_logger()

_ASK_AGAIN_SECONDS = 1.0


@dataclass(frozen=True)
class Recovery:
    """Settles what was left.

    Attributes:
        clean: removes what a party's job had staged, and undoes what was moved unless it succeeded.
        tell: publishes the terminal events of an execution.
    """

    store: EventStore
    ownership: Ownership
    clean: Callable[[Execution, bool], None]
    tell: Callable[[TaskRequest, Mapping[str, Ending]], None]

    def settle(self, closing: threading.Event) -> None:
        """Settle it now, or later from a thread what waits for Redis, which knows who owns it."""
        executions: dict[str, list[Execution]] = {}
        for execution in self.store.unfinished():
            executions.setdefault(execution.request.execution_id, []).append(execution)
        if left := self._settle_all(list(executions.values())):
            arguments = (left, closing)
            threading.Thread(target=self._settle_later, args=arguments, name="recovery", daemon=True).start()

    def _settle_later(self, left: list[list[Execution]], closing: threading.Event) -> None:
        while left and not closing.wait(_ASK_AGAIN_SECONDS):
            left = self._settle_all(left)

    def _settle_all(self, executions: list[list[Execution]]) -> list[list[Execution]]:
        return [parties for parties in executions if not self._settled(parties)]

    def _settled(self, executions: list[Execution]) -> bool:
        try:
            return self._settle(executions)
        except sqlite3.Error as error:  # such as a full disk
            problem = type(error).__name__
            log.warning("What was left is not settled yet.", action="recovery_waits", problem=problem)
            return False

    def _settle(self, executions: list[Execution]) -> bool:
        """Settle an execution at all its parties here; whether that could be done."""
        request, parties = executions[0].request, [execution.party for execution in executions]
        epoch = min(execution.epoch for execution in executions)
        holds = self.ownership.holds(request.execution_id, parties, epoch)
        if holds is None:
            return False
        with execution_context(execution_id=request.execution_id):
            log.warning("An execution of an earlier process is settled.", action="execution_left", held=holds)
            endings = self._endings(request.execution_id, parties) if holds else {}
            for execution in executions:
                succeeded = execution.party in endings and endings[execution.party].failure is None
                self._clean(execution, succeeded)
                if not holds:  # another node has said how it ended
                    self.store.give_up(request.execution_id, execution.party, execution.epoch)
            self.tell(request, endings)
        return True

    def _clean(self, execution: Execution, succeeded: bool) -> None:
        try:
            self.clean(execution, succeeded)
        except (OSError, WorkerError):  # such as folders that are no longer allowed
            log.exception("Something of a job is left.", action="clean_failed", party=execution.party)

    def _endings(self, execution_id: str, parties: list[str]) -> dict[str, Ending]:
        """SUCCESS if all parties had settled, as `PeerLink` defines it; else all have failed alike."""
        results = {party: self.store.agreed_result(execution_id, party) for party in parties}
        if all(result is not None for result in results.values()):
            return {party: Ending(None, success(result or {})) for party, result in results.items()}
        lost = Ending.of(NodeLost(party=parties[0]))
        known = self.store.failure(execution_id)
        return dict.fromkeys(parties, Ending(lost.failure, known) if known else lost)
