"""What is said at the node's door: a line of JSON each way, with the version in it.

A request is ``{"version": 1, "command": ..., "arguments": {...}}``. Its answer is
``{"version": 1, "result": {...}}`` or ``{"version": 1, "error": {code, message, hint, ...}}``.
"""

from __future__ import annotations

import json
from typing import Any, Mapping

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from secretflow_task.contract.errors import BadCommand, NodeUnreachable, WorkerError

VERSION = 1
REQUEST_BYTES = 64 * 1024  # the longest line that a node reads

_OTHER_VERSION = "The node and this command are of different versions of the worker."
_SAME_VERSION = "Use the `sfworker` that the node was started with."


class Request(BaseModel):
    """What a node is asked to do."""

    model_config = ConfigDict(extra="forbid", strict=True)

    version: int
    command: str
    arguments: dict[str, Any] = Field(default_factory=dict)


def request_line(command: str, arguments: Mapping[str, Any]) -> bytes:
    """A request."""
    return _line({"command": command, "arguments": dict(arguments)})


def result_line(result: Mapping[str, Any]) -> bytes:
    """The answer to a command that was carried out."""
    return _line({"result": dict(result)})


def error_line(error: WorkerError) -> bytes:
    """The answer to one that was not."""
    return _line({"error": error.to_dict()})


def read_request(line: bytes) -> Request:
    """The request in a line.

    Raises:
        BadCommand: it holds none, or one of another version.
    """
    message = _message(line)
    if message.get("version") != VERSION:
        raise BadCommand(_OTHER_VERSION, hint=_SAME_VERSION)
    try:
        return Request.model_validate(message)
    except ValidationError as error:
        raise BadCommand(f"{explain(error)} in a request to the node.") from None


def read_answer(line: bytes) -> dict[str, Any]:
    """The result in a line; raises the error that it holds instead.

    Raises:
        BadCommand: the node has another version.
        NodeUnreachable: there is no answer in it.
    """
    try:
        message = _message(line)
    except BadCommand:
        raise NodeUnreachable("The node closed its door without an answer.") from None
    if isinstance(message.get("error"), dict):
        raise WorkerError.from_dict(message["error"])
    if message.get("version") != VERSION or not isinstance(message.get("result"), dict):
        raise BadCommand(_OTHER_VERSION, hint=_SAME_VERSION)
    return dict(message["result"])


def explain(error: ValidationError) -> str:
    """What is wrong with the first wrong field, without its value."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"


def _message(line: bytes) -> dict[str, Any]:
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        raise BadCommand("The line is not JSON.") from None
    if not isinstance(message, dict):
        raise BadCommand("The line is not a JSON object.")
    return message


def _line(message: Mapping[str, Any]) -> bytes:
    return json.dumps({"version": VERSION, **message}).encode() + b"\n"
