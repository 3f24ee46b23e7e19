"""The registry of task types, and the way from a ``task_type`` to its function.

Every process knows what the task types declare (`contract.tasks`); a job process also imports
their bodies, by name.
"""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass, replace
from typing import Any, Callable, ClassVar, Mapping

from secretflow_task.contract.errors import DeviceInitError, InvalidTaskConfig, UnknownTaskType
from secretflow_task.contract.task_config import TaskConfig, parse
from secretflow_task.utils.spelling import did_you_mean

TaskFunction = Callable[[Any, Any], dict[str, Any]]
PrepareFunction = Callable[[Any, Any], Any]


@dataclass(frozen=True)
class Task:
    """A task type: what it declares and, in a job process, its body.

    Attributes:
        task_type: its name in requests.
        function: ``(devices, config) -> result`` of the own party; None until the body is imported.
        config: the model that its ``task_config`` must fit; None takes any mapping.
        needs: the devices besides the PYUs, of ``spu`` and ``heu``.
        prepare: ``(run, config) -> inputs``; checks the own input and agrees with the peers, before
            anything else.
        summary: one sentence that says what it does.
        family: which of the task types belong together.
        body: the module that registers the function.
    """

    task_type: str
    function: TaskFunction | None = None
    config: type[TaskConfig] | None = None
    needs: tuple[str, ...] = ()
    prepare: PrepareFunction | None = None
    summary: str = ""
    family: str = ""
    body: str = ""

    def parse(self, task_config: Any) -> Any:
        """Validate a ``task_config``, with or without its ``task_type``.

        A parsed one is returned as it is.

        Raises:
            InvalidTaskConfig: it does not fit.
        """
        if self.config is None or isinstance(task_config, self.config):
            return task_config
        if not isinstance(task_config, Mapping):
            raise InvalidTaskConfig(f"{self.task_type}: task_config must be an object.")
        values = {key: value for key, value in task_config.items() if key != "task_type"}
        return parse(self.config, values, self.task_type)


@dataclass(frozen=True)
class Prepared:
    """A task that may run: its own input is checked, and the peers have agreed.

    Attributes:
        config: the parsed ``task_config``.
        inputs: what the task's ``prepare`` returned; None for a task without one.
    """

    task: Task
    config: Any
    inputs: Any = None


class TaskDispatcher:
    """Routes a task type to its function."""

    TASK_REGISTRY: ClassVar[dict[str, Task]] = {}

    @classmethod
    def declare(
        cls,
        task_type: str,
        config: type[TaskConfig],
        *,
        summary: str,
        family: str,
        body: str,
        needs: tuple[str, ...] = (),
    ) -> None:
        """Make a task type known; `register_task` in the module ``body`` gives it its function."""
        cls._refuse_taken(task_type)
        cls.TASK_REGISTRY[task_type] = Task(
            task_type, config=config, needs=needs, summary=summary, family=family, body=body
        )

    @classmethod
    def register_task(
        cls,
        task_type: str,
        *,
        config: type[TaskConfig] | None = None,
        needs: tuple[str, ...] = (),
        prepare: PrepareFunction | None = None,
    ) -> Callable[[TaskFunction], TaskFunction]:
        """Register the decorated function as ``task_type``; `ValueError` if the name is taken.

        A task type that is declared has its config and devices from there; any other has those
        given here.
        """

        def register(function: TaskFunction) -> TaskFunction:
            declared = cls.TASK_REGISTRY.get(task_type)
            if declared and declared.body == function.__module__ and not declared.function:
                task = replace(declared, function=function, prepare=prepare)
            else:
                cls._refuse_taken(task_type)
                summary = (function.__doc__ or "").strip().partition("\n")[0]
                task = Task(task_type, function, config, needs, prepare, summary)
            cls.TASK_REGISTRY[task_type] = task
            return function

        return register

    @classmethod
    def get(cls, task_type: str) -> Task:
        """The task of that name, with what it declares.

        Raises:
            UnknownTaskType: there is none; the message names the nearest.
        """
        cls._declare_all()
        if task_type not in cls.TASK_REGISTRY:
            guess = did_you_mean(task_type, cls.TASK_REGISTRY) or "."
            raise UnknownTaskType(f"There is no task type {task_type!r}{guess}")
        return cls.TASK_REGISTRY[task_type]

    @classmethod
    def with_body(cls, task_type: str) -> Task:
        """The task of that name with its function, whose module is imported if need be."""
        task = cls.get(task_type)
        if task.function is None:
            importlib.import_module(task.body)
        return cls.TASK_REGISTRY[task_type]

    @classmethod
    def load_bodies(cls) -> None:
        """Import the body of every task type, as a job's template does, and build its model.

        Otherwise each of the jobs, which are forked from the template, would do so again.
        """
        for task_type in cls.list_supported_tasks():
            task = cls.with_body(task_type)
            if task.config is not None:
                task.config.model_rebuild()

    @classmethod
    def dispatch(cls, task_type: str, devices: Any, task_config: Any) -> dict[str, Any]:
        """Validate ``task_config`` and run the task on ``devices``; returns the own party's result.

        Args:
            devices: a mapping of devices by name; with the attribute ``run`` for a task with
                ``prepare``.

        Raises:
            UnknownTaskType, InvalidTaskConfig, DeviceInitError: before anything runs.
            WorkerError: what the task raises.
        """
        task = cls.with_body(task_type)
        config = task.parse(task_config)
        _check_devices(task, config, devices)
        if task.prepare is None:
            return cls.run(Prepared(task, config), devices)
        if not hasattr(devices, "run"):
            raise DeviceInitError(
                f"{task_type} needs the devices of an execution, not a plain mapping."
            )
        return cls.run(devices.run.prepare(task, config), devices)

    @classmethod
    def run(cls, prepared: Prepared, devices: Any) -> dict[str, Any]:
        """Run a task that is prepared on ``devices``; returns the own party's result.

        Raises:
            DeviceInitError: a device is lacking.
            WorkerError: what the task raises.
        """
        task, config = prepared.task, prepared.config
        _check_devices(task, config, devices)
        assert task.function is not None
        if task.prepare is not None:
            devices = devices.with_inputs(prepared.inputs)
        return task.function(devices, config)

    @classmethod
    def list_supported_tasks(cls) -> list[str]:
        """The names of all task types, sorted."""
        cls._declare_all()
        return sorted(cls.TASK_REGISTRY)

    @classmethod
    def _refuse_taken(cls, task_type: str) -> None:
        if task_type in cls.TASK_REGISTRY:
            raise ValueError(f"task type {task_type!r} is registered already")

    @staticmethod
    def _declare_all() -> None:
        # By name: the declarations import this module to make themselves known.
        tasks = importlib.import_module("secretflow_task.contract.tasks")
        for module in pkgutil.iter_modules(tasks.__path__, f"{tasks.__name__}."):
            importlib.import_module(module.name)


def _check_devices(task: Task, config: Any, devices: Any) -> None:
    for name in getattr(config, "needs", task.needs):
        if name not in devices:
            raise DeviceInitError(f"{task.task_type} needs the device {name!r}.")
