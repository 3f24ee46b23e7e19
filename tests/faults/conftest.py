"""Options of the fault suite, its table, and a node for the faults of job processes."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any, Iterator

import pytest
from rich.console import Console

from secretflow_task.contract.task_dispatcher import TaskDispatcher
from tests.faults.report import Report
from tests.integration.bench import Bench, start_bench
from tests.integration.probes import TASKS

_ROOT = Path(__file__).parents[2]
_REPORT = Report()


def pytest_addoption(parser: pytest.Parser) -> None:
    """How often, which moments, and where the table goes."""
    parser.addoption("--moments", type=int, default=1, help="random moments per fault and workload")
    parser.addoption(
        "--fault-seed", type=int, default=20, help="the same seed gives the same moments"
    )
    parser.addoption("--fault-table", help="write the table to this file, as Markdown")


def pytest_terminal_summary(config: pytest.Config) -> None:
    """Print the table."""
    if _REPORT.rows:
        Console(width=120).print(_REPORT.table())
        if config.getoption("--fault-table"):
            Path(config.getoption("--fault-table")).write_text(_REPORT.markdown(), encoding="utf-8")


@pytest.fixture
def report() -> Report:
    """The table of this run."""
    return _REPORT


@pytest.fixture
def moments(request: pytest.FixtureRequest) -> int:
    """How many moments a fault is tried at."""
    return int(request.config.getoption("--moments"))


@pytest.fixture
def dice(request: pytest.FixtureRequest) -> random.Random:
    """The same in every run of a test."""
    return random.Random(f"{request.config.getoption('--fault-seed')} {request.node.nodeid}")


@pytest.fixture(scope="package")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """A node that hosts alice and bob, with the probes as tasks, strict limits and no drain."""
    settings: dict[str, Any] = {
        "memory_limit_bytes": 1_500_000_000,
        "job_log_limit_bytes": 10_000_000,
    }
    node, bench = start_bench(
        tmp_path_factory.mktemp("faults"),
        port_range="23000-23999",
        preload=("secretflow_task.engine.template_process", "tests.integration.preload"),
        job_timeout_seconds=60.0,
        **settings,
    )
    TaskDispatcher.list_supported_tasks()
    TaskDispatcher.TASK_REGISTRY.update(TASKS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(
            "PYTHONPATH", os.pathsep.join([str(_ROOT / "src"), str(_ROOT)]), prepend=os.pathsep
        )
        with node:
            yield bench
    for name in TASKS:
        del TaskDispatcher.TASK_REGISTRY[name]
