"""Status events from the node's outbox to Redis.

The node keeps every event in its `EventStore` and `Publisher` sends them, in order, when Redis is
there: a status that cannot be sent never fails a task, and is never lost.
"""

from __future__ import annotations

import threading
import time
import uuid
from dataclasses import dataclass
from typing import Any, Callable, Iterable, Protocol

from secretflow_task.broker.keys import (
    CHANNEL,
    LIST,
    RECORD_SECONDS,
    STREAM,
    STREAM_MARKS,
    STREAM_OPEN,
    mark_key,
    record_key,
    taken_key,
)
from secretflow_task.contract.messages import StatusEvent
from secretflow_task.node import lua
from secretflow_task.utils.log import get_logger

_CHECK_SECONDS = 5.0
_SEGMENTS = 32  # of the stream, as the script counts them


log = get_logger()


@dataclass(frozen=True)
class Unsent:
    """An event that waits in the outbox.

    Attributes:
        number: its place in the outbox.
        epoch: how often its execution was taken when it was made.
    """

    number: int
    epoch: int
    event: StatusEvent


class Outbox(Protocol):
    """Where the publisher takes its events from."""

    @property
    def node_id(self) -> str:
        """The node's own name among all nodes, the same after a restart."""

    @property
    def dropped(self) -> int:
        """How many events were dropped, since too many waited, in the life of this process."""

    def unsent(self, limit: int) -> list[Unsent]:
        """The oldest unsent events, in order."""

    def mark_sent(self, numbers: Iterable[int]) -> None:
        """Redis has these."""

    def rewind(self) -> int:
        """Make the events of the last minutes unsent again; returns the highest number."""


def _groups(batch: list[Unsent], whole: bool) -> list[list[Unsent]]:
    """What is sent in one step: each event, and the terminal events of an execution together.

    Args:
        whole: the outbox holds no more; else the last group may be a part, and is left for the next
            batch.
    """
    groups: list[list[Unsent]] = []
    for unsent in batch:
        last = groups[-1][-1].event if groups else None
        ends = last is not None and last.status.terminal and unsent.event.status.terminal
        if ends and last is not None and last.execution_id == unsent.event.execution_id:
            groups[-1].append(unsent)
        else:
            groups.append([unsent])
    may_be_part = not whole and len(groups) > 1 and groups[-1][-1].event.status.terminal
    return groups[:-1] if may_be_part else groups


class Publisher:
    """A thread that moves events from the outbox to Redis, in order, until it is closed.

    When Redis lost some, since it came back empty or from an older file, it gets those of the last
    minutes again. ``on_stale`` is called with an event of an execution that another node has taken
    over, ``on_sent`` with one that Redis had not.

    Args:
        maxlen: about so many events stay on the stream.
        limit_bytes: and about so many bytes.

    Attributes:
        failures: how often nothing could be sent.
    """

    def __init__(
        self,
        outbox: Outbox,
        redis: Any,
        *,
        maxlen: int,
        limit_bytes: int = 2**30,
        also_list: bool = False,
        on_stale: Callable[[Unsent], object] = lambda unsent: None,
        on_sent: Callable[[StatusEvent], object] = lambda event: None,
    ) -> None:
        self._outbox = outbox
        self._redis = redis
        self._maxlen = maxlen
        self._segment_bytes = limit_bytes // _SEGMENTS
        self._also_list = also_list
        self._on_stale = on_stale
        self._on_sent = on_sent
        self.failures = 0
        self._script = redis.register_script(lua.script("publish"))
        self._mark_key = mark_key(outbox.node_id)
        self._mark: str | None = None
        self._rewound_to = 0
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="status-publisher", daemon=True)

    def __enter__(self) -> Publisher:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def wake(self) -> None:
        """Say that the outbox has something new."""
        self._wake.set()

    def close(self, timeout_seconds: float = 5.0) -> None:
        """Send what can be sent within the timeout and end the thread; the rest stays in the
        outbox.
        """
        self._closing.set()
        self._wake.set()
        self._thread.join(timeout_seconds)

    def send_batch(self, limit: int = 100) -> int:
        """Send the oldest events; returns how many. Raises `redis.RedisError` if Redis is away."""
        if self._mark is None:
            self._catch_up()
        batch = self._outbox.unsent(limit)
        groups = _groups(batch, whole=len(batch) < limit)
        for group in groups:
            answers = self._send(group)
            if answers == ["behind"]:
                self._catch_up(group[-1].number)
                return self.send_batch(limit)
            for unsent, answer in zip(group, answers):
                if answer == "stale":
                    self._on_stale(unsent)
                elif answer == "sent":
                    self._on_sent(unsent.event)
            self._outbox.mark_sent([unsent.number for unsent in group])
        return sum(map(len, groups))

    def check(self) -> None:
        """Notice that Redis came back empty, or from an older file, also when there is nothing to
        send.
        """
        mark = self._redis.get(self._mark_key)
        if (mark.decode() if isinstance(mark, bytes) else mark) != self._mark:
            self._catch_up()

    def _catch_up(self, number: int = 0) -> None:
        """Offer all kept events again; the script lets through what Redis lacks."""
        self._rewound_to = max(self._outbox.rewind(), number)
        self._mark = uuid.uuid4().hex
        self._redis.set(self._mark_key, self._mark)

    def _send(self, group: list[Unsent]) -> list[str]:
        node_id, mark = self._outbox.node_id, group[-1].event.event_id
        records = [record_key(unsent.event.execution_id, unsent.event.party) for unsent in group]
        values: list[Any] = [RECORD_SECONDS, self._maxlen, self._segment_bytes]
        values += [int(self._also_list), node_id, self._mark, mark]
        for unsent in group:
            event = unsent.event
            may_skip = unsent.number <= self._rewound_to  # what came before is gone for good
            values += [
                event.seq,
                event.to_json(),
                unsent.epoch,
                int(event.status.terminal),
                int(may_skip),
            ]
        keys = [STREAM, CHANNEL, LIST, self._mark_key, taken_key(node_id)]
        keys += [STREAM_OPEN, STREAM_MARKS, *records]
        answers = [
            answer.decode() if isinstance(answer, bytes) else str(answer)
            for answer in self._script(keys, values)
        ]
        self._mark = self._mark if answers == ["behind"] else mark
        return answers

    def _loop(self) -> None:
        pause, next_check, waits_since = 0.0, time.monotonic() + _CHECK_SECONDS, 0.0
        while True:
            self._wake.wait(pause or 1.0)
            self._wake.clear()
            try:
                if time.monotonic() > next_check:
                    self.check()
                    next_check = time.monotonic() + _CHECK_SECONDS
                while self.send_batch():
                    pass
                if pause:
                    self._say_that_it_goes_on(waits_since)
                pause = 0.0
            except Exception as error:  # pylint: disable=broad-exception-caught
                # Without this thread no event would go out any more.
                self.failures += 1
                if not pause:
                    waits_since, problem = time.monotonic(), type(error).__name__
                    log.warning(
                        "Events cannot be sent; they wait.", action="outbox_waits", problem=problem
                    )
                pause = min(max(pause * 2, 0.1), 2.0)
            if self._closing.is_set():
                return

    def _say_that_it_goes_on(self, since: float) -> None:
        seconds = round(time.monotonic() - since, 1)
        dropped = self._outbox.dropped
        log.info(
            "Events are sent again.",
            action="outbox_goes_on",
            seconds=seconds,
            dropped_in_all=dropped,
        )
