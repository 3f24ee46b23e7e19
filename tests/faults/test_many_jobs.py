"""Hundreds of jobs, several at once: all right, none mixed up, and the node does not grow."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from secretflow_task.contract.requests import TaskRequest
from tests.data.tables import overlapping
from tests.faults.field import Field
from tests.faults.report import Report
from tests.integration.bench import write_csv

pytestmark = [pytest.mark.faults, pytest.mark.engine]

WARM_UP, JOBS, ROWS = 20, 200, 2000


def intersection(root: Path, number: int) -> dict[str, object]:
    """A request on tables of its own, with 1000 + number rows in common."""
    for party, table in zip(("alice", "bob"), overlapping(ROWS, 1000 + number, seed=number)):
        write_csv(root / "data" / party / f"in-{number}.csv", table)
    paths = {party: f"in-{number}.csv" for party in ("alice", "bob")}
    return {
        "task_config": {
            "task_type": "psi",
            "keys": {party: ["uid"] for party in paths},
            "input_paths": paths,
            "output_paths": {party: f"out-{number}.csv" for party in paths},
            "receiver": "alice",
        }
    }


@pytest.mark.parametrize("concurrency", [2, 8])
def test_hundreds_of_jobs(concurrency: int, tmp_path: Path, report: Report) -> None:
    field = Field(tmp_path, report)
    requests = [intersection(tmp_path, number) for number in range(WARM_UP + JOBS)]
    fault = f"{JOBS} psi at concurrency {concurrency}"
    with field.redis.running(), field.node(SFWORKER_CONCURRENCY=str(concurrency)) as node:
        with field.client() as client:

            def run(first: int, last: int) -> float:
                started = time.time()
                for number in range(first, last):
                    client.submit(TaskRequest(f"j-{number}", f"j-{number}", requests[number]))
                for number in range(first, last):
                    for events in field.ended(f"j-{number}", 900.0).values():
                        assert events[-1].data["result"]["intersection_count"] == 1000 + number
                return time.time() - started

            run(0, WARM_UP)
            before = node.process.memory_full_info().pss
            seconds = run(WARM_UP, WARM_UP + JOBS)
            after = node.process.memory_full_info().pss
        for number in range(WARM_UP + JOBS):
            rows = [(tmp_path / "data" / party / f"out-{number}.csv") for party in ("alice", "bob")]
            assert [len(path.read_text().splitlines()) for path in rows] == [1001 + number] * 2
        field.report.add(
            f"{fault}: {JOBS / seconds:.2f} jobs/s, "
            f"node {before / 1e6:.0f} to {after / 1e6:.0f} MB",
            executions=2 * JOBS,
            terminal=2 * JOBS,
            seconds=seconds,
            leftovers=field.leftovers(),
        )
        assert after < 1.1 * before
