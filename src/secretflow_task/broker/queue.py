"""The requests that wait in a queue, seen where they are: nothing is taken."""

from __future__ import annotations

import base64
import json
import math
import time
from dataclasses import dataclass
from typing import Any, Mapping

from redis.client import NEVER_DECODE

from secretflow_task.broker.celery_app import SENT_AT
from secretflow_task.broker.keys import queue_keys
from secretflow_task.contract.errors import WorkerError
from secretflow_task.contract.requests import TaskRequest, positional

MOST = 1000  # requests of a queue that are looked at
_LARGEST_BYTES = 64 * 1024  # of an entry whose content is looked at
_BYTES = 4 * 1024 * 1024  # of all of them together
# KEYS the lists of a queue, the first to be taken from first
# ARGV 1 most entries  2 largest entry in bytes  3 bytes of all entries together
# Returns of each entry, the next to be taken first: the number of its list, its size, and its text
# unless that is too much.
_LOOK = """
local found, left = {}, tonumber(ARGV[3])
for number, key in ipairs(KEYS) do
  local most = math.min(redis.call('LLEN', key), tonumber(ARGV[1]) - #found)
  for place = 1, most do
    local entry = redis.call('LINDEX', key, -place)
    local text = entry
    if #entry > math.min(left, tonumber(ARGV[2])) then
      text = ''
    end
    left = left - #text
    table.insert(found, {number, #entry, text})
  end
end
return found
"""


@dataclass(frozen=True)
class Waiting:
    """A request that waits.

    Attributes:
        place: 1 for the next that a node takes.
        sent_at: when it was sent, in seconds since 1970; None where its sender does not say so.
        request: None if it is too large to be looked at here, or is none.
        celery_id: Celery's own id of it.
        key: of its list; ``text`` is its entry there.
    """

    place: int
    size_bytes: int
    sent_at: float | None
    request: TaskRequest | None
    celery_id: str | None
    key: str
    text: bytes

    @property
    def execution_id(self) -> str | None:
        """The execution that it asks for."""
        if self.request is None:
            return None
        return self.request.execution_id

    def describe(self) -> dict[str, Any]:
        """What an operator is told of it: place, ids, task type, seconds, bytes."""
        seconds = None
        if self.sent_at is not None:
            seconds = round(max(0.0, time.time() - self.sent_at), 1)
        return {
            "place": self.place,
            "execution_id": self.execution_id,
            "task_request_id": self.request and self.request.task_request_id,
            "task_type": self.request and self.request.task_type,
            "seconds": seconds,
            "size_bytes": self.size_bytes,
        }


def waiting_in(redis: Any, queue: str, most: int = MOST) -> list[Waiting]:
    """The requests of a queue that are taken next; raises `redis.RedisError`."""
    keys = queue_keys(queue)
    limits = (most, _LARGEST_BYTES, _BYTES)
    found = redis.execute_command("EVAL", _LOOK, len(keys), *keys, *limits, **{NEVER_DECODE: []})
    waiting = []
    for place, (number, size, text) in enumerate(found, 1):
        sent_at, celery_id, request = _read(text)
        key = keys[number - 1]
        waiting.append(Waiting(place, size, sent_at, request, celery_id, key, text))
    return waiting


def remove(redis: Any, waiting: Waiting) -> bool:
    """Take a request out of its queue; False when a node has taken it meanwhile."""
    return bool(redis.lrem(waiting.key, -1, waiting.text))


def _read(text: bytes) -> tuple[float | None, str | None, TaskRequest | None]:
    """When it was sent, Celery's id and the request, as far as these can be read."""
    try:
        message = json.loads(text)
        headers = dict(message["headers"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return None, None, None
    celery_id = headers.get("id")
    return (
        _moment(headers.get(SENT_AT)),
        celery_id if isinstance(celery_id, str) else None,
        _request(message),
    )


def _request(message: Mapping[str, Any]) -> TaskRequest | None:
    try:
        arguments, keywords, *_ = json.loads(base64.b64decode(message["body"]))
        return TaskRequest.from_arguments(*positional(tuple(arguments), dict(keywords)))
    except (ValueError, KeyError, TypeError, RecursionError, WorkerError):
        return None


def _moment(value: Any) -> float | None:
    """A time that somebody else has written."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        moment = float(value)
    except OverflowError:
        return None
    return moment if math.isfinite(moment) else None
