"""Several tasks as one execution: one cluster, one set of devices, and files that pass from step to step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Mapping

from pydantic import Field, PrivateAttr, model_validator

from secretflow_task.errors import InvalidTaskConfig, RequestError
from secretflow_task.run import STEP_PREFIX
from secretflow_task.task_config import PathRole, Strict, TaskConfig, Use
from secretflow_task.task_dispatcher import Task, TaskDispatcher

if TYPE_CHECKING:
    from secretflow_task.device_manager import Devices
    from secretflow_task.run import Run


class Step(Strict):
    """One step: a name, and the ``task_config`` of its task."""

    name: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")
    task_config: dict[str, Any]


@dataclass(frozen=True)
class BoundStep:
    """A step with its references resolved and its config parsed."""

    name: str
    task: Task
    config: TaskConfig


class WorkflowConfig(TaskConfig):
    """``task_config`` of `workflow`.

    Wherever a path is expected, ``{"step": NAME, "output": KEY}`` stands for what an earlier step writes under KEY.
    Outputs that a step does not name are kept only while the workflow runs.
    """

    steps: list[Step] = Field(min_length=1, description="The steps, in order.")
    _bound: list[BoundStep] = PrivateAttr(default_factory=list)

    @model_validator(mode="after")
    def _bind(self) -> WorkflowConfig:
        try:
            self._bound.extend(bind_steps(self.steps))
        except RequestError as error:
            raise ValueError(error.public_message) from None
        return self

    @property
    def bound(self) -> list[BoundStep]:
        """The steps, ready to run."""
        return self._bound

    @property
    def needs(self) -> tuple[str, ...]:
        """The devices that the steps need."""
        return tuple(sorted({device for step in self.bound for device in step.task.needs}))

    def parties(self) -> list[str]:
        """The parties of all steps, sorted."""
        return sorted({party for step in self.bound for party in step.config.parties()})

    def inputs(self) -> list[Use]:
        """The files that the steps read and no step writes."""
        return [use for step in self.bound for use in step.config.inputs() if not use.path.startswith(STEP_PREFIX)]

    def outputs(self) -> list[Use]:
        """The files that stay when the workflow has ended."""
        return [use for step in self.bound for use in step.config.outputs() if not use.path.startswith(STEP_PREFIX)]

    def models(self) -> list[Use]:
        """The model folders that the steps load from outside or leave behind."""
        return [use for step in self.bound for use in step.config.models() if not use.path.startswith(STEP_PREFIX)]

    def reveals(self) -> list[Use]:
        """What the steps reveal."""
        return [use for step in self.bound for use in step.config.reveals()]


def bind_steps(steps: list[Step]) -> list[BoundStep]:
    """Resolve every step's references to earlier steps, name its unnamed outputs, and parse its config.

    Raises:
        RequestError: with the name of the step.
    """
    outputs: dict[str, dict[str, Any]] = {}
    bound: list[BoundStep] = []
    ids: Mapping[str, Any] | None = None
    for step in steps:
        try:
            if step.name in outputs:
                raise InvalidTaskConfig("The name is taken by an earlier step.")
            task = _task_of(step)
            values = _resolve(step.task_config, outputs)
            fields = task.config.model_fields if task.config else {}
            if ids and "ids" in fields:
                values.setdefault("ids", ids)
            config = task.parse(_with_outputs(step.name, task, values))
        except RequestError as error:
            error.step = step.name
            raise
        ids = getattr(config, "keys", ids)
        outputs[step.name] = {name: getattr(config, name) for name in config.output_fields()}
        bound.append(BoundStep(step.name, task, config))
    return bound


def _task_of(step: Step) -> Task:
    task = TaskDispatcher.get(str(step.task_config.get("task_type", "")))
    if task.task_type == "workflow" or task.config is None:
        raise InvalidTaskConfig(f"{task.task_type!r} cannot be a step.")
    return task


def _resolve(value: Any, outputs: Mapping[str, Mapping[str, Any]]) -> Any:
    """Put an earlier step's paths in the place of every reference to them."""
    if isinstance(value, Mapping) and set(value) == {"step", "output"}:
        found = outputs.get(value["step"], {}).get(value["output"])
        if found is None:
            known = [f"{step}.{name}" for step, names in outputs.items() for name in names]
            raise InvalidTaskConfig(
                f"No earlier step writes {value['step']}.{value['output']} (known: {', '.join(known) or 'none'})."
            )
        return found
    if isinstance(value, Mapping):
        return {key: _resolve(item, outputs) for key, item in value.items()}
    return [_resolve(item, outputs) for item in value] if isinstance(value, list) else value


def _with_outputs(step: str, task: Task, values: dict[str, Any]) -> dict[str, Any]:
    """Name the outputs that the task needs and the step leaves open."""
    assert task.config is not None
    parties = _parties_of(values)
    for name, role in task.config.output_fields().items():
        if name not in values and task.config.model_fields[name].is_required():
            values[name] = _intermediate(f"{STEP_PREFIX}{step}.{name}", role, parties)
    return values


def _intermediate(path: str, role: PathRole, parties: list[str]) -> Any:
    if role.kind == "save":
        return path
    return f"{path}.parquet" if role.at else {party: f"{path}.parquet" for party in parties}


def _parties_of(values: Mapping[str, Any]) -> list[str]:
    for key in ("input_paths", "input_data", "train_data", "predict_data"):
        if isinstance(values.get(key), Mapping):
            return sorted(values[key])
    return []


def prepare_workflow(run: Run, config: WorkflowConfig) -> None:
    """Prepare the first step; the later ones are prepared when their turn comes."""
    first = config.bound[0]
    with run.named_step(first.name):
        run.prepare(first.task, first.config)


@TaskDispatcher.register_task("workflow", config=WorkflowConfig, prepare=prepare_workflow)
def execute_workflow(devices: Devices, task_config: WorkflowConfig) -> dict[str, Any]:
    """Run several tasks one after another as one execution; later steps use what earlier ones wrote."""
    run, steps = devices.run, task_config.bound
    results = {}
    for index, step in enumerate(steps):
        with run.step(step.name, index, len(steps)):
            results[step.name] = TaskDispatcher.dispatch(step.task.task_type, devices, step.config)
    return {"steps": results, "columns_used": []}
