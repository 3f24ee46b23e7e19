"""The command line, as a user types it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from secretflow_task.cli import app, remote
from secretflow_task.contract.task_dispatcher import TaskDispatcher
from tests.e2e.conftest import psi_params, write_tables
from tests.e2e.nodes import PARTIES, RunningNode

SFWORKER = str(Path(sys.executable).with_name("sfworker"))


def sfworker(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command and return what it printed."""
    return subprocess.run(
        [SFWORKER, *arguments],
        env=os.environ | {"COLUMNS": "200"} | environment,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )


def in_process(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """As `sfworker`, in this process: for the many cases of a command that others start as such."""
    done = CliRunner(env={"COLUMNS": "200"} | environment).invoke(app, arguments)
    if not isinstance(done.exception, (SystemExit, type(None))):
        raise done.exception
    return subprocess.CompletedProcess(arguments, done.exit_code, done.stdout, done.stderr)


@pytest.fixture(name="request_file")
def _request_file(tmp_path: Path) -> Path:
    path = tmp_path / "request.yaml"
    path.write_text(yaml.safe_dump(psi_params() | {"sf_init_config": {"parties": list(PARTIES)}}))
    return path


def test_tasks_lists_every_type_with_its_summary() -> None:
    printed = sfworker("tasks").stdout
    for name in TaskDispatcher.list_supported_tasks():
        assert name in printed
        assert TaskDispatcher.get(name).summary.split(":")[0][:40] in printed


@pytest.mark.parametrize("task_type", TaskDispatcher.list_supported_tasks())
def test_every_type_has_an_example_that_passes_its_check(task_type: str, tmp_path: Path) -> None:
    path = tmp_path / "example.yaml"
    path.write_text(in_process("tasks", task_type, "--example").stdout)
    assert yaml.safe_load(path.read_text())["task_config"]["task_type"] == task_type
    checked = in_process("check", str(path))
    assert (checked.returncode, checked.stderr) == (0, "")
    assert (
        json.loads(in_process("tasks", task_type, "--schema").stdout)["additionalProperties"]
        is False
    )


def test_check_says_what_is_read_and_written_and_who_learns_what(request_file: Path) -> None:
    printed = " ".join(sfworker("check", str(request_file)).stdout.split())
    for words in (
        "psi for alice and bob",
        "reads input_paths",
        "in.csv",
        "which of its own rows",
        "SEMI2K on FM128",
    ):
        assert words in printed


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ("task_config: {task_type: pis}", 3, "did you mean 'psi'?"),
        ("task_config: {task_type: psi, reciever: alice}", 3, "did you mean 'receiver'?"),
        ("task_config: [unclosed", 3, "is not YAML"),
        ("just a sentence", 3, "is not a request: it must be an object"),
        (
            "task_conifg: {task_type: psi}",
            3,
            "unknown key 'task_conifg', did you mean 'task_config'?",
        ),
        ("parties: [alice, bob\ntask_config: {}", 3, "is not YAML: line 2, column 12: "),
    ],
)
def test_a_wrong_request_is_explained(text: str, code: int, words: str, tmp_path: Path) -> None:
    path = tmp_path / "request.yaml"
    path.write_text(text)
    for command in ("check", "run", "submit"):
        done = in_process(command, str(path), SFWORKER_STATE_DIR=str(tmp_path / "state"))
        assert (done.returncode, "Traceback" in done.stderr) == (code, False)
        assert words in done.stderr


def test_what_is_not_there_is_explained(request_file: Path, tmp_path: Path) -> None:
    assert sfworker("check", str(tmp_path / "none.yaml")).returncode == 1
    away = sfworker("submit", str(request_file), SFWORKER_REDIS_URL="redis://127.0.0.1:1/0")
    assert (away.returncode, "Redis cannot be reached" in away.stderr) == (4, True)
    bad = sfworker("doctor", SFWORKER_PORT_RANGE="99-1")
    assert (bad.returncode, "SFWORKER_PORT_RANGE" in bad.stderr) == (3, True)
    assert sfworker("tsaks").returncode == 2


def test_a_request_that_nobody_takes_is_told_of(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SFWORKER_REDIS_URL", redis_url)
    monkeypatch.setattr(remote, "_PATIENCE_SECONDS", 0.5)
    with pytest.raises(TimeoutError):
        remote.follow_execution("nobody-has-it", "0", 4.0, as_json=False)
    assert capsys.readouterr().err.count("sfworker doctor") == 1


def test_doctor_finds_what_is_wrong_and_what_is_well(
    redis_url: str, node: RunningNode, tmp_path: Path
) -> None:
    settings = {"SFWORKER_STATE_DIR": str(tmp_path), "SFWORKER_DATA_ROOT": str(tmp_path)}
    well = sfworker("doctor", SFWORKER_REDIS_URL=redis_url, **settings)
    assert (well.returncode, "wrong" in well.stdout) == (0, False), well.stdout
    assert (
        f"{node.environment['SFWORKER_NAME']}: 0 running, 0 events waiting, 0 dropped"
        in well.stdout
    )
    settings["SFWORKER_METRICS_LISTEN"] = "127.0.0.1:9464"
    away = sfworker("doctor", SFWORKER_REDIS_URL="redis://:secret@127.0.0.1:1/0", **settings)
    assert "http://127.0.0.1:9464/metrics" in away.stdout
    assert (away.returncode, "Start Redis" in away.stdout, "secret" in away.stdout) == (
        4,
        True,
        False,
    )


@pytest.mark.engine
def test_run_needs_no_broker_and_starts_anew_every_time(request_file: Path, tmp_path: Path) -> None:
    write_tables(tmp_path / "data")
    settings = {
        "SFWORKER_DATA_ROOT": str(tmp_path / "data"),
        "SFWORKER_STATE_DIR": str(tmp_path / "state"),
    }
    done = sfworker(
        "run", str(request_file), "--json", SFWORKER_REDIS_URL="redis://127.0.0.1:1/0", **settings
    )
    events = json.loads(done.stdout)
    assert done.returncode == 0
    assert {
        party: event["data"]["result"]["intersection_count"] for party, event in events.items()
    } == {
        "alice": 300,
        "bob": 300,
    }
    again = sfworker("run", str(request_file), **settings)
    assert (again.returncode, "intersection_count" in again.stdout) == (0, True)
    (tmp_path / "data" / "bob" / "in.csv").write_text("uid\n")
    failed = sfworker("run", str(request_file), **settings)
    assert (failed.returncode, "EmptyInput: bob" in failed.stdout) == (1, True)
    logs = re.search(r"Logs of the jobs: (\S+)", failed.stdout)
    assert logs and "EmptyInput" in "".join(path.read_text() for path in Path(logs[1]).iterdir())


@pytest.mark.engine
def test_submit_and_watch_follow_an_execution(node: RunningNode, request_file: Path) -> None:
    done = sfworker("submit", str(request_file), **node.environment)
    assert (done.returncode, "intersection_count" in done.stdout) == (0, True), done.stderr
    execution_id = done.stdout.split("Sent as ")[1].split()[0].rstrip(".")
    watched = sfworker("watch", execution_id, **node.environment)
    assert (watched.returncode, "intersection_count" in watched.stdout) == (0, True)
    unknown = sfworker("watch", "never-sent", "--timeout", "2", **node.environment)
    assert (unknown.returncode, "No end of never-sent" in unknown.stderr) == (5, True)


@pytest.mark.engine
def test_smoke_says_whether_a_request_goes_all_the_way(node: RunningNode, tmp_path: Path) -> None:
    before = sorted((node.root / "data").rglob("*"))
    well = sfworker("smoke", **node.environment)
    assert well.returncode == 0, well.stderr
    assert "Well: alice and bob have 75 of 100 rows in common" in well.stdout
    elsewhere = node.environment | {"SFWORKER_DATA_ROOT": str(tmp_path)}
    wrong = sfworker("smoke", **elsewhere)
    assert (wrong.returncode, "MissingFile" in wrong.stdout) == (1, True)
    late = sfworker(
        "smoke", "--timeout", "1", **node.environment | {"SFWORKER_QUEUES": "nobody_listens"}
    )
    assert (late.returncode, "No node has ended" in late.stderr) == (5, True)
    assert sfworker("smoke", "--id", "../up", **node.environment).returncode == 2
    assert sorted((node.root / "data").rglob("*")) == before and list(tmp_path.iterdir()) == []


@pytest.mark.engine
@pytest.mark.parametrize("nodes", ["one", pytest.param("two", marks=pytest.mark.matrix)])
@pytest.mark.timeout(400)
def test_the_demo_trains_as_well_as_plaintext(nodes: str, tmp_path: Path) -> None:
    done = sfworker("demo", "--folder", str(tmp_path), *(["--one-node"] if nodes == "one" else []))
    assert done.returncode == 0, done.stderr
    private, plain = (float(text) for text in re.findall(r"AUC of .*?([01]\.\d{4})", done.stdout))
    assert abs(private - plain) <= 0.01 and private > 0.95
    assert re.search(r"patients in common\s+│\s+440", done.stdout)
    for party in PARTIES:
        model = tmp_path / "data" / party / "out" / "model"
        assert (model / (party if nodes == "one" else "") / "manifest.json").is_file()
        assert len(list((tmp_path / "state").rglob(f"*.{party}.log"))) == 1
    assert (
        (tmp_path / "data" / "alice" / "out" / "prediction.csv")
        .read_text()
        .startswith("patient_id,prediction\n")
    )
    assert not (tmp_path / "data" / "bob" / "out" / "prediction.csv").exists()


def test_a_misspelt_setting_is_named_and_those_of_a_container_platform_are_not(
    request_file: Path,
) -> None:
    done = sfworker(
        "check", str(request_file), SFWORKER_REDIS_ULR="redis://x", SFWORKER_SERVICE_HOST="::1"
    )
    expected = "UnknownSetting: SFWORKER_REDIS_ULR is ignored, did you mean 'SFWORKER_REDIS_URL'?\n"
    assert (done.returncode, done.stderr) == (0, expected)
