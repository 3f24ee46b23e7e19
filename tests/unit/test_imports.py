"""What may be imported where: the node never loads the engine, a job never loads Celery or the like."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ENGINE = {"secretflow", "spu", "jax", "heu", "grpc"}
NODE_ONLY = {"alembic", "celery", "kombu", "typer", "redis", "sqlalchemy"}
HEAVY = {"pandas", "sklearn", "scipy", "pyarrow", "numpy"}

EVERYTHING = """
import importlib, pkgutil, secretflow_task
for module in pkgutil.walk_packages(secretflow_task.__path__, "secretflow_task."):
    if not module.name.endswith((".__main__", ".template_process")):
        importlib.import_module(module.name)
"""
CLIENT = "import secretflow_task.cli, secretflow_task.client, secretflow_task.listener.task_status_listener"
JOB = "import secretflow_task.engine.job_process, secretflow_task.jobs"


def loaded_by(code: str, folder: Path) -> set[str]:
    """The top-level modules of a fresh interpreter after ``code``, which must change nothing around it."""
    code = f"import os, sys\nbefore = dict(os.environ), os.umask(0o22)\n{code}"
    code += "\nassert before == (dict(os.environ), os.umask(0o22))"
    code += "\nprint(*{name.partition('.')[0] for name in sys.modules})"
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
    loaded = loaded_by(code, tmp_path)
    assert "secretflow_task" in loaded
    assert loaded & never == set()
