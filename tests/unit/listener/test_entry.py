"""What the listener takes for a status event, and what it makes of it."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from secretflow_task.contract.errors import MissingColumn
from secretflow_task.contract.messages import Status, StatusEvent
from secretflow_task.listener.entry import Entry

EVENT = StatusEvent(
    "e-1", "r-1", "alice", Status.RUNNING, {"stage": "task_execution"}, "n", "t", seq=3
)


def entry(**changes: Any) -> Entry:
    """The event with some fields changed, as it comes from the stream."""
    return Entry.from_fields({b"event": json.dumps(json.loads(EVENT.to_json()) | changes).encode()})


def test_every_field_of_an_event_is_kept() -> None:
    event = StatusEvent(
        "e", "r", "bob", Status.SUCCESS, {"result": {"rows": 1}}, "n", "t", 7, "job", "part", "psi"
    )
    read = Entry.from_fields({b"event": event.to_json().encode()})
    assert read.model_dump(mode="json") | {"timestamp": event.timestamp} == json.loads(
        event.to_json()
    )
    assert read.timestamp == datetime.fromisoformat(event.timestamp)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {b"other": b"{}"},
        {b"event": b""},
        {b"event": b"nonsense"},
        {b"event": b"[1]"},
        {b"event": b"\xff\xfe"},
        {b"event": b"[" * 100_000},
    ],
)
def test_what_is_no_event_is_a_value_error(fields: dict[bytes, bytes]) -> None:
    with pytest.raises(ValueError):
        Entry.from_fields(fields)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("event_id", ""),
        ("event_id", None),
        ("execution_id", "e" * 129),
        ("party", 5),
        ("seq", 0),
        ("seq", 2**31),
        ("seq", "three"),
        ("status", "PENDING"),
        ("timestamp", "yesterday"),
        ("timestamp", "2026-01-01T00:00:00"),
        ("data", []),
        ("task_request_id", "\ud800"),
    ],
)
def test_an_event_that_fits_no_column_is_a_value_error(name: str, value: object) -> None:
    with pytest.raises(ValueError):
        entry(**{name: value})


def test_fields_of_a_newer_node_are_left_out_and_those_of_an_older_one_are_not_missed() -> None:
    assert entry(colour="red") == entry()
    older = {key: value for key, value in json.loads(EVENT.to_json()).items() if key != "task_type"}
    assert Entry.from_fields({b"event": json.dumps(older).encode()}).task_type == ""


def test_a_time_of_another_zone_is_the_same_moment() -> None:
    there = datetime(2026, 1, 1, 8, tzinfo=timezone(timedelta(hours=8)))
    assert entry(timestamp=there.isoformat()).timestamp == datetime(2026, 1, 1, tzinfo=timezone.utc)


def test_the_character_that_postgresql_refuses_is_replaced_wherever_it_is() -> None:
    read = entry(task_request_id="a\0b", data={"k\0": ["\0", {"x": "\\u0000"}], "n": 1})
    assert read.task_request_id == "a\ufffdb"
    assert read.data == {"k\ufffd": ["\ufffd", {"x": "\\u0000"}], "n": 1}
    assert read.status is Status.RUNNING


def test_a_running_execution_shows_its_stage() -> None:
    row = entry(data={"stage": "task_execution", "progress": 0.5}).execution_row()
    assert (row["status"], row["stage"], row["progress"]) == ("RUNNING", "task_execution", 0.5)
    assert (row["error"], row["result"]) == (None, None)


def test_a_failed_execution_shows_the_public_face_of_its_error() -> None:
    failure = MissingColumn("No column x.", hint="Look.", party="bob")
    row = entry(status="FAILURE", data={"progress": 0.1, **failure.as_event_data()}).execution_row()
    shown = ("status", "stage", "error", "error_type", "error_code", "hint", "failed_party")
    expected = ["FAILURE", "FAILURE", "No column x.", "DataError", "MissingColumn", "Look.", "bob"]
    assert [row[name] for name in shown] == expected


@pytest.mark.parametrize(
    ("said", "shown"),
    [(0.25, 0.25), (1, 1.0), (-1, 0.0), (10**400, 1.0), (None, 0.0), ("half", 0.0), ([], 0.0)],
)
def test_progress_is_a_share_whatever_was_said(said: object, shown: float) -> None:
    assert entry(data={"progress": said}).execution_row()["progress"] == shown


@pytest.mark.parametrize("result", [None, "text", [1], 5])
def test_a_result_that_is_no_object_stays_in_the_event_only(result: object) -> None:
    read = entry(status="SUCCESS", data={"result": result})
    assert read.execution_row()["result"] is None and read.event_row()["data"] == {"result": result}
