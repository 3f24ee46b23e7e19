"""Log records have ids and an action, and neither secrets nor local variables."""

from __future__ import annotations

import json
from typing import Any, Iterator

import pytest
import structlog

from secretflow_task.utils.log import configure, execution_context, get_logger

Records = list[dict[str, Any]]


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    yield
    structlog.reset_defaults()


def written(capsys: pytest.CaptureFixture[str]) -> Records:
    """The JSON records that were written since the last call."""
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_a_record_is_one_line_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    configure("INFO", as_json=True)
    get_logger().info("The job started.\nReally.", action="job_started", count=3, name="张伟")
    (record,) = written(capsys)
    assert record.pop("timestamp").endswith("Z")
    assert record == {
        "message": "The job started.\nReally.",
        "action": "job_started",
        "count": 3,
        "name": "张伟",
        "level": "info",
    }


def test_ids_are_bound_inside_the_block_only(capsys: pytest.CaptureFixture[str]) -> None:
    configure("INFO", as_json=True)
    log = get_logger()
    with execution_context(execution_id="e-1"):
        with execution_context(party="alice"):
            log.info("in")
        log.info("between")
    log.info("out")
    ids = [(record.get("execution_id"), record.get("party")) for record in written(capsys)]
    assert ids == [("e-1", "alice"), ("e-1", None), (None, None)]


def test_ids_are_unbound_after_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    configure("INFO", as_json=True)
    with pytest.raises(KeyError):
        with execution_context(execution_id="e-1"):
            raise KeyError
    get_logger().info("out")
    assert "execution_id" not in written(capsys)[0]


@pytest.mark.parametrize(
    ("level", "kept"),
    [("DEBUG", 4), ("INFO", 3), ("WARNING", 2), ("ERROR", 1)],
)
def test_records_below_the_level_are_left_out(
    level: str, kept: int, capsys: pytest.CaptureFixture[str]
) -> None:
    configure(level, as_json=True)
    log = get_logger()
    for write in (log.error, log.warning, log.info, log.debug):
        write("x")
    assert [record["level"] for record in written(capsys)] == ["error", "warning", "info", "debug"][:kept]


@pytest.mark.parametrize("as_json", [True, False])
@pytest.mark.parametrize(
    "value",
    [
        "redis://user:hunter2@host:6379/0",
        "rediss://:hunter2@host/0",
        "redis://:p@hunter2@host",
        ["redis://:hunter2@host"],
        {"url": {"redis": ("a", "redis://:hunter2@host")}},
        ConnectionError("cannot reach redis://:hunter2@host/0."),
    ],
    ids=["url", "no user", "at sign", "list", "nested", "error"],
)
def test_credentials_are_redacted_wherever_they_stand(
    as_json: bool, value: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    configure("INFO", as_json=as_json)
    get_logger().info("x", url=value)
    text = capsys.readouterr().err
    assert "hunter2" not in text and "://***@host" in text


@pytest.mark.parametrize("as_json", [True, False])
def test_credentials_are_redacted_in_the_message_too(
    as_json: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    configure("INFO", as_json=as_json)
    get_logger().info("Connected to redis://:hunter2@host and http://plain/x@y.")
    text = capsys.readouterr().err
    assert "redis://***@host and http://plain/x@y." in text


@pytest.mark.parametrize("as_json", [True, False])
def test_a_traceback_shows_neither_local_variables_nor_credentials(
    as_json: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    configure("INFO", as_json=as_json)
    rows_of_alice = ["local " + "secret"]
    try:
        raise ConnectionError(f"redis://:hunter{len(rows_of_alice) + 1}@host")
    except ConnectionError:
        get_logger().exception("It failed.", action="failed")
    text = capsys.readouterr().err
    assert "Traceback (most recent call last)" in text and "ConnectionError: redis://***@host" in text
    assert "hunter2" not in text and "local secret" not in text


def test_people_get_one_line_of_text_without_colours(capsys: pytest.CaptureFixture[str]) -> None:
    configure("INFO")
    with execution_context(party="alice"):
        get_logger().info("The job started.", action="job_started")
    text = capsys.readouterr().err
    assert text.count("\n") == 1 and "\x1b" not in text
    assert "The job started." in text and "action=job_started" in text and "party=alice" in text


def test_nothing_is_written_to_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    for as_json in (True, False):
        configure("INFO", as_json=as_json)
        get_logger().warning("x")
    assert capsys.readouterr().out == ""
