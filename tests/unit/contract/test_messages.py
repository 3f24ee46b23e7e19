"""What crosses a boundary comes out as it went in, and what does not belong is refused."""

from __future__ import annotations

import json
import math
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secretflow_task.contract.messages import Kind, PipeMessage, Stage, Status, StatusEvent

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
