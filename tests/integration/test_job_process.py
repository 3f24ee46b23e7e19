"""The job process: where it lives, what it has imported, what a forked child often cannot do."""

from __future__ import annotations

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from tests.data.tables import overlapping
from tests.integration.bench import Bench, Workspace, stdout_of
from tests.integration.test_psi import joined_as_pandas, psi

pytestmark = pytest.mark.engine


def probe(workspace: Workspace, what: str, **more: Any) -> dict[str, Any]:
    """A request for a probe."""
    return {"task_type": "probe", "where": workspace.paths("x"), "what": what, **more}


def test_a_job_has_the_engine_and_nothing_of_the_command_line(workspace: Workspace) -> None:
    execution = workspace.run(probe(workspace, "modules"))
    for result in execution.results.values():
        assert {"secretflow", "spu", "jax"} <= set(result["modules"])
        assert not {"celery", "kombu", "redis", "typer", "click", "pytest", "_pytest"} & set(
            result["modules"]
        )


def test_a_job_lives_in_its_own_session_folder_and_log(workspace: Workspace, bench: Bench) -> None:
    execution = workspace.run(probe(workspace, "place"))
    settings = bench.node.settings
    for party, result in execution.results.items():
        folder = settings.work_dir / bench.node.store.node_id[:8] / f"{execution.id}.{party}"
        log = settings.state_dir / "logs" / f"{execution.id}.{party}.log"
        assert result["session"] == result["group"] == result["pid"]
        assert [result["folder"], result["temporary"]] == [str(folder)] * 2
        assert result["files"] == ["/dev/null", str(log), str(log)]
        assert log.stat().st_mode & 0o777 == 0o600
        assert result["main_thread"] is True
        assert not Path(f"/proc/{result['pid']}").exists()


@pytest.mark.parametrize("times", [1, 4])
def test_large_arrays_and_spu_programs_run_in_every_job(workspace: Workspace, times: int) -> None:
    for _ in range(2):
        execution = workspace.run(probe(workspace, "arrays", times=times))
        square = np.arange(100.0).reshape(10, 10)
        expected = 99 + (square @ square.T).sum()
        assert execution.results["alice"]["total"] == pytest.approx(expected, rel=1e-6)


def test_two_executions_at_once_do_not_meet(bench: Bench) -> None:
    spaces = [bench.workspace("twin") for _ in range(3)]
    tables = [
        dict(zip(("alice", "bob"), overlapping(40, count, seed=count))) for count in (10, 20, 30)
    ]
    with ThreadPoolExecutor(3) as threads:
        executions = list(threads.map(joined_as_pandas, spaces, tables))
    assert [execution.results["bob"]["intersection_count"] for execution in executions] == [
        10,
        20,
        30,
    ]


def test_a_request_that_is_delivered_again_does_not_run_again(
    workspace: Workspace, bench: Bench
) -> None:
    request = psi(workspace, dict(zip(("alice", "bob"), overlapping(10, 5))))
    first = workspace.run(request)
    workspace.path("alice", "out.csv").unlink()
    again = bench.node.execute(first.id, {"task_config": request})
    assert again.status is first.outcome.status
    assert not workspace.exists("alice", "out.csv")
    assert first.id not in bench.events


def test_a_task_registered_without_keywords_takes_any_mapping(workspace: Workspace) -> None:
    init = {"parties": ["alice", "bob"]}
    execution = workspace.run({"task_type": "plain", "x": [1, 2]}, sf_init_config=init)
    for result in execution.results.values():
        assert result["got"] == {"task_type": "plain", "x": [1, 2]}
        assert result["devices"] == ["alice", "bob"]


_LONELY_NODE = """
import sys
from pathlib import Path
from secretflow_task.contract.task_dispatcher import TaskDispatcher
from tests.integration.bench import start_bench
from tests.integration.probes import TASKS

preload = ("secretflow_task.engine.template_process", "tests.integration.preload")
node, bench = start_bench(Path(sys.argv[1]), preload=preload, port_range="23000-23999")
TaskDispatcher.list_supported_tasks()
TaskDispatcher.TASK_REGISTRY.update(TASKS)
with node:
    where = {"alice": "x", "bob": "x"}
    bench.execute({"task_config": {"task_type": "probe", "where": where, "what": "waits"}})
"""


def test_a_killed_node_takes_its_template_and_its_jobs_with_it(tmp_path: Path) -> None:
    node = psutil.Popen(
        [sys.executable, "-c", _LONELY_NODE, str(tmp_path)], stdout=subprocess.DEVNULL
    )

    def jobs() -> list[psutil.Process]:
        return [some for some in family if stdout_of(some.pid).endswith(".log")]

    deadline, family = time.monotonic() + 60, [node]
    while len(jobs()) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
        family = node.children(recursive=True)
    assert len(jobs()) == 2
    node.kill()
    _, alive = psutil.wait_procs([node, *family], timeout=10)
    assert not alive
