"""Fixtures of the unit tests."""

from __future__ import annotations

import gc
import os
import tempfile
from pathlib import Path
from typing import Any, Callable, Iterator, Mapping

import pytest
from hypothesis import settings

from secretflow_task.contract.paths import PathRules
from secretflow_task.contract.protocols import Protocol
from secretflow_task.contract.requests import TaskRequest
from secretflow_task.contract.task_dispatcher import Task, TaskDispatcher
from secretflow_task.engine.run import Run
from secretflow_task.testing import MemoryChannel

RunOf = Callable[..., Run]

settings.register_profile("unit", max_examples=40, deadline=None, database=None)
settings.load_profile("unit")

# Collecting tests makes a million objects that stay; searching them again and again takes a second.
gc.disable()


def pytest_collection_finish() -> None:
    """Freeze what is there for the garbage collector: pyarrow searches it before it reads a CSV."""
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True)
def _default_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees the settings of the shell that it is started from."""
    for name in [name for name in os.environ if name.startswith("SFWORKER_")]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def scratch() -> Iterator[Path]:
    """A folder in memory for a property test's many files; examples overwrite each other's."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        yield Path(folder)


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> dict[str, Task]:
    """The registry of task types; what a test registers is gone afterwards."""
    TaskDispatcher.load_bodies()
    own = dict(TaskDispatcher.TASK_REGISTRY)
    monkeypatch.setattr(TaskDispatcher, "TASK_REGISTRY", own)
    return own


@pytest.fixture
def make_run(tmp_path: Path) -> RunOf:
    """Makes a `Run` whose peers have answered; its data root is ``tmp_path / "data"``."""

    def make(
        party: str = "alice",
        *rounds: Mapping[str, Any],
        parties: tuple[str, ...] = ("alice", "bob"),
    ) -> Run:
        data_root = tmp_path / "data"
        (data_root / party).mkdir(parents=True, exist_ok=True)
        folder = tmp_path / f"job.{party}"
        folder.mkdir(exist_ok=True)
        return Run(
            execution_id="e-1",
            task_request_id="r-1",
            party=party,
            parties=sorted(parties),
            rules=PathRules(party, data_root),
            folder=folder,
            staging=".staging",
            channel=MemoryChannel(party, *rounds),
            protocol=Protocol("SEMI2K", "FM128"),
        )

    return make


@pytest.fixture
def request_of() -> Callable[[Mapping[str, Any]], TaskRequest]:
    """Makes the `TaskRequest` of a ``task_config``."""
    return lambda task_config, **parts: TaskRequest.from_arguments(
        "r-1", {"task_config": task_config, **parts}
    )
