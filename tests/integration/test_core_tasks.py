"""Split, scaler, evaluation and workflow equal scikit-learn, and send the right events."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

from secretflow_task.contract.messages import Status
from tests.data.tables import Table, columns_in_order, overlapping, rows_in_order, two_halves
from tests.integration.bench import Execution, Workspace
from tests.integration.test_psi import psi
from tests.integration.test_statistics import run_statistics
from tests.integration.test_trees import check_against_xgboost

pytestmark = pytest.mark.engine


def events_of(execution: Execution, party: str) -> list[tuple[int, str, str, float]]:
    """``(seq, status, stage, progress)`` of every event of a party."""
    return [
        (event.seq, event.status.value, event.data["stage"], event.data["progress"])
        for event in execution.events[party]
    ]


STARTED = [
    (1, "RUNNING", "accepted", 0.0),
    (2, "RUNNING", "cluster_init", 0.1),
    (3, "RUNNING", "device_creation", 0.3),
    (4, "RUNNING", "task_execution", 0.5),
]


def test_psi_sends_these_events_and_no_others(workspace: Workspace) -> None:
    execution = workspace.run(psi(workspace, dict(zip(("alice", "bob"), overlapping(10, 5)))))
    expected = [
        *STARTED,
        (5, "RUNNING", "intersection", 0.55),
        (6, "RUNNING", "alignment", 0.9),
        (7, "SUCCESS", "SUCCESS", 1.0),
    ]
    assert {party: events_of(execution, party) for party in execution.events} == {
        "alice": expected,
        "bob": expected,
    }
    event = json.loads(execution.events["bob"][-1].to_json())
    assert {
        key: event[key]
        for key in ("task_request_id", "execution_id", "party", "task_name", "worker_container")
    } == {
        "task_request_id": execution.id,
        "execution_id": execution.id,
        "party": "bob",
        "task_name": "tasks.secretflow.execute_task",
        "worker_container": workspace.bench.node.settings.name,
    }
    assert event["timestamp"].endswith("+00:00")
    times = [some.timestamp for some in execution.events["bob"]]
    assert times == sorted(times)


def test_training_sends_one_event_per_epoch(workspace: Workspace) -> None:
    request = {
        "task_type": "ss_lr",
        "train_data": workspace.write("in.csv", two_halves(40)),
        "label": "y",
        "ids": {"alice": ["uid"], "bob": ["uid"]},
        "model_output": workspace.text("model"),
        "params": {"epochs": 3, "batch_size": 40, "sig_type": "t1"},
    }
    execution = workspace.run(request)
    expected = [
        *STARTED,
        (5, "RUNNING", "training", 0.525),
        (6, "RUNNING", "training", 0.675),
        (7, "RUNNING", "training", 0.825),
        (8, "RUNNING", "training", 0.975),
        (9, "SUCCESS", "SUCCESS", 1.0),
    ]
    assert {party: events_of(execution, party) for party in execution.events} == {
        "alice": expected,
        "bob": expected,
    }


def test_ids_of_the_submitter_are_in_every_event(workspace: Workspace) -> None:
    request = psi(workspace, dict(zip(("alice", "bob"), overlapping(10, 5))))
    params = {
        "execution_id": f"{workspace.name}-x",
        "task_id": "7",
        "subtask_id": "7.1",
        "task_config": request,
    }
    outcome = workspace.bench.node.execute("web-request-1", params)
    with workspace.bench.mutex:
        events = workspace.bench.events.pop(f"{workspace.name}-x")
    assert outcome.status is Status.SUCCESS
    ids = {
        (event.task_request_id, event.execution_id, event.task_id, event.subtask_id)
        for event in events
    }
    assert ids == {("web-request-1", f"{workspace.name}-x", "7", "7.1")}


def a_table(rows: int = 60) -> dict[str, Table]:
    """Numbers far from zero, empty cells, a constant column, text, ids with leading zeros."""
    rng = np.random.default_rng(0)
    ids = [f"{row:04d}" for row in range(rows)]
    age = [repr(value) for value in rng.normal(50, 12, rows)]
    age[3], age[10] = "", "NaN"
    return {
        "alice": {
            "uid": ids,
            "age": age,
            "same": ["3.50"] * rows,
            "note": [f"a,{row}" for row in range(rows)],
        },
        "bob": {
            "income": [f"{value:.2f}" for value in rng.normal(1e6, 3e5, rows)],
            "uid": ids,
            "y": [str(value) for value in rng.integers(0, 2, rows)],
        },
    }


def as_floats(cells: list[str]) -> np.ndarray[Any, Any]:
    """A column of numbers, of shape (rows, 1); an empty cell is NaN."""
    return np.array([float(cell or "nan") for cell in cells]).reshape(-1, 1)


@pytest.mark.parametrize(
    "with_mean, with_std", [(True, True), (True, False), (False, True), (False, False)]
)
def test_the_scaler_is_that_of_scikit_learn(
    workspace: Workspace, with_mean: bool, with_std: bool
) -> None:
    tables = a_table()
    request = {
        "task_type": "standard_scaler",
        "input_data": workspace.write("in.csv", tables),
        "output_data": workspace.paths("out.csv"),
        "columns": ["income", "same", "age"],
        "with_mean": with_mean,
        "with_std": with_std,
    }
    execution = workspace.run(request)
    for party, columns in (("alice", ["same", "age"]), ("bob", ["income"])):
        output, result = workspace.read(party, "out.csv"), execution.results[party]
        assert list(output) == list(tables[party])
        for name in columns:
            plain = StandardScaler(with_mean=with_mean, with_std=with_std)
            expected = plain.fit_transform(as_floats(tables[party][name]))
            np.testing.assert_allclose(
                as_floats(output[name]), expected, rtol=0, atol=1e-12 * np.nanmax(abs(expected))
            )
            assert not with_mean or result["mean"][name] == pytest.approx(plain.mean_[0], rel=1e-12)
            assert not with_std or result["std"][name] == pytest.approx(plain.scale_[0], rel=1e-12)
        assert ("mean" in result, "std" in result) == (with_mean, with_std)
        assert sorted(result["columns_used"]) == sorted(columns)
        untouched = set(output) - set(columns)
        assert {name: output[name] for name in untouched} == {
            name: tables[party][name] for name in untouched
        }
    assert "age" not in json.dumps(execution.results["bob"]) and "income" not in json.dumps(
        execution.results["alice"]
    )


def test_a_fitted_scaler_is_applied_to_new_data_by_column_name(workspace: Workspace) -> None:
    tables = a_table()
    first = {
        "task_type": "standard_scaler",
        "input_data": workspace.write("in.csv", tables),
        "output_data": workspace.paths("out.csv"),
        "columns": ["age", "income"],
        "model_output": workspace.text("scaler"),
    }
    workspace.run(first)
    fresh = {party: rows_in_order(table, range(5, 15)) for party, table in a_table().items()}
    fresh["alice"] = columns_in_order(fresh["alice"], ["note", "age", "uid"])
    second = {
        "task_type": "standard_scaler",
        "input_data": workspace.write("new.csv", fresh),
        "output_data": workspace.paths("new_out.parquet"),
        "model_path": workspace.text("scaler"),
    }
    workspace.run(second)
    for party, name in (("alice", "age"), ("bob", "income")):
        plain = StandardScaler().fit(as_floats(tables[party][name]))
        expected = plain.transform(as_floats(fresh[party][name])).ravel()
        output = pd.read_parquet(workspace.path(party, "new_out.parquet"))
        assert list(output) == list(fresh[party])
        np.testing.assert_allclose(output[name], expected, atol=1e-12)
    without_income = {
        party: {k: v for k, v in table.items() if k != "income"} for party, table in fresh.items()
    }
    workspace.write("new.csv", without_income)
    workspace.fail(second, "MissingColumn", "bob")


def test_a_scaler_without_columns_leaves_ids_label_and_text_alone(workspace: Workspace) -> None:
    request = {
        "task_type": "standard_scaler",
        "input_data": workspace.write("in.csv", a_table()),
        "output_data": workspace.paths("out.csv"),
        "ids": {"alice": ["uid"], "bob": ["uid"]},
        "label": "y",
    }
    execution = workspace.run(request)
    used = {party: result["columns_used"] for party, result in execution.results.items()}
    assert used == {"alice": ["age", "same"], "bob": ["income"]}


def splitting(workspace: Workspace, tables: dict[str, Table], **more: Any) -> dict[str, Any]:
    """A request for a split of 70 to 30."""
    return {
        "task_type": "train_test_split",
        "input_data": workspace.write("in.csv", tables),
        "train_data": workspace.paths("train.csv"),
        "test_data": workspace.paths("test.csv"),
        "train_size": 0.7,
        "seed": 5,
        **more,
    }


def test_the_split_is_that_of_scikit_learn_at_every_party(workspace: Workspace) -> None:
    tables = a_table()
    execution = workspace.run(splitting(workspace, tables))
    parts = train_test_split(range(60), train_size=0.7, random_state=5)
    for party, table in tables.items():
        for name, rows in zip(("train", "test"), parts):
            assert workspace.read(party, f"{name}.csv") == rows_in_order(table, rows)
        result = execution.results[party]
        assert (result["rows"], result["train_rows"], result["test_rows"]) == (60, 42, 18)


def test_a_stratified_split_keeps_the_shares_and_repeats_itself(workspace: Workspace) -> None:
    tables = a_table()
    request = splitting(workspace, tables, stratify={"party": "bob", "column": "y"})
    found = []
    for _ in range(2):
        workspace.run(request)
        parts = {
            party: [workspace.read(party, f"{name}.csv")["uid"] for name in ("train", "test")]
            for party in tables
        }
        assert parts["alice"] == parts["bob"]
        found.append(parts["bob"])
    assert found[0] == found[1]
    train, test = found[0]
    assert sorted(train + test) == sorted(tables["bob"]["uid"])
    label = dict(zip(tables["bob"]["uid"], tables["bob"]["y"]))
    plain = train_test_split(
        tables["bob"]["y"], train_size=0.7, random_state=5, stratify=tables["bob"]["y"]
    )
    assert [sorted(label[uid] for uid in part) for part in (train, test)] == [
        sorted(part) for part in plain
    ]


def test_a_stratified_split_does_not_tell_the_labels(workspace: Workspace) -> None:
    """Scikit-learn shuffles each class in turn, so its seed is enough to find the classes."""
    rng = np.random.default_rng(3)
    y = (rng.random(400) < 0.3).astype(int)
    rows = [f"{row:03d}" for row in range(400)]
    tables: dict[str, Table] = {"alice": {"row": rows, "y": y.tolist()}, "bob": {"row": rows}}
    workspace.run(splitting(workspace, tables, stratify={"party": "alice", "column": "y"}))
    train = [int(row) for row in workspace.read("bob", "train.csv")["row"]]

    def right(order: list[int]) -> float:
        """The share of labels that the rows' order tells, for the best number of positives."""
        unshuffled = np.empty(len(order), dtype=int)
        state = np.random.RandomState(5)
        for size in (400 - y.sum(), y.sum()):
            state.permutation(size)
        unshuffled[state.permutation(len(order))] = order
        positives = len(order) - np.arange(1, len(order))
        return max(
            np.mean(y[unshuffled] == (np.arange(len(order)) >= len(order) - n)) for n in positives
        )

    assert right(train) < 0.8
    in_order = sorted(train)
    assert right(in_order) < 0.8


def test_a_split_that_leaves_nothing_is_refused(workspace: Workspace) -> None:
    request = {
        "task_type": "train_test_split",
        "input_data": workspace.write(
            "in.csv", {party: {"x": ["1", "2", "3"]} for party in ("alice", "bob")}
        ),
        "train_data": workspace.paths("train.csv"),
        "test_data": workspace.paths("test.csv"),
        "train_size": 0.1,
    }
    workspace.fail(request, "TooFewRows", None)
    request |= {"train_size": 0.5, "stratify": {"party": "alice", "column": "x"}}
    workspace.fail(request, "TooFewRows", "alice")


def evaluation(workspace: Workspace, label: Any, score: Any, **more: Any) -> dict[str, Any]:
    """A request to evaluate scores at alice."""
    workspace.write(
        "truth.csv", {"alice": {"id": [f"{row}" for row in range(len(label))], "y": label}}
    )
    workspace.write("scores.csv", {"alice": {"p": score}})
    return {
        "task_type": "biclassification_eval",
        "label": {"party": "alice", "path": workspace.text("truth.csv"), "column": "y"},
        "prediction": {"party": "alice", "path": workspace.text("scores.csv"), "column": "p"},
        **more,
    }


@pytest.mark.parametrize("levels", [None, 10, 1])
def test_an_evaluation_is_that_of_scikit_learn_also_with_ties(
    workspace: Workspace, levels: int | None
) -> None:
    rng = np.random.default_rng(1)
    y = rng.integers(0, 2, 500)
    p = np.clip(0.5 * rng.random(500) + 0.4 * y, 0, 1)
    p = np.round(p * levels) / levels if levels else p
    request = evaluation(workspace, y.tolist(), p.tolist(), threshold=0.6, bucket_size=20)
    execution = workspace.run(request, sf_init_config={"parties": ["alice", "bob"]})
    result = execution.results["alice"]
    predicted = (p >= 0.6).astype(int)
    fpr, tpr, _ = metrics.roc_curve(y, p)
    precision, recall, thresholds = metrics.precision_recall_curve(y, p)
    f1 = [metrics.f1_score(y, p >= threshold) for threshold in np.unique(p)]
    expected = {
        "auc": metrics.roc_auc_score(y, p),
        "gini": 2 * metrics.roc_auc_score(y, p) - 1,
        "ks": (tpr - fpr).max(),
        "accuracy": metrics.accuracy_score(y, predicted),
        "precision": metrics.precision_score(y, predicted),
        "recall": metrics.recall_score(y, predicted),
        "f1": metrics.f1_score(y, predicted),
        "log_loss": metrics.log_loss(y, p),
        "threshold": 0.6,
        "best_f1": max(f1),
        "best_f1_threshold": np.unique(p)[int(np.argmax(f1))],
    }
    assert {name: result[name] for name in expected} == pytest.approx(expected, rel=1e-12)
    tn, fp, fn, tp = metrics.confusion_matrix(y, predicted).ravel()
    assert result["confusion_matrix"] == {"tn": tn, "fp": fp, "fn": fn, "tp": tp}
    assert result["rows"] == 500 and len(result["tables"]) == (
        20 if levels is None else len(np.unique(p))
    )
    for row in result["tables"]:
        chosen = p >= row["threshold"]
        assert row["rows"] == chosen.sum()
        assert row["true_positive_rate"] == pytest.approx(metrics.recall_score(y, chosen))
        assert row["precision"] == pytest.approx(metrics.precision_score(y, chosen))
        assert row["lift"] == pytest.approx(y[chosen].mean() / y.mean())
        assert row["false_positive_rate"] == pytest.approx(chosen[y == 0].mean())
    assert set(execution.results["bob"]) <= {"columns_used", "timings"}


def test_figures_are_shared_only_when_asked_for_and_tables_never(workspace: Workspace) -> None:
    request = evaluation(workspace, [0, 1, 1, 0], [0.1, 0.9, 0.4, 0.5], share=True)
    execution = workspace.run(request, sf_init_config={"parties": ["alice", "bob"]})
    alice, bob = execution.results["alice"], execution.results["bob"]
    assert bob["auc"] == alice["auc"] == 0.75
    assert "tables" in alice and "tables" not in bob


def test_a_workflow_runs_from_raw_tables_to_an_evaluation(workspace: Workspace) -> None:
    rng = np.random.default_rng(2)
    tables = two_halves(400)
    shuffled = {
        party: rows_in_order(table, rng.permutation(400)[:360]) for party, table in tables.items()
    }

    def step(name: str, output: str) -> dict[str, str]:
        return {"step": name, "output": output}

    configs: dict[str, dict[str, Any]] = {
        "psi": {
            key: value for key, value in psi(workspace, shuffled).items() if key != "output_paths"
        },
        "split": {
            "task_type": "train_test_split",
            "input_data": step("psi", "output_paths"),
            "train_size": 0.75,
        },
        "fit": {
            "task_type": "standard_scaler",
            "input_data": step("split", "train_data"),
            "label": "y",
            "model_output": workspace.text("scaler"),
        },
        "scale": {
            "task_type": "standard_scaler",
            "input_data": step("split", "test_data"),
            "model_path": step("fit", "model_output"),
        },
        "train": {
            "task_type": "ss_lr",
            "train_data": step("fit", "output_data"),
            "label": "y",
            "model_output": workspace.text("model"),
            "params": {"epochs": 5, "learning_rate": 2.0, "batch_size": 120, "sig_type": "df"},
        },
        "predict": {
            "task_type": "ss_lr_predict",
            "predict_data": step("scale", "output_data"),
            "model_path": step("train", "model_output"),
            "output_path": workspace.text("scores.csv"),
        },
        "eval": {
            "task_type": "biclassification_eval",
            "label": {"party": "alice", "path": step("scale", "output_data"), "column": "y"},
            "prediction": {
                "party": "alice",
                "path": step("predict", "output_path"),
                "column": "prediction",
            },
        },
    }
    steps = [{"name": name, "task_config": config} for name, config in configs.items()]
    execution = workspace.run({"task_type": "workflow", "steps": steps})
    alice, bob = (execution.results[party]["steps"] for party in ("alice", "bob"))
    common = set(shuffled["alice"]["uid"]) & set(shuffled["bob"]["uid"])
    assert alice["psi"]["intersection_count"] == bob["psi"]["rows"] == len(common)
    assert alice["split"]["train_rows"] + bob["split"]["test_rows"] == len(common)
    scores = workspace.read("alice", "scores.csv")
    assert list(scores) == ["uid", "prediction"] and set(scores["uid"]) < common
    truth = dict(zip(tables["alice"]["uid"], tables["alice"]["y"]))
    y, p = [truth[uid] for uid in scores["uid"]], [float(cell) for cell in scores["prediction"]]
    assert alice["eval"]["auc"] == pytest.approx(metrics.roc_auc_score(y, p), rel=1e-12)
    assert alice["eval"]["auc"] > 0.75 and "auc" not in bob["eval"]
    started = [
        (event.data["step"], event.data["progress"])
        for event in execution.events["bob"]
        if event.data["stage"] == "started"
    ]
    assert started == [(name, round(0.5 + index / 14, 3)) for index, name in enumerate(configs)]
    for party, expected in (
        ("alice", {"in.csv", "scaler", "model", "scores.csv"}),
        ("bob", {"in.csv", "scaler", "model"}),
    ):
        assert {path.name for path in workspace.path(party, "").iterdir()} == expected


def test_a_workflow_names_the_step_that_failed_and_keeps_nothing(workspace: Workspace) -> None:
    first = psi(workspace, dict(zip(("alice", "bob"), overlapping(10, 5))))
    second = {
        "task_type": "standard_scaler",
        "input_data": {"step": "match", "output": "output_paths"},
        "output_data": workspace.paths("scaled.csv"),
        "columns": ["city"],
    }
    steps = [{"name": "match", "task_config": first}, {"name": "scale", "task_config": second}]
    execution = workspace.fail({"task_type": "workflow", "steps": steps}, "BadColumnType", "alice")
    for failure in execution.failures.values():
        assert failure["step"] == "scale"
        assert failure["error"].startswith("Step 'scale': alice: column 'city' of ")
    assert [
        path.name for party in ("alice", "bob") for path in workspace.path(party, "").iterdir()
    ] == ["in.csv"] * 2


def test_trees_on_shares_predict_what_xgboost_predicts(workspace: Workspace) -> None:
    check_against_xgboost(workspace, "ss_xgb")


def test_statistics_of_one_party_alone_run_as_in_the_plan(workspace: Workspace) -> None:
    run_statistics(workspace)
