"""The body of one of our tasks in a SecretFlow session that is up: the work without its node.

What the worker is compared with where SecretFlow has no class for the work.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, Mapping

from secretflow_task.contract.paths import PathRules
from secretflow_task.contract.plan import Plan
from secretflow_task.contract.requests import TaskRequest
from secretflow_task.contract.task_dispatcher import TaskDispatcher
from secretflow_task.engine.devices import Devices
from secretflow_task.engine.executor import ClusterChannel
from secretflow_task.engine.run import Run
from tests.performance.directly import Session


class _NoNode:
    """Nobody needs to hear that the own party is prepared, or what took how long."""

    def agree(self, facts: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """There are no peers here."""
        return {}

    def stage_ended(self, stage: str, seconds: float) -> None:
        """There is no node here."""


def run_body(session: Session, config: Mapping[str, Any]) -> None:
    """Check the input, agree, run the task, and move its outputs to their places."""
    plan = Plan.of(TaskRequest.from_arguments("direct", {"task_config": dict(config)}))
    rules = PathRules(session.party, session.root)
    with tempfile.TemporaryDirectory(prefix="sfworker-bench-") as folder:
        run = Run(
            "direct",
            "direct",
            session.party,
            plan.parties,
            rules,
            Path(folder),
            ".direct",
            ClusterChannel(_NoNode(), plan.parties),
            plan.protocol,
            several=True,
        )
        task = TaskDispatcher.with_body(plan.task.task_type)
        prepared = run.prepare(task, plan.config)
        devices = Devices(run)
        devices |= session.pyus
        if "spu" in plan.needs:
            devices["spu"] = session.spu
        TaskDispatcher.run(prepared, devices)
    for staged, target in run.outputs.items():
        shutil.rmtree(target, ignore_errors=True)
        os.replace(staged, target)
