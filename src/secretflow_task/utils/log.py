"""Structured logs: a stable ``action`` for machines, a sentence for people, no secrets."""

from __future__ import annotations

import logging
import os
import re
import sys
import traceback
from contextlib import contextmanager
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any, Iterator, Mapping, MutableMapping

import structlog

from secretflow_task.contract.errors import WorkerError

_OWN = "secretflow_task"
_CREDENTIALS = re.compile(r"(?<=://)[^/\s]*(?=@)")
_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_CHAIN: list[Any] = [structlog.contextvars.merge_contextvars, structlog.stdlib.add_log_level]
_OWN_CHAIN = [*_CHAIN, structlog.stdlib.ProcessorFormatter.wrap_for_formatter]
Record = MutableMapping[str, Any]


def configure(
    level: str = "INFO",
    as_json: bool = False,
    handler: logging.Handler | None = None,
    libraries: bool = True,
) -> None:
    """Send this process's log to standard error or to ``handler``, for people or as JSON lines.

    Args:
        libraries: also send what Celery and others log, from warnings on; else leave their loggers
            alone, as a job does, whose log may quote what the exceptions of others say.
    """
    handler = handler or logging.StreamHandler(sys.stderr)
    quiet = structlog.processors.ExceptionRenderer(_trace)
    handler.setFormatter(_formatter(as_json, quiet) if libraries else _formatter(as_json))
    own, root = logging.getLogger(_OWN), logging.getLogger()
    own.propagate = False
    for logger, lowest in [(own, level)] + ([(root, "WARNING")] if libraries else []):
        logger.handlers[:] = [handler]
        logger.setLevel(lowest)
    logging.captureWarnings(libraries)
    structlog.configure(
        processors=[*_OWN_CHAIN],
        wrapper_class=structlog.make_filtering_bound_logger(level.lower()),
        logger_factory=structlog.stdlib.LoggerFactory(),
    )


def rotating_file(path: Path, limit_bytes: int, count: int) -> logging.Handler:
    """A file that is renamed to ``path.1`` when it is full, and so on until ``path.<count>``.

    One process writes to it. Raises `OSError` when it cannot be opened.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    return RotatingFileHandler(path, maxBytes=limit_bytes, backupCount=count, encoding="utf-8")


@contextmanager
def appended_to(path: Path, as_json: bool) -> Iterator[Any]:
    """A logger that writes to the end of a file, which another process may write to as well."""
    with open(
        path, "a", encoding="utf-8", opener=lambda name, flags: os.open(name, flags, 0o600)
    ) as file:
        handler = logging.StreamHandler(file)
        handler.setFormatter(_formatter(as_json))
        logger = logging.Logger(_OWN)
        logger.addHandler(handler)
        yield structlog.wrap_logger(
            logger, [*_OWN_CHAIN], structlog.make_filtering_bound_logger("info")
        )


def _formatter(
    as_json: bool, render: Any = structlog.processors.format_exc_info
) -> logging.Formatter:
    # Plain tracebacks: structlog's own show local variables, which hold data.
    people = structlog.dev.ConsoleRenderer(
        colors=False, exception_formatter=structlog.dev.plain_traceback
    )
    last: list[Any] = [
        structlog.processors.EventRenamer("message"),
        structlog.processors.JSONRenderer(),
    ]
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[*_CHAIN, _of_a_library],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            render,
            _redact,
            *(last if as_json else [_printable, people]),
        ],
    )


def _of_a_library(_logger: Any, _method: str, event: Record) -> Record:
    """Name the library, and keep the first line: below it Celery quotes messages with requests."""
    record: logging.LogRecord = event["_record"]
    said = str(event["event"]).partition("\n")[0]
    if record.funcName in ("on_decode_error", "_log_error"):  # these quote on the first line too
        said = said.partition(":")[0]
    return {**event, "event": said, "action": "library", "logger": record.name}


def _trace(exc_info: Any) -> str:
    """Frames and types of an error and of those before it; what they say only if they are ours."""
    told: list[str] = []
    error, seen = exc_info[1], set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        said = f": {error}" if isinstance(error, WorkerError) else ""
        frames = "".join(traceback.format_tb(error.__traceback__))
        told.append(f"Traceback (most recent call last):\n{frames}{type(error).__qualname__}{said}")
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return "\n\nThen, because of it or while it was handled:\n\n".join(reversed(told))


def _redact(_logger: Any, _method: str, event: Record) -> Record:
    """Take user names and passwords out of every URL that a record holds."""
    return {key: _redacted(value) for key, value in event.items()}


def _redacted(value: Any) -> Any:
    if isinstance(value, (str, BaseException)):
        return _CREDENTIALS.sub("***", str(value))
    if isinstance(value, Mapping):
        return {key: _redacted(item) for key, item in value.items()}
    return [_redacted(item) for item in value] if isinstance(value, (list, tuple)) else value


def _printable(_logger: Any, _method: str, event: Record) -> Record:
    """Take out what would steer a terminal, since ids are what a submitter wrote."""
    return {
        key: _CONTROLS.sub("\ufffd", value) if isinstance(value, str) else value
        for key, value in event.items()
    }


def get_logger() -> Any:
    """A logger; call it as ``log.info("A sentence.", action="stable_name", ...)``."""
    return structlog.get_logger(_OWN)


@contextmanager
def execution_context(**ids: Any) -> Iterator[None]:
    """Bind ids to every record that this thread writes inside the block."""
    with structlog.contextvars.bound_contextvars(**ids):
        yield


def problem_of(error: BaseException) -> str:
    """What an error says without the paths that the system names in one of its own."""
    said = error.strerror if isinstance(error, OSError) else None
    return f"{type(error).__name__}: {said or error}"
