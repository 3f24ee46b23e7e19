"""Status events: from a task to its node, and from the node's outbox to Redis.

In a job process `_publish_status` hands an event to the sink that the process bound (its pipe to the node).
The node keeps every event in its `EventStore` and `Publisher` sends them, in order, when Redis is there:
a status that cannot be sent never fails a task, and is never lost.
"""

from __future__ import annotations

import threading
from typing import Any, Callable, Iterable, Mapping, Protocol

from secretflow_task.messages import StatusEvent
from secretflow_task.utils.log import get_logger

STREAM = "task_status_stream"
CHANNEL = "task_status_events"
LIST = "task_status_queue"

# One atomic step: an event goes out only if it is newer than the last one of its execution and party.
PUBLISH_SCRIPT = """
local last = tonumber(redis.call('GET', KEYS[1]) or '0')
if tonumber(ARGV[1]) <= last then return 0 end
-- Before the first write, since Redis does not undo the writes of a script that fails later.
for key, kind in pairs({[KEYS[2]] = 'stream', [KEYS[4]] = 'list'}) do
  local found = redis.call('TYPE', key).ok
  if found ~= 'none' and found ~= kind then
    return redis.error_reply('WRONGTYPE ' .. key .. ' is no ' .. kind)
  end
end
redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[3])
redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[4], '*', 'event', ARGV[2])
redis.call('PUBLISH', KEYS[3], ARGV[2])
if ARGV[5] == '1' then redis.call('LPUSH', KEYS[4], ARGV[2]) end
return 1
"""
_SEQ_LIFETIME_SECONDS = 7 * 24 * 3600

log = get_logger()
Sink = Callable[[str, Mapping[str, Any]], None]
_sink: Sink | None = None  # pylint: disable=invalid-name  # a job process sets it once


def bind_status_sink(sink: Sink | None) -> None:
    """Set where `_publish_status` sends to in this process; a job process has one sink for its whole life."""
    global _sink  # pylint: disable=global-statement  # one process is one job: nothing to share it with
    _sink = sink


def _publish_status(task_request_id: str, status: str, data: Mapping[str, Any]) -> None:
    """Report a status of the running job; a failure to report never fails the job."""
    try:
        if _sink is not None:
            _sink(status, data)
    except (OSError, ValueError, TypeError) as error:
        log.warning(
            "A status could not be reported.",
            action="status_not_reported",
            task_request_id=task_request_id,
            problem=type(error).__name__,
        )


class Outbox(Protocol):
    """Where the publisher takes its events from."""

    def unsent(self, limit: int) -> list[tuple[int, StatusEvent]]:
        """The oldest unsent events with their numbers, in order."""

    def mark_sent(self, numbers: Iterable[int]) -> None:
        """Forget that these are unsent."""


class Publisher:
    """A thread that moves events from the outbox to Redis, in order, until it is closed."""

    def __init__(self, outbox: Outbox, redis: Any, *, maxlen: int, also_list: bool = False) -> None:
        self._outbox = outbox
        self._maxlen = maxlen
        self._also_list = also_list
        self._script = redis.register_script(PUBLISH_SCRIPT)
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
        """Send what can be sent within the timeout and end the thread; the rest stays in the outbox."""
        self._closing.set()
        self._wake.set()
        self._thread.join(timeout_seconds)

    def send_batch(self, limit: int = 100) -> int:
        """Send the oldest events; returns how many. Raises `redis.RedisError` when Redis is away."""
        events = self._outbox.unsent(limit)
        for number, event in events:
            keys = [f"sfworker:seq:{event.execution_id}:{event.party}", STREAM, CHANNEL, LIST]
            text = event.to_json()
            self._script(keys, [event.seq, text, _SEQ_LIFETIME_SECONDS, self._maxlen, int(self._also_list)])
            self._outbox.mark_sent([number])
        return len(events)

    def _loop(self) -> None:
        pause = 0.0
        while True:
            self._wake.wait(pause or 1.0)
            self._wake.clear()
            try:
                while self.send_batch():
                    pass
                pause = 0.0
            except Exception as error:  # pylint: disable=broad-exception-caught  # no thread, no more events
                if not pause:
                    problem = type(error).__name__
                    log.warning("Events cannot be sent; they wait.", action="outbox_waits", problem=problem)
                pause = min(max(pause * 2, 0.1), 2.0)
            if self._closing.is_set():
                return
