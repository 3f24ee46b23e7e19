"""Commands to all nodes, of which Celery's remote control has many: a node obeys few."""

from __future__ import annotations

import base64
import binascii
import json
import re
from typing import Any, Callable

from secretflow_task.broker.entry import is_too_deep
from secretflow_task.utils.log import get_logger

log = get_logger()

CANCEL_COMMAND = "cancel_execution"
OBEYED = frozenset({CANCEL_COMMAND, "ping", "revoke"})
# What only reads, for an operator who wants `celery inspect` and Flower.
INSPECTING = frozenset(
    {"active", "active_queues", "clock", "query_task", "registered", "reserved", "scheduled"}
)

# What they take; more is left out, and without all of it they are not obeyed.
_ARGUMENTS = {CANCEL_COMMAND: ("execution_id",), "ping": (), "revoke": ("task_id",)}
_MOST_BYTES = 65536


def read_command(
    text: object, obeyed: frozenset[str], ignored: Callable[[], object]
) -> dict[str, Any] | None:
    """A command as kombu's mailbox takes it, or None for one that is not obeyed.

    Args:
        text: what came on the channel.
        ignored: called for what is not obeyed.
    """
    try:
        body = _body(text)
        method = body["method"]
    except (ValueError, TypeError, LookupError, RecursionError, binascii.Error):
        _ignore("", ignored)
        return None
    arguments, destination = body.get("arguments") or {}, body.get("destination")
    reply_to, ticket = body.get("reply_to"), body.get("ticket")
    fits = (
        isinstance(method, str)
        and isinstance(arguments, dict)
        and (destination is None or _are_texts(destination))
        and (reply_to is None or _is_address(reply_to))
        and (ticket is None or isinstance(ticket, str))
        and not body.get("pattern")
    )
    complete = fits and set(_ARGUMENTS.get(method, ())) <= set(arguments)
    if not complete or method not in obeyed:
        _ignore(method, ignored)
        return None
    if method in _ARGUMENTS:
        arguments = {name: arguments[name] for name in _ARGUMENTS[method]}
    command = {"method": method, "arguments": arguments, "destination": destination}
    return command | {"reply_to": reply_to, "ticket": ticket}


def _ignore(method: object, ignored: Callable[[], object]) -> None:
    is_name = isinstance(method, str) and re.fullmatch("[a-z_]{1,40}", method)
    command = method if is_name else "unknown"
    log.warning("A command is not obeyed.", action="command_ignored", command=command)
    ignored()


def _body(text: object) -> dict[str, Any]:
    """The decoded body of a message; raises `ValueError` and its like for anything else."""
    raw = text if isinstance(text, bytes) else str(text).encode()
    if len(raw) > _MOST_BYTES or is_too_deep(raw):
        raise ValueError("too large")
    envelope = json.loads(raw)
    body = envelope["body"]
    if envelope["properties"].get("body_encoding") == "base64":
        body = base64.b64decode(body).decode()
    if is_too_deep(body.encode()):
        raise ValueError("too deep")
    decoded = json.loads(body)
    if not isinstance(decoded, dict):
        raise ValueError("no command")
    return decoded


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _is_address(value: object) -> bool:
    keys = ("exchange", "routing_key")
    return isinstance(value, dict) and all(isinstance(value.get(key), str) for key in keys)
