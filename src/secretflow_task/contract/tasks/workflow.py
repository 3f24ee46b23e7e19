"""The declaration of a workflow: how its steps are bound to one another."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any, Iterator, Mapping

from pydantic import Field, PrivateAttr, model_validator

from secretflow_task.contract.errors import InvalidTaskConfig, RequestError
from secretflow_task.contract.reveals import Reveal
from secretflow_task.contract.task_config import STEP_PREFIX, PathRole, Strict, TaskConfig, Use
from secretflow_task.contract.task_dispatcher import Task, TaskDispatcher


class Step(Strict):
    """One step: a name, and the ``task_config`` of its task."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9_-]{1,64}$", description="What later steps and errors call it."
    )
    task_config: dict[str, Any] = Field(
        description=(
            "As for the task alone; for a path also {step: NAME, output: KEY} of an earlier step."
        ),
    )


@dataclass(frozen=True)
class BoundStep:
    """A step with its references resolved and its config parsed."""

    name: str
    task: Task
    config: TaskConfig


class WorkflowConfig(TaskConfig):
    """``task_config`` of `workflow`.

    In the place of a path, ``{"step": NAME, "output": KEY}`` is what an earlier step writes under
    KEY. Outputs that a step does not name are kept only while the workflow runs.
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
        return self._outside([step.config.inputs() for step in self.bound], but_written=True)

    def outputs(self) -> list[Use]:
        """The files that stay when the workflow has ended."""
        return self._outside([step.config.outputs() for step in self.bound])

    def models(self) -> list[Use]:
        """The model folders that the steps leave behind, or load and no step saves."""
        saved = self._outside([step.config.models() for step in self.bound])
        last: dict[tuple[str, str], Use] = {}
        for use in reversed(saved):
            last[use.party, use.path] = use
        return list(reversed(last.values()))

    def _outside(self, uses: list[list[Use]], but_written: bool = False) -> list[Use]:
        written = set()
        if but_written:
            written = {(use.party, use.path) for use in self.outputs()}
        outside = []
        for use in itertools.chain.from_iterable(uses):
            if use.path.startswith(STEP_PREFIX) or (use.party, use.path) in written:
                continue
            outside.append(use)
        return outside

    def reveals(self) -> list[Reveal]:
        """What the steps reveal."""
        return [reveal for step in self.bound for reveal in step.config.reveals()]


def bind_steps(steps: list[Step]) -> list[BoundStep]:
    """Resolve each step's references to earlier ones, name its open outputs, and parse its config.

    Raises:
        RequestError: with the name of the step.
    """
    wanted = set(_references([step.task_config for step in steps]))
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
            config = task.parse(_with_outputs(step.name, task, values, wanted))
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
    if _is_reference(value):
        found = outputs.get(value["step"], {}).get(value["output"])
        if found is None:
            known = [f"{step}.{name}" for step, names in outputs.items() for name in names]
            raise InvalidTaskConfig(
                f"No earlier step writes {value['step']}.{value['output']} "
                f"(known: {', '.join(known) or 'none'})."
            )
        return found
    if isinstance(value, Mapping):
        return {key: _resolve(item, outputs) for key, item in value.items()}
    if isinstance(value, list):
        return [_resolve(item, outputs) for item in value]
    return value


def _is_reference(value: Any) -> bool:
    return isinstance(value, Mapping) and set(value) == {"step", "output"}


def _references(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every ``(step, output)`` that is referred to."""
    if _is_reference(value):
        yield value["step"], value["output"]
        return
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _references(item)


def _with_outputs(
    step: str, task: Task, values: dict[str, Any], wanted: set[tuple[Any, Any]]
) -> dict[str, Any]:
    """Name the outputs that the step leaves open and the task needs or a later step refers to."""
    assert task.config is not None
    parties = _parties_of(values)
    for name, role in task.config.output_fields().items():
        needed = task.config.model_fields[name].is_required() or (step, name) in wanted
        if name not in values and needed:
            values[name] = _intermediate(f"{STEP_PREFIX}{step}.{name}", role, parties)
    return values


def _intermediate(path: str, role: PathRole, parties: list[str]) -> Any:
    if role.kind == "save":
        return path
    if role.at:
        return f"{path}.parquet"
    return {party: f"{path}.parquet" for party in parties}


def _parties_of(values: Mapping[str, Any]) -> list[str]:
    for key in ("input_paths", "input_data", "train_data", "predict_data"):
        if isinstance(values.get(key), Mapping):
            return sorted(values[key])
    return []


TaskDispatcher.declare(
    "workflow",
    WorkflowConfig,
    family="workflow",
    summary=(
        "Run several tasks one after another as one execution; later steps use what earlier ones "
        "wrote."
    ),
    body="secretflow_task.jobs.workflow_task",
)
