"""How an execution ended, as nodes tell each other; what a peer says of it is checked here."""

from __future__ import annotations

import re
from typing import Any

from secretflow_task.contract.errors import WorkerError
from secretflow_task.contract.task_config import PARTY_NAME
from secretflow_task.node.link.peer.wire import Message

_STATUSES = frozenset({"SUCCESS", "FAILURE", "RUNNING", "UNKNOWN"})
_LONGEST_TEXT = 4000
_ERROR_KEYS = ("code", "message", "hint", "party", "step")


def outcome_of(failure: WorkerError | None) -> dict[str, Any]:
    """The answer to a node that asks about an execution that has not succeeded."""
    if failure is None:
        return {"kind": "outcome", "status": "RUNNING"}
    return {"kind": "outcome", "status": "FAILURE", "error": failure.to_dict()}


def checked_outcome(answer: Message) -> Message | None:
    """A node's answer to how an execution ended, if it is one."""
    try:
        if answer["kind"] != "outcome" or answer["status"] not in _STATUSES:
            return None
        if answer["status"] == "FAILURE":
            read_error(answer["error"])
    except (KeyError, ValueError, TypeError, AttributeError):
        return None
    return answer


def read_error(fields: Any) -> WorkerError:
    """An error from a peer: texts of a sensible length, nothing else.

    Raises:
        ValueError, TypeError, AttributeError: it is not one.
    """
    known: dict[str, str | None] = {}
    for key in _ERROR_KEYS:
        value = fields.get(key)
        if value is None:
            known[key] = None
        elif isinstance(value, str) and value:
            known[key] = value[:_LONGEST_TEXT]
        else:
            raise ValueError("an error consists of texts")
    if known["party"] and not re.fullmatch(PARTY_NAME, known["party"]):
        raise ValueError("no party has such a name")
    return WorkerError.from_dict(known)
