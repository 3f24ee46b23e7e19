"""Whatever happens to a job process, each party hears one end in time, and nothing stays."""

from __future__ import annotations

import random
import signal
import threading
import time
from datetime import datetime
from typing import Any, Callable

import psutil
import pytest

from tests.data.tables import overlapping, two_halves
from tests.faults.report import Report
from tests.integration.bench import Bench, Execution, Workspace
from tests.integration.test_psi import psi
from tests.integration.test_ss_lr import training

pytestmark = [pytest.mark.faults, pytest.mark.engine]

WITHIN_SECONDS = 5.0
Request = dict[str, Any]


def intersection(workspace: Workspace) -> Request:
    """A `psi` of some seconds."""
    return psi(workspace, dict(zip(("alice", "bob"), overlapping(60_000, 30_000))), protocol="ECDH")


def regression(workspace: Workspace) -> Request:
    """An `ss_lr` of some seconds."""
    return training(workspace, two_halves(500), epochs=10, batch_size=50)


def workflow(workspace: Workspace) -> Request:
    """An intersection and a training on it."""
    first = psi(workspace, two_halves(500))
    del first["output_paths"]
    second = training(workspace, two_halves(500), epochs=5, batch_size=50)
    second |= {"train_data": {"step": "psi", "output": "output_paths"}}
    steps = [{"name": "psi", "task_config": first}, {"name": "train", "task_config": second}]
    return {"task_type": "workflow", "steps": steps}


WORKLOADS = {"psi": intersection, "ss_lr": regression, "workflow": workflow}


def run_with_fault(
    bench: Bench,
    request: Request,
    moment: float,
    strike: Callable[[psutil.Process], None],
    victim: str,
) -> tuple[Execution, float]:
    """Run a request; do something to a party's job process ``moment`` seconds after it appeared."""
    struck: list[float] = []
    execution_id = f"fault-{time.time_ns()}"

    def watch() -> None:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            for job in bench.job_processes():
                if f"{execution_id}.{victim}" in job.cwd():
                    time.sleep(moment)
                    struck.append(time.time())
                    strike(job)
                    return
            time.sleep(0.005)

    def safely() -> None:
        try:
            watch()
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            return  # it had ended

    watcher = threading.Thread(target=safely)
    watcher.start()
    execution = bench.execute({"task_config": request}, execution_id)
    watcher.join()
    return execution, struck[0] if struck else time.time()


def note(report: Report, fault: str, execution: Execution, struck: float) -> float:
    """Add an injection to the table; returns seconds from the fault to the last terminal event."""
    events = [event for events in execution.events.values() for event in events]
    terminal = [event for event in events if event.status.terminal]
    ended = max(datetime.fromisoformat(event.timestamp).timestamp() for event in terminal)
    seconds = max(0.0, ended - struck)
    report.add(
        fault,
        executions=len(execution.events),
        terminal=len(terminal),
        seconds=seconds,
        leftovers=[],  # the bench fails the test for any
    )
    assert len(terminal) == len(execution.events) == 2
    return seconds


@pytest.fixture(autouse=True)
def _the_next_job_succeeds(bench: Bench) -> Any:
    yield
    workspace = bench.workspace("next")
    workspace.run(psi(workspace, dict(zip(("alice", "bob"), overlapping(12, 6)))))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("name", WORKLOADS)
def test_a_killed_or_stopped_job_ends_at_any_moment(
    name: str,
    number: signal.Signals,
    bench: Bench,
    moments: int,
    dice: random.Random,
    report: Report,
) -> None:
    usual = bench.execute({"task_config": WORKLOADS[name](bench.workspace("usual"))}).seconds
    for _ in range(moments):
        execution, struck = run_with_fault(
            bench,
            WORKLOADS[name](bench.workspace("fault")),
            dice.uniform(0.0, usual),
            lambda job: job.send_signal(number),
            dice.choice(["alice", "bob"]),
        )
        assert note(report, f"{number.name} of a job of {name}", execution, struck) < WITHIN_SECONDS
        assert execution.succeeded or execution.code == "JobProcessDied", execution.failures


FAULTS = {
    "segfault": ("JobProcessDied", WITHIN_SECONDS),
    "leaves_early": ("JobProcessDied", WITHIN_SECONDS),
    "eats_memory": (
        "MemoryLimitExceeded",
        20.0,
    ),  # the time that it takes to eat so much counts too
    "loops": ("TaskTimeout", 20.0),
    "floods_pipe": (None, 60.0),
    "floods_log": (None, 60.0),
}


@pytest.mark.parametrize("what", FAULTS)
def test_a_job_that_goes_wrong_by_itself_ends(
    what: str, bench: Bench, moments: int, dice: random.Random, report: Report
) -> None:
    code, within = FAULTS[what]
    for _ in range(max(1, min(moments, 3))):
        workspace = bench.workspace("fault")
        request = {"task_type": "probe", "where": workspace.paths("x"), "what": what}
        request |= {"at": dice.choice(["alice", "bob"]), "after": dice.uniform(0.0, 1.0)}
        limit = {"timeout_seconds": 8.0} if what == "loops" else {}
        started = time.time()
        execution = bench.execute({"task_config": request, **limit})
        assert note(report, f"a job {what.replace('_', ' ')}", execution, started) < within
        assert execution.succeeded if code is None else execution.code == code, execution.failures
        assert all(log.stat().st_size < 11_000_000 for log in _logs(bench, execution))


def _logs(bench: Bench, execution: Execution) -> list[Any]:
    return list((bench.node.settings.state_dir / "logs").glob(f"{execution.id}.*.log"))
