"""What the benchmark measures: a request of every task type at two sizes, and its tables.

The same request goes to the worker and to SecretFlow itself. Names tell owners: alice's columns
begin with an ``a`` or are the label, bob's begin with a ``b``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Callable, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv

PARTIES = ("alice", "bob")
KEYS = {"alice": "a_id", "bob": "b_id"}
OWN_CODE = ("min_max_scaler", "ss_kmeans_predict")  # SecretFlow has nothing for these
LABEL, TARGET, SCORE = "label", "a_target", "a_score"
IDS = {party: [key] for party, key in KEYS.items()}
_TRAIN_ROWS = 1_000  # of the model that a prediction uses
TREES = {"num_boost_round": 2, "max_depth": 3, "sketch_eps": 0.1}


@dataclass(frozen=True)
class Work:
    """One request on tables of a size.

    Attributes:
        columns: how many features, numbers or texts all parties have together.
    """

    task_type: str
    rows: int
    columns: int

    @property
    def name(self) -> str:
        """Names the work, and the folder of its tables."""
        return f"{self.task_type}-{self.rows}x{self.columns}"

    @property
    def against(self) -> str:
        """What the worker is compared with."""
        return "own" if self.task_type in OWN_CODE else "SecretFlow"

    @property
    def features(self) -> list[str]:
        """The columns that the task computes with."""
        return [f"{party[0]}{number}" for party in PARTIES for number in range(self.columns // 2)]

    @property
    def training(self) -> Work | None:
        """What must have been run before: the training of a prediction."""
        task_type, is_prediction, _ = self.task_type.partition("_predict")
        return replace(self, task_type=task_type, rows=_TRAIN_ROWS) if is_prediction else None

    def task_config(self) -> dict[str, Any]:
        """The request's ``task_config``."""
        return {"task_type": self.task_type, **_CONFIGS[self.task_type](self)}

    def task_configs(self, count: int) -> list[dict[str, Any]]:
        """So many requests of a `psi` that may run at once: each writes files of its own."""
        outputs = [self.paths(f"out-{number}.csv") for number in range(count)]
        return [self.task_config() | {"output_paths": paths} for paths in outputs]

    def paths(self, name: str) -> dict[str, str]:
        """``{party: path}`` of a file, relative to the parties' folders."""
        return {party: f"{self.name}/{name}" for party in PARTIES}

    def write_tables(self, root: Path) -> None:
        """Write every party's input below ``<root>/<party>``, and a prediction's training input."""
        if self.training:
            self.training.write_tables(root)
        for party, path in self.paths("in.csv").items():
            (root / party / path).parent.mkdir(parents=True, exist_ok=True)
            pa_csv.write_csv(pa.table(_columns(self, party)), root / party / path)


def _columns(work: Work, party: str) -> dict[str, Any]:
    """The table of a party; equal rows of the parties belong together, but for `psi`."""
    dice = np.random.default_rng([work.rows, PARTIES.index(party)])
    own = [name for name in work.features if name[0] == party[0]]
    if work.task_type == "psi":  # two thirds of the keys are common
        keys = dice.permutation(work.rows) + work.rows // 3 * PARTIES.index(party)
        return {
            KEYS[party]: np.char.mod("u%09d", keys),
            **{name: dice.random(work.rows) for name in own},
        }
    table: dict[str, Any] = {KEYS[party]: np.char.mod("u%09d", np.arange(work.rows))}
    if work.task_type in ("label_encoder", "onehot_encoder"):
        return table | {
            name: dice.choice(["basalt", "gneiss", "quartz"], work.rows) for name in own
        }
    table |= {name: dice.normal(size=work.rows).round(6) for name in own}
    if work.task_type == "fillna":
        holes = dice.random(work.rows) < 0.1
        table |= {name: pa.array(table[name], mask=holes) for name in own}
    return table if party == "bob" else table | _labels(table, own, dice)


def _labels(table: Mapping[str, Any], own: list[str], dice: np.random.Generator) -> dict[str, Any]:
    rows = len(table["a_id"])
    truth = np.asarray(table[own[0]], dtype=float) if own else np.zeros(rows)
    label = (np.nan_to_num(truth) + dice.normal(size=rows) > 0).astype(int)
    return {LABEL: label, TARGET: dice.normal(size=rows), SCORE: dice.random(rows)}


def _psi(work: Work) -> dict[str, Any]:
    paths = {"input_paths": work.paths("in.csv"), "output_paths": work.paths("out.csv")}
    return {"keys": IDS, "receiver": "alice", **paths}


def _transformation(**options: Any) -> Callable[[Work], dict[str, Any]]:
    def config(work: Work) -> dict[str, Any]:
        paths = {"input_data": work.paths("in.csv"), "output_data": work.paths("out.csv")}
        return {"columns": work.features, **paths, **options}

    return config


def _statistics(**options: Any) -> Callable[[Work], dict[str, Any]]:
    return lambda work: {"input_data": work.paths("in.csv"), "columns": work.features, **options}


def _training(**params: Any) -> Callable[[Work], dict[str, Any]]:
    def config(work: Work) -> dict[str, Any]:
        where = {"train_data": work.paths("in.csv"), "model_output": f"{work.name}/model"}
        return {**where, "features": work.features, "label": LABEL, "params": params}

    return config


def _kmeans(work: Work) -> dict[str, Any]:
    config = _training(n_clusters=4, init="random", n_init=1, max_iter=5, tol=0.0)(work)
    del config["label"]
    return config | {"ids": IDS, "receiver": "alice", "output_path": f"{work.name}/out.csv"}


def _prediction(work: Work) -> dict[str, Any]:
    assert work.training
    return {
        "model_path": f"{work.training.name}/model",
        "predict_data": work.paths("in.csv"),
        "ids": {"alice": IDS["alice"]},
        "receiver": "alice",
        "output_path": f"{work.name}/out.csv",
    }


def _evaluation(label: str) -> Callable[[Work], dict[str, Any]]:
    def config(work: Work) -> dict[str, Any]:
        at = {"party": "alice", "path": f"{work.name}/in.csv"}
        return {"label": {**at, "column": label}, "prediction": {**at, "column": SCORE}}

    return config


def _split(work: Work) -> dict[str, Any]:
    paths = {name: work.paths(f"{name}.csv") for name in ("train_data", "test_data")}
    return {"input_data": work.paths("in.csv"), "train_size": 0.8, **paths}


def _workflow(work: Work) -> dict[str, Any]:
    scale = {"task_type": "standard_scaler", **_transformation()(work)}
    train = {"task_type": "ss_lr", **_regression(work)}
    train["train_data"] = {"step": "scale", "output": "output_data"}
    return {
        "steps": [{"name": "scale", "task_config": scale}, {"name": "train", "task_config": train}]
    }


_regression = _training(epochs=3, batch_size=1000, learning_rate=0.3)
_CONFIGS: dict[str, Callable[[Work], dict[str, Any]]] = {
    "biclassification_eval": _evaluation(LABEL),
    "binning": _transformation(n_bins=10),
    "fillna": _transformation(strategy="median"),
    "label_encoder": _transformation(),
    "min_max_scaler": _transformation(),
    "onehot_encoder": _transformation(),
    "pearson_correlation": _statistics(),
    "psi": _psi,
    "regression_eval": _evaluation(TARGET),
    "sgb": _training(**TREES),
    "sgb_predict": _prediction,
    "ss_glm": _training(dist="Bernoulli", epochs=3, tol=0.0),
    "ss_glm_predict": _prediction,
    "ss_kmeans": _kmeans,
    "ss_kmeans_predict": _prediction,
    "ss_lr": _regression,
    "ss_lr_predict": _prediction,
    "ss_xgb": _training(**TREES),
    "ss_xgb_predict": _prediction,
    "standard_scaler": _transformation(),
    "table_statistics": _statistics(),
    "train_test_split": _split,
    "vif": _statistics(),
    "woe_iv": _statistics(label=LABEL, n_bins=10),
    "workflow": _workflow,
}
_LOCAL = ((1_000, 10), (10_000, 10), (100_000, 10))
_STATISTICS = ((10_000, 20), (100_000, 20), (1_000_000, 20))
_TRAINING = ((1_000, 10), (10_000, 10), (100_000, 10), (10_000, 40))
_GROWN = ((1_000, 10), (4_000, 10), (16_000, 10), (4_000, 40))
_CLUSTERED = ((1_000, 10), (4_000, 10), (16_000, 10))
_SIZES: dict[str, tuple[tuple[int, int], ...]] = {  # of the main task types
    "psi": ((10_000, 2), (100_000, 2), (1_000_000, 2)),
    "table_statistics": _STATISTICS,
    "pearson_correlation": _STATISTICS,
    "ss_lr": _TRAINING,
    "ss_xgb": _GROWN,
    "sgb": _GROWN,
}
_FURTHER_SIZES = {"ss_kmeans": _CLUSTERED, "ss_kmeans_predict": _CLUSTERED}
HUGE = Work("psi", 10_000_000, 2)


TASK_TYPES = sorted(_CONFIGS, key=lambda name: (name not in _SIZES, name))


def works(task_type: str) -> list[Work]:
    """The sizes of a task type, the smallest first; rows grow first, then columns."""
    sizes = _SIZES.get(task_type) or _FURTHER_SIZES.get(task_type, _LOCAL)
    return [Work(task_type, rows, columns) for rows, columns in sizes]
