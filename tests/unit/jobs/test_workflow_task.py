"""A workflow's steps find each other's files, and a broken reference is named."""

from __future__ import annotations

import copy
import gc
import weakref
from pathlib import Path
from typing import Any

import pytest

from secretflow_task.contract.errors import InvalidTaskConfig
from secretflow_task.contract.task_config import Reads, TaskConfig, Use, parse
from secretflow_task.contract.task_dispatcher import Task, TaskDispatcher
from secretflow_task.contract.tasks.workflow import WorkflowConfig
from secretflow_task.engine.devices import Devices
from secretflow_task.engine.run import Run
from tests.unit.conftest import RunOf
from tests.unit.plan_requests import PATHS, PLAN_REQUESTS

PSI = {
    "task_type": "psi",
    "keys": {"alice": ["uid"], "bob": ["id"]},
    "input_paths": PATHS,
    "receiver": "alice",
}
SPLIT = {
    "task_type": "train_test_split",
    "input_data": {"step": "psi", "output": "output_paths"},
    "stratify": {"party": "alice", "column": "y"},
}
SCALE = {
    "task_type": "standard_scaler",
    "input_data": {"step": "split", "output": "train_data"},
    "label": "y",
}
SCALE_TEST = {
    "task_type": "standard_scaler",
    "input_data": {"step": "split", "output": "test_data"},
    "model_path": {"step": "scale", "output": "model_output"},
}
TRAIN = {
    "task_type": "ss_lr",
    "train_data": {"step": "scale", "output": "output_data"},
    "label": "y",
    "model_output": "models/lr",
}
PREDICT = {
    "task_type": "ss_lr_predict",
    "model_path": {"step": "train", "output": "model_output"},
    "predict_data": {"step": "scale_test", "output": "output_data"},
    "receiver": "alice",
    "output_path": "prediction.csv",
}
EVALUATE = {
    "task_type": "biclassification_eval",
    "label": {
        "party": "alice",
        "path": {"step": "scale_test", "output": "output_data"},
        "column": "y",
    },
    "prediction": {
        "party": "alice",
        "path": {"step": "predict", "output": "output_path"},
        "column": "prediction",
    },
}
STEPS = {
    "psi": PSI,
    "split": SPLIT,
    "scale": SCALE,
    "scale_test": SCALE_TEST,
    "train": TRAIN,
    "predict": PREDICT,
    "evaluate": EVALUATE,
}


def request_of(steps: dict[str, Any]) -> dict[str, Any]:
    """The ``task_config`` of a workflow."""
    return {"steps": [{"name": name, "task_config": config} for name, config in steps.items()]}


def workflow(steps: dict[str, Any]) -> WorkflowConfig:
    """A parsed workflow."""
    config = parse(WorkflowConfig, request_of(steps), "workflow")
    assert isinstance(config, WorkflowConfig)
    return config


def bound_of(steps: dict[str, Any]) -> dict[str, Any]:
    """The parsed configs of the steps."""
    return {step.name: step.config for step in workflow(steps).bound}


def refusal(steps: dict[str, Any]) -> str:
    """The message by which a workflow is refused."""
    with pytest.raises(InvalidTaskConfig) as caught:
        workflow(steps)
    return caught.value.message


def test_references_become_the_paths_of_earlier_steps() -> None:
    bound = bound_of(STEPS)
    assert list(bound) == list(STEPS)
    kept = {party: "step:psi.output_paths.parquet" for party in ("alice", "bob")}
    assert bound["psi"].output_paths == kept == bound["split"].input_data
    assert bound["scale"].input_data == bound["split"].train_data
    assert bound["scale_test"].input_data == bound["split"].test_data
    assert bound["scale_test"].model_path == bound["scale"].model_output
    assert bound["predict"].model_path == bound["train"].model_output == "models/lr"
    assert bound["evaluate"].label.path == bound["scale_test"].output_data["alice"]
    assert bound["evaluate"].prediction.path == "prediction.csv"


def test_a_workflow_declares_what_its_steps_do_outside_it() -> None:
    config = workflow(STEPS)
    assert config.parties() == ["alice", "bob"]
    assert config.needs == ("spu",)
    assert config.inputs() == [
        Use("alice", "alice.csv", (), "input_paths"),
        Use("bob", "bob.csv", (), "input_paths"),
    ]
    assert config.outputs() == [Use("alice", "prediction.csv", (), "output_path")]
    assert sorted((use.party, use.path) for use in config.models()) == [
        ("alice", "models/lr"),
        ("bob", "models/lr"),
    ]
    assert config.reveals() == [use for step in config.bound for use in step.config.reveals()] != []


def test_ids_follow_from_the_keys_of_the_psi() -> None:
    bound = bound_of(STEPS)
    keys = {"alice": ["uid"], "bob": ["id"]}
    assert [bound[name].ids for name in ("scale", "train", "predict")] == [keys, keys, keys]


def test_ids_that_a_step_names_itself_stay() -> None:
    own = {"alice": ["uid", "name"], "bob": ["id"]}
    assert bound_of({**STEPS, "train": {**TRAIN, "ids": own}})["train"].ids == own


def test_outputs_that_a_step_names_stay_and_can_be_referred_to() -> None:
    named = {"alice": "common/a.csv", "bob": "common/b.csv"}
    steps = {"psi": {**PSI, "output_paths": named}, "split": SPLIT}
    assert bound_of(steps)["split"].input_data == named
    config = workflow(steps)
    assert [use.path for use in config.outputs()] == ["common/a.csv", "common/b.csv"]
    assert [use.path for use in config.inputs()] == ["alice.csv", "bob.csv"]


def test_the_request_itself_is_left_as_it_is() -> None:
    request = request_of(STEPS)
    before = copy.deepcopy(request)
    parse(WorkflowConfig, request, "workflow")
    assert request == before


def test_two_workflows_of_one_request_are_equal() -> None:
    assert workflow(STEPS).steps == workflow(STEPS).steps


def test_requests_of_the_plan_are_steps_as_they_stand() -> None:
    bound = workflow(
        {f"s-{name}": {"task_type": name, **values} for name, values in PLAN_REQUESTS.items()}
    ).bound
    assert [step.task.task_type for step in bound] == list(PLAN_REQUESTS)


@pytest.mark.parametrize(
    ("steps", "problem"),
    [
        ({}, "steps: list should have at least 1 item after validation, not 0."),
        (
            {"split": SPLIT},
            "Step 'split': No earlier step writes psi.output_paths (known: none).",
        ),
        (
            {
                "psi": PSI,
                "split": {**SPLIT, "input_data": {"step": "psi", "output": "output_path"}},
            },
            "Step 'split': No earlier step writes psi.output_path (known: psi.output_paths).",
        ),
        (
            {"psi": {**PSI, "task_type": "pse"}},
            "Step 'psi': There is no task type 'pse', did you mean 'psi'?",
        ),
        ({"psi": {"keys": {}}}, "Step 'psi': There is no task type ''."),
        (
            {"inner": {"task_type": "workflow", "steps": []}},
            "Step 'inner': 'workflow' cannot be a step.",
        ),
        (
            {"psi": PSI, "split": {**SPLIT, "train_sise": 0.5}},
            "Step 'split': train_test_split: unknown key 'train_sise', did you mean 'train_size'?",
        ),
        ({"two words": PSI}, "steps.0.name: string should match pattern '^[A-Za-z0-9_-]{1,64}$'."),
    ],
)
def test_a_broken_step_is_named(steps: dict[str, Any], problem: str) -> None:
    assert refusal(steps).rstrip(".") == f"workflow: {problem}".rstrip(".")


def test_a_step_cannot_refer_to_itself_or_to_a_later_one() -> None:
    swapped = {"split": SPLIT, "psi": PSI}
    assert "No earlier step writes psi.output_paths" in refusal(swapped)
    own = {"psi": {**PSI, "input_paths": {"step": "psi", "output": "output_paths"}}}
    assert "No earlier step writes psi.output_paths (known: none)" in refusal(own)


def test_a_name_is_taken_once() -> None:
    steps = [{"name": "psi", "task_config": PSI}] * 2
    with pytest.raises(InvalidTaskConfig, match="Step 'psi': The name is taken by an earlier step"):
        parse(WorkflowConfig, {"steps": steps}, "workflow")


class ReadingConfig(TaskConfig):
    """The config of a task that reads a table."""

    input_data: Reads


def test_what_the_first_step_has_read_is_freed_before_the_second_runs(
    registry: dict[str, Task], make_run: RunOf, tmp_path: Path
) -> None:
    (tmp_path / "data/alice").mkdir(parents=True)
    (tmp_path / "data/alice/a.csv").write_text("x\n1\n")
    tables: list[weakref.ref[Any]] = []

    def prepare(run: Run, config: ReadingConfig) -> Any:
        table = run.read(config.input_data, "input_data")
        tables.append(weakref.ref(table))
        return table

    def execute(devices: Devices, _config: ReadingConfig) -> dict[str, Any]:
        gc.collect()
        return {"rows": devices.inputs.rows, "held": [table() is not None for table in tables]}

    TaskDispatcher.register_task("read", config=ReadingConfig, prepare=prepare)(execute)
    step = {"task_type": "read", "input_data": {"alice": "a.csv"}}
    steps = [{"name": name, "task_config": step} for name in ("one", "two")]
    run = make_run("alice", parties=("alice",))
    prepared = run.prepare(
        TaskDispatcher.with_body("workflow"), parse(WorkflowConfig, {"steps": steps}, "workflow")
    )
    results = TaskDispatcher.run(prepared, Devices(run))["steps"]
    assert results == {
        "one": {"rows": 1, "held": [True]},
        "two": {"rows": 1, "held": [False, True]},
    }
