"""A status event as it comes from the stream: whatever somebody wrote there, or what fits the
tables.
"""

from __future__ import annotations

from typing import Annotated, Any, Mapping

from pydantic import AwareDatetime, BaseModel, Field

from secretflow_task.contract.messages import Status

Key = Annotated[str, Field(min_length=1, max_length=128)]
_LARGEST = 2**31 - 1


class Entry(BaseModel):
    """A status event. Fields of a newer node that are not known here are left out."""

    event_id: Key
    execution_id: Key
    party: Key
    seq: int = Field(ge=1, le=_LARGEST)
    status: Status
    timestamp: AwareDatetime
    data: dict[str, Any]
    task_request_id: str
    task_id: str | None = None
    subtask_id: str | None = None
    task_name: str
    task_type: str = ""
    worker_container: str

    @staticmethod
    def from_fields(fields: Mapping[bytes, bytes]) -> Entry:
        """Read an entry of the stream; raises `ValueError` if it is not a status event."""
        body = fields.get(b"event")
        if body is None:
            raise ValueError("the field `event` is missing")
        entry = Entry.model_validate_json(body)
        return Entry(**_without_nul(entry.model_dump())) if b"\\u0000" in body else entry

    def event_row(self) -> dict[str, Any]:
        """The row in the table of events."""
        named = self.model_dump(
            include={"event_id", "execution_id", "party", "seq", "timestamp", "data"}
        )
        return named | {"status": self.status.value}

    def execution_row(self) -> dict[str, Any]:
        """The row in the table of executions, if no other event were known."""
        ids = (
            "execution_id",
            "party",
            "task_request_id",
            "task_id",
            "subtask_id",
            "task_name",
            "task_type",
        )
        failure = ("error", "error_type", "error_code", "hint", "failed_party")
        return {
            **{name: getattr(self, name) for name in ids},
            **{name: _text(self.data.get(name)) for name in failure},
            "worker": self.worker_container,
            "status": self.status.value,
            "stage": str(self.data.get("stage") or self.status.value),
            "progress": _number(self.data.get("progress")),
            "result": self.data["result"] if isinstance(self.data.get("result"), dict) else None,
            "first_timestamp": self.timestamp,
            "last_timestamp": self.timestamp,
            "last_seq": self.seq,
        }


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _number(value: Any) -> float:
    """The share that is done; an integer too large for a float must not stop the listener."""
    return float(min(max(value, 0.0), 1.0)) if isinstance(value, (int, float)) else 0.0


def _without_nul(value: Any) -> Any:
    """The value without the one character that PostgreSQL's texts cannot hold."""
    if isinstance(value, dict):
        return {_without_nul(key): _without_nul(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nul(item) for item in value]
    return (
        value.replace("\0", "\ufffd")
        if isinstance(value, str) and not isinstance(value, Status)
        else value
    )
