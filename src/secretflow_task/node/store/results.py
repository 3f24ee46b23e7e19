"""What tells how an execution ends: the results of its parties, the decision between nodes, a
failure.
"""

from __future__ import annotations

import json
import sqlite3
import time
from contextlib import suppress
from typing import Any, Mapping

from secretflow_task.contract.errors import OutputNotWritable
from secretflow_task.contract.messages import Status, StatusEvent
from secretflow_task.node.store.database import StoreDatabase


class Results(StoreDatabase):
    """The tables of results and decisions."""

    def keep_result(self, execution_id: str, party: str, result: Mapping[str, Any]) -> None:
        """Note that a party's outputs are in their places, and its result; not when the disk is
        full.
        """
        with suppress(OutputNotWritable):
            self.vote(execution_id, party, result, durable=False)

    def vote(
        self, execution_id: str, party: str, result: Mapping[str, Any], durable: bool = True
    ) -> None:
        """As `keep_result`, where other nodes will rely on it; raises `OutputNotWritable`."""
        values = (execution_id, party, json.dumps(result))
        try:
            with self._transaction(durable) as db:
                db.execute("REPLACE INTO results VALUES (?, ?, ?)", values)
        except sqlite3.OperationalError as error:
            raise OutputNotWritable(party=party) from error

    def forget_result(self, execution_id: str, party: str) -> None:
        """Undo `keep_result`."""
        query = "DELETE FROM results WHERE execution_id = ? AND party = ?"
        with suppress(sqlite3.OperationalError), self._transaction(durable=False) as db:
            db.execute(query, (execution_id, party))

    def result(self, execution_id: str, party: str) -> dict[str, Any] | None:
        """A party's result, from its vote to its terminal event."""
        query = "SELECT result FROM results WHERE execution_id = ? AND party = ?"
        return self._result(query, execution_id, party)

    def agreed_result(self, execution_id: str, party: str) -> dict[str, Any] | None:
        """A party's result, if all parties here that have not ended have one and none failed."""
        return self._result(
            "SELECT result FROM results WHERE execution_id = ?1 AND party = ?2 AND NOT EXISTS ("
            "SELECT * FROM executions LEFT JOIN results USING (execution_id, party)"
            " WHERE execution_id = ?1"
            " AND (status = 'FAILURE' OR (status = 'RUNNING' AND result IS NULL)))",
            execution_id,
            party,
        )

    def _result(self, query: str, execution_id: str, party: str) -> dict[str, Any] | None:
        row = self._row(query, execution_id, party)
        if row is None:
            return None
        return dict(json.loads(row[0]))

    def decide(self, execution_id: str) -> None:
        """Note for good that an execution between nodes succeeded; raises `OutputNotWritable`."""
        try:
            with self._transaction(durable=True) as db:
                db.execute("REPLACE INTO decisions VALUES (?, ?)", (execution_id, time.time()))
        except sqlite3.OperationalError as error:
            raise OutputNotWritable("The success could not be stored.") from error

    def decided(self, execution_id: str) -> bool:
        """Whether `decide` was called."""
        return self._row("SELECT 1 FROM decisions WHERE execution_id = ?", execution_id) is not None

    def failure(self, execution_id: str) -> Mapping[str, Any] | None:
        """The data of the FAILURE event of any party of an execution, while that is kept."""
        query = "SELECT body FROM events WHERE execution_id = ? ORDER BY number DESC"
        for (body,) in self._rows(query, execution_id):
            event = StatusEvent.from_json(body)
            if event.status is Status.FAILURE:
                return event.data
        return None
