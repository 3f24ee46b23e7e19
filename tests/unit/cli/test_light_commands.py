"""A command loads what it needs, so the light ones answer at once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from secretflow_task.contract.task_dispatcher import TaskDispatcher
from tests.bench.waiting import PATIENCE_SECONDS

ENGINE = {"secretflow", "spu", "jax", "pandas", "numpy", "sklearn", "pyarrow"}
SERVICES = {"alembic", "celery", "cryptography", "kombu", "redis", "sqlalchemy"}
SETTINGS = {"asyncio", "pydantic_settings", "structlog", "yaml"}
MODELS = {"secretflow_task.contract.task_config"}

# Where a command has parameters, typer itself loads pydantic.
HELP = ENGINE | SERVICES | SETTINGS | MODELS
EXAMPLE = "src/secretflow_task/examples/psi.yaml"
ROOT = Path(__file__).parents[3]
# Runs one command after the other: each may find what lighter ones have loaded, and nothing else.
RUN = """
import contextlib, io, json, sys
from secretflow_task.__main__ import main
for command in sys.argv[1:]:
    sys.argv[1:] = command.split()
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            main()
    except SystemExit as end:
        code = end.code
    print(json.dumps({"code": code, "said": said.getvalue(), "modules": list(sys.modules)}))
"""
# From the lightest to the heaviest: what one must not load, none before it may load either.
COMMANDS = [
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
]


@pytest.fixture(scope="module")
def ran() -> dict[str, dict[str, Any]]:
    """``{command: its exit code, what it said, and what was loaded after it}``."""
    commands = [command for command, _, _ in COMMANDS]
    done = subprocess.run(
        [sys.executable, "-c", RUN, *commands],
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=True,
        cwd=ROOT,
    )
    return dict(zip(commands, map(json.loads, done.stdout.splitlines())))


@pytest.mark.parametrize(("command", "needed", "never"), COMMANDS)
def test_a_command_loads_no_more_than_it_needs(
    command: str, needed: set[str], never: set[str], ran: dict[str, dict[str, Any]]
) -> None:
    assert ran[command]["code"] == 0 and ran[command]["said"]
    modules = ran[command]["modules"]
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
