"""Status of the running job: from a task to the pipe of its process."""

from __future__ import annotations

from typing import Any, Callable, Mapping

from secretflow_task.utils.log import get_logger

log = get_logger()

Sink = Callable[[str, Mapping[str, Any]], None]
_sink: Sink | None = None  # pylint: disable=invalid-name  # a job process sets it once


def bind_status_sink(sink: Sink | None) -> None:
    """Set where `_publish_status` sends to in this process, which is one job with one sink."""
    global _sink  # pylint: disable=global-statement
    _sink = sink


def _publish_status(task_request_id: str, status: str, data: Mapping[str, Any]) -> None:
    """Report a status of the running job; a failure to report never fails the job."""
    try:
        if _sink is not None:
            _sink(status, data)
    except (OSError, ValueError, TypeError) as error:
        log.warning(
            "A status could not be reported.",
            action="status_not_reported",
            task_request_id=task_request_id,
            problem=type(error).__name__,
        )
