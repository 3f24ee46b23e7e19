"""The plan's three workflows, from raw tables to figures, compared with plain oracles."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Iterator, Mapping

import numpy as np
import pandas as pd
import pytest
import xgboost
from celery import Celery
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import MinMaxScaler, OneHotEncoder, OrdinalEncoder, StandardScaler

from secretflow_task.broker.celery_app import TASK_NAME
from secretflow_task.contract.messages import Status, StatusEvent
from tests.e2e.nodes import PARTIES, RunningNode
from tests.e2e.test_celery import assert_ended_once
from tests.integration.test_statistics import weighed

pytestmark = pytest.mark.engine

ROWS, COMMON = 700, 600
Steps = dict[str, dict[str, Any]]
Results = dict[str, dict[str, dict[str, Any]]]


def customers() -> pd.DataFrame:
    """What alice and bob know of the same people: skewed, with text, a label from both."""
    rng = np.random.default_rng(20)
    frame = pd.DataFrame(
        {
            "uid": [f"{number:06d}" for number in rng.permutation(10**6)[:ROWS]],
            "age": rng.integers(18, 80, ROWS).astype(float),
            "debt": rng.gamma(2.0, 900.0, ROWS).round(2),
            "grade": rng.choice(["A", "B", "C"], ROWS, p=[0.6, 0.3, 0.1]),
            "income": rng.lognormal(8.0, 0.6, ROWS).round(2),
            "visits": rng.poisson(3, ROWS).astype(float),
            "city": rng.choice(["Wuhan", "Xi'an", "Lhasa"], ROWS),
        }
    )
    score = 1.2 * np.log(frame["debt"] + 1) - 1.5 * np.log(frame["income"]) + 0.3 * frame["visits"]
    score += (frame["grade"] == "C") - 0.02 * frame["age"] + rng.normal(0, 0.5, ROWS)
    frame["y"] = (score > score.median()).astype(int)
    return frame


def with_gaps(frame: pd.DataFrame, names: tuple[str, ...]) -> pd.DataFrame:
    """The same with every ninth cell of some columns empty."""
    gaps = np.arange(len(frame)) % 9 == 0
    return frame.assign(**{name: frame[name].mask(gaps) for name in names})


def deal(node: RunningNode, frame: pd.DataFrame) -> None:
    """Both parties' files: rows in other orders, only `COMMON` people at both, the key anywhere."""
    apart = ROWS - COMMON
    tables = {
        "alice": frame[["age", "debt", "uid", "grade", "y"]][: ROWS - apart // 2],
        "bob": frame[["income", "city", "uid", "visits"]].rename(columns={"uid": "client"})[
            apart - apart // 2 :
        ],
    }
    for seed, (party, table) in enumerate(tables.items()):
        path = node.root / "data" / party / "plan" / "raw.csv"
        path.parent.mkdir(parents=True)
        table.sample(frac=1, random_state=seed).to_csv(path, index=False)


def matched(frame: pd.DataFrame) -> pd.DataFrame:
    """The people that both have, in the order in which `psi` writes them."""
    apart = ROWS - COMMON
    return frame[apart - apart // 2 : ROWS - apart // 2].sort_values("uid", ignore_index=True)


@pytest.fixture
def own_folder(node: RunningNode) -> Iterator[Path]:
    """A folder `plan` per party, which is gone afterwards; yields alice's."""
    yield node.root / "data" / "alice" / "plan"
    for party in PARTIES:
        shutil.rmtree(node.root / "data" / party / "plan", ignore_errors=True)


def output(step: str, key: str) -> dict[str, str]:
    """What an earlier step wrote."""
    return {"step": step, "output": key}


def match() -> dict[str, Any]:
    """The intersection that every workflow begins with."""
    return {
        "task_type": "psi",
        "keys": {"alice": ["uid"], "bob": ["client"]},
        "input_paths": {party: "plan/raw.csv" for party in PARTIES},
        "receiver": "alice",
    }


def judge(data: dict[str, str]) -> dict[str, Any]:
    """An evaluation of `plan/scores.csv` against the label of ``data``."""
    return {
        "task_type": "biclassification_eval",
        "label": {"party": "alice", "path": data, "column": "y"},
        "prediction": {
            "party": "alice",
            "path": output("predict", "output_path"),
            "column": "prediction",
        },
    }


def run(node: RunningNode, app: Celery, name: str, steps: Steps) -> Results:
    """Send the workflow by Celery and wait; returns each party's step results, events checked."""
    request = {
        "task_type": "workflow",
        "steps": [{"name": step, "task_config": config} for step, config in steps.items()],
    }
    answer = app.send_task(TASK_NAME, args=[name, {"task_config": request}])
    assert answer.get(timeout=300) == {"execution_id": name, "status": "SUCCESS"}
    events = node.events(name)
    for party in PARTIES:
        check_events(events[party], list(steps))
    return {party: dict(events[party][-1].data["result"]["steps"]) for party in PARTIES}


def check_events(events: list[StatusEvent], steps: list[str]) -> None:
    """One end; every step begins at its share of the progress, and reports nothing but its own."""
    assert_ended_once(events, Status.SUCCESS)
    assert [event.data["stage"] for event in events[:4]] == [
        "accepted",
        "cluster_init",
        "device_creation",
        "task_execution",
    ]
    started = [
        (event.data["step"], event.data["progress"])
        for event in events
        if event.data["stage"] == "started"
    ]
    assert started == [
        (name, round(0.5 + index / 2 / len(steps), 3)) for index, name in enumerate(steps)
    ]
    order = [steps.index(event.data["step"]) for event in events[4:-1]]
    assert order == sorted(order)


def check_nothing_else(node: RunningNode, kept: Mapping[str, set[str]]) -> None:
    """Of all outputs only those are there that the request names."""
    for party, names in kept.items():
        assert {path.name for path in (node.root / "data" / party / "plan").iterdir()} == {
            "raw.csv",
            *names,
        }


def scored(folder: Path, frame: pd.DataFrame, results: Results) -> pd.DataFrame:
    """The scores that alice got, with the labels; the evaluation is that of exactly these rows."""
    scores = pd.read_csv(folder / "scores.csv", dtype={"uid": str})
    assert list(scores) == ["uid", "prediction"]
    joined = scores.merge(frame[["uid", "y"]], on="uid", validate="one_to_one")
    assert len(joined) == len(scores)
    auc = roc_auc_score(joined["y"], joined["prediction"])
    assert results["alice"]["evaluate"]["auc"] == pytest.approx(auc, rel=1e-12)
    assert "auc" not in json.dumps(results["bob"])
    return joined


def test_intersection_scaling_regression_and_evaluation(
    node: RunningNode, app: Celery, own_folder: Path
) -> None:
    frame = customers()
    deal(node, frame)
    numbers = ["age", "debt", "income", "visits"]
    steps: Steps = {
        "match": match(),
        "scale": {
            "task_type": "standard_scaler",
            "input_data": output("match", "output_paths"),
            "columns": numbers,
        },
        "train": {
            "task_type": "ss_lr",
            "train_data": output("scale", "output_data"),
            "features": numbers,
            "label": "y",
            "model_output": "plan/model",
            "params": {"epochs": 30, "learning_rate": 2.0, "batch_size": 200},
        },
        "predict": {
            "task_type": "ss_lr_predict",
            "model_path": output("train", "model_output"),
            "predict_data": output("scale", "output_data"),
            "output_path": "plan/scores.csv",
        },
        "evaluate": judge(output("scale", "output_data")),
    }
    results = run(node, app, "plan-regression", steps)
    people = matched(frame)
    assert results["bob"]["match"]["intersection_count"] == COMMON == len(people)
    for party, names in (("alice", ["age", "debt"]), ("bob", ["income", "visits"])):
        assert results[party]["scale"]["mean"] == pytest.approx(
            people[names].mean().to_dict(), rel=1e-9
        )
    joined = scored(own_folder, people, results)
    assert joined["uid"].tolist() == people["uid"].tolist()
    x = StandardScaler().fit_transform(people[numbers])
    plain = LogisticRegression(penalty=None).fit(x, people["y"]).predict_proba(x)[:, 1]
    assert roc_auc_score(joined["y"], joined["prediction"]) == pytest.approx(
        roc_auc_score(people["y"], plain), abs=0.005
    )
    np.testing.assert_allclose(joined["prediction"], plain, atol=0.05)
    check_nothing_else(node, {"alice": {"model", "scores.csv"}, "bob": {"model"}})


def test_preprocessing_boosted_trees_and_evaluation(
    node: RunningNode, app: Celery, own_folder: Path
) -> None:
    frame = with_gaps(customers(), ("age", "income"))
    deal(node, frame)
    params = {
        "num_boost_round": 3,
        "max_depth": 3,
        "learning_rate": 0.3,
        "reg_lambda": 1.0,
        "sketch_eps": 0.05,
    }

    def then(task_type: str, source: dict[str, str], *columns: str, **more: Any) -> dict[str, Any]:
        return {"task_type": task_type, "input_data": source, "columns": list(columns), **more}

    steps: Steps = {
        "match": match(),
        "fill": then("fillna", output("match", "output_paths"), "age", "income", strategy="median"),
        "codes": then("label_encoder", output("fill", "output_data"), "grade"),
        "flags": then("onehot_encoder", output("codes", "output_data"), "city"),
        "range": then(
            "min_max_scaler", output("flags", "output_data"), "age", "debt", "income", "visits"
        ),
        "split": {
            "task_type": "train_test_split",
            "input_data": output("range", "output_data"),
            "train_size": 0.7,
            "seed": 3,
            "stratify": {"party": "alice", "column": "y"},
        },
        "train": {
            "task_type": "ss_xgb",
            "train_data": output("split", "train_data"),
            "label": "y",
            "model_output": "plan/model",
            "params": params,
        },
        "predict": {
            "task_type": "ss_xgb_predict",
            "model_path": output("train", "model_output"),
            "predict_data": output("split", "test_data"),
            "output_path": "plan/scores.csv",
        },
        "evaluate": judge(output("split", "test_data")),
    }
    results = run(node, app, "plan-trees", steps)
    people = matched(frame)
    people[["age", "income"]] = people[["age", "income"]].fillna(people[["age", "income"]].median())
    people["grade"] = OrdinalEncoder().fit_transform(people[["grade"]])
    flags = OneHotEncoder(sparse_output=False).fit(people[["city"]])
    people[flags.get_feature_names_out()] = flags.transform(people[["city"]])
    scaled = ["age", "debt", "income", "visits"]
    people[scaled] = MinMaxScaler().fit_transform(people[scaled])
    joined = scored(own_folder, people, results)
    chosen = set(joined["uid"])
    in_test = np.array([uid in chosen for uid in people["uid"]])
    train, test = (people.take(np.flatnonzero(in_test == part)) for part in (False, True))
    plain_test = train_test_split(people["y"], train_size=0.7, stratify=people["y"])[1]
    assert test["y"].sum() == plain_test.sum() and len(test) == len(plain_test)
    names = [name for name in people if name not in ("uid", "y", "city")]
    assert sorted(
        results["alice"]["train"]["columns_used"] + results["bob"]["train"]["columns_used"]
    ) == sorted(names)
    rounds, bins = params.pop("num_boost_round"), params.pop("sketch_eps")
    plain = {
        "objective": "binary:logistic",
        "base_score": 0.5,
        "min_child_weight": 0,
        "tree_method": "hist",
        "max_bin": round(1 / bins),
        "nthread": 1,
        **params,
    }
    model = xgboost.train(plain, xgboost.DMatrix(train[names], train["y"]), int(rounds))
    expected = roc_auc_score(test["y"], model.predict(xgboost.DMatrix(test[names])))
    assert roc_auc_score(joined["y"], joined["prediction"]) == pytest.approx(expected, abs=0.02)
    check_nothing_else(node, {"alice": {"model", "scores.csv"}, "bob": {"model"}})


def test_statistics_feature_engineering_and_training(
    node: RunningNode, app: Celery, own_folder: Path
) -> None:
    frame = customers()
    deal(node, frame)
    data = output("match", "output_paths")
    numbers = ["age", "debt", "income", "visits"]
    steps: Steps = {
        "match": match(),
        "describe": {
            "task_type": "table_statistics",
            "input_data": data,
            "output_report": "plan/stats.json",
        },
        "correlate": {"task_type": "pearson_correlation", "input_data": data, "columns": numbers},
        "inflation": {"task_type": "vif", "input_data": data, "columns": numbers},
        "bins": {
            "task_type": "binning",
            "input_data": data,
            "columns": ["age", "visits"],
            "method": "equal_width",
            "n_bins": 4,
        },
        "weigh": {
            "task_type": "woe_iv",
            "input_data": output("bins", "output_data"),
            "columns": ["debt", "grade", "income"],
            "label": "y",
            "n_bins": 5,
        },
        "train": {
            "task_type": "ss_lr",
            "train_data": output("weigh", "output_data"),
            "features": ["age", "debt", "grade", "income", "visits"],
            "label": "y",
            "model_output": "plan/model",
            "params": {"epochs": 8, "learning_rate": 1.0, "batch_size": 200},
        },
        "predict": {
            "task_type": "ss_lr_predict",
            "model_path": output("train", "model_output"),
            "predict_data": output("weigh", "output_data"),
            "output_path": "plan/scores.csv",
        },
        "evaluate": judge(output("weigh", "output_data")),
    }
    results = run(node, app, "plan-statistics", steps)
    people = matched(frame)
    for party, name in (("alice", "debt"), ("bob", "income")):
        told = results[party]["describe"]["statistics"]
        assert told[name]["mean"] == pytest.approx(people[name].mean(), rel=1e-9)
        report = json.loads(
            (node.root / "data" / party / "plan" / f"stats.{party}.json").read_text()
        )
        assert report["statistics"] == told
        other = {"alice": "income", "bob": "debt"}[party]
        assert other not in told and other not in report["statistics"]
        correlation = results[party]["correlate"]
        plain = people[correlation["columns"]].corr()
        np.testing.assert_allclose(correlation["correlation"], plain, atol=1e-3)
        inverse = np.diag(np.linalg.inv(people[numbers].corr()))
        factors = results[party]["inflation"]["vif"]
        assert factors == pytest.approx(dict(zip(numbers, inverse)), rel=1e-2)
    design, values = pd.DataFrame(index=people.index), {}
    for name in ("debt", "income", "grade"):
        codes = people[name] if name == "grade" else pd.qcut(people[name], 5, labels=False)
        rows, design[name] = weighed(codes, people["y"])
        values[name] = sum(row["iv"] for row in rows)
    assert results["alice"]["weigh"]["iv"] == pytest.approx(values, rel=1e-9)
    assert "iv" not in results["bob"]["weigh"]
    for name in ("age", "visits"):
        design[name] = pd.cut(people[name], 4, labels=False).astype(float)
    joined = scored(own_folder, people, results)
    fitted = LogisticRegression(penalty=None, max_iter=1000).fit(design, people["y"])
    expected = roc_auc_score(people["y"], fitted.predict_proba(design)[:, 1])
    assert roc_auc_score(joined["y"], joined["prediction"]) == pytest.approx(expected, abs=0.01)
    kept = {
        "alice": {"model", "scores.csv", "stats.alice.json"},
        "bob": {"model", "stats.bob.json"},
    }
    check_nothing_else(node, kept)
