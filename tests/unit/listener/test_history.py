"""`sfworker jobs` and `sfworker show` say what the database holds."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from secretflow_task.cli import app
from secretflow_task.cli.exits import Exit
from secretflow_task.config.settings import Settings
from secretflow_task.contract.errors import DatabaseUnavailable
from secretflow_task.contract.messages import Status
from secretflow_task.listener.database import Database
from secretflow_task.listener.writer import Writer
from tests.contract.status_events import entries, execution

EVENTS = [
    *execution("march", count=4),
    *execution("april", count=4),
    *execution("april", "bob", count=3, ends=Status.FAILURE),
    *execution("may", count=4)[:-1],
]


@pytest.fixture(autouse=True)
def _terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SFWORKER_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("COLUMNS", "160")


@pytest.fixture(name="filled")
def _filled() -> None:
    with Database.of(Settings()) as database:
        database.upgrade()
        Writer(database).write(entries(EVENTS))


def sfworker(*arguments: str) -> int:
    """Run a command in this process; returns its exit code."""
    with pytest.raises(SystemExit) as caught:
        app(arguments)
    return int(caught.value.code or 0)


def cells(printed: str) -> list[list[str]]:
    """The rows of a table, without its frame."""
    return [
        [cell.strip() for cell in line.strip("│").split("│")]
        for line in printed.splitlines()
        if line.startswith("│")
    ]


@pytest.mark.usefixtures("filled")
def test_jobs_are_a_table_with_the_latest_first(capsys: pytest.CaptureFixture[str]) -> None:
    assert sfworker("jobs") == Exit.OK
    rows = [[*row[:5], row[6]] for row in cells(capsys.readouterr().out)]
    assert rows == [
        ["may", "alice", "psi", "RUNNING", "task execution 50%", "0.0"],
        ["april", "bob", "psi", "FAILURE", "MissingFile", "0.0"],
        ["april", "alice", "psi", "SUCCESS", "", "0.0"],
        ["march", "alice", "psi", "SUCCESS", "", "0.0"],
    ]


@pytest.mark.usefixtures("filled")
@pytest.mark.parametrize(
    ("options", "ids"),
    [
        (["--status", "SUCCESS"], ["april", "march"]),
        (["--party", "bob"], ["april"]),
        (["--task", "psi", "--limit", "1"], ["may"]),
        (["--task", "ss_lr"], []),
    ],
)
def test_jobs_can_be_chosen(
    options: list[str], ids: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert sfworker("jobs", *options, "--json") == Exit.OK
    assert [row["execution_id"] for row in json.loads(capsys.readouterr().out)] == ids


@pytest.mark.usefixtures("filled")
def test_no_job_that_fits_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert sfworker("jobs", "--party", "carol") == Exit.OK
    assert capsys.readouterr().out == "No execution fits.\n"


@pytest.mark.usefixtures("filled")
def test_a_status_that_does_not_exist_is_wrong_usage() -> None:
    assert sfworker("jobs", "--status", "PENDING") == Exit.USAGE


@pytest.mark.usefixtures("filled")
def test_an_execution_is_shown_with_timeline_and_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert sfworker("show", "april") == Exit.OK
    printed = capsys.readouterr().out
    alice, _, bob = printed.partition("bob: FAILURE, psi, on node-1")
    assert alice.startswith("alice: SUCCESS, psi, on node-1")
    assert [[row[0], *row[2:]] for row in cells(alice)[:4]] == [
        ["1", "task execution", "0%"],
        ["2", "task execution", "25%"],
        ["3", "task execution", "50%"],
        ["4", "SUCCESS", "100%"],
    ]
    assert cells(alice)[4] == ["rows", "4"]
    assert [row[2] for row in cells(bob)] == ["task execution", "task execution", "FAILURE"]
    assert "MissingFile: " in bob and "(began at bob)" in bob


@pytest.mark.usefixtures("filled")
def test_everything_that_is_known_is_shown_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert sfworker("show", "april", "--json") == Exit.OK
    shown = json.loads(capsys.readouterr().out)
    assert (shown["execution_id"], list(shown["parties"])) == ("april", ["alice", "bob"])
    sent = [event for event in EVENTS if (event.execution_id, event.party) == ("april", "alice")]
    told = shown["parties"]["alice"]
    assert [(event["event_id"], event["timestamp"], event["data"]) for event in told["events"]] == [
        (event.event_id, event.timestamp, event.data) for event in sent
    ]
    assert (told["status"], told["result"], told["last_seq"]) == ("SUCCESS", {"rows": 4}, 4)


@pytest.mark.usefixtures("filled")
def test_an_unknown_execution_is_told_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert sfworker("show", "aprl") == Exit.BAD_REQUEST
    said = "UnknownExecution: There is no execution 'aprl', did you mean 'april'?\n"
    assert capsys.readouterr().err == f"{said}  `sfworker jobs` lists the latest executions.\n"


@pytest.mark.parametrize("command", [["jobs"], ["show", "april"]])
def test_without_a_database_it_is_said_how_to_get_one(
    command: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert sfworker(*command) == Exit.UNAVAILABLE
    hint = DatabaseUnavailable.default_hint
    assert (
        capsys.readouterr().err == f"DatabaseUnavailable: {DatabaseUnavailable.__doc__}\n  {hint}\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_without_the_driver_of_postgresql_the_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    monkeypatch.setenv("SFWORKER_DATABASE_URL", "postgresql://host/database")
    assert sfworker("jobs") == Exit.UNAVAILABLE
    assert "secretflow-worker[postgresql]" in capsys.readouterr().err


def test_a_file_that_cannot_be_made_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("SFWORKER_DATABASE_URL", f"sqlite:///{tmp_path}/file/status.sqlite")
    with pytest.raises(DatabaseUnavailable, match="cannot be written"):
        Database.of(Settings())
