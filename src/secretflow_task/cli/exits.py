"""Exit codes, and errors as a person reads them."""

from __future__ import annotations

import functools
import sys
from enum import IntEnum
from typing import Any, Callable, TypeVar

from secretflow_task.contract.errors import (
    EngineUnavailable,
    RequestError,
    RuntimeUnavailable,
    WorkerError,
)

Command = TypeVar("Command", bound=Callable[..., Any])


class Exit(IntEnum):
    """What a script can tell from the exit code."""

    OK = 0
    FAILED = 1
    USAGE = 2
    BAD_REQUEST = 3
    UNAVAILABLE = 4
    TIMEOUT = 5


def exit_code(error: WorkerError) -> Exit:
    """The exit code for an error."""
    if isinstance(error, RequestError):
        return Exit.BAD_REQUEST
    if isinstance(error, (RuntimeUnavailable, EngineUnavailable)):
        return Exit.UNAVAILABLE
    return Exit.FAILED


def complain(code: str, message: str, hint: str | None = None) -> None:
    """Print an error, and what to do next, on standard error."""
    print(f"{code}: {message}", file=sys.stderr)
    if hint:
        print(f"  {hint}", file=sys.stderr)


def guarded(command: Command) -> Command:
    """Turn the errors that a user can meet into a sentence and an exit code."""

    @functools.wraps(command)
    def guarded_command(*arguments: Any, **options: Any) -> Any:
        try:
            return command(*arguments, **options)
        except WorkerError as error:
            complain(error.code, error.public_message, error.hint)
            raise SystemExit(exit_code(error)) from None
        except TimeoutError as error:
            complain("Timeout", str(error), "`sfworker watch ID` continues to wait.")
            raise SystemExit(Exit.TIMEOUT) from None
        except Exception as error:
            if (known := _UNAVAILABLE.get(type(error).__name__)) is None:
                raise
            complain(type(error).__name__, known[0] or str(error), known[1])
            raise SystemExit(Exit.UNAVAILABLE) from None

    return guarded_command  # type: ignore[return-value]


# By name, so that a command that needs no Redis does not import its client.
_REDIS_AWAY = ("Redis cannot be reached.", "Check SFWORKER_REDIS_URL; `sfworker doctor` says more.")
_UNAVAILABLE: dict[str, tuple[str, str]] = {
    "ConnectionError": _REDIS_AWAY,
    "AuthenticationError": _REDIS_AWAY,
    "OperationalError": _REDIS_AWAY,
    "PermissionError": (
        "",
        "Run the command as a user who may read and write there, such as that of the node.",
    ),
    "StoreInUse": ("", "Stop the other node, or set SFWORKER_STATE_DIR."),
    "StoreTooNew": ("", "The upgrade page of the operations guide shows how, and what that loses."),
    "StoreUnusable": (
        "",
        "It is as it was. Make room, or bring back a backup of the state folder.",
    ),
}
