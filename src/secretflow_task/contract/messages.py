"""What crosses a boundary: status events, and what node and job say to each other."""

from __future__ import annotations

import json
import math
import uuid
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from enum import Enum
from typing import Any, Mapping


class Status(str, Enum):
    """What an execution can be at one party."""

    RUNNING = "RUNNING"
    SUCCESS = "SUCCESS"
    FAILURE = "FAILURE"

    @property
    def terminal(self) -> bool:
        """Whether no event may follow."""
        return self is not Status.RUNNING


# What a node reports before there is a job: it has taken the request; it waits for others to join.
ACCEPTED, WAITING_FOR_PEER = "accepted", "waiting_for_peer"


class Stage(str, Enum):
    """The stages that every job passes, with the progress that each stands for."""

    CLUSTER_INIT = "cluster_init"
    DEVICE_CREATION = "device_creation"
    TASK_EXECUTION = "task_execution"

    @property
    def progress(self) -> float:
        """Share of the execution that is done when the stage is reported."""
        return {"cluster_init": 0.1, "device_creation": 0.3, "task_execution": 0.5}[self.value]


def utf8_text(value: Any) -> str:
    """The value as text that UTF-8 can hold.

    JSON can carry half a surrogate pair, which SQLite and Redis cannot hold.
    """
    return str(value).encode("utf-8", "replace").decode("utf-8")


def _plain(value: Any) -> Any:
    """The value as strict JSON: NaN and the infinities, which JSON lacks, become null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def json_text(value: Any) -> str:
    """The value as one line of strict JSON, in texts that UTF-8 can hold."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError):  # another mapping than dict; NaN or an infinity: rare, and slow
        text = json.dumps(_plain(value), ensure_ascii=False, allow_nan=False)
    return utf8_text(text)


@dataclass(frozen=True)
class StatusEvent:
    """What the web application reads from Redis.

    Attributes:
        execution_id: The execution; the same at every party.
        task_request_id: The submitter's own id of the request.
        party: Whose side of the execution the event is about.
        status: `RUNNING`, `SUCCESS` or `FAILURE`.
        data: Where the execution is, what came of it, or why it failed.
        worker_container: The node, as `SFWORKER_NAME` calls it.
        task_name: The Celery task.
        seq: Counts 1, 2, 3 ... per execution and party.
        task_id: As in the request, or null.
        subtask_id: As in the request, or null.
        task_type: The task type, or an empty text where the request has none.
        timestamp: When it happened, in UTC (ISO 8601).
        event_id: Another for each event, and the same when an event is sent again.
    """

    execution_id: str
    task_request_id: str
    party: str
    status: Status
    data: Mapping[str, Any]
    worker_container: str
    task_name: str
    seq: int = 0
    task_id: str | None = None
    subtask_id: str | None = None
    task_type: str = ""
    timestamp: str = field(default_factory=lambda: datetime.now(timezone.utc).isoformat())
    event_id: str = field(default_factory=lambda: uuid.uuid4().hex)

    def to_json(self) -> str:
        """The event as one line of strict JSON."""
        return json_text(asdict(self) | {"status": self.status.value})

    @staticmethod
    def from_json(text: str | bytes) -> StatusEvent:
        """Read back `to_json`."""
        fields = json.loads(text)
        return StatusEvent(**fields | {"status": Status(fields["status"])})


class Kind(str, Enum):
    """What a message on the pipe between node and job process says."""

    PREPARED = "prepared"
    REFUSED = "refused"
    EVENT = "event"
    STAGE = "stage"
    ALIVE = "alive"
    RESULT = "result"
    FAILED = "failed"
    DONE = "done"
    GO = "go"


@dataclass(frozen=True)
class PipeMessage:
    """A message on the pipe, sent as JSON: a job that a peer controls cannot have it unpickled."""

    kind: Kind
    body: Mapping[str, Any] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """The message as JSON."""
        return json.dumps({"kind": self.kind.value, "body": dict(self.body)}).encode()

    @staticmethod
    def from_bytes(data: bytes) -> PipeMessage:
        """Read back `to_bytes`; raises `ValueError` for anything else."""
        try:
            fields = json.loads(data)
            kind, body = Kind(fields["kind"]), fields["body"]
        except (KeyError, TypeError, RecursionError) as error:
            raise ValueError("not a message") from error
        if not isinstance(body, dict):
            raise ValueError("a message's body is an object")
        return PipeMessage(kind, body)
