"""What crosses a boundary comes out as it went in, and what does not belong is refused."""

from __future__ import annotations

import json
import math
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secretflow_task.contract.errors import InvalidTaskConfig
from secretflow_task.contract.messages import (
    Kind,
    PipeMessage,
    Stage,
    Status,
    StatusEvent,
    TaskRequest,
)

CONFIG = {"task_config": {"task_type": "psi"}}
JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)
EVENT = StatusEvent("e", "r", "alice", Status.RUNNING, {"progress": 0.1}, "node-1", "tasks.x")


def test_a_request_with_its_id_in_front() -> None:
    request = TaskRequest.from_arguments("r-1", CONFIG)
    assert request == TaskRequest("r-1", "r-1", CONFIG)


def test_a_request_with_its_ids_inside() -> None:
    params = {"execution_id": "e-1", "task_id": "t", "subtask_id": 7, **CONFIG}
    assert TaskRequest.from_arguments(params) == TaskRequest("e-1", "e-1", CONFIG, "t", "7")


def test_an_execution_id_inside_goes_before_the_request_id_in_front() -> None:
    request = TaskRequest.from_arguments("r-1", {"execution_id": "e-1", **CONFIG})
    assert (request.execution_id, request.task_request_id) == ("e-1", "r-1")


def test_a_request_id_inside_is_as_good_as_one_in_front() -> None:
    assert TaskRequest.from_arguments({"task_request_id": "r-1", **CONFIG}) == TaskRequest(
        "r-1", "r-1", CONFIG
    )


def test_half_a_surrogate_pair_does_not_get_past_the_door() -> None:
    params = {"task_config": {"task_type": "\ud800", "x": [{"\udfff": ("\ud800a", 1, None)}]}}
    request = TaskRequest.from_arguments("r", params)
    assert request.params == {"task_config": {"task_type": "?", "x": [{"?": ["?a", 1, None]}]}}


def test_numbers_are_taken_as_ids() -> None:
    request = TaskRequest.from_arguments(42, CONFIG)
    assert (request.execution_id, request.task_request_id) == ("42", "42")


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("r",),
        ("r", "params"),
        ("r", CONFIG, "more"),
        (CONFIG, CONFIG, CONFIG),
        ("r", None),
        ([],),
        ("r", [CONFIG]),
    ],
)
def test_other_arguments_are_refused(arguments: tuple[Any, ...]) -> None:
    with pytest.raises(
        InvalidTaskConfig, match=r"^The task takes \[task_request_id, params\] or \[params\]"
    ):
        TaskRequest.from_arguments(*arguments)


def test_a_request_without_any_id_is_refused() -> None:
    with pytest.raises(InvalidTaskConfig, match="neither a task_request_id nor an execution_id"):
        TaskRequest.from_arguments(CONFIG)


@pytest.mark.parametrize(
    "bad", ["", ".", "..", "a/b", "a b", "-a", "a" * 129, "é", "a\n", "a\0", "../x", {}, ["a"]]
)
def test_an_execution_id_that_is_no_file_name_is_refused(bad: Any) -> None:
    with pytest.raises(InvalidTaskConfig, match="1 to 128 letters"):
        TaskRequest.from_arguments(bad, CONFIG)


def test_any_text_is_a_request_id_when_the_execution_has_its_own() -> None:
    request = TaskRequest.from_arguments("Auftrag 1/2 \ud800", {"execution_id": "e", **CONFIG})
    assert request.task_request_id == "Auftrag 1/2 ?"


def test_the_params_stay_whole_but_for_the_ids() -> None:
    params = {"spu_config": {}, "sf_init_config": {"parties": ["alice"]}, **CONFIG}
    assert TaskRequest.from_arguments({"task_request_id": "r", **params}).params == params


@pytest.mark.parametrize(
    ("params", "task_type"),
    [
        (CONFIG, "psi"),
        ({}, ""),
        ({"task_config": 5}, ""),
        ({"task_config": {}}, ""),
        ({"task_config": {"task_type": 5}}, "5"),
    ],
)
def test_the_task_type_is_read_from_any_params(params: dict[str, Any], task_type: str) -> None:
    assert TaskRequest("e", "r", params).task_type == task_type


def test_a_renewed_request_is_a_new_execution_of_the_same_request() -> None:
    request = TaskRequest.from_arguments("r" * 128, CONFIG)
    renewed = [request.renewed() for _ in range(20)]
    assert len({item.execution_id for item in renewed}) == 20
    assert {item.task_request_id for item in renewed} == {"r" * 128}
    for item in renewed:
        assert (
            TaskRequest.from_arguments(item.execution_id, CONFIG).execution_id == item.execution_id
        )


def test_stages_have_the_progress_of_the_plan() -> None:
    assert {stage.value: stage.progress for stage in Stage} == {
        "cluster_init": 0.1,
        "device_creation": 0.3,
        "task_execution": 0.5,
    }


def test_only_success_and_failure_are_final() -> None:
    assert [status.value for status in Status if status.terminal] == ["SUCCESS", "FAILURE"]


@given(st.dictionaries(st.text(), JSON_VALUES), st.text())
def test_an_event_comes_back_from_json_as_it_was(data: dict[str, Any], name: str) -> None:
    event = StatusEvent("e", name, "alice", Status.SUCCESS, data, name, "tasks.x", 3, name, None)
    text = event.to_json()
    assert "\n" not in text
    assert StatusEvent.from_json(text) == StatusEvent.from_json(text.encode()) == event


def test_an_event_has_the_fields_of_the_plan() -> None:
    fields = json.loads(EVENT.to_json())
    plan = {"task_request_id", "status", "timestamp", "data", "worker_container", "task_name"}
    ours = {"task_type", "execution_id", "task_id", "subtask_id", "party", "seq", "event_id"}
    assert set(fields) == plan | ours
    assert fields["status"] == "RUNNING"


def test_an_event_is_stamped_with_utc_and_an_id_of_its_own() -> None:
    stamp = datetime.fromisoformat(EVENT.timestamp)
    assert stamp.utcoffset() == timedelta(0)
    assert abs(datetime.now(timezone.utc) - stamp) < timedelta(hours=1)
    other = StatusEvent("e", "r", "alice", Status.RUNNING, {}, "node-1", "tasks.x")
    assert len(EVENT.event_id) == 32 and other.event_id != EVENT.event_id


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_what_json_lacks_becomes_null_in_an_event(number: float) -> None:
    event = StatusEvent(
        "e", "r", "alice", Status.SUCCESS, {"result": {"auc": [number, (1, number)]}}, "n", "t"
    )
    fields = json.loads(
        event.to_json(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON")
    )
    assert fields["data"] == {"result": {"auc": [None, [1, None]]}}


def test_half_a_surrogate_pair_does_not_stop_an_event() -> None:
    event = StatusEvent("e", "r", "alice", Status.FAILURE, {"error": "\ud83d"}, "n", "t")
    assert json.loads(event.to_json().encode("utf-8"))["data"] == {"error": "?"}


@given(st.sampled_from(Kind), st.dictionaries(st.text(), JSON_VALUES))
def test_a_pipe_message_comes_back_as_it_was(kind: Kind, body: dict[str, Any]) -> None:
    assert PipeMessage.from_bytes(PipeMessage(kind, body).to_bytes()) == PipeMessage(kind, body)


@given(st.binary())
def test_bytes_that_are_no_message_are_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError):
        PipeMessage.from_bytes(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[]",
        b"5",
        b"null",
        b'"event"',
        b'{"kind": "event"}',
        b'{"kind": "shutdown", "body": {}}',
        b'{"kind": [], "body": {}}',
        b'{"kind": "event", "body": []}',
        b'{"kind": "event", "body": null}',
        b"[" * 100_000,
        b"\x80\x04.",
    ],
)
def test_json_that_is_no_message_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError):
        PipeMessage.from_bytes(data)
