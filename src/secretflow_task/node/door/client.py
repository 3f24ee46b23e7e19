"""The operator's end of the door."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from secretflow_task.contract.errors import NodeUnreachable
from secretflow_task.node.door import address
from secretflow_task.node.door.protocol import read_answer, request_line

_SECONDS = 30.0


def ask(
    state_dir: Path, command: str, *, timeout_seconds: float = _SECONDS, **arguments: Any
) -> dict[str, Any]:
    """Let the node that runs with a state folder carry out a command; returns its result.

    Raises:
        NodeUnreachable: no node runs there, or it does not answer in time.
        WorkerError: the node refuses; also one of its own kinds.
        PermissionError: the door is not for this user.
    """
    try:
        with address.connect(state_dir, timeout_seconds) as connection:
            with suppress(ConnectionError):  # a node that refuses it does not read it all
                connection.sendall(request_line(command, arguments))
            with connection.makefile("rb") as file:
                line = file.readline()
    except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError):
        raise NodeUnreachable from None
    except (TimeoutError, BlockingIOError):
        raise NodeUnreachable(
            "The node does not answer.",
            hint="It may be stopped (SIGSTOP) or busy; its log and `sfworker doctor` say more.",
        ) from None
    except ConnectionError:  # the node ended meanwhile
        line = b""
    return read_answer(line)
