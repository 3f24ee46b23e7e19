"""Which executions the node took, and how each stands."""

from __future__ import annotations

import json
import sqlite3
import time
from dataclasses import dataclass
from typing import Mapping

from secretflow_task.contract.messages import Status
from secretflow_task.contract.requests import TaskRequest
from secretflow_task.node.store.database import StoreDatabase

TAKEN_OVER = "TAKEN_OVER"  # the status of what another node settles
_REMEMBERED_SECONDS = 30 * 24 * 3600.0  # how long a finished execution is known


@dataclass(frozen=True)
class TakenExecution:
    """One execution at one party, as the store has it from when this node took it.

    Attributes:
        epoch: how often it was taken when this node took it.
    """

    request: TaskRequest
    party: str
    epoch: int = 1


class Executions(StoreDatabase):
    """The table of executions."""

    def claim(
        self,
        request: TaskRequest,
        *parties: str,
        epoch: int = 1,
        seqs: Mapping[str, int] | None = None,
        again: bool = False,
    ) -> bool:
        """Take an execution for all of ``parties``; False, and none taken, when one was taken
        before.

        Args:
            epoch: how often the execution was taken, by this node or another.
            seqs: the number of each party's last event at an earlier owner.
            again: take it also when it was taken before: its owner since then is gone.
        """
        verb = "REPLACE" if again else "INSERT"
        last_seqs = seqs or {}
        ids = (request.task_request_id, request.task_id, request.subtask_id)
        common = (*ids, json.dumps(request.params), epoch, time.time())
        rows = [
            (request.execution_id, party, last_seqs.get(party, 0), *common) for party in parties
        ]
        try:
            with self._transaction(durable=False) as db:
                db.executemany(
                    f"{verb} INTO executions (execution_id, party, last_seq, task_request_id,"
                    " task_id, subtask_id, params, epoch, taken_at)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    rows,
                )
        except sqlite3.IntegrityError:
            return False
        return True

    def status(self, execution_id: str, party: str) -> Status | None:
        """The status of an execution at a party; None when it was never taken, or another node has
        it.
        """
        query = "SELECT status FROM executions WHERE execution_id = ? AND party = ?"
        row = self._row(query, execution_id, party)
        if row is None or row[0] == TAKEN_OVER:
            return None
        return Status(row[0])

    def knows(self, execution_id: str, party: str) -> bool:
        """Whether an execution was ever taken here."""
        query = "SELECT 1 FROM executions WHERE execution_id = ? AND party = ?"
        return self._row(query, execution_id, party) is not None

    def taken_at(self, execution_id: str) -> float:
        """When an execution, which is known here, was taken, in seconds since 1970."""
        query = "SELECT MAX(taken_at) FROM executions WHERE execution_id = ?"
        return float(self._row(query, execution_id)[0])

    def unfinished(self) -> list[TakenExecution]:
        """What was taken and has no terminal event: after a start, what an earlier node process
        left.
        """
        return self._executions("status = 'RUNNING'")

    def taken(self, execution_id: str) -> list[TakenExecution]:
        """An execution at each of its parties here, ended or not."""
        return self._executions("execution_id = ?", execution_id)

    def _executions(self, condition: str, *values: object) -> list[TakenExecution]:
        rows = self._rows(
            "SELECT execution_id, task_request_id, params, task_id, subtask_id, party, epoch"
            f" FROM executions WHERE {condition} ORDER BY rowid",
            *values,
        )
        found = []
        for execution_id, request_id, params, task_id, subtask_id, party, epoch in rows:
            request = TaskRequest(execution_id, request_id, json.loads(params), task_id, subtask_id)
            found.append(TakenExecution(request, party, epoch))
        return found

    def forget_old(self) -> None:
        """Forget what ended long ago."""
        before = time.time() - _REMEMBERED_SECONDS
        with self._transaction(durable=False) as db:
            db.execute(
                "DELETE FROM executions WHERE status != 'RUNNING' AND taken_at < ?", (before,)
            )
            db.execute("DELETE FROM decisions WHERE decided_at < ?", (before,))
