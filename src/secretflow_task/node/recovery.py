"""What an earlier process of this node, which was killed, left: how it ended, and what of it must
go.

An execution whose parties were all here has succeeded if all had settled. Between nodes only the
one that coordinates knows: it had written the success down before it told anyone, and the others
ask it.
"""

from __future__ import annotations

import sqlite3
import threading
from dataclasses import dataclass
from typing import Callable, Mapping

from secretflow_task.contract.errors import NodeLost, SettlementUnknown, WorkerError
from secretflow_task.contract.requests import TaskRequest
from secretflow_task.node.inquiry import Inquiry, settling_parties
from secretflow_task.node.job.ending import Ending, success
from secretflow_task.node.ownership import Ownership
from secretflow_task.node.store.event_store import EventStore
from secretflow_task.node.store.executions import TakenExecution
from secretflow_task.utils.log import execution_context, get_logger, problem_of

log = get_logger()

_ASK_AGAIN_SECONDS = 1.0


@dataclass(frozen=True)
class Recovery:
    """Settles what was left.

    Attributes:
        inquiry: asks other nodes how an execution ended; None without a link to any.
        clean: removes what a party's job had staged, and undoes what was moved unless it succeeded.
        tell: publishes the terminal events of an execution.
    """

    store: EventStore
    ownership: Ownership
    inquiry: Inquiry | None
    clean: Callable[[TakenExecution, bool], None]
    tell: Callable[[TaskRequest, Mapping[str, Ending]], None]

    def settle(self, closing: threading.Event) -> None:
        """Settle it now, or later from a thread what waits for Redis or for other nodes."""
        executions: dict[str, list[TakenExecution]] = {}
        for execution in self.store.unfinished():
            executions.setdefault(execution.request.execution_id, []).append(execution)
        here: list[list[TakenExecution]] = []
        for parties in executions.values():
            if self.inquiry and self._strangers(parties[0]):
                self._start(self._settle_with_peers, self.inquiry, parties, closing)
            else:
                here.append(parties)
        if left := self._settle_all(here):
            self._start(self._settle_later, left, closing)

    @staticmethod
    def _start(work: Callable[..., None], *arguments: object) -> None:
        threading.Thread(target=work, args=arguments, name="recovery", daemon=True).start()

    def _strangers(self, execution: TakenExecution) -> list[str]:
        """The parties at other nodes."""
        here = {known.party for known in self.store.taken(execution.request.execution_id)}
        return [party for party in settling_parties(execution.request) if party not in here]

    def _settle_with_peers(
        self, inquiry: Inquiry, executions: list[TakenExecution], closing: threading.Event
    ) -> None:
        request, strangers = executions[0].request, self._strangers(executions[0])
        with execution_context(**request.log_ids):
            try:
                voted = all(self._agreed(execution) is not None for execution in executions)
                failure = inquiry.failure(executions, strangers, voted, closing)
                while not closing.is_set() and not self._settled(
                    executions, self._ended(executions, failure)
                ):
                    closing.wait(_ASK_AGAIN_SECONDS)
            except sqlite3.Error as error:  # the node has ended meanwhile: the next one goes on
                problem = type(error).__name__
                log.warning(
                    "What was left is for the next start.", action="recovery_ends", problem=problem
                )

    def _ended(
        self, executions: list[TakenExecution], failure: WorkerError | None
    ) -> dict[str, Ending]:
        if failure:
            return {execution.party: Ending.of(failure) for execution in executions}
        results = {
            execution.party: self.store.result(execution.request.execution_id, execution.party)
            for execution in executions
        }
        return {party: Ending(None, success(result or {})) for party, result in results.items()}

    def _settle_later(self, left: list[list[TakenExecution]], closing: threading.Event) -> None:
        while left and not closing.wait(_ASK_AGAIN_SECONDS):
            left = self._settle_all(left)

    def _settle_all(self, executions: list[list[TakenExecution]]) -> list[list[TakenExecution]]:
        return [parties for parties in executions if not self._settled(parties)]

    def _settled(
        self, executions: list[TakenExecution], endings: Mapping[str, Ending] | None = None
    ) -> bool:
        try:
            return self._settle(executions, endings)
        except sqlite3.Error as error:  # such as a full disk
            problem = type(error).__name__
            log.warning(
                "What was left is not settled yet.", action="recovery_waits", problem=problem
            )
            return False

    def _settle(
        self, executions: list[TakenExecution], endings: Mapping[str, Ending] | None
    ) -> bool:
        """Settle an execution at all its parties here; whether that could be done."""
        request, parties = executions[0].request, [execution.party for execution in executions]
        epoch = min(execution.epoch for execution in executions)
        holds = self.ownership.holds(request.execution_id, parties, epoch)
        if holds is None:
            return False
        with execution_context(**request.log_ids):
            log.warning(
                "An execution of an earlier process is settled.",
                action="execution_left",
                held=holds,
            )
            endings = (endings or self._endings(executions)) if holds else {}
            for execution in executions:
                succeeded = execution.party in endings and endings[execution.party].failure is None
                self._clean(execution, succeeded)
                if not holds:  # another node has said how it ended
                    self.store.give_up(request.execution_id, execution.party, execution.epoch)
            self.tell(request, endings)
        return True

    def _clean(self, execution: TakenExecution, succeeded: bool) -> None:
        try:
            self.clean(execution, succeeded)
        except (OSError, WorkerError) as error:  # such as folders that are no longer allowed
            log.error(
                "Outputs staged by an earlier process could not be removed.",
                action="recovery_clean_failed",
                party=execution.party,
                problem=problem_of(error),
            )

    def _agreed(self, execution: TakenExecution) -> Mapping[str, object] | None:
        return self.store.agreed_result(execution.request.execution_id, execution.party)

    def _endings(self, executions: list[TakenExecution]) -> dict[str, Ending]:
        """SUCCESS if all parties had settled, as `PeerLink` defines it; else all failed alike."""
        parties = [execution.party for execution in executions]
        results = {execution.party: self._agreed(execution) for execution in executions}
        if all(result is not None for result in results.values()):
            if self._strangers(executions[0]):  # whom nobody can ask: the link was taken away
                return dict.fromkeys(parties, Ending.of(SettlementUnknown()))
            return {party: Ending(None, success(result or {})) for party, result in results.items()}
        lost = Ending.of(NodeLost(party=parties[0]))
        known = self.store.failure(executions[0].request.execution_id)
        return dict.fromkeys(parties, Ending(lost.failure, known) if known else lost)
