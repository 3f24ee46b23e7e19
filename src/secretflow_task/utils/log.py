"""Structured logs: a stable ``action`` for machines, ids bound once, a sentence for people, no secrets."""

from __future__ import annotations

import re
import sys
from contextlib import contextmanager
from typing import Any, Iterator, Mapping, MutableMapping

import structlog

_CREDENTIALS = re.compile(r"(?<=://)[^/\s]*(?=@)")


def _redact(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Take user names and passwords out of every URL that a record holds."""
    return {key: _redacted(value) for key, value in event.items()}


def _redacted(value: Any) -> Any:
    if isinstance(value, (str, BaseException)):
        return _CREDENTIALS.sub("***", str(value))
    if isinstance(value, Mapping):
        return {key: _redacted(item) for key, item in value.items()}
    return [_redacted(item) for item in value] if isinstance(value, (list, tuple)) else value


def configure(level: str = "INFO", as_json: bool = False) -> None:
    """Send this process's log to standard error, for people or as JSON lines."""
    # Plain tracebacks: structlog's own show local variables, which hold data.
    people = structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)
    last: Any = structlog.processors.JSONRenderer() if as_json else people
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.EventRenamer("message") if as_json else _keep,
            structlog.processors.format_exc_info,
            _redact,
            last,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level.lower()),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def _keep(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    return event


def get_logger() -> Any:
    """A logger; call it as ``log.info("sentence", action="stable_name", ...)``."""
    return structlog.get_logger()


@contextmanager
def execution_context(**ids: Any) -> Iterator[None]:
    """Bind ids to every record that this thread writes inside the block."""
    with structlog.contextvars.bound_contextvars(**ids):
        yield
