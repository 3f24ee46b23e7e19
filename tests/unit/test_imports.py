"""What may be imported where: a node never loads the engine, a job never Celery or the like."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Collection

import pytest

import secretflow_task

PACKAGE = "secretflow_task"
ENGINE = {"secretflow", "spu", "jax", "heu", "grpc"}
NODE_ONLY = {"alembic", "celery", "kombu", "typer", "redis", "sqlalchemy"}
HEAVY = {"pandas", "sklearn", "scipy", "pyarrow", "numpy"}

EVERYTHING = """
import importlib, pkgutil, secretflow_task
for module in pkgutil.walk_packages(secretflow_task.__path__, "secretflow_task."):
    if not module.name.endswith((".__main__", ".template_process")):
        importlib.import_module(module.name)
"""
CLIENT = (
    "import secretflow_task.cli, secretflow_task.client, "
    "secretflow_task.listener.task_status_listener"
)
JOB = """
import secretflow_task.engine.job_process
from secretflow_task.contract.task_dispatcher import TaskDispatcher
TaskDispatcher.load_bodies()
"""
PLANS = """
import secretflow_task.cli, secretflow_task.client, secretflow_task.node.service
from secretflow_task.contract.plan import Plan
from secretflow_task.contract.requests import TaskRequest
from secretflow_task.contract.task_dispatcher import TaskDispatcher
TaskDispatcher.list_supported_tasks()
steps = [{"name": "s", "task_config": {"task_type": "standard_scaler", "columns": ["x"],
    "input_data": {"alice": "a.csv"}, "output_data": {"alice": "b.csv"}}}]
config = {"task_type": "workflow", "steps": steps}
Plan.of(TaskRequest.from_arguments("r-1", {"task_config": config}))
"""


def loaded_by(code: str, folder: Path) -> set[str]:
    """The modules of a fresh interpreter after ``code``, which must change nothing around it."""
    code = f"import os, sys\nbefore = dict(os.environ), os.umask(0o22)\n{code}"
    code += "\nassert before == (dict(os.environ), os.umask(0o22))"
    code += "\nprint(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=folder
    )
    assert (done.stderr, list(folder.iterdir())) == ("", [])
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("code", "never"),
    [
        (EVERYTHING, ENGINE | HEAVY),
        (JOB, ENGINE | NODE_ONLY | HEAVY | {"prometheus_client"}),
        (CLIENT, ENGINE | HEAVY | {"prometheus_client"}),  # which the extra `engine` brings
    ],
    ids=["everything", "a job's modules", "a client's modules"],
)
def test_importing_loads_no_more_than_it_should_and_does_nothing(
    code: str, never: set[str], tmp_path: Path
) -> None:
    loaded = {name.partition(".")[0] for name in loaded_by(code, tmp_path)}
    assert "secretflow_task" in loaded
    assert loaded & never == set()


def test_a_node_plans_a_request_without_a_module_of_the_job(tmp_path: Path) -> None:
    loaded = loaded_by(PLANS, tmp_path)
    assert {f"{PACKAGE}.contract.tasks.workflow", f"{PACKAGE}.node.node"} < loaded
    rooms = {name.split(".")[1] for name in loaded if name.startswith(f"{PACKAGE}.")}
    assert rooms & {"engine", "jobs", "data_loader"} == set()


def imports_of(path: Path, modules: Collection[str]) -> set[str]:
    """The modules of ours that a file imports anywhere, for type checking too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= inner.intersection(modules) or {node.module}
    return found.intersection(modules)


def test_no_module_imports_itself_by_way_of_others() -> None:
    root = Path(secretflow_task.__file__).parent
    paths = {}
    for path in root.rglob("*.py"):
        parts = path.relative_to(root.parent).with_suffix("").parts
        paths[".".join(parts).removesuffix(".__init__")] = path
    graph = {name: imports_of(path, paths) - {name} for name, path in paths.items()}
    assert sum(map(len, graph.values())) > len(graph) > 100
    TopologicalSorter(graph).prepare()  # raises `CycleError` with a circle
