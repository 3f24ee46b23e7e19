"""What the node does when something around it breaks; its own bench, with scripted jobs."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from secretflow_task.contract.errors import ModelMismatch
from secretflow_task.contract.job_spec import JobSpec
from secretflow_task.contract.messages import Status
from secretflow_task.contract.protocols import Protocol
from secretflow_task.engine.model_store import Manifest
from secretflow_task.node.job import supervisor
from secretflow_task.testing import JobSide
from tests.unit.node.test_node import ACCEPTED, Bench, succeed

PATHS = {"alice": "alice.csv", "bob": "bob.csv"}
PSI: dict[str, Any] = {
    "task_config": {
        "task_type": "psi",
        "keys": {party: ["uid"] for party in PATHS},
        "input_paths": PATHS,
        "output_paths": {party: f"psi/{party}.csv" for party in PATHS},
        "receiver": "alice",
    }
}


@pytest.fixture(name="bench")
def _bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_a_work_folder_that_was_swept_away_is_made_again(bench: Bench) -> None:
    with bench.node() as node:
        shutil.rmtree(bench.settings.work_dir)
        assert node.execute("swept", PSI).status is Status.SUCCESS


def test_a_fault_of_the_machine_settles_every_party(bench: Bench) -> None:
    with bench.node() as node:
        shutil.rmtree(bench.settings.work_dir)
        bench.settings.work_dir.write_text("in the way")
        assert node.execute("blocked", PSI).status is Status.FAILURE
        assert node.store.unfinished() == []
    assert bench.told() == {party: [ACCEPTED, (2, "FAILURE", "WorkerError")] for party in PATHS}


def test_deliveries_at_once_run_a_request_once(bench: Bench) -> None:
    with bench.node() as node, ThreadPoolExecutor(2) as threads:
        for number in range(8):
            start = threading.Barrier(2)

            def deliver(execution_id: str, gate: threading.Barrier) -> None:
                gate.wait()
                node.execute(execution_id, PSI)

            list(threads.map(deliver, [f"twice-{number}"] * 2, [start] * 2))
    ended = [event.status for event in bench.events if event.status.terminal]
    assert ended == [Status.SUCCESS] * 16


def test_a_job_that_stops_within_a_message_does_not_hold_up_its_end(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "_LOOK_SECONDS", 0.1)

    def stop_within_a_message(_spec: JobSpec, job: JobSide) -> None:
        descriptor = job.connection.fileno()
        job.agree({})
        with open(descriptor, "wb", buffering=0, closefd=False) as pipe:
            pipe.write((1000).to_bytes(4, "big") + b"x")
        os.kill(os.getpid(), signal.SIGSTOP)

    with bench.node(stop_within_a_message) as node:
        assert node.execute("half", PSI).status is Status.FAILURE
    ended = [ACCEPTED, (2, "FAILURE", "JobProcessDied")]
    assert bench.told() == dict.fromkeys(("alice", "bob"), ended)


@pytest.mark.parametrize(
    ("settings", "request_"),
    [
        ({"job_timeouts_seconds": {"psi": 0.3}}, PSI),
        ({"job_timeouts_seconds": {"psi": 60.0}}, PSI | {"timeout_seconds": 0.3}),
        ({"job_timeouts_seconds": {"psi": 0.3}}, PSI | {"timeout_seconds": 60.0}),
    ],
)
def test_the_lower_of_the_limits_of_task_type_and_request_holds(
    settings: dict[str, Any], request_: dict[str, Any], bench: Bench
) -> None:
    def works(_spec: JobSpec, job: JobSide) -> None:
        job.agree({})
        job.hang()

    bench.settings = bench.settings.model_copy(update={"job_timeout_seconds": 60.0, **settings})
    with bench.node(works) as node:
        outcome = node.execute("limited", request_)
    assert outcome.failure is not None and outcome.failure.code == "TaskTimeout"


def test_a_commit_that_fails_halfway_puts_everything_back(bench: Bench) -> None:
    old = bench.root / "data" / "bob" / "old.csv"

    def two_outputs(spec: JobSpec, job: JobSide) -> None:
        if spec.party == "alice":
            succeed(spec, job)
        job.agree({})
        folder = spec.rules.data_root / spec.party / spec.staging
        folder.mkdir(parents=True)
        (folder / "0.csv").write_text("new")
        job.finish(
            {},
            {
                str(folder / "0.csv"): str(old),
                str(folder / "gone.csv"): str(old.with_name("b.csv")),
            },
        )

    old.write_text("old")
    with bench.node(two_outputs) as node:
        node.execute("halfway", PSI)
    ended = {party: events[-1][1:] for party, events in bench.told().items()}
    assert ended == dict.fromkeys(("alice", "bob"), ("FAILURE", "OutputNotWritable"))
    assert bench.files() == ["data/bob/old.csv"] and old.read_text() == "old"


def test_two_parties_never_write_one_file(bench: Bench) -> None:
    for party in PATHS:
        (bench.root / "data" / party).rmdir()
    same = {
        "task_config": PSI["task_config"] | {"output_paths": {party: "one.csv" for party in PATHS}}
    }
    with bench.node() as node:
        node.execute("same", same)
    assert bench.told() == {party: [(1, "FAILURE", "InvalidTaskConfig")] for party in PATHS}


def test_other_fraction_bits_are_another_field_for_a_model() -> None:
    made, asked = Protocol("SEMI2K", "FM128", {"fxp_fraction_bits": 18}), Protocol(
        "SEMI2K", "FM128"
    )
    manifest = Manifest("m", "ss_lr", ["alice", "bob"], {}, made.name, made.numbers, {})
    with pytest.raises(ModelMismatch, match="FM128 with 18 fraction bits"):
        manifest.check_use("ss_lr", ["alice", "bob"], asked.name, asked.numbers, "alice")


def test_a_typo_in_the_runtime_settings_is_refused_with_the_nearest_key(bench: Bench) -> None:
    with bench.node() as node:
        typo = {"spu_config": {"runtime_config": {"fxp_fraction_bit": 18}}}
        outcome = node.execute("typo", PSI | typo)
    assert outcome.failure is not None
    assert "did you mean 'fxp_fraction_bits'?" in outcome.failure.message
