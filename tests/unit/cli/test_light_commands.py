"""A command loads what it needs, so the light ones answer at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from secretflow_task.contract.task_dispatcher import TaskDispatcher

ENGINE = {"secretflow", "spu", "jax", "pandas", "numpy", "sklearn", "pyarrow"}
SERVICES = {"alembic", "celery", "cryptography", "kombu", "redis", "sqlalchemy"}
SETTINGS = {"asyncio", "pydantic_settings", "structlog", "yaml"}
MODELS = {"secretflow_task.contract.task_config"}

# Where a command has parameters, typer itself loads pydantic.
HELP = ENGINE | SERVICES | SETTINGS | MODELS
EXAMPLE = "src/secretflow_task/examples/psi.yaml"
ROOT = Path(__file__).parents[3]
RUN = """
import atexit, sys
atexit.register(lambda: print(*sys.modules, file=sys.stderr))
from secretflow_task.__main__ import main
main()
"""


@pytest.mark.parametrize(
    ("command", "needed", "never"),
    [
        ("--version", {"typer"}, HELP | {"pydantic", "rich"}),
        ("--help", {"typer", "rich"}, HELP | {"pydantic"}),
        ("start --help", {"typer", "rich"}, HELP),
        ("tasks --help", {"typer", "rich"}, HELP),
        ("tasks", {"rich"}, ENGINE | SERVICES | SETTINGS),
        ("tasks psi", {"rich", "pydantic"}, ENGINE | SERVICES | SETTINGS),
        ("tasks psi --schema", {"pydantic"}, ENGINE | SERVICES | SETTINGS),
        ("tasks psi --example", {"typer"}, ENGINE | SERVICES | SETTINGS),
        (
            f"check {EXAMPLE}",
            {"pydantic_settings", "rich", "yaml"},
            ENGINE | SERVICES,
        ),
    ],
)
def test_a_command_loads_no_more_than_it_needs(
    command: str, needed: set[str], never: set[str]
) -> None:
    program = [sys.executable, "-c", RUN, *command.split()]
    done = subprocess.run(program, capture_output=True, text=True, timeout=60, check=True, cwd=ROOT)
    modules = done.stderr.split()
    loaded = {*modules, *(module.partition(".")[0] for module in modules)}
    assert needed <= loaded
    assert loaded & never == set()


LIST = """
from secretflow_task.contract.task_dispatcher import TaskDispatcher as Tasks
configs = [Tasks.get(name).config for name in Tasks.list_supported_tasks()]
print(len(configs), [config.__name__ for config in configs if config.__pydantic_complete__])
"""


def test_listing_the_task_types_builds_none_of_their_models() -> None:
    listed = subprocess.run(
        [sys.executable, "-c", LIST], capture_output=True, text=True, timeout=60, check=True
    )
    assert listed.stdout == f"{len(TaskDispatcher.list_supported_tasks())} []\n"
