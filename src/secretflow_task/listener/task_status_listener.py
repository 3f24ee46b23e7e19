"""`TaskStatusListener`: one of the consumer group of a database, into which it writes the stream of
events.

Redis keeps what a consumer has read and not acknowledged; an entry is acknowledged when its
transaction is committed. So whoever dies or loses a connection reads again what it had, and an
event that comes twice changes nothing.
"""

from __future__ import annotations

import signal
import time
from typing import Any, Sequence

from redis import RedisError
from sqlalchemy.exc import DBAPIError

from secretflow_task.broker.connection import connect
from secretflow_task.broker.keys import STREAM
from secretflow_task.broker.listener_groups import DEAD_MILLISECONDS
from secretflow_task.config.settings import Settings
from secretflow_task.listener.database import Database
from secretflow_task.listener.entry import Entry
from secretflow_task.listener.group import Group, Row, sortable
from secretflow_task.listener.writer import Writer
from secretflow_task.utils.log import get_logger

_BATCH = 500
_BLOCK_MILLISECONDS = 500  # how long a read waits for events, and so a stop for a read
# Without a commit, after which another consumer takes over what one had read.
_DEAD_MILLISECONDS = DEAD_MILLISECONDS
_LOOK_SECONDS = 5.0  # between two looks at the group, and at what others of it have left
_FORGOTTEN_MILLISECONDS = 24 * 3_600_000  # without a word, after which the group forgets a consumer
_LONGEST_PAUSE_SECONDS = 1.0
_OWN = "0"  # reads what this consumer has read before and not acknowledged
_NEW = ">"  # reads what no consumer of the group has read

log = get_logger()
Read = tuple[bytes, dict[bytes, bytes]]


class TaskStatusListener:
    """Reads events and writes them, until it is stopped.

    Args:
        redis: a client that does not decode.
        consumer: its name in the group, the same after a restart. Two at once that share one do
            some work twice.
        from_start: begin with all that the stream holds, also with what the group has read before.

    Attributes:
        stored: how many entries it has written, repeated ones included.
        malformed: how many entries were no status events, or of a kind that the database refuses.
    """

    def __init__(
        self, redis: Any, database: Database, consumer: str, from_start: bool = False
    ) -> None:
        self._redis = redis
        self._database = database
        self._writer = Writer(database)
        self._group = Group(redis, database)
        self._consumer = consumer
        self._from_start = from_start
        self._position = _OWN
        self._prepared = False
        self._next_look = 0.0
        self._stopping = False
        self.stored = 0
        self.malformed = 0

    def stop(self) -> None:
        """Let `run` return after the batch in hand; may be called by a signal handler."""
        self._stopping = True

    def run(self) -> None:
        """Read and write; wait for Redis or the database whenever one of them is away."""
        pause, since = 0.0, 0.0
        while not self._stopping:
            try:
                self.step()
                if pause:
                    seconds = round(time.monotonic() - since, 1)
                    log.info(
                        "Events are written again.", action="listener_goes_on", seconds=seconds
                    )
                pause = 0.0
            except (RedisError, DBAPIError, OSError) as error:
                if not pause:
                    since, problem = time.monotonic(), str(error).partition("\n")[0]
                    log.warning("Events wait.", action="listener_waits", problem=problem)
                pause = min(max(pause * 2, 0.1), _LONGEST_PAUSE_SECONDS)
                self._prepared = False
                time.sleep(pause)

    def step(self) -> int:
        """Read and write one batch; returns how many entries it had.

        Raises:
            redis.RedisError, sqlalchemy.exc.DBAPIError: one of the two is away. The next step reads
                again what this one had.
        """
        self._prepare()
        self._look_around()
        batch = self._read()
        if not batch:
            self._position = _NEW
            return 0
        self._store(batch)
        self._redis.xack(STREAM, self._group.name, *(position for position, _ in batch))
        return len(batch)

    def _prepare(self) -> None:
        """Make what may be missing, at the start and after either was away: it may have come back
        empty.
        """
        if self._prepared:
            return
        self._database.upgrade()
        self._group.join()
        if self._from_start:
            self._group.rewind()
            self._from_start = False
        self._position = _OWN
        self._next_look = 0.0
        self._prepared = True

    def _look_around(self) -> None:
        """Now and then, see whether the group is still the database's, and what others left."""
        if time.monotonic() < self._next_look:
            return
        if not self._group.check():
            self._position = _OWN
        self._group.retire_shared()
        self._take_over()
        self._forget()
        self._next_look = time.monotonic() + _LOOK_SECONDS

    def _take_over(self) -> None:
        """Make what a dead consumer had read this one's own, and read it next."""
        cursor: Any = "0-0"
        while cursor not in (None, b"0-0"):
            cursor, claimed, *_ = self._redis.xautoclaim(
                STREAM,
                self._group.name,
                self._consumer,
                _DEAD_MILLISECONDS,
                start_id=cursor,
                count=_BATCH,
            )
            self._position = _OWN if claimed else self._position

    def _forget(self) -> None:
        """Let the group forget consumers that are long gone and left nothing."""
        for consumer in self._redis.xinfo_consumers(STREAM, self._group.name):
            if consumer["idle"] > _FORGOTTEN_MILLISECONDS and not consumer["pending"]:
                self._redis.xgroup_delconsumer(STREAM, self._group.name, consumer["name"])

    def _read(self) -> Sequence[Read]:
        answer = self._redis.xreadgroup(
            self._group.name,
            self._consumer,
            {STREAM: self._position},
            count=_BATCH,
            block=_BLOCK_MILLISECONDS,
        )
        return answer[0][1] if answer else []

    def _store(self, batch: Sequence[Read]) -> None:
        """Write what can be written; what cannot be is counted, and can be found in the stream."""
        entries: list[Entry] = []
        malformed: list[str] = []
        for position, fields in batch:
            try:
                if fields:  # else the stream was trimmed before this entry was acknowledged
                    entries.append(Entry.from_fields(fields))
            except ValueError:
                malformed.append(position.decode())
        newest = max(sortable(position.decode()) for position, _ in batch)
        refused = self._writer.write(entries, Row(self._group.name, newest))
        self.stored += len(entries) - len(refused)
        malformed += [entry.event_id for entry in refused]
        if malformed:
            self.malformed += len(malformed)
            log.error(
                "Entries of the stream were skipped: they are not status events.",
                action="entries_malformed",
                entries=malformed[:10],
                in_all=self.malformed,
            )


def listen(settings: Settings, from_start: bool = False) -> None:
    """Write events to the database of the settings until SIGTERM or SIGINT.

    Args:
        from_start: begin with all that the stream holds, as a new database does.

    Raises:
        DatabaseUnavailable: the driver of PostgreSQL is not installed, or the file cannot be
            written.
    """
    with connect(settings) as redis, Database.of(settings) as database:
        listener = TaskStatusListener(redis, database, settings.name, from_start)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: listener.stop())
        log.info("The listener starts.", action="listener_ready", database=database.kind)
        listener.run()
        log.info(
            "The listener has stopped.",
            action="listener_stopped",
            stored=listener.stored,
            malformed=listener.malformed,
        )
