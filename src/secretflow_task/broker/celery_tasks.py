"""The Celery task: one request in, one settled execution out."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Protocol

from celery import Celery
from celery.exceptions import Ignore, Reject
from celery.worker.control import Panel

from secretflow_task.broker.commands import CANCEL_COMMAND
from secretflow_task.broker.entry import EXPIRES_AT, REJECTED, SENT_AT, TASK_NAME
from secretflow_task.broker.revocations import Revocations
from secretflow_task.contract.errors import InvalidTaskConfig, RequestExpired, WorkerError
from secretflow_task.contract.messages import Status
from secretflow_task.contract.requests import TaskRequest, positional

_MOST_REVOKED = 1000  # by one command


class ExecutionFailed(Exception):
    """How a failed execution ends as a Celery task; the status events say more."""


class NodeStopping(Exception):
    """The node takes no more requests; another one should have it."""


@dataclass(frozen=True)
class Outcome:
    """How an execution ended at this node: its status, and the first party's failure if it failed.

    Attributes:
        repeated: the request was delivered before, and this delivery ran nothing.
    """

    execution_id: str
    status: Status
    failure: WorkerError | None = None
    repeated: bool = False


class Executor(Protocol):
    """What runs a request to its end: the node."""

    def execute(self, *arguments: Any, sent_at: object = None) -> Outcome:
        """Run ``(task_request_id, params)`` or ``(params,)``.

        Args:
            sent_at: what the sender says of when it was sent, in seconds since 1970.

        Raises:
            NodeStopping: the node takes no more.
        """

    def refuse(self, request: TaskRequest, error: WorkerError) -> Outcome:
        """Tell every party here for which a request may be that it is not run.

        Raises:
            NodeStopping: the node takes no more.
        """

    def cancel(self, execution_id: str) -> bool:
        """End a running execution; whether it runs here."""


def register(app: Celery, executor: Executor, revocations: Revocations) -> None:
    """Let ``app`` run `tasks.secretflow.execute_task` on ``executor``, and cancel what it runs."""

    def cancel_execution(_state: Any, execution_id: object) -> dict[str, bool]:
        """End a running execution."""
        cancelled = isinstance(execution_id, str) and executor.cancel(execution_id)
        return {"cancelled": cancelled}

    def revoke(_state: Any, task_id: object, **_options: object) -> dict[str, list[str]]:
        """End the executions that these messages asked for, whether they run or wait."""
        celery_ids = [item for item in _as_list(task_id) if isinstance(item, str)]
        for celery_id in celery_ids[:_MOST_REVOKED]:
            executor.cancel(revocations.revoke(celery_id) or celery_id)  # else it may wait
        return {"ok": celery_ids}

    Panel.register(cancel_execution, name=CANCEL_COMMAND, args=[("execution_id", str)])
    Panel.register(revoke, name="revoke", args=[("task_id", str)])

    def execute(
        celery_id: str, arguments: tuple[Any, ...], keywords: dict[str, Any], sent_at: object
    ) -> Outcome:
        try:
            in_order = positional(arguments, keywords)
            execution_id = TaskRequest.from_arguments(*in_order).execution_id
        except InvalidTaskConfig as error:
            return _refuse(executor, celery_id, arguments, keywords, error)
        with revocations.watching(celery_id, execution_id):
            return executor.execute(*in_order, sent_at=sent_at)

    task_of = app.task(name=TASK_NAME, bind=True, throws=(ExecutionFailed,))

    @task_of  # type: ignore[untyped-decorator]  # Celery has no types
    def execute_task(task: Any, *arguments: Any, **keywords: Any) -> dict[str, str]:
        """Run one request; result and error carry only ids, status and the public message.

        Whatever the arguments are, since Celery would tell nobody but the reader of its result
        that they do not fit.
        """
        celery_id = task.request.id
        redelivered = task.request.delivery_info.get("redelivered")
        sent_at = None
        if not redelivered:  # it has waited in the queue once
            sent_at = task.request.get(SENT_AT)
        try:
            if refusal := _refusal(task.request):
                outcome = _refuse(executor, celery_id, arguments, keywords, refusal)
            else:
                outcome = execute(celery_id, arguments, keywords, sent_at)
        except NodeStopping:
            raise Reject(requeue=True) from None
        if outcome.repeated and redelivered:
            raise Ignore()  # the first delivery of this very message records how it ended
        if outcome.failure is not None:
            failure = outcome.failure
            raise ExecutionFailed(f"{failure.code}: {failure.public_message}") from None
        return {"execution_id": outcome.execution_id, "status": outcome.status.value}


def _refuse(
    executor: Executor,
    celery_id: str,
    arguments: tuple[Any, ...],
    keywords: dict[str, Any],
    error: WorkerError,
) -> Outcome:
    """Tell of a request of which nothing can be read but ids."""
    unread = TaskRequest.unread([*arguments, *keywords.values()], celery_id)
    return executor.refuse(unread, error)


def _refusal(request: Any) -> WorkerError | None:
    """Why a message that was taken is not to be run."""
    refusal = request.get(REJECTED)
    if isinstance(refusal, WorkerError):
        return refusal
    expires_at = request.get(EXPIRES_AT)
    if isinstance(expires_at, float) and expires_at < time.time():
        return RequestExpired()
    return None


def _as_list(value: object) -> list[object]:
    return value if isinstance(value, list) else [value]
