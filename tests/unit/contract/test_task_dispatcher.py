"""The plan's registry: names, calls and refusals."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from secretflow_task.contract.errors import (
    DeviceInitError,
    InvalidTaskConfig,
    UnknownTaskType,
    WorkerError,
)
from secretflow_task.contract.task_config import Reads, TaskConfig
from secretflow_task.contract.task_dispatcher import Prepared, Task, TaskDispatcher
from secretflow_task.engine.devices import Devices
from secretflow_task.engine.run import Run
from tests.unit.conftest import RunOf
from tests.unit.plan_requests import PLAN_REQUESTS

PLAN_FUNCTIONS = {
    "psi": "execute_psi",
    "standard_scaler": "execute_standard_scaler",
    "min_max_scaler": "execute_min_max_scaler",
    "label_encoder": "execute_label_encoder",
    "onehot_encoder": "execute_onehot_encoder",
    "binning": "execute_binning",
    "fillna": "execute_fillna",
    "ss_lr": "execute_ss_logistic_regression",
    "ss_xgb": "execute_ss_xgboost",
    "sgb": "execute_sgb",
    "biclassification_eval": "execute_biclassification_eval",
    "regression_eval": "execute_regression_eval",
}
Registry = dict[str, Task]


class EchoConfig(TaskConfig):
    """The config of a task that echoes."""

    input_data: Reads
    times: int = 1


INPUT = {"input_data": {"alice": "a.csv"}}


def echo(devices: Any, task_config: Any) -> dict[str, Any]:
    """Return what it was given.

    More about it.
    """
    return {"devices": devices, "config": task_config}


def test_register_without_keywords_takes_any_mapping(registry: Registry) -> None:
    assert TaskDispatcher.register_task("echo")(echo) is echo
    assert registry["echo"] == Task("echo", echo, summary="Return what it was given.")
    devices = {"alice": object(), "bob": object()}
    config = {"task_type": "echo", "anything": [1, 2]}
    assert TaskDispatcher.dispatch("echo", devices, config) == {
        "devices": devices,
        "config": config,
    }


def test_register_as_a_decorator_with_keywords(registry: Registry) -> None:
    def prepare(run: Run, config: EchoConfig) -> str:
        return f"{run.party} {config.times}"

    @TaskDispatcher.register_task("echo", config=EchoConfig, needs=("spu",), prepare=prepare)
    def execute_echo(devices: Any, task_config: EchoConfig) -> dict[str, Any]:
        return {"times": task_config.times}

    assert registry["echo"] == Task("echo", execute_echo, EchoConfig, ("spu",), prepare)


def test_a_name_is_registered_once(registry: Registry) -> None:
    TaskDispatcher.register_task("echo")(echo)
    with pytest.raises(ValueError, match="'echo' is registered already"):
        TaskDispatcher.register_task("echo")(print)  # type: ignore[arg-type]
    assert registry["echo"].function is echo


def test_dispatch_validates_a_plain_config(registry: Registry) -> None:
    TaskDispatcher.register_task("echo", config=EchoConfig)(echo)
    result = TaskDispatcher.dispatch("echo", {}, {"task_type": "echo", "times": 3, **INPUT})
    assert result["config"] == EchoConfig(input_data={"alice": "a.csv"}, times=3)


def test_dispatch_takes_a_parsed_config_as_it_is(registry: Registry) -> None:
    TaskDispatcher.register_task("echo", config=EchoConfig)(echo)
    config = EchoConfig(input_data={"alice": "a.csv"})
    assert TaskDispatcher.dispatch("echo", {}, config)["config"] is config


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ({"task_type": "echo"}, "echo: 'input_data' is missing."),
        ({**INPUT, "tims": 2}, "echo: unknown key 'tims', did you mean 'times'?"),
        ([], "echo: task_config must be an object."),
        (None, "echo: task_config must be an object."),
    ],
)
def test_a_wrong_config_is_refused_before_the_function_is_called(
    registry: Registry, config: Any, problem: str
) -> None:
    TaskDispatcher.register_task("echo", config=EchoConfig)(
        lambda devices, config: pytest.fail("called")
    )
    with pytest.raises(InvalidTaskConfig) as caught:
        TaskDispatcher.dispatch("echo", {}, config)
    assert caught.value.message == problem


def test_an_unknown_type_is_refused_with_the_nearest(registry: Registry) -> None:
    with pytest.raises(UnknownTaskType) as caught:
        TaskDispatcher.dispatch("standard_scalar", {}, {})
    assert (
        caught.value.message
        == "There is no task type 'standard_scalar', did you mean 'standard_scaler'?"
    )
    assert caught.value.hint == "`sfworker tasks` lists the task types."


def test_an_unknown_type_that_is_near_to_none_is_refused_without_a_guess() -> None:
    with pytest.raises(UnknownTaskType) as caught:
        TaskDispatcher.get("zzz")
    assert caught.value.message == "There is no task type 'zzz'."


def test_dispatch_on_a_plain_mapping_without_a_needed_device_is_refused(registry: Registry) -> None:
    TaskDispatcher.register_task("echo", needs=("spu", "heu"))(echo)
    with pytest.raises(DeviceInitError) as caught:
        TaskDispatcher.dispatch("echo", {"alice": 1, "spu": 2}, {})
    assert caught.value.message == "echo needs the device 'heu'."
    assert TaskDispatcher.dispatch("echo", {"spu": 2, "heu": 3}, {})["devices"] == {
        "spu": 2,
        "heu": 3,
    }


def test_a_task_that_prepares_is_refused_on_a_plain_mapping(registry: Registry) -> None:
    TaskDispatcher.register_task("echo", prepare=lambda run, config: None)(echo)
    with pytest.raises(DeviceInitError) as caught:
        TaskDispatcher.dispatch("echo", {}, {})
    assert caught.value.message == "echo needs the devices of an execution, not a plain mapping."


def test_dispatch_prepares_once(registry: Registry, make_run: RunOf) -> None:
    calls: list[str] = []

    def prepare(run: Run, config: EchoConfig) -> list[str]:
        calls.append(run.party)
        run.agree(rows=1)
        return [run.party] * config.times

    TaskDispatcher.register_task("echo", config=EchoConfig, prepare=prepare)(
        lambda devices, config: {"inputs": devices.inputs}
    )
    run = make_run("alice")
    config = EchoConfig(input_data={"alice": "a.csv"}, times=2)
    prepared = run.prepare(TaskDispatcher.get("echo"), config)
    assert prepared == Prepared(TaskDispatcher.get("echo"), config, ["alice", "alice"])
    assert TaskDispatcher.run(prepared, Devices(run)) == {"inputs": ["alice", "alice"]}
    assert calls == ["alice"]
    assert TaskDispatcher.dispatch("echo", Devices(run), config) == {"inputs": ["alice", "alice"]}
    assert calls == ["alice", "alice"]


def test_the_inputs_of_one_task_are_not_those_of_another_on_the_same_devices(
    make_run: RunOf,
) -> None:
    devices = Devices(make_run("alice"))
    devices["alice"] = object()
    first, second = devices.with_inputs([1]), devices.with_inputs({"a": 2})
    assert (first.inputs, second.inputs) == ([1], {"a": 2})
    assert first == second == devices and first.run is devices.run
    assert not hasattr(devices, "inputs")


def test_a_task_without_prepare_agrees_with_its_peers_all_the_same(
    registry: Registry, make_run: RunOf
) -> None:
    TaskDispatcher.register_task("echo")(echo)
    run = make_run("alice")
    task, config = TaskDispatcher.get("echo"), {"any": 1}
    assert run.prepare(task, config) == Prepared(task, config)
    assert run.channel.offered == [{}]  # type: ignore[attr-defined]


def test_what_a_task_raises_comes_through(registry: Registry) -> None:
    def fail(devices: Any, task_config: Any) -> dict[str, Any]:
        raise WorkerError("Broken.", party="bob")

    TaskDispatcher.register_task("broken")(fail)
    with pytest.raises(WorkerError) as caught:
        TaskDispatcher.dispatch("broken", {}, {})
    assert (caught.value.message, caught.value.party) == ("Broken.", "bob")


def test_list_is_sorted_and_has_all_tasks_of_this_release(registry: Registry) -> None:
    names = TaskDispatcher.list_supported_tasks()
    assert names == sorted(names) == sorted(registry)
    assert {*PLAN_FUNCTIONS, "train_test_split", "ss_lr_predict", "workflow"} <= set(names)
    TaskDispatcher.register_task("aaa")(echo)
    assert TaskDispatcher.list_supported_tasks() == ["aaa", *names]


@pytest.mark.parametrize(("task_type", "function"), PLAN_FUNCTIONS.items())
def test_functions_have_the_names_of_the_plan(task_type: str, function: str) -> None:
    assert TaskDispatcher.with_body(task_type).function.__name__ == function


@pytest.mark.parametrize("task_type", TaskDispatcher.list_supported_tasks())
def test_every_task_says_what_it_does_and_what_it_takes(task_type: str) -> None:
    task = TaskDispatcher.with_body(task_type)
    assert task.summary.endswith(".") and len(task.summary) > 20
    assert task.config is not None and task.prepare is not None
    described = {name for name, field in task.config.model_fields.items() if field.description}
    assert described == set(task.config.model_fields)


def test_without_a_declaration_the_summary_is_the_first_line_of_the_docstring(
    registry: Registry,
) -> None:
    TaskDispatcher.register_task("echo")(echo)
    TaskDispatcher.register_task("silent")(lambda devices, config: {})
    assert registry["echo"].summary == "Return what it was given."
    assert registry["silent"].summary == ""


def test_a_declaration_gets_its_body_from_the_module_that_it_names(registry: Registry) -> None:
    TaskDispatcher.declare(
        "echo", EchoConfig, summary="Echoes.", family="tests", body=__name__, needs=("spu",)
    )
    declared = registry["echo"]
    assert declared.function is None
    TaskDispatcher.register_task("echo", prepare=print)(echo)
    assert registry["echo"] == replace(declared, function=echo, prepare=print)
    with pytest.raises(ValueError, match="'echo' is registered already"):
        TaskDispatcher.register_task("echo")(echo)


def test_a_declared_name_is_not_free_for_another_module(registry: Registry) -> None:
    TaskDispatcher.declare("echo", EchoConfig, summary="Echoes.", family="tests", body="elsewhere")
    with pytest.raises(ValueError, match="'echo' is registered already"):
        TaskDispatcher.register_task("echo")(echo)
    with pytest.raises(ValueError, match="'echo' is registered already"):
        TaskDispatcher.declare("echo", EchoConfig, summary="", family="", body="")


@pytest.mark.parametrize("task_type", TaskDispatcher.list_supported_tasks())
def test_a_declaration_names_the_module_of_its_body(task_type: str) -> None:
    task = TaskDispatcher.with_body(task_type)
    assert task.function is not None
    assert task.function.__module__ == task.body


@pytest.mark.parametrize("task_type", PLAN_REQUESTS)
def test_requests_of_the_plan_are_accepted_with_and_without_their_type(task_type: str) -> None:
    request = PLAN_REQUESTS[task_type]
    task = TaskDispatcher.get(task_type)
    with_type = task.parse({"task_type": task_type, **request})
    assert task.parse(request) == with_type == task.parse(with_type)
    given = with_type.model_dump(exclude_unset=True)
    assert {**given, "protocol": request.get("protocol")} == {
        **request,
        "protocol": request.get("protocol"),
    }


@pytest.mark.parametrize("task_type", TaskDispatcher.list_supported_tasks())
def test_a_template_has_built_the_model_that_its_jobs_use(task_type: str) -> None:
    TaskDispatcher.load_bodies()
    config = TaskDispatcher.get(task_type).config
    assert config is not None and config.__pydantic_complete__
