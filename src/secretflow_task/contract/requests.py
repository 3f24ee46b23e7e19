"""A request as the submitter sends it: its ids, and what it says of parties, devices and limits."""

from __future__ import annotations

import hashlib
import re
import uuid
from dataclasses import dataclass, replace
from typing import Annotated, Any, Collection, Mapping, Sequence

from pydantic import Field, model_validator

from secretflow_task.contract.errors import InvalidTaskConfig
from secretflow_task.contract.messages import utf8_text
from secretflow_task.contract.protocols import HeuConfig, SpuConfig
from secretflow_task.contract.task_config import PARTY_NAME, PartyName, Strict

EXECUTION_ID = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"

_MOST_PARTIES = 16  # of a request
_LONGEST_TEXT = 1000  # of an id that names no execution, in the event of a request that is refused
_ID_KEYS = ("task_request_id", "execution_id", "task_id", "subtask_id")
_FORMS = "The task takes [task_request_id, params] or [params], params an object"


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
        if len(arguments) not in (1, 2) or not isinstance(arguments[-1], Mapping):
            raise InvalidTaskConfig(f"{_FORMS}; {_misfit(arguments)}.")
        request_id = arguments[0] if len(arguments) == 2 else None
        params = arguments[-1]
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

    @staticmethod
    def unread(arguments: Sequence[Any], fallback_id: str) -> TaskRequest:
        """What can be told of a request that `from_arguments` refuses: its ids, as far as it has
        any.

        Args:
            fallback_id: stands in for an id that the arguments do not hold.
        """
        mappings = [argument for argument in arguments if isinstance(argument, Mapping)]
        params = dict(mappings[0]) if mappings else {}
        ids = {name: params.pop(name, None) for name in _ID_KEYS}
        in_front = next((item for item in arguments if _may_be_an_id(item)), None)
        request_id = _first_text(in_front, ids["task_request_id"], ids["execution_id"], fallback_id)
        named = _first_text(ids["execution_id"], request_id)
        return TaskRequest(
            execution_id=named if _is_id(named) else _as_id(fallback_id),
            task_request_id=request_id,
            params=_utf8(params),
            task_id=_optional_text(ids["task_id"]),
            subtask_id=_optional_text(ids["subtask_id"]),
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


def positional(arguments: Sequence[Any], keywords: Mapping[str, Any]) -> tuple[Any, ...]:
    """The arguments of a request in their order, which may also have been given by name.

    Raises:
        InvalidTaskConfig: a name is unknown, or an argument is given twice.
    """
    if not keywords:
        return tuple(arguments)
    unknown = sorted(set(keywords) - {"task_request_id", "params"})
    if unknown:
        raise InvalidTaskConfig(f"{_FORMS}; it has no argument {utf8_text(unknown[0])[:64]!r}.")
    if "params" not in keywords or len(arguments) + len(keywords) > 2:
        raise InvalidTaskConfig(f"{_FORMS}; an argument is missing, or is there twice.")
    if "task_request_id" in keywords:
        return keywords["task_request_id"], keywords["params"]
    return (*arguments, keywords["params"])


def _misfit(arguments: Sequence[Any]) -> str:
    """Why arguments fit neither form, as the end of a sentence."""
    if not arguments:
        return "it was sent none"
    if len(arguments) > 2:
        return f"it was sent {len(arguments)} arguments"
    last = arguments[-1]
    if len(arguments) == 2 and isinstance(arguments[0], Mapping):
        return "the two are in the wrong order"
    if last is None:
        return "params is null"
    if not isinstance(last, str):
        return "params is no object"
    if last.lstrip().startswith("{"):
        return "params is a text that holds JSON: send the object itself"
    if len(arguments) == 1:
        return "it was sent an id without params"
    return "params is a text"


def _first_text(*values: Any) -> str:
    """The first value that is a text or a number, as a text that an event has room for."""
    for value in values:
        if isinstance(value, (str, int)) and value != "":
            return utf8_text(value)[:_LONGEST_TEXT]
    return ""


def _may_be_an_id(value: Any) -> bool:
    """Whether an argument can be the submitter's id, and not params as a JSON text."""
    return isinstance(value, (str, int)) and not str(value).lstrip().startswith(("{", "["))


def _is_id(text: str) -> bool:
    return re.fullmatch(EXECUTION_ID, text) is not None


def _as_id(text: str) -> str:
    """The text if it can name an execution, else its digest."""
    if _is_id(text):
        return text
    return hashlib.sha256(utf8_text(text).encode()).hexdigest()[:32]


def _checked_id(value: Any) -> str:
    text = str(value)
    if not _is_id(text):
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
