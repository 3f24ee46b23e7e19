"""The consumer group that belongs to a database.

Each database reads the stream in a group of its own, so two databases on one Redis both get every
event; the listeners of one database share its group and split the work. The database has the
group's name and the newest entry that is written; Redis has what the group has read and what is
acknowledged.

When the group has acknowledged more than the database has, the two do not belong together any
more: the database was restored from a backup, or it is a copy, or was copied, and somebody else
writes elsewhere what this group reads. Then the database takes a new group, which reads the stream
from its start, and the old one is removed: whoever still uses it makes it again and reads from the
start as well. An event that comes twice changes nothing.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any

from redis import ResponseError
from sqlalchemy import Connection, Table, select, update

from secretflow_task.broker.keys import GROUP, STREAM
from secretflow_task.broker.listener_groups import readers, remove, text
from secretflow_task.listener.database import Database, upsert
from secretflow_task.listener.tables import Base
from secretflow_task.utils.log import get_logger

_TABLE: Table = Base.metadata.tables["listener_group"]
_NUMBER = 1  # of the only row
_START = "0"

log = get_logger()


def sortable(position: str) -> str:
    """The position of an entry as a text that sorts as Redis sorts entries."""
    milliseconds, _, number = position.partition("-")
    return f"{milliseconds:0>20}-{number:0>20}"


_NOTHING = sortable("0-0")


@dataclass(frozen=True)
class Row:
    """What a database says of its group.

    Attributes:
        written: the newest entry that is written, or was skipped; see `sortable`.
    """

    name: str
    written: str


class Group:
    """The group of a database.

    Args:
        redis: a client that does not decode.

    Attributes:
        name: its name, once it was joined.
    """

    def __init__(self, redis: Any, database: Database) -> None:
        self._redis = redis
        self._database = database
        self.name = ""

    def join(self) -> None:
        """Use the group that the database names, and make what is missing of it.

        Raises:
            redis.RedisError, sqlalchemy.exc.DBAPIError: one of the two is away.
        """
        before = self.name
        with self._database.engine.begin() as connection:
            self.name = _row(connection).name
        try:
            self._redis.xgroup_create(STREAM, self.name, id=_START, mkstream=True)
        except ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise
        if before not in ("", self.name):
            remove(self._redis, before)

    def rewind(self) -> None:
        """Read again all that the stream holds.

        Raises:
            redis.RedisError: Redis is away.
        """
        self._redis.xgroup_setid(STREAM, self.name, id=_START)

    def check(self) -> bool:
        """Whether this is still the database's group; if not, its present one was joined.

        Raises:
            redis.RedisError, sqlalchemy.exc.DBAPIError: one of the two is away.
        """
        # In this order: what is acknowledged was written before.
        acknowledged = self._acknowledged()
        with self._database.engine.begin() as connection:
            row = _row(connection)
            lacks_some = row.name == self.name and acknowledged > row.written
            if lacks_some:
                _renew(connection, row.name)
        if lacks_some:
            log.warning(
                "The database lacks events that its group has written, as after a restore or in a "
                "copy. It reads the stream again, in a new group.",
                action="listener_group_renewed",
            )
        elif row.name == self.name:
            return True
        self.join()
        return False

    def retire_shared(self) -> None:
        """Remove the one group that all databases shared before each had its own, once no
        listener reads it any more.

        Raises:
            redis.RedisError: Redis is away.
        """
        if not readers(self._redis, GROUP) and remove(self._redis, GROUP):
            log.info("The group of earlier versions is removed.", action="shared_group_removed")

    def _acknowledged(self) -> str:
        """The newest entry that is acknowledged; nothing where it cannot be told from what is not,
        as long as a listener has the newest in hand.
        """
        with self._redis.pipeline() as pipeline:  # both at one moment
            pipeline.xinfo_groups(STREAM).xpending(STREAM, self.name)
            groups, pending = pipeline.execute()
        delivered = {text(group["name"]): text(group["last-delivered-id"]) for group in groups}
        newest = delivered[self.name]
        if pending["max"] is not None and text(pending["max"]) == newest:
            return _NOTHING
        return sortable(newest)


def mark_written(connection: Connection, row: Row) -> None:
    """Note, in the transaction that writes them, up to where entries are written."""
    newer = (_TABLE.c.name == row.name) & (_TABLE.c.written < row.written)
    connection.execute(update(_TABLE).where(newer).values(written=row.written))


def group_of(database: Database) -> str | None:
    """The name of a database's group; None while it has none.

    Raises:
        DatabaseUnavailable: there is no database, or no listener has used it yet.
    """
    with database.reading() as connection:
        return connection.execute(select(_TABLE.c.name)).scalar_one_or_none()


def _row(connection: Connection) -> Row:
    """The one row of the table, which is made if it is missing."""
    wanted = select(_TABLE.c.name, _TABLE.c.written)
    if (found := connection.execute(wanted).one_or_none()) is None:
        new = upsert(connection, _TABLE).values(number=_NUMBER, name=_new_name(), written=_NOTHING)
        connection.execute(new.on_conflict_do_nothing())  # another listener may be as quick
        found = connection.execute(wanted).one()
    return Row(*found)


def _renew(connection: Connection, name: str) -> None:
    """Name another group, unless another listener has done so."""
    named = update(_TABLE).where(_TABLE.c.name == name)
    connection.execute(named.values(name=_new_name(), written=_NOTHING))


def _new_name() -> str:
    return f"{GROUP}:{uuid.uuid4().hex[:12]}"
