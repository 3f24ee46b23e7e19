"""`sfworker logs` finds what the jobs of an execution wrote, and what its node logged about it."""

from __future__ import annotations

import json
import logging
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Iterator

import pytest
import structlog

from secretflow_task.cli import app
from secretflow_task.cli.exits import Exit
from secretflow_task.contract.job_spec import JobSpec
from secretflow_task.contract.messages import Kind, Status, StatusEvent
from secretflow_task.contract.requests import TaskRequest
from secretflow_task.node.link.peer.certificates import make_certificate
from secretflow_task.node.store.event_store import EventStore
from secretflow_task.testing import JobSide
from secretflow_task.utils import log
from tests.unit.node.test_node import PSI, Bench, fail, never, succeed

IDS = {"task_request_id": "r-1", "task_type": "psi"}


@pytest.fixture(autouse=True)
def _folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SFWORKER_STATE_DIR", str(tmp_path / "state"))


@pytest.fixture(name="node_log", params=["json", "text"])
def _node_log(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """The file in which nodes of the test log, in both forms."""
    path, root = tmp_path / "node.log", logging.getLogger()
    monkeypatch.setenv("SFWORKER_LOG_FILE", str(path))
    before, level, records = list(root.handlers), root.level, structlog.get_config()
    with closing(log.rotating_file(path, 10_000_000, 1)) as handler:
        log.configure("INFO", request.param == "json", handler)
        yield path
    structlog.configure(**records)
    logging.captureWarnings(False)
    root.handlers[:] = before
    root.setLevel(level)


@pytest.fixture(name="bench")
def _bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def talk(spec: JobSpec, job: JobSide) -> None:
    """Write something that is no log record, as SecretFlow does, then succeed."""
    spec.log_path.write_text(f"hello from {spec.party}\nand its end")
    job.send(Kind.STAGE, {"stage": "prepare", "seconds": 0.125})
    succeed(spec, job)


def sfworker(*arguments: str) -> int:
    """Run a command in this process; returns its exit code."""
    with pytest.raises(SystemExit) as caught:
        app(arguments)
    return int(caught.value.code or 0)


def records(path: Path) -> list[dict[str, Any]]:
    """The records of a JSON log."""
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("node_log", ["json"], indirect=True)
def test_the_start_the_stages_and_the_end_of_an_execution_are_records_with_its_ids(
    bench: Bench, node_log: Path
) -> None:
    with bench.node(talk) as node:
        node.execute("r-1", {**PSI, "execution_id": "e-1"})
    own = [record for record in records(node_log) if "execution_id" in record]
    assert all({"execution_id": "e-1", **IDS}.items() <= record.items() for record in own)
    first, *stages, last = own
    assert (first["action"], first["parties"]) == ("execution_started", ["alice", "bob"])
    assert sorted((stage["party"], stage["stage"], stage["seconds"]) for stage in stages) == [
        ("alice", "prepare", 0.125),
        ("bob", "prepare", 0.125),
    ]
    assert {stage["action"] for stage in stages} == {"stage_ended"}
    assert (last["action"], last["status"], last["code"]) == ("execution_ended", "SUCCESS", None)
    assert last["seconds"] > 0


@pytest.mark.parametrize("node_log", ["json"], indirect=True)
def test_a_failure_is_one_record_with_its_code_and_where_it_began(
    bench: Bench, node_log: Path
) -> None:
    with bench.node(fail) as node:
        node.execute("r-1", PSI)
    with bench.node(never) as node:
        node.execute("r-2", {"task_config": {"task_type": "pse"}})
    ended, refused = [record for record in records(node_log) if record.get("code")]
    assert (ended["action"], ended["status"]) == ("execution_ended", "FAILURE")
    assert (ended["code"], ended["failed_party"]) == ("AlgorithmError", "bob")
    assert (refused["action"], refused["code"]) == ("request_refused", "UnknownTaskType")
    assert refused["execution_id"] == "r-2" and "pse" in refused["problem"]


@pytest.mark.parametrize("node_log", ["json"], indirect=True)
def test_an_output_that_cannot_be_moved_is_told_without_its_path(
    bench: Bench, node_log: Path
) -> None:
    def overtaken(spec: JobSpec, job: JobSide) -> None:
        (spec.rules.data_root / spec.party / "psi").touch()
        succeed(spec, job)

    with bench.node(overtaken) as node:
        failure = node.execute("r-1", PSI).failure
    assert failure is not None and failure.code == "OutputNotWritable"
    record, *_ = [record for record in records(node_log) if record["action"] == "commit_failed"]
    assert (
        record["party"] in ("alice", "bob") and record["problem"] == "FileExistsError: File exists"
    )
    assert "data/" not in node_log.read_text()


def test_the_logs_of_all_jobs_are_told_apart_and_that_of_one_is_plain(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    with bench.node(talk) as node:
        node.execute("e.1", PSI)
        capsys.readouterr()
        assert sfworker("logs", "e.1") == Exit.OK
    assert capsys.readouterr().out.splitlines() == [
        "alice | hello from alice",
        "bob | hello from bob",
        "alice | and its end",
        "bob | and its end",
    ]
    assert sfworker("logs", "e.1", "--party", "bob") == Exit.OK
    assert capsys.readouterr() == ("hello from bob\nand its end\n", "")


def test_a_misspelt_id_or_party_is_told_with_what_was_meant(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    with bench.node(talk) as node:
        node.execute("march-2026", PSI)
    capsys.readouterr()
    assert sfworker("logs", "marhc-2026") == Exit.BAD_REQUEST
    expected = (
        "UnknownExecution: This node knows no execution 'marhc-2026', did you mean 'march-2026'?\n"
        "  SFWORKER_STATE_DIR names the state folder of the node that is asked.\n"
    )
    assert capsys.readouterr() == ("", expected)
    assert sfworker("logs", "march-2026", "--party", "bbo") == Exit.BAD_REQUEST
    expected = "UnknownExecution: The execution has no party bbo.\n  Its parties are alice, bob.\n"
    assert capsys.readouterr() == ("", expected)
    assert sfworker("logs", "something else") == Exit.BAD_REQUEST
    assert "SFWORKER_STATE_DIR" in capsys.readouterr().err
    assert sfworker("logs", "march-2026", "--node", "--party", "bob") == Exit.USAGE


def test_whom_to_ask_for_the_log_of_a_party_elsewhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with EventStore(tmp_path / "state") as store:
        store.claim(TaskRequest("e-1", "r-1", PSI), "alice")
        (tmp_path / "state" / "logs").mkdir()
        (tmp_path / "state" / "logs" / "e-1.alice.log").write_text("hello\n")
        assert sfworker("logs", "e-1") == Exit.OK
        ask = "Ask who runs its node for `sfworker logs e-1 --party bob`.\n"
        assert capsys.readouterr() == ("hello\n", f"bob is elsewhere. {ask}")
        identity, fingerprint = make_certificate("bob", tmp_path / "bob")
        known = f"certificate: {identity.certificate}, fingerprints: [{fingerprint}]"
        (tmp_path / "parties.yaml").write_text(f"bob: {{host: bob.example, port: 1, {known}}}")
        monkeypatch.setenv("SFWORKER_PEERS_FILE", str(tmp_path / "parties.yaml"))
        assert sfworker("logs", "e-1", "--party", "bob") == Exit.BAD_REQUEST
        assert "  Ask who runs its node (bob.example) for" in capsys.readouterr().err


def test_a_job_that_was_not_started_has_no_log(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    with bench.node(never) as node:
        node.execute("e-1", {"task_config": {"task_type": "pse"}})
    capsys.readouterr()
    assert sfworker("logs", "e-1") == Exit.OK
    why = "has no log: its job was not started, or long ago.\n"
    assert capsys.readouterr() == ("", f"alice {why}bob {why}")


@pytest.mark.parametrize("parties", [("alice",), ("alice", "bob")])
def test_following_ends_with_the_execution(
    parties: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job_log = tmp_path / "state" / "logs" / "e-1.alice.log"

    def work(store: EventStore) -> None:
        job_log.parent.mkdir()
        with job_log.open("w") as file:
            for number in range(20):
                file.write(f"line {number}\n")
                file.flush()
            file.write("the end")
        for party in parties:
            store.append(StatusEvent("e-1", "r-1", party, Status.SUCCESS, {}, "node", "task"))

    with EventStore(tmp_path / "state") as store, ThreadPoolExecutor(1) as threads:
        store.claim(TaskRequest("e-1", "r-1", {}), *parties)
        worker = threads.submit(work, store)
        assert sfworker("logs", "e-1", "--party", "alice", "--follow") == Exit.OK
        worker.result()
    assert capsys.readouterr().out.splitlines() == [
        *(f"line {number}" for number in range(20)),
        "the end",
    ]


def test_the_node_is_quoted_about_one_execution_with_its_tracebacks(
    bench: Bench,
    node_log: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def break_the_pipe(spec: JobSpec, job: JobSide) -> None:
        raise AssertionError

    with bench.node(break_the_pipe) as node:
        node.execute("e-10", PSI)
        node_log.rename(f"{node_log}.1")
        with monkeypatch.context() as broken:
            broken.setattr(bench.template, "spawn", lambda spec: 1 / 0)
            node.execute("e-1", PSI)
    capsys.readouterr()
    assert sfworker("logs", "e-1", "--node") == Exit.OK
    printed = capsys.readouterr().out
    assert printed.count("execution_started") == printed.count("execution_ended") == 1
    assert printed.count("spawn_failed") == printed.count("ZeroDivisionError") == 2
    assert "division by zero" not in printed
    assert "e-10" not in printed
    assert sfworker("logs", "e-10", "--node", "--follow") == Exit.OK
    assert "JobProcessDied" in capsys.readouterr().out


def test_following_the_node_prints_each_record_once_when_its_log_is_renamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log_file, numbers = tmp_path / "node.log", iter(range(4))
    monkeypatch.setenv("SFWORKER_LOG_FILE", str(log_file))

    def record(text: str) -> str:
        return f"2026-01-01T00:00:00Z [info     ] {text} execution_id=e-1\n"

    def meanwhile(_seconds: float) -> None:
        number = next(numbers)
        if number == 1:
            Path(f"{log_file}.1").rename(f"{log_file}.2")
            log_file.rename(f"{log_file}.1")
            log_file.write_text(record("new"))
        if number == 2:
            store.append(StatusEvent("e-1", "r-1", "alice", Status.SUCCESS, {}, "node", "task"))

    monkeypatch.setattr("secretflow_task.cli.logs.time", SimpleNamespace(sleep=meanwhile))
    Path(f"{log_file}.1").write_text(record("oldest"))
    log_file.write_text(record("old"))
    with EventStore(tmp_path / "state") as store:
        store.claim(TaskRequest("e-1", "r-1", {}), "alice")
        (tmp_path / "state" / "logs").mkdir()
        (tmp_path / "state" / "logs" / "e-1.alice.log").touch()
        assert sfworker("logs", "e-1", "--node", "--follow") == Exit.OK
    assert capsys.readouterr().out == record("oldest") + record("old") + record("new")


def test_a_log_of_the_node_that_is_in_no_file_is_told(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    with bench.node(talk) as node:
        node.execute("e-1", PSI)
    assert sfworker("logs", "e-1", "--node") == Exit.BAD_REQUEST
    assert "SFWORKER_LOG_FILE" in capsys.readouterr().err


def test_what_a_run_here_has_left_is_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logs = tmp_path / "state" / "runs" / "run-psi-1" / "logs"
    logs.mkdir(parents=True)
    (logs / "run-psi-1.alice.log").write_text("why it failed\n")
    assert sfworker("logs", "run-psi-1") == Exit.OK
    assert capsys.readouterr().out == "why it failed\n"
    assert sfworker("logs", "run-psi-2") == Exit.BAD_REQUEST
    assert "did you mean 'run-psi-1'?" in capsys.readouterr().err


def test_what_may_not_be_read_is_told(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with bench.node(talk) as node:
        node.execute("e-1", PSI)

    def refused(path: Path, mode: str) -> None:
        raise PermissionError(13, "Permission denied", path.name)

    monkeypatch.setattr(Path, "open", refused)
    assert sfworker("logs", "e-1") == Exit.UNAVAILABLE
    assert capsys.readouterr().err.startswith(
        "PermissionError: [Errno 13] Permission denied: 'e-1.alice.log'"
    )


def test_a_log_file_that_cannot_be_opened_is_a_wrong_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("SFWORKER_LOG_FILE", str(tmp_path / "file" / "node.log"))
    assert sfworker("listen") == Exit.BAD_REQUEST
    assert capsys.readouterr().err.startswith("BadSetting: SFWORKER_LOG_FILE: ")
