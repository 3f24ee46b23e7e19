"""The registry of task types, and the way from a ``task_type`` to its function."""

from __future__ import annotations

import difflib
import importlib
from dataclasses import dataclass
from typing import Any, Callable, ClassVar, Mapping

from secretflow_task.contract.errors import DeviceInitError, InvalidTaskConfig, UnknownTaskType
from secretflow_task.contract.task_config import TaskConfig, parse

TaskFunction = Callable[[Any, Any], dict[str, Any]]
PrepareFunction = Callable[[Any, Any], Any]


@dataclass(frozen=True)
class Task:
    """What a task type declares.

    Attributes:
        task_type: its name in requests.
        function: ``(devices, config) -> result`` of the own party.
        config: the model that its ``task_config`` must fit; None takes any mapping.
        needs: the devices besides the PYUs, of ``spu`` and ``heu``.
        prepare: ``(run, config) -> inputs``; checks the own input and agrees with the peers, first of all.
        own_cluster: the task brings its own cluster; none is made for it.
    """

    task_type: str
    function: TaskFunction
    config: type[TaskConfig] | None = None
    needs: tuple[str, ...] = ()
    prepare: PrepareFunction | None = None
    own_cluster: bool = False

    def parse(self, task_config: Any) -> Any:
        """Validate a ``task_config`` (with or without its ``task_type``); a parsed one is returned as it is.

        Raises:
            InvalidTaskConfig: it does not fit.
        """
        if self.config is None or isinstance(task_config, self.config):
            return task_config
        if not isinstance(task_config, Mapping):
            raise InvalidTaskConfig(f"{self.task_type}: task_config must be an object.")
        values = {key: value for key, value in task_config.items() if key != "task_type"}
        return parse(self.config, values, self.task_type)

    @property
    def summary(self) -> str:
        """The first sentence of the function's docstring."""
        return (self.function.__doc__ or "").strip().split("\n")[0]


class TaskDispatcher:
    """Routes a task type to its function."""

    TASK_REGISTRY: ClassVar[dict[str, Task]] = {}

    @classmethod
    def register_task(
        cls,
        task_type: str,
        *,
        config: type[TaskConfig] | None = None,
        needs: tuple[str, ...] = (),
        prepare: PrepareFunction | None = None,
        own_cluster: bool = False,
    ) -> Callable[[TaskFunction], TaskFunction]:
        """Register the decorated function as ``task_type``; `ValueError` if the name is taken."""

        def register(function: TaskFunction) -> TaskFunction:
            if task_type in cls.TASK_REGISTRY:
                raise ValueError(f"task type {task_type!r} is registered already")
            cls.TASK_REGISTRY[task_type] = Task(
                task_type, function, config, needs, prepare, own_cluster
            )
            return function

        return register

    @classmethod
    def get(cls, task_type: str) -> Task:
        """The task of that name.

        Raises:
            UnknownTaskType: there is none; the message names the nearest.
        """
        cls._load()
        if task_type not in cls.TASK_REGISTRY:
            near = difflib.get_close_matches(task_type, cls.TASK_REGISTRY, n=1)
            guess = f" Did you mean {near[0]!r}?" if near else ""
            raise UnknownTaskType(f"There is no task type {task_type!r}.{guess}")
        return cls.TASK_REGISTRY[task_type]

    @classmethod
    def dispatch(cls, task_type: str, devices: Any, task_config: Any) -> dict[str, Any]:
        """Validate ``task_config`` and run the task on ``devices``; returns the own party's result.

        Args:
            devices: a mapping of devices by name; with the attribute ``run`` for a task with ``prepare``.

        Raises:
            UnknownTaskType, InvalidTaskConfig, DeviceInitError: before anything runs.
            WorkerError: what the task raises.
        """
        task = cls.get(task_type)
        config = task.parse(task_config)
        lacking = [name for name in getattr(config, "needs", task.needs) if name not in devices]
        if lacking:
            raise DeviceInitError(f"{task_type} needs the device {lacking[0]!r}.")
        if task.prepare is not None:
            if not hasattr(devices, "run"):
                raise DeviceInitError(
                    f"{task_type} needs the devices of an execution, not a plain mapping."
                )
            devices.run.open(task, config)
        return task.function(devices, config)

    @classmethod
    def list_supported_tasks(cls) -> list[str]:
        """The names of all task types, sorted."""
        cls._load()
        return sorted(cls.TASK_REGISTRY)

    @staticmethod
    def _load() -> None:
        # By name: the jobs import this module to register themselves.
        importlib.import_module("secretflow_task.jobs")
