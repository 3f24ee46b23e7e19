"""The node that the integration tests share: its template starts once."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Iterator

import pytest

from secretflow_task.contract.task_dispatcher import TaskDispatcher
from tests.integration.bench import Bench, Workspace, start_bench
from tests.integration.cases import Runs
from tests.integration.probes import TASKS

_ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="package")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """A node that hosts alice, bob and carol, and has the probes as tasks."""
    node, bench = start_bench(
        tmp_path_factory.mktemp("bench"),
        port_range="21000-21999",
        preload=("secretflow_task.engine.template_process", "tests.integration.preload"),
    )
    TaskDispatcher.list_supported_tasks()
    TaskDispatcher.TASK_REGISTRY.update(TASKS)
    with pytest.MonkeyPatch.context() as patch:
        # The template does not take its parent's sys.path; in another folder it would not find the
        # probes.
        patch.setenv("PYTHONPATH", str(_ROOT), prepend=os.pathsep)
        with node:
            yield bench
    for name in TASKS:
        del TaskDispatcher.TASK_REGISTRY[name]


@pytest.fixture
def workspace(bench: Bench, request: pytest.FixtureRequest) -> Workspace:
    """A folder per party for one test."""
    return bench.workspace("t")


@pytest.fixture(scope="package")
def runs(bench: Bench) -> Runs:
    """Every task type's case, run once."""
    return Runs(bench)
