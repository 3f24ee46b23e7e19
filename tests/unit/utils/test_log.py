"""Log records have ids and an action, and neither secrets nor local variables."""

from __future__ import annotations

import json
import logging
import warnings
from contextlib import closing
from pathlib import Path
from typing import Any, Iterator

import pytest
import structlog
from celery import Celery
from celery.app.trace import trace_task

from secretflow_task.contract.errors import MissingColumn
from secretflow_task.utils.log import (
    configure,
    execution_context,
    get_logger,
    problem_of,
    rotating_file,
)

Records = list[dict[str, Any]]


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    records = structlog.get_config()
    yield
    structlog.configure(**records)
    logging.captureWarnings(False)
    root.handlers[:] = before
    root.setLevel(level)


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
    assert [record["level"] for record in written(capsys)] == ["error", "warning", "info", "debug"][
        :kept
    ]


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
def test_a_traceback_of_a_job_shows_neither_local_variables_nor_credentials(
    as_json: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    configure("INFO", as_json=as_json, libraries=False)
    rows_of_alice = ["local " + "secret"]
    try:
        raise ConnectionError(f"redis://:hunter{len(rows_of_alice) + 1}@host")
    except ConnectionError:
        get_logger().exception("It failed.", action="failed")
    text = capsys.readouterr().err
    assert (
        "Traceback (most recent call last)" in text and "ConnectionError: redis://***@host" in text
    )
    assert "hunter2" not in text and "local secret" not in text


def fail_with_data() -> None:
    """Raise our error because of a foreign one that quotes data, and another because of it."""
    datum = "row " + "4711"
    try:
        try:
            raise KeyError(datum)
        except KeyError:
            raise MissingColumn("No party has a column 'x'.") from ValueError(datum)
    except MissingColumn:
        raise RuntimeError(datum)


@pytest.mark.parametrize("as_json", [True, False])
@pytest.mark.parametrize("name", ["secretflow_task", "kombu"])
def test_the_log_of_a_node_shows_where_foreign_errors_came_from_but_not_what_they_say(
    name: str, as_json: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    configure("INFO", as_json=as_json)
    try:
        fail_with_data()
    except RuntimeError:
        logger = get_logger() if name == "secretflow_task" else logging.getLogger(name)
        logger.exception("It failed.")
    text = capsys.readouterr().err
    told = [
        "ValueError",
        "in fail_with_data",
        "MissingColumn: No party has a column 'x'.",
        "RuntimeError",
    ]
    places = [text.find(word) for word in told]
    assert -1 not in places and places == sorted(places) and text.count("Traceback (most") == 3
    assert "4711" not in text


def test_celery_names_a_task_that_failed_but_not_what_its_error_says(
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure("INFO", as_json=True)
    app, datum = Celery(set_as_current=False), "row " + "4711"

    @app.task(name="broken")  # type: ignore[untyped-decorator]
    def broken() -> None:
        raise ValueError(datum)

    trace_task(broken, "t-1", (), {}, request={"id": "t-1"}, app=app)
    text = capsys.readouterr().err
    assert "4711" not in text
    (record,) = [json.loads(line) for line in text.splitlines()]
    assert (
        record["message"] == "Task broken[t-1] raised unexpected"
        and "ValueError" in record["exception"]
    )


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


def test_a_library_logs_in_the_same_form_from_warnings_on(
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure("DEBUG", as_json=True)
    with execution_context(execution_id="e-1"):
        logging.getLogger("kombu.connection").warning("Cannot reach %s.", "redis://:hunter2@host")
    logging.getLogger("celery.worker").info("what nobody asked for")
    (record,) = written(capsys)
    assert record.pop("timestamp").endswith("Z")
    assert record == {
        "message": "Cannot reach redis://***@host.",
        "action": "library",
        "logger": "kombu.connection",
        "level": "warning",
        "execution_id": "e-1",
    }


def test_a_warning_of_python_is_a_record_too(capsys: pytest.CaptureFixture[str]) -> None:
    configure("INFO", as_json=True)
    warnings.showwarning("It will go.", DeprecationWarning, "x.py", 3)
    (record,) = written(capsys)
    assert record["message"] == "x.py:3: DeprecationWarning: It will go."
    assert (record["action"], record["logger"]) == ("library", "py.warnings")


def test_a_job_leaves_the_loggers_of_its_libraries_alone(
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = list(logging.getLogger().handlers)
    configure("INFO", libraries=False)
    get_logger().info("Ours.", action="ours")
    assert logging.getLogger().handlers == before
    assert capsys.readouterr().err.count("Ours.") == 1


def test_what_a_submitter_wrote_cannot_begin_a_line_or_steer_a_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure("INFO")
    get_logger().info("x", task_request_id="1\n2026 [info] forged", task_type="a\x1b[2Jb\x9bc张")
    text = capsys.readouterr().err
    assert (
        text.count("\n") == 1
        and r"'1\n2026 [info] forged'" in text
        and "a\ufffd[2Jb\ufffdc张" in text
    )


def test_a_full_file_is_renamed_and_so_many_are_kept(tmp_path: Path) -> None:
    with closing(rotating_file(tmp_path / "logs" / "node.log", 1000, 2)) as handler:
        configure("INFO", as_json=True, handler=handler)
        for number in range(100):
            get_logger().info("One of many.", action="counted", number=number)
    files = ["node.log.2", "node.log.1", "node.log"]
    assert sorted(path.name for path in (tmp_path / "logs").iterdir()) == sorted(files)
    kept = [
        json.loads(line)
        for name in files
        for line in (tmp_path / "logs" / name).read_text().splitlines()
    ]
    assert [record["number"] for record in kept] == list(range(100 - len(kept), 100))
    assert all((tmp_path / "logs" / name).stat().st_size <= 1000 for name in files)


def test_an_error_of_the_system_is_told_without_its_path() -> None:
    error = PermissionError(13, "Permission denied", "/data/alice/out.csv")
    assert problem_of(error) == "PermissionError: Permission denied"
    assert problem_of(OSError("nothing of the system")) == "OSError: nothing of the system"
    assert problem_of(ValueError("x")) == "ValueError: x"
