"""A table split between the hosts, a label that follows from all of it, and requests for it."""

from __future__ import annotations

import csv
import random
from pathlib import Path
from typing import Any, Mapping

from tests.e2e.hosts import Host

ROWS = 400


def _row(dice: random.Random, parties: list[str]) -> dict[str, list[float]]:
    row = {party: [dice.gauss(0, 1), dice.gauss(0, 1)] for party in parties}
    score = sum(first - 0.5 * second for first, second in row.values()) + dice.gauss(0, 0.7)
    row[parties[0]].append(int(score > 0))
    return row


def write_split(hosts: Mapping[str, Host], folder: str = "") -> None:
    """``<data>/<folder>/split.csv`` at each host: two features, and at the first a label ``y``."""
    parties, dice = sorted(hosts), random.Random(4)
    rows = [_row(dice, parties) for _ in range(ROWS)]
    for party, host in hosts.items():
        names = [f"{party}_1", f"{party}_2"] + (["y"] if party == parties[0] else [])
        path = host.root / "data" / party / folder / "split.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([names, *(row[party] for row in rows)])


def rows_of(path: Path) -> list[dict[str, str]]:
    """The rows of a table."""
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def plain_auc(hosts: Mapping[str, Host]) -> float:
    """What scikit-learn reaches on the joined table."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score

    parties = sorted(hosts)
    tables = {party: rows_of(hosts[party].root / "data" / party / "split.csv") for party in parties}
    labels = [int(row.pop("y")) for row in tables[parties[0]]]
    features = [
        [float(value) for party in parties for value in tables[party][number].values()]
        for number in range(ROWS)
    ]
    model = LogisticRegression().fit(features, labels)
    return float(roc_auc_score(labels, model.predict_proba(features)[:, 1]))


def train_and_evaluate(task_type: str, parties: list[str], **params: Any) -> dict[str, Any]:
    """A workflow that trains on the split table, predicts it, and evaluates the prediction."""
    data = {party: "split.csv" for party in parties}
    label, model = parties[0], {"step": "train", "output": "model_output"}
    train = {
        "task_type": task_type,
        "train_data": data,
        "label": "y",
        "model_output": "model",
        "params": params,
    }
    predict = {"task_type": f"{task_type}_predict", "model_path": model, "predict_data": data}
    evaluate = {
        "task_type": "biclassification_eval",
        "label": {"party": label, "path": "split.csv", "column": "y"},
        "prediction": {
            "party": label,
            "path": {"step": "predict", "output": "output_path"},
            "column": "prediction",
        },
    }
    steps = {
        "train": train,
        "predict": predict | {"output_path": "prediction.csv"},
        "evaluate": evaluate,
    }
    listed = [{"name": name, "task_config": config} for name, config in steps.items()]
    return {"task_config": {"task_type": "workflow", "steps": listed}}
