"""Which files a request names at a party, and where its job stages what it writes."""

from __future__ import annotations

from pathlib import Path
from typing import Mapping

from secretflow_task.contract.errors import InvalidTaskConfig
from secretflow_task.contract.paths import PathRules
from secretflow_task.contract.plan import Plan
from secretflow_task.contract.task_config import STEP_PREFIX, TaskConfig, Use


def folders_to_clean(plan: Plan, party: str, rules: PathRules, name: str) -> set[Path]:
    """Where a job of ``party`` may have staged outputs in folders ``name``.

    `folder_beside` goes up to the nearest folder that exists, and nobody knows which did at that
    time.
    """
    folders: set[Path] = set()
    for use in paths_of(plan):
        if use.party == party:
            target = rules.resolve(use.path, use.purpose)
            folders.update(above / name for above in (target, *target.parents))
    return folders


def paths_of(plan: Plan) -> list[Use]:
    """The files and folders that a request names; none for a task without a config model."""
    config = plan.config
    uses = (
        config.inputs() + config.outputs() + config.models()
        if isinstance(config, TaskConfig)
        else []
    )
    return [use for use in uses if not use.path.startswith(STEP_PREFIX)]


def check_outputs_apart(plan: Plan, rules: Mapping[str, PathRules]) -> None:
    """Raise `InvalidTaskConfig` when two parties of this node would write one file: the last would
    win.
    """
    writers: dict[Path, str] = {}
    outputs = plan.config.outputs() if isinstance(plan.config, TaskConfig) else []
    for use in outputs:
        if use.party not in rules or use.path.startswith(STEP_PREFIX) or use.shared:
            continue
        path = rules[use.party].resolve(use.path, use.purpose)
        if writers.setdefault(path, use.party) != use.party:
            raise InvalidTaskConfig(
                f"{writers[path]} and {use.party} would write the same file of {use.purpose}.",
                hint="Give them different names, "
                "or each party a folder of its name in SFWORKER_DATA_ROOT.",
            )
