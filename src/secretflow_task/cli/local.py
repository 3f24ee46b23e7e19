"""`sfworker run`: one request on this machine, without a broker."""

from __future__ import annotations

import shutil
import sys

from secretflow_task.cli import environment
from secretflow_task.cli.display import ExecutionDisplay, print_json, print_outcome
from secretflow_task.cli.exits import Exit
from secretflow_task.cli.terminal import console, print_text
from secretflow_task.contract.plan import Plan
from secretflow_task.contract.requests import TaskRequest
from secretflow_task.node.assembly import lone_node
from secretflow_task.utils import log


def run_here(request: TaskRequest, as_json: bool) -> Exit:
    """Start a node for a new execution of ``request``, show how it goes, return the exit code."""
    request = request.renewed()
    plan = Plan.of(request)  # a wrong request is refused before the engine starts
    settings = environment.settings()
    own_state = settings.state_dir / "runs" / request.execution_id
    changes = {"state_dir": own_state, "parties": tuple(plan.parties)}
    # Nothing goes through Redis, and the state folder goes with a success.
    settings = settings.model_copy(update={**changes, "event_limit_bytes": sys.maxsize})
    log.configure("ERROR")
    with ExecutionDisplay(quiet=as_json) as display, console.status("Loading SecretFlow ..."):
        with lone_node(settings, display.show) as node:
            with log.execution_context(**request.log_ids):
                node.run(plan)
    code = print_json(display.last) if as_json else print_outcome(display.last)
    if code is Exit.OK:
        shutil.rmtree(own_state)
    else:
        print_text(f"  Logs of the jobs: {own_state / 'logs'}")
    return code
