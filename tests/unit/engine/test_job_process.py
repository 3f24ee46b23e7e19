"""What a job process says to its node, with a task that needs no engine."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from secretflow_task.contract.errors import MissingColumn
from secretflow_task.contract.job_spec import JobSpec
from secretflow_task.contract.messages import Kind, PipeMessage
from secretflow_task.contract.paths import PathRules
from secretflow_task.contract.requests import TaskRequest
from secretflow_task.contract.task_config import Reads, TaskConfig
from secretflow_task.contract.task_dispatcher import Task, TaskDispatcher
from secretflow_task.engine.devices import Devices
from secretflow_task.engine.job_process import Aborted, PipeChannel, run_job
from secretflow_task.engine.run import Run
from secretflow_task.node.job.process import JobProcess
from secretflow_task.testing import JobSide, scripted_job
from tests.bench.waiting import PATIENCE_SECONDS


class ProbeConfig(TaskConfig):
    """The config of a task that does what it is told."""

    input_data: Reads
    what: str = "succeed"


STAGES = ["prepare", "cluster_init", "device_creation", "task_execution"]
# What a job says until its task begins: each stage that ends, and the events between them.
UNTIL_WORK = ["prepared", "stage", "stage", "event", "stage", "event", "event"]


def prepare(run: Run, config: ProbeConfig) -> None:
    """Refuse if told so, else agree."""
    if config.what == "refuse":
        raise MissingColumn("alice: no column 'x'.", party="alice", detail="columns: secret")
    run.agree(rows=3)


def execute(devices: Devices, task_config: ProbeConfig) -> dict[str, Any]:
    """Report, then succeed or fail."""
    devices.run.progress(0.5, "working")
    if task_config.what == "fail":
        raise ValueError("secret row")
    if task_config.what == "raise outside":
        raise KeyboardInterrupt
    print("to the log")
    return {"cwd": os.getcwd(), "tmp": os.environ["TMPDIR"], "session": os.getsid(0) == os.getpid()}


@pytest.fixture
def spec(tmp_path: Path, registry: dict[str, Task], without_secretflow: None) -> JobSpec:
    """Alice's part of a `probe`."""
    TaskDispatcher.register_task("probe", config=ProbeConfig, prepare=prepare)(execute)
    (tmp_path / "job").mkdir()
    return JobSpec(
        request=TaskRequest(
            "e", "r", {"task_config": {"task_type": "probe", "input_data": {"alice": "a.csv"}}}
        ),
        party="alice",
        rules=PathRules("alice", tmp_path),
        folder=tmp_path / "job",
        log_path=tmp_path / "job.log",
        staging=".s",
        fed_addresses={},
        spu_addresses={},
        several=False,
    )


class JobLog:
    """A job process that runs ``spec``, and all that it says; every `prepared` is answered."""

    def __init__(self, spec: JobSpec, answer: Kind = Kind.GO, **config: Any) -> None:
        spec.request.params["task_config"].update(config)
        self.job = scripted_job(lambda side: run_detached(spec, side))
        self.messages: list[PipeMessage] = []
        try:
            while True:
                message = PipeMessage.from_bytes(self.job.connection.recv_bytes())
                self.messages.append(message)
                if message.kind is Kind.PREPARED:
                    self.job.connection.send_bytes(
                        PipeMessage(answer, {"alice": dict(message.body)}).to_bytes()
                    )
        except EOFError:
            pass
        self.job.wait(PATIENCE_SECONDS)
        self.exit_code = self.job.exit_code()
        self.job.kill()

    @property
    def kinds(self) -> list[str]:
        """The kinds of the messages."""
        return [message.kind.value for message in self.messages]


def run_detached(spec: JobSpec, side: JobSide) -> None:
    """As `run_job`, in a process that leads its session already and was forked from pytest."""
    os.setsid = lambda: None  # type: ignore[assignment]
    sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
    run_job(spec, side.connection)


def test_a_job_is_prepared_reports_and_tells_its_result(spec: JobSpec) -> None:
    log = JobLog(spec)
    assert (log.kinds, log.exit_code) == ([*UNTIL_WORK, "event", "stage", "result", "done"], 0)
    bodies = [dict(message.body) for message in log.messages]
    prepared, event, result, done = bodies[0], bodies[len(UNTIL_WORK)], bodies[-2], bodies[-1]
    assert (prepared, done) == ({"rows": 3}, {})
    stages = [body for body in bodies if "seconds" in body]
    assert {stage["stage"]: stage["seconds"] for stage in stages} == result["result"]["timings"]
    assert [body["progress"] for body in bodies if "progress" in body] == [0.1, 0.3, 0.5, 0.75]
    assert list(result["result"]["timings"]) == STAGES
    assert event == {"stage": "working", "progress": 0.75}
    assert result["outputs"] == {}
    folder = str(spec.folder)
    assert {**result["result"], "timings": None} == {
        "cwd": folder,
        "tmp": folder,
        "session": True,
        "timings": None,
    }
    assert (
        "to the log\n" in spec.log_path.read_text()
        and spec.log_path.stat().st_mode & 0o777 == 0o600
    )


@pytest.mark.parametrize("as_json", [True, False])
def test_a_job_logs_its_start_its_stages_and_its_end(as_json: bool, spec: JobSpec) -> None:
    JobLog(replace(spec, log_json=as_json))
    lines = [line for line in spec.log_path.read_text().splitlines() if "action" in line]
    actions = ["job_started", *["job_stage_ended"] * len(STAGES), "job_succeeded"]
    if not as_json:
        assert [re.findall(r"action=(\w+)", line) for line in lines] == [
            [action] for action in actions
        ]
        assert all(
            "execution_id=e party=alice" in line and "task_type=probe" in line for line in lines
        )
        return
    records = [json.loads(line) for line in lines]
    assert [record["action"] for record in records] == actions
    assert [record.get("stage") for record in records] == [None, *STAGES, None]
    assert all(record["seconds"] >= 0 for record in records[1:])
    ids = {"execution_id": "e", "task_request_id": "r", "task_type": "probe", "party": "alice"}
    assert all(ids.items() <= record.items() for record in records)


def test_a_failure_is_one_record_of_the_jobs_log(spec: JobSpec) -> None:
    JobLog(replace(spec, log_json=True, log_level="ERROR"), what="fail")
    (record,) = [json.loads(line) for line in spec.log_path.read_text().splitlines()]
    assert (record["action"], record["code"], record["party"]) == (
        "job_failed",
        "AlgorithmError",
        "alice",
    )
    assert record["detail"] == "ValueError: secret row" and record["seconds"] >= 0
    assert record["exception"].endswith("ValueError: secret row")


def test_a_refusal_comes_before_go_and_keeps_its_detail_in_the_log(spec: JobSpec) -> None:
    log = JobLog(spec, what="refuse")
    assert (log.kinds, log.exit_code) == (["stage", "refused"], 1)
    error = MissingColumn("alice: no column 'x'.", party="alice")
    assert log.messages[-1].body == {"error": error.to_dict(), "from_peer": False}
    assert "columns: secret" in spec.log_path.read_text()


@pytest.mark.parametrize("what", ["fail", "raise outside"])
def test_a_failure_comes_after_go_and_keeps_the_foreign_text_in_the_log(
    what: str, spec: JobSpec
) -> None:
    log = JobLog(spec, what=what)
    assert (log.kinds, log.exit_code) == ([*UNTIL_WORK, "event", "stage", "failed"], 1)
    error = log.messages[-1].body["error"]
    assert (error["code"], error["party"]) == ("AlgorithmError", "alice")
    assert "secret row" not in str(error)
    assert "Traceback" in spec.log_path.read_text()


def test_a_wrong_request_is_refused(spec: JobSpec) -> None:
    log = JobLog(spec, wat="succeed")
    assert (log.kinds, log.messages[0].body["error"]["code"]) == (["refused"], "InvalidTaskConfig")


def test_a_job_that_is_told_to_stop_leaves_without_a_result(spec: JobSpec) -> None:
    log = JobLog(spec, answer=Kind.FAILED)
    assert (log.kinds, log.exit_code) == (["prepared", "stage"], 1)
    assert "action=job_aborted" in spec.log_path.read_text()


def test_the_channel_says_prepared_and_waits_for_go() -> None:
    side = scripted_job(lambda job: job.finish({"facts": job.agree({"rows": 1})}))
    assert PipeMessage.from_bytes(side.connection.recv_bytes()) == PipeMessage(
        Kind.PREPARED, {"rows": 1}
    )
    assert not side.connection.poll(0.05)
    side.connection.send_bytes(PipeMessage(Kind.GO, {"alice": {"rows": 1}}).to_bytes())
    result = PipeMessage.from_bytes(side.connection.recv_bytes())
    assert result.body["result"] == {"facts": {"alice": {"rows": 1}}}
    side.kill()


def test_anything_but_go_is_an_abort() -> None:
    class Answers:
        """A connection whose other end says ``abort``."""

        def send_bytes(self, data: bytes) -> None:
            """Swallow it."""

        def recv_bytes(self) -> bytes:
            """The answer."""
            return PipeMessage(Kind.FAILED).to_bytes()

    channel = PipeChannel(Answers())  # type: ignore[arg-type]
    with pytest.raises(Aborted):
        channel.agree({})
    assert not channel.started


def test_only_running_is_reported_from_a_job() -> None:
    def script(job: JobSide) -> None:
        for status in ("RUNNING", "SUCCESS", "FAILURE"):
            job.publish(status, {"status": status})

    job = scripted_job(script)
    assert PipeMessage.from_bytes(job.connection.recv_bytes()).body == {"status": "RUNNING"}
    with pytest.raises(EOFError):
        job.connection.recv_bytes()
    job.kill()


class TestJobProcess:
    """The node's handle of a job process."""

    def test_a_process_that_runs_has_no_exit_code(self) -> None:
        job = scripted_job(JobSide.hang)
        assert job.exit_code() is None and not job.wait(0.01)
        job.kill()
        assert job.exit_code() == -signal.SIGKILL and job.wait(0)

    @pytest.mark.parametrize(
        ("script", "code"), [(lambda job: job.leave(0), 0), (lambda job: job.leave(7), 7)]
    )
    def test_a_process_that_ended_has_its_exit_code(self, script: Any, code: int) -> None:
        job = scripted_job(script)
        assert job.wait(PATIENCE_SECONDS) and job.exit_code() == code
        job.kill()

    def test_killing_closes_the_pipe_and_may_be_repeated(self) -> None:
        job = scripted_job(JobSide.hang)
        job.kill()
        job.kill()
        assert job.connection.closed
        assert not Path(f"/proc/{job.pid}").exists()

    def test_many_jobs_may_be_watched_and_killed_at_once(self) -> None:
        jobs: list[JobProcess] = [scripted_job(JobSide.hang) for _ in range(6)]
        threads = [threading.Thread(target=job.kill) for job in jobs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [job.exit_code() for job in jobs] == [-signal.SIGKILL] * 6
