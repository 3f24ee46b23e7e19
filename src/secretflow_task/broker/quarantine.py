"""What lay in the queues and is no request, for those who look at it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Iterator, Mapping, Sequence

from redis import Redis

from secretflow_task.broker.entry import KEPT_BYTES, Reason
from secretflow_task.broker.keys import MOST_REJECTED, rejected_key


@dataclass(frozen=True)
class Rejected:
    """An entry in the quarantine of a queue.

    Attributes:
        number: its place in the stream, which Redis makes from the time.
        size: in bytes, of the whole entry.
        digest: SHA-1 of the whole entry.
        head: its beginning, with what UTF-8 cannot hold escaped.
        tail: its end, where it is longer than what is kept of the beginning.
    """

    queue: str
    number: str
    reason: str
    size: int
    digest: str
    head: str
    tail: str

    @property
    def name(self) -> str:
        """What tells it from all others."""
        return f"{self.queue}:{self.number}"

    @property
    def rejected_at(self) -> datetime:
        """When it was set aside, in UTC."""
        return datetime.fromtimestamp(int(self.number.partition("-")[0]) / 1000, timezone.utc)

    @property
    def sentence(self) -> str:
        """Why it was, for people."""
        known = self.reason in set(Reason)
        return Reason(self.reason).sentence if known else self.reason

    @property
    def left_out(self) -> int:
        """How many bytes between beginning and end are not kept."""
        return max(0, self.size - 2 * KEPT_BYTES)


def rejected(redis: Redis, queues: Sequence[str]) -> Iterator[Rejected]:
    """What the quarantines of these queues hold, the newest first; raises `redis.RedisError`.

    Args:
        redis: a client that does not decode what it reads.
    """
    for queue in queues:
        if redis.type(rejected_key(queue)) != b"stream":
            continue
        entries: Any = redis.xrevrange(rejected_key(queue), count=2 * MOST_REJECTED)
        for number, fields in entries:
            yield _read(queue, number, fields)


def delete(redis: Redis, entries: Sequence[Rejected]) -> None:
    """Delete entries of the quarantines; raises `redis.RedisError`."""
    for entry in entries:
        redis.xdel(rejected_key(entry.queue), entry.number)


def _read(queue: str, number: bytes, fields: Mapping[bytes, bytes]) -> Rejected:
    texts = {
        key.decode(): value.decode("utf-8", "backslashreplace") for key, value in fields.items()
    }
    return Rejected(
        queue,
        number.decode(),
        texts.get("reason", ""),
        int(texts.get("size") or 0),
        texts.get("digest", ""),
        texts.get("head", ""),
        texts.get("tail", ""),
    )
