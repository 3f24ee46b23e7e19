"""One small request of every task type, for the laws that hold for all of them.

Every case reads `in.csv` at its parties, which `world` made; a prediction trains its model on it
first.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from typing import Any, Callable

import numpy as np

from tests.data.tables import Table, rows_in_order, two_halves
from tests.integration.bench import Bench, Execution, Workspace

Case = Callable[[Workspace], dict[str, Any]]

FEATURES = ["a1", "a2", "a3", "b1", "b2", "b3"]
IDS = {"alice": ["uid"], "bob": ["uid"]}


def world(rows: int = 60) -> dict[str, Table]:
    """Aligned tables: an id, numbers and text at both parties; a label y and a score at alice.

    No number, mean, deviation or text of it is one that a process could show by chance.
    """
    rng = np.random.default_rng(11)
    tables = two_halves(rows, seed=11)
    for name in FEATURES:
        factor, shift = rng.uniform(0.8, 1.2), rng.uniform(0.1, 0.4)
        table = tables["alice" if name in tables["alice"] else "bob"]
        table[name] = [factor * cell + shift for cell in table[name]]
    ids = [f"id-{number}" for number in rng.permutation(10**6)[:rows]]
    tables["alice"]["uid"] = tables["bob"]["uid"] = ids
    tables["alice"]["grade"] = rng.choice(["Basalt", "Gneiss", "Quartz"], rows).tolist()
    tables["bob"]["city"] = rng.choice(
        ["Wuhan", "Xi'an", "Lhasa", "Yantai"], rows, p=[0.5, 0.3, 0.1, 0.1]
    ).tolist()
    tables["alice"]["score"] = rng.uniform(0.01, 0.99, rows).tolist()
    return tables


def request(workspace: Workspace, task_type: str, **more: Any) -> dict[str, Any]:
    """The common start of a request; writes the tables."""
    workspace.write("in.csv", world())
    return {"task_type": task_type, **more}


def psi(workspace: Workspace) -> dict[str, Any]:
    """Each party has ten rows that the other lacks."""
    paths = {"input_paths": workspace.paths("in.csv"), "output_paths": workspace.paths("out.csv")}
    config = request(workspace, "psi", keys=IDS, receiver="alice", **paths)
    whole = world()
    parts = {"alice": range(50), "bob": range(59, 9, -1)}
    workspace.write(
        "in.csv", {party: rows_in_order(whole[party], rows) for party, rows in parts.items()}
    )
    return config


def train_test_split(workspace: Workspace) -> dict[str, Any]:
    """A stratified split."""
    written = {name: workspace.paths(f"{name}.csv") for name in ("train_data", "test_data")}
    stratify = {"party": "alice", "column": "y"}
    return request(
        workspace,
        "train_test_split",
        input_data=workspace.paths("in.csv"),
        stratify=stratify,
        **written,
    )


def transformation(
    workspace: Workspace, task_type: str, columns: list[str], **more: Any
) -> dict[str, Any]:
    """Columns of both parties are transformed."""
    paths = {"input_data": workspace.paths("in.csv"), "output_data": workspace.paths("out.csv")}
    return request(workspace, task_type, columns=columns, **paths, **more)


def standard_scaler(workspace: Workspace) -> dict[str, Any]:
    """All features are scaled."""
    return transformation(workspace, "standard_scaler", FEATURES)


def min_max_scaler(workspace: Workspace) -> dict[str, Any]:
    """All features are scaled."""
    return transformation(workspace, "min_max_scaler", FEATURES)


def label_encoder(workspace: Workspace) -> dict[str, Any]:
    """The texts are encoded."""
    return transformation(workspace, "label_encoder", ["grade", "city"])


def onehot_encoder(workspace: Workspace) -> dict[str, Any]:
    """The texts are encoded."""
    return transformation(workspace, "onehot_encoder", ["grade", "city"])


def binning(workspace: Workspace) -> dict[str, Any]:
    """All features are binned."""
    return transformation(workspace, "binning", FEATURES, n_bins=4)


def fillna(workspace: Workspace) -> dict[str, Any]:
    """All features could be filled."""
    return transformation(workspace, "fillna", FEATURES, strategy="median")


def training(workspace: Workspace, task_type: str, **params: Any) -> dict[str, Any]:
    """A training of y on all features."""
    return request(
        workspace,
        task_type,
        train_data=workspace.paths("in.csv"),
        features=FEATURES,
        label="y",
        model_output=workspace.text("model"),
        params=params,
    )


def prediction(workspace: Workspace, train: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A prediction with the model of ``train``, which is run unless the workspace has its model."""
    if not workspace.exists("alice", "model"):
        workspace.run(train)
    return {
        "task_type": f"{train['task_type']}_predict",
        "model_path": train["model_output"],
        "predict_data": workspace.paths("in.csv"),
        "output_path": workspace.text("out.csv"),
        "ids": {"alice": ["uid"]},
        **more,
    }


def ss_glm(workspace: Workspace) -> dict[str, Any]:
    """Two epochs."""
    return training(workspace, "ss_glm", dist="Bernoulli", epochs=2)


def ss_glm_predict(workspace: Workspace) -> dict[str, Any]:
    """To alice."""
    return prediction(workspace, ss_glm(workspace))


def ss_kmeans(workspace: Workspace) -> dict[str, Any]:
    """Two clusters, to alice."""
    return request(
        workspace,
        "ss_kmeans",
        train_data=workspace.paths("in.csv"),
        features=FEATURES,
        ids=IDS,
        receiver="alice",
        output_path=workspace.text("out.csv"),
        model_output=workspace.text("model"),
        params={"n_clusters": 2, "max_iter": 2},
    )


def ss_kmeans_predict(workspace: Workspace) -> dict[str, Any]:
    """To alice."""
    return prediction(workspace, ss_kmeans(workspace), receiver="alice")


def ss_lr(workspace: Workspace) -> dict[str, Any]:
    """One epoch."""
    return training(workspace, "ss_lr", epochs=1, sig_type="t1")


def ss_lr_predict(workspace: Workspace) -> dict[str, Any]:
    """To alice."""
    return prediction(workspace, ss_lr(workspace))


def ss_xgb(workspace: Workspace) -> dict[str, Any]:
    """Two small trees."""
    return training(workspace, "ss_xgb", num_boost_round=2, max_depth=2)


def ss_xgb_predict(workspace: Workspace) -> dict[str, Any]:
    """To alice."""
    return prediction(workspace, ss_xgb(workspace))


def sgb(workspace: Workspace) -> dict[str, Any]:
    """Two small trees."""
    return training(workspace, "sgb", num_boost_round=2, max_depth=2)


def sgb_predict(workspace: Workspace) -> dict[str, Any]:
    """To alice."""
    return prediction(workspace, sgb(workspace))


def biclassification_eval(workspace: Workspace) -> dict[str, Any]:
    """Both columns in alice's table."""
    at = {"party": "alice", "path": workspace.text("in.csv")}
    return request(
        workspace,
        "biclassification_eval",
        label={**at, "column": "y"},
        prediction={**at, "column": "score"},
    )


def regression_eval(workspace: Workspace) -> dict[str, Any]:
    """Both columns in alice's table."""
    return biclassification_eval(workspace) | {"task_type": "regression_eval"}


def table_statistics(workspace: Workspace) -> dict[str, Any]:
    """All columns but ids, numbers and text, with a report."""
    return request(
        workspace,
        "table_statistics",
        input_data=workspace.paths("in.csv"),
        ids=IDS,
        output_report=workspace.text("report.json"),
    )


def pearson_correlation(workspace: Workspace) -> dict[str, Any]:
    """All features."""
    return request(
        workspace, "pearson_correlation", input_data=workspace.paths("in.csv"), columns=FEATURES
    )


def vif(workspace: Workspace) -> dict[str, Any]:
    """All features."""
    return request(workspace, "vif", input_data=workspace.paths("in.csv"), columns=FEATURES)


def woe_iv(workspace: Workspace) -> dict[str, Any]:
    """All features and a text, with the tables that they become."""
    return request(
        workspace,
        "woe_iv",
        input_data=workspace.paths("in.csv"),
        output_data=workspace.paths("out.csv"),
        columns=[*FEATURES, "grade"],
        label="y",
        n_bins=4,
    )


def workflow(workspace: Workspace) -> dict[str, Any]:
    """A scaling and a training on what it wrote."""
    scale = standard_scaler(workspace)
    train = ss_lr(workspace) | {"train_data": {"step": "scale", "output": "output_data"}}
    steps = [{"name": "scale", "task_config": scale}, {"name": "train", "task_config": train}]
    return request(workspace, "workflow", steps=steps)


CASES: dict[str, Case] = {
    "biclassification_eval": biclassification_eval,
    "binning": binning,
    "fillna": fillna,
    "label_encoder": label_encoder,
    "min_max_scaler": min_max_scaler,
    "onehot_encoder": onehot_encoder,
    "pearson_correlation": pearson_correlation,
    "psi": psi,
    "regression_eval": regression_eval,
    "sgb": sgb,
    "sgb_predict": sgb_predict,
    "ss_glm": ss_glm,
    "ss_glm_predict": ss_glm_predict,
    "ss_kmeans": ss_kmeans,
    "ss_kmeans_predict": ss_kmeans_predict,
    "ss_lr": ss_lr,
    "ss_lr_predict": ss_lr_predict,
    "ss_xgb": ss_xgb,
    "ss_xgb_predict": ss_xgb_predict,
    "standard_scaler": standard_scaler,
    "table_statistics": table_statistics,
    "train_test_split": train_test_split,
    "vif": vif,
    "woe_iv": woe_iv,
    "workflow": workflow,
}


@dataclass(frozen=True)
class Finished:
    """A case that has been run to SUCCESS.

    Attributes:
        tables: what every party's `in.csv` holds, as text.
    """

    workspace: Workspace
    config: dict[str, Any]
    tables: dict[str, Table]
    execution: Execution | None = None

    def copy(self) -> Finished:
        """The same request on a copy of all files, models included, not run yet."""
        workspace = self.workspace.bench.workspace("copy")
        for party in self.tables:
            shutil.copytree(self.workspace.path(party, ""), workspace.path(party, ""))
        text = json.dumps(self.config).replace(f'"{self.workspace.name}/', f'"{workspace.name}/')
        return Finished(workspace, json.loads(text), self.tables)

    def run(self, **params: Any) -> Finished:
        """Run it."""
        return replace(self, execution=self.workspace.run(self.config, **params))


class Runs:
    """Every case runs once a session; a prediction uses the model of its training's case."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self._made: dict[str, Finished] = {}

    def __getitem__(self, task_type: str) -> Finished:
        if task_type not in self._made:
            self._made[task_type] = self.prepared(task_type).run()
        return self._made[task_type]

    def prepared(self, task_type: str) -> Finished:
        """A case with its files, not run yet."""
        train = task_type.removesuffix("_predict")
        workspace = (
            self[train].copy().workspace if train != task_type else self.bench.workspace("case")
        )
        config = CASES[task_type](workspace)
        here = [party for party in ("alice", "bob", "carol") if workspace.exists(party, "in.csv")]
        return Finished(
            workspace, config, {party: workspace.read(party, "in.csv") for party in here}
        )
