"""What the database knows, for `sfworker jobs` and `sfworker show`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select, Table, select

from secretflow_task.contract.errors import UnknownExecution
from secretflow_task.listener.database import Database
from secretflow_task.listener.tables import Base
from secretflow_task.utils.spelling import did_you_mean

_EVENTS: Table = Base.metadata.tables["events"]
_EXECUTIONS: Table = Base.metadata.tables["executions"]
Row = dict[str, Any]
_NEAR = 2000  # among so many of the latest executions a misspelt id is looked for


@dataclass(frozen=True)
class AtParty:
    """An execution at one party: its row, and its events in order."""

    row: Row
    events: list[Row]


def latest(database: Database, limit: int, **wanted: str | None) -> list[Row]:
    """The executions that started last, one row per party, the newest first.

    Args:
        wanted: values of columns; None for any.

    Raises:
        DatabaseUnavailable: there is no database.
    """
    query = select(_EXECUTIONS).order_by(
        _EXECUTIONS.c.first_timestamp.desc(), _EXECUTIONS.c.execution_id, _EXECUTIONS.c.party
    )
    for name, value in wanted.items():
        query = query if value is None else query.where(_EXECUTIONS.c[name] == value)
    return _rows(database, query.limit(limit))


def find(database: Database, execution_id: str) -> dict[str, AtParty]:
    """An execution at every party, by party.

    Raises:
        DatabaseUnavailable: there is no database.
        UnknownExecution: it is not in there; the hint names the nearest id.
    """
    rows = select(_EXECUTIONS).where(_EXECUTIONS.c.execution_id == execution_id)
    events = select(_EVENTS).where(_EVENTS.c.execution_id == execution_id)
    parties = _rows(database, rows.order_by(_EXECUTIONS.c.party))
    happened = _rows(database, events.order_by(_EVENTS.c.seq))
    if not parties:
        known = dict.fromkeys(row["execution_id"] for row in latest(database, _NEAR))
        guess = did_you_mean(execution_id, known) or "."
        raise UnknownExecution(f"There is no execution {execution_id!r}{guess}")
    return {
        row["party"]: AtParty(row, [event for event in happened if event["party"] == row["party"]])
        for row in parties
    }


def _rows(database: Database, query: Select[Any]) -> list[Row]:
    with database.reading() as connection:
        return [dict(row) for row in connection.execute(query).mappings()]
