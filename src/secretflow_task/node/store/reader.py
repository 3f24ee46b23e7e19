"""What a node's state folder tells of its executions and logs, whether the node runs or not."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Mapping
from urllib.parse import quote

from secretflow_task.contract.errors import WorkerError
from secretflow_task.contract.messages import Status
from secretflow_task.contract.plan import Plan
from secretflow_task.contract.requests import TaskRequest
from secretflow_task.node.job.logs import log_path, owner_of


@dataclass(frozen=True)
class StateFolder:
    """A state folder, which is only read."""

    path: Path

    @staticmethod
    def holding(execution_id: str, path: Path) -> StateFolder:
        """The folder at ``path``, or in it that of an execution which `sfworker run` started."""
        own = path / "runs" / execution_id
        return StateFolder(own if own.is_dir() else path)

    def logs(self, execution_id: str) -> dict[str, Path]:
        """The log of the job of each party here, by party; one that has not started may have none
        yet.
        """
        named = {
            party: log_path(self.path / "logs", execution_id, party)
            for party in self.statuses(execution_id)
        }
        found = {
            party: log
            for log in (self.path / "logs").glob("*.log")
            for execution, party in [owner_of(log)]
            if execution == execution_id
        }
        return dict(sorted({**named, **found}.items()))

    def statuses(self, execution_id: str) -> Mapping[str, str]:
        """How the execution stands at each party here, as far as it is remembered."""
        rows = self._rows(
            "SELECT party, status FROM executions WHERE execution_id = ?", execution_id
        )
        return dict(rows)

    def results(self, execution_id: str) -> dict[str, Path]:
        """The files of the results that were too large for their events, by party."""
        statuses = self.statuses(execution_id)
        # Without a status it ended long ago; what has failed or not ended may have a file too.
        ended = (None, Status.SUCCESS.value)
        found = {}
        for path in sorted((self.path / "results").glob(f"{execution_id}.*.json")):
            owner, _, party = path.stem.rpartition(".")
            if owner == execution_id and statuses.get(party) in ended:
                found[party] = path
        return found

    def runs(self, execution_id: str) -> bool:
        """Whether the execution has not ended at some party here."""
        return Status.RUNNING.value in self.statuses(execution_id).values()

    def parties(self, execution_id: str) -> list[str]:
        """All parties of the execution, also those at other nodes, as far as it is remembered."""
        rows = self._rows(
            "SELECT params FROM executions WHERE execution_id = ? LIMIT 1", execution_id
        )
        for (params,) in rows:
            with suppress(WorkerError):  # a request that was refused
                return Plan.of(TaskRequest(execution_id, execution_id, json.loads(params))).parties
        return []

    def execution_ids(self) -> list[str]:
        """Everything that is remembered or has a log, here or by `sfworker run`."""
        stored = {
            execution_id for (execution_id,) in self._rows("SELECT execution_id FROM executions")
        }
        logged = {owner_of(log)[0] for log in (self.path / "logs").glob("*.log")}
        return sorted(stored | logged | {run.name for run in (self.path / "runs").glob("*")})

    def _rows(self, query: str, *values: str) -> list[Any]:
        """Nothing where there is no store, or none that can be read."""
        with suppress(sqlite3.Error):
            uri = f"file:{quote(str(self.path / 'node.sqlite'))}?mode=ro"
            with closing(sqlite3.connect(uri, uri=True)) as db:
                return db.execute(query, values).fetchall()
        return []
