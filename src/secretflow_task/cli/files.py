"""Request files."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Mapping

import yaml

from secretflow_task.contract.errors import InvalidTaskConfig, MissingFile
from secretflow_task.contract.requests import Params, TaskRequest
from secretflow_task.utils.spelling import did_you_mean

_SUFFIXES = (".yaml", ".yml", ".json")
_KNOWN_KEYS = {*Params.model_fields, "task_request_id", "execution_id", "task_id", "subtask_id"}


def read_request(path: Path) -> TaskRequest:
    """Read a request file; its name stands in for an id that it does not have.

    Raises:
        MissingFile, InvalidTaskConfig: it cannot be read.
    """
    return _request_of(path, _values(path))


def read_execution(path: Path, execution_id: str | None = None) -> TaskRequest:
    """Read a request file as an execution to be sent.

    Its id is the one given here, or the file's `execution_id`; else it is a new one, since a
    `task_request_id` may be sent again and again.

    Raises:
        MissingFile, InvalidTaskConfig: it cannot be read, or the id is none.
    """
    values = _values(path)
    request = _request_of(path, values)
    if execution_id is not None:
        return request.named(execution_id)
    if values.get("execution_id"):
        return request
    return request.renewed()


def _what_is_missing(path: Path) -> str:
    if path.is_dir():
        return f"{path} is a folder, not a request."
    requests = [beside.name for beside in path.parent.glob("*") if beside.suffix in _SUFFIXES]
    return f"There is no file {path}{did_you_mean(path.name, requests) or '.'}"


def _values(path: Path) -> dict[str, Any]:
    """The keys of a request file."""
    if not path.is_file():
        raise MissingFile(_what_is_missing(path), hint="`sfworker tasks psi --example` prints one.")
    values = _load(path)
    if not isinstance(values, dict) or "task_config" not in values:
        raise InvalidTaskConfig(
            f"{path} is not a request: {_problem_of(values)}",
            hint="`sfworker tasks psi --example` prints one.",
        )
    return values


def _request_of(path: Path, values: Mapping[str, Any]) -> TaskRequest:
    request_id = "run-" + re.sub("[^A-Za-z0-9]+", "-", path.stem)[:64]
    return TaskRequest.from_arguments({"task_request_id": request_id, **values})


def _problem_of(values: Any) -> str:
    if isinstance(values, dict):
        unknown = [key for key in map(str, values) if key not in _KNOWN_KEYS]
        for key in unknown:
            if guess := did_you_mean(key, ["task_config"]):
                return f"unknown key {key!r}{guess}"
    return "it must be an object with the key 'task_config'."


def _load(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix.lower() == ".json":
            return json.loads(text)
        return yaml.safe_load(text)
    except UnicodeDecodeError:
        raise InvalidTaskConfig(f"{path} is not UTF-8 text.") from None
    except ValueError as error:
        raise InvalidTaskConfig(f"{path} is not JSON: {error}.") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise InvalidTaskConfig(
            f"{path} is not YAML: {place}{error.problem or error.context}."
        ) from None
    except yaml.YAMLError as error:  # a character that no YAML holds
        raise InvalidTaskConfig(f"{path} is not YAML: {' '.join(str(error).split())}.") from None
