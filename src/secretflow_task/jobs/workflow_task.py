"""Several tasks as one execution: one cluster, one set of devices, files between steps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from secretflow_task.contract.task_dispatcher import Prepared, TaskDispatcher
from secretflow_task.contract.tasks.workflow import WorkflowConfig

if TYPE_CHECKING:
    from secretflow_task.engine.devices import Devices
    from secretflow_task.engine.run import Run


def prepare_workflow(run: Run, config: WorkflowConfig) -> list[Prepared]:
    """Check all outputs and prepare the first step; later ones are prepared in their turn.

    The step is taken out of the list to run, so what it has read is freed before the next reads.
    """
    run.check_outputs(step.config for step in config.bound)
    first = config.bound[0]
    with run.named_step(first.name):
        return [run.prepare(TaskDispatcher.with_body(first.task.task_type), first.config)]


@TaskDispatcher.register_task("workflow", prepare=prepare_workflow)
def execute_workflow(
    devices: Devices[list[Prepared]], task_config: WorkflowConfig
) -> dict[str, Any]:
    """Run several tasks in turn as one execution; later steps use what earlier ones wrote."""
    run, steps = devices.run, task_config.bound
    results = {}
    for index, step in enumerate(steps):
        with run.step(step.name, index, len(steps)):
            if index == 0:
                results[step.name] = TaskDispatcher.run(devices.inputs.pop(), devices)
                continue
            results[step.name] = TaskDispatcher.dispatch(step.task.task_type, devices, step.config)
    return {"steps": results, "columns_used": []}
