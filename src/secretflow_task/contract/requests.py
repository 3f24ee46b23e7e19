"""A request as the submitter sends it: its ids, and what it says of parties, devices and limits."""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass, replace
from typing import Annotated, Any, Collection, Mapping

from pydantic import Field, model_validator

from secretflow_task.contract.errors import InvalidTaskConfig
from secretflow_task.contract.messages import utf8_text
from secretflow_task.contract.protocols import HeuConfig, SpuConfig
from secretflow_task.contract.task_config import PARTY_NAME, PartyName, Strict

_MOST_PARTIES = 16  # of a request


class PartyAddress(Strict):
    """Where a party of a cluster with fixed addresses is reached and listens."""

    address: str
    listen_addr: str | None = None


Listed = Annotated[list[PartyName], Field(min_length=1)]
Addressed = Annotated[dict[PartyName, PartyAddress], Field(min_length=1)]
Parties = Listed | Addressed


class SfInitConfig(Strict):
    """``sf_init_config``."""

    parties: Parties | None = None
    self_party: PartyName | None = None
    address: str | None = Field(
        default=None, description="Accepted for older web applications and not used."
    )


class Params(Strict):
    """The parts of a request; null stands for a part that is left out."""

    sf_init_config: SfInitConfig = SfInitConfig()
    spu_config: SpuConfig = SpuConfig()
    heu_config: HeuConfig | None = None
    task_config: dict[str, Any]
    timeout_seconds: float | None = Field(
        default=None,
        gt=0,
        description="Wall-clock limit; the node's own limit holds where it is lower.",
    )

    @model_validator(mode="before")
    @classmethod
    def _without_null(cls, value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: item for key, item in value.items() if item is not None}
        return value


@dataclass(frozen=True)
class TaskRequest:
    """One request as the submitter sent it, with its ids.

    Attributes:
        execution_id: names the execution; the same at every party.
        task_request_id: the submitter's own id, repeated in every event.
        params: ``sf_init_config``, ``spu_config``, ``heu_config`` and ``task_config``.
    """

    execution_id: str
    task_request_id: str
    params: Mapping[str, Any]
    task_id: str | None = None
    subtask_id: str | None = None

    @staticmethod
    def from_arguments(*arguments: Any) -> TaskRequest:
        """Read ``[task_request_id, params]`` or ``[params]``, as the Celery task takes them.

        Raises:
            InvalidTaskConfig: neither form fits.
        """
        request_id = None
        if len(arguments) == 2:
            request_id, params = arguments
        elif len(arguments) == 1:
            params = arguments[0]
        else:
            params = None
        if not isinstance(params, Mapping):
            raise InvalidTaskConfig(
                "The task takes [task_request_id, params] or [params], params an object."
            )
        params = dict(params)
        inner_id = params.pop("task_request_id", None)
        execution_id = params.pop("execution_id", None)
        task_id = params.pop("task_id", None)
        subtask_id = params.pop("subtask_id", None)
        if request_id is None:
            request_id = inner_id
        if not execution_id:
            execution_id = request_id
        if execution_id is None:
            raise InvalidTaskConfig(
                "The request has neither a task_request_id nor an execution_id."
            )
        if request_id is None:
            request_id = execution_id
        return TaskRequest(
            execution_id=_checked_id(execution_id),
            task_request_id=utf8_text(request_id),
            params=_utf8(params),
            task_id=_optional_text(task_id),
            subtask_id=_optional_text(subtask_id),
        )

    @property
    def task_type(self) -> str:
        """The requested task type, or an empty string where there is none."""
        config = self.params.get("task_config")
        if not isinstance(config, Mapping):
            return ""
        return utf8_text(config.get("task_type", ""))

    @property
    def log_ids(self) -> dict[str, str]:
        """What every log record about the execution says."""
        return {
            "execution_id": self.execution_id,
            "task_request_id": self.task_request_id,
            "task_type": self.task_type,
        }

    def named(self, execution_id: str) -> TaskRequest:
        """The same request as the execution of this id; raises `InvalidTaskConfig` for no id."""
        return replace(self, execution_id=_checked_id(execution_id))

    def renewed(self) -> TaskRequest:
        """The same request as a new execution, as `sfworker run` starts one every time."""
        return replace(self, execution_id=f"{self.execution_id[:119]}-{uuid.uuid4().hex[:8]}")


def parties_to_tell(request: TaskRequest, hosted: Collection[str]) -> list[str]:
    """Whom to tell about a request that was not understood: whom it lists, or all of ``hosted``."""
    init = request.params.get("sf_init_config")
    listed = init.get("parties") if isinstance(init, Mapping) else None
    if isinstance(listed, (list, Mapping)) and 0 < len(listed) <= _MOST_PARTIES:
        if all(isinstance(party, str) and re.fullmatch(PARTY_NAME, party) for party in listed):
            return sorted(set(listed))
    return sorted(hosted) or ["unknown"]


def _checked_id(value: Any) -> str:
    text = str(value)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", text):
        raise InvalidTaskConfig(
            "An execution id has 1 to 128 letters, digits and ._- "
            "and starts with a letter or digit."
        )
    return text


def _optional_text(value: Any) -> str | None:
    if value is None:
        return None
    return utf8_text(value)


def _utf8(value: Any) -> Any:
    """The value with every text in it made one that UTF-8 can hold."""
    if isinstance(value, str):
        return utf8_text(value)
    if isinstance(value, Mapping):
        return {utf8_text(key): _utf8(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_utf8(item) for item in value]
    return value
