"""Each task type's work as a SecretFlow script does it: read files, compute, write the outcome.

Every function is the driver program of both parties. Where the stock class is wrong
(docs/developer_guide/silent_errors.md) or does the work in another way it is called as it is: what
is compared is time.
"""

from __future__ import annotations

import json
import os
from functools import cached_property
from pathlib import Path
from typing import Any, Callable, Mapping, Sequence

import numpy as np
import pandas as pd
import secretflow as sf
from secretflow.data import FedNdarray
from secretflow.data.vertical import VDataFrame, read_csv

from secretflow_task.engine.adapter import LINK_DESC, without_beaver_cache
from tests.performance.works import KEYS, LABEL, PARTIES

Config = Mapping[str, Any]


class Session:
    """The devices of a running session, and where files lie.

    Attributes:
        party: whose process this is.
    """

    def __init__(self, party: str, root: Path, spu_ports: Sequence[int]) -> None:
        self.party = party
        self.root = root
        self.alice, self.bob = (sf.PYU(name) for name in PARTIES)
        self.pyus = {"alice": self.alice, "bob": self.bob}
        self._spu_ports = spu_ports

    @cached_property
    def spu(self) -> Any:
        """Made when the first work needs it, with the worker's protocol, field and link."""
        addresses = [f"127.0.0.1:{port}" for port in self._spu_ports]
        nodes = [{"party": party, "address": address} for party, address in zip(PARTIES, addresses)]
        runtime = {"protocol": "SEMI2K", "field": "FM128"}
        return sf.SPU({"nodes": nodes, "runtime_config": runtime}, link_desc=LINK_DESC)

    def inputs(self, paths: Mapping[str, str]) -> dict[Any, str]:
        """Where each party's input lies."""
        return {self.pyus[party]: str(self.root / party / path) for party, path in paths.items()}

    def outputs(self, paths: Mapping[str, str]) -> dict[Any, str]:
        """Where each party writes, apart from what the worker writes."""
        found = {
            self.pyus[party]: self.root / "direct" / party / path for party, path in paths.items()
        }
        for path in found.values():
            path.parent.mkdir(parents=True, exist_ok=True)
        return {pyu: str(path) for pyu, path in found.items()}

    def table(self, paths: Mapping[str, str], columns: list[str]) -> Any:
        """These columns of the parties' files as numbers, ids and texts as they are."""
        files = self.inputs(paths)
        return read_csv(files, usecols={pyu: owned(columns, pyu.party) for pyu in files})

    def write(self, table: Any, paths: Mapping[str, str]) -> None:
        """Write each party's part as CSV."""
        sf.wait(table.to_csv(self.outputs(paths), index=False))


def owned(columns: list[str], party: str) -> list[str]:
    """Those of the columns that are a party's."""
    return [name for name in columns if name[0] == party[0] or (name == LABEL and party == "alice")]


def psi(session: Session, config: Config) -> None:
    """`spu.psi`, with the option without which it joins the wrong rows."""
    inputs, outputs = session.inputs(config["input_paths"]), session.outputs(config["output_paths"])
    Path(f"{inputs[session.pyus[session.party]]}.meta").unlink(
        missing_ok=True
    )  # what a first run cannot have
    session.spu.psi(
        keys=dict(config["keys"]),
        input_path={pyu.party: path for pyu, path in inputs.items()},
        output_path={pyu.party: path for pyu, path in outputs.items()},
        receiver=config["receiver"],
        table_keys_duplicated={party: True for party in PARTIES},
    )


def _transformed(transform: Callable[[Any, Config], Any]) -> Callable[[Session, Config], None]:
    """Reads whole tables, transforms the columns and writes whole tables."""

    def work(session: Session, config: Config) -> None:
        table = read_csv(session.inputs(config["input_data"]))
        others = [name for name in table.columns if name not in config["columns"]]
        after = transform(table[config["columns"]], config)
        both = {
            pyu: pyu(lambda kept, new: pd.concat([kept, new], axis=1))(
                part.data, after.partitions[pyu].data
            )
            for pyu, part in table[others].partitions.items()
        }
        session.write(_frame(both), config["output_data"])

    return work


def _frame(parts: Mapping[Any, Any]) -> Any:
    from secretflow.data import partition

    return VDataFrame({pyu: partition(data=data) for pyu, data in parts.items()})


def _scaled(table: Any, _config: Config) -> Any:
    from secretflow.preprocessing import StandardScaler

    return StandardScaler().fit_transform(table)


def _coded(table: Any, _config: Config) -> Any:
    from secretflow.preprocessing.encoder import VOrdinalEncoder

    return VOrdinalEncoder().fit_transform(table)


def _onehot(table: Any, _config: Config) -> Any:
    from secretflow.preprocessing.encoder import OneHotEncoder

    return OneHotEncoder().fit_transform(table)


def _filled(table: Any, _config: Config) -> Any:
    return table.fillna(table.quantile(0.5).to_dict())


def _arrow(session: Session, paths: Mapping[str, str]) -> Any:
    """The parties' files as the frame that SecretFlow's binning takes."""
    import pyarrow.csv as pa_csv
    from secretflow.component.core import CompVDataFrame
    from secretflow.component.core.dataframe import CompPartition

    files = session.inputs(paths)
    return CompVDataFrame(
        {pyu: CompPartition(pyu(pa_csv.read_csv)(path)) for pyu, path in files.items()}
    )


def binning(session: Session, config: Config) -> None:
    """`VertBinning` and the substitution of its bins."""
    import pyarrow.csv as pa_csv
    from secretflow.preprocessing.binning.vert_bin_substitution import VertBinSubstitution
    from secretflow.preprocessing.binning.vert_binning import VertBinning

    table = _arrow(session, config["input_data"])
    names = {pyu: owned(config["columns"], pyu.party) for pyu in session.pyus.values()}
    rules = VertBinning().binning(table, "quantile", config["n_bins"], names)
    after = VertBinSubstitution().substitution(table, rules)
    outputs = session.outputs(config["output_data"])
    sf.wait(
        [pyu(pa_csv.write_csv)(after.partitions[pyu].obj, path) for pyu, path in outputs.items()]
    )


def woe_iv(session: Session, config: Config) -> None:
    """`VertWoeBinning` on shares, and the rules at their owners."""
    from secretflow.preprocessing.binning.vert_woe_binning import VertWoeBinning

    table = _arrow(session, config["input_data"])
    names = {pyu: owned(config["columns"], pyu.party) for pyu in session.pyus.values()}
    rules = VertWoeBinning(session.spu).binning(
        table, "quantile", config["n_bins"], names, LABEL, "1"
    )
    sf.wait(list(rules.values()))


def train_test_split(session: Session, config: Config) -> None:
    """SecretFlow's split of whole tables."""
    from secretflow.data.split import train_test_split as split

    table = read_csv(session.inputs(config["input_data"]))
    for part, name in zip(
        split(table, train_size=config["train_size"]), ("train_data", "test_data")
    ):
        session.write(part, config[name])


def table_statistics(session: Session, config: Config) -> None:
    """The 26 figures of every column."""
    from secretflow.stats import table_statistics as describe

    describe(session.table(config["input_data"], config["columns"]))


def pearson_correlation(session: Session, config: Config) -> None:
    """The matrix, revealed to all."""
    from secretflow.stats.ss_pearsonr_v import PearsonR

    PearsonR(session.spu).pearsonr(session.table(config["input_data"], config["columns"]))


def vif(session: Session, config: Config) -> None:
    """The factors, revealed to all."""
    from secretflow.stats.ss_vif_v import VIF

    VIF(session.spu).vif(session.table(config["input_data"], config["columns"]))


def _two_columns(session: Session, config: Config) -> list[Any]:
    truth, score = config["label"]["column"], config["prediction"]["column"]
    frame = read_csv(
        session.inputs({"alice": config["label"]["path"]}), usecols={session.alice: [truth, score]}
    )
    return [frame[truth].values, frame[score].values]


def biclassification_eval(session: Session, config: Config) -> None:
    """All reports, at the label's party."""
    from secretflow.stats import BiClassificationEval

    sf.wait(BiClassificationEval(*_two_columns(session, config), bucket_size=10).get_all_reports())


def regression_eval(session: Session, config: Config) -> None:
    """All figures, at the label's party."""
    from secretflow.stats import RegressionEval

    report = RegressionEval(*_two_columns(session, config), bins=10)
    report.gen_all_reports()
    sf.wait(report.result_as_list())


def _training_data(session: Session, config: Config) -> tuple[Any, Any]:
    table = session.table(config["train_data"], [*config["features"], LABEL])
    return table[config["features"]], table[LABEL]


def _model(session: Session, path: str) -> dict[Any, str]:
    """Each party's path of a model."""
    return session.outputs({party: path for party in PARTIES})


def ss_lr(session: Session, config: Config) -> None:
    """`SSRegression`, with the sigmoid and without the cache that gives random weights with it."""
    from secretflow.ml.linear import SSRegression

    x, y = _training_data(session, config)
    model = without_beaver_cache(SSRegression(session.spu))
    params = config["params"]
    model.fit(
        x,
        y,
        epochs=params["epochs"],
        learning_rate=params["learning_rate"],
        batch_size=min(params["batch_size"], x.shape[0]),
        sig_type="real",
        reg_type="logistic",
        penalty="None",
        eps=0.0,
    )
    session.spu.dump(
        model.save_model().weights, list(_model(session, config["model_output"]).values())
    )


def ss_lr_predict(session: Session, config: Config) -> None:
    """`SSRegression.predict` to the receiver, from the saved shares."""
    from secretflow.ml.linear import SSRegression
    from secretflow.ml.linear.linear_model import LinearModel, RegType
    from secretflow.utils.sigmoid import SigType

    weights = session.spu.load(list(_model(session, config["model_path"]).values()))
    model = SSRegression(session.spu)
    model.load_model(LinearModel(weights, RegType("logistic"), SigType("real")))
    x = _prediction_data(session, config)
    _write_scores(
        session, config, model.predict(x, batch_size=min(65_536, x.shape[0]), to_pyu=session.alice)
    )


def _prediction_data(session: Session, config: Config) -> Any:
    """All features of the tables of a prediction; whose they are is known from their names."""
    table = read_csv(session.inputs(config["predict_data"]))
    return table[[name for name in table.columns if name[1:].isdigit()]]


def _write_scores(session: Session, config: Config, scores: Any) -> None:
    """Write ids and scores at alice."""
    inputs = session.inputs({"alice": config["predict_data"]["alice"]})
    outputs = session.outputs({"alice": config["output_path"]})

    def write(ids: Any, scores: Any) -> None:
        ids.assign(prediction=np.ravel(scores)).to_csv(outputs[session.alice], index=False)

    ids = read_csv(inputs, usecols={session.alice: [KEYS["alice"]]}).partitions[session.alice]
    part = scores.partitions[session.alice] if isinstance(scores, FedNdarray) else scores
    sf.wait(session.alice(write)(ids.data, part))


def ss_xgb(session: Session, config: Config) -> None:
    """`Xgb`, each party's splits as JSON and the leaf weights as shares."""
    from secretflow.ml.boost.ss_xgb_v import Xgb

    params = config["params"] | {"objective": "logistic", "learning_rate": 0.3, "reg_lambda": 1.0}
    more = {"subsample": 1.0, "colsample_by_tree": 1.0, "base_score": 0.0, "seed": 42}
    model = Xgb(session.spu).train({**params, **more}, *_training_data(session, config))
    paths = _model(session, config["model_output"])

    def save(path: str, *trees: Any) -> None:
        Path(path).write_text(
            json.dumps([(tree.split_features, tree.split_values) for tree in trees])
        )

    sf.wait([pyu(save)(path, *[tree[pyu] for tree in model.trees]) for pyu, path in paths.items()])
    for number, weight in enumerate(model.weights):
        session.spu.dump(weight, [f"{path}.{number}" for path in paths.values()])


def ss_xgb_predict(session: Session, config: Config) -> None:
    """`XgbModel.predict` to the receiver, from the saved trees."""
    from secretflow.ml.boost.ss_xgb_v.core.node_split import RegType
    from secretflow.ml.boost.ss_xgb_v.core.xgb_tree import XgbTree
    from secretflow.ml.boost.ss_xgb_v.model import XgbModel

    paths = _model(session, config["model_path"])
    count = len(json.loads(Path(paths[session.pyus[session.party]]).read_text()))

    def tree_of(path: str, number: int) -> Any:
        tree = XgbTree()
        tree.split_features, tree.split_values = json.loads(Path(path).read_text())[number]
        return tree

    model = XgbModel(session.spu, RegType.Logistic, 0.0)
    for number in range(count):
        model.trees.append({pyu: pyu(tree_of)(path, number) for pyu, path in paths.items()})
        model.weights.append(session.spu.load([f"{path}.{number}" for path in paths.values()]))
    _write_scores(
        session, config, model.predict(_prediction_data(session, config), to_pyu=session.alice)
    )


def ss_glm(session: Session, config: Config) -> None:
    """`SSGLM` by Fisher scoring."""
    from secretflow.ml.linear import SSGLM

    model = SSGLM(session.spu)
    x, y = _training_data(session, config)
    params = config["params"]
    model.fit_irls(x, y, None, None, epochs=params["epochs"], link="Logit", dist=params["dist"])
    session.spu.dump(model.spu_w, list(_model(session, config["model_output"]).values()))


def ss_glm_predict(session: Session, config: Config) -> None:
    """`SSGLM.predict` to the receiver, from the saved shares."""
    from secretflow.ml.linear import SSGLM
    from secretflow.ml.linear.ss_glm.core import get_link

    model = SSGLM(session.spu)
    model.spu_w = session.spu.load(list(_model(session, config["model_path"]).values()))
    model.link, model.y_scale = get_link("Logit"), 1.0
    _write_scores(
        session, config, model.predict(_prediction_data(session, config), to_pyu=session.alice)
    )


def sgb(session: Session, config: Config) -> None:
    """`Sgb` with a key of its own, and its own files."""
    import spu
    from secretflow.ml.boost.sgb_v import Sgb, get_classic_XGB_params

    heu_def = {
        "sk_keeper": {"party": "alice"},
        "evaluators": [{"party": "bob"}],
        "mode": "PHEU",
        "he_parameters": {"schema": "ou", "key_pair": {"generate": {"bit_size": 2048}}},
    }
    params = get_classic_XGB_params() | config["params"] | {"learning_rate": 0.3, "reg_lambda": 1.0}
    params |= {"objective": "logistic", "first_tree_with_label_holder_feature": False}
    heu = sf.HEU(heu_def, spu_field_type=spu.FieldType.FM128)
    model = Sgb(heu).train(params, *_training_data(session, config))
    model.save_model(_model(session, config["model_output"]))


def sgb_predict(session: Session, config: Config) -> None:
    """`SgbModel.predict` to the receiver, from its own files."""
    from secretflow.ml.boost.sgb_v.model import load_model

    model = load_model(_model(session, config["model_path"]), session.alice)
    _write_scores(
        session, config, model.predict(_prediction_data(session, config), to_pyu=session.alice)
    )


def ss_kmeans(session: Session, config: Config) -> None:
    """`KMeans`, all iterations of which are one program, and the clusters at the receiver."""
    from secretflow.ml.cluster.kmeans import KMeans

    params = config["params"]
    table = session.table(config["train_data"], config["features"])
    model = KMeans(session.spu)
    model.fit(table, params["n_clusters"], params["init"], params["n_init"], params["max_iter"])
    clusters = model.predict(table).to(session.alice)
    _write_scores(session, {**config, "predict_data": config["train_data"]}, clusters)


def workflow(session: Session, config: Config) -> None:
    """The steps one after another, over files."""
    scale, train = (step["task_config"] for step in config["steps"])
    standard_scaler(session, scale)
    between = {
        party: os.path.join("..", "direct", party, path)
        for party, path in scale["output_data"].items()
    }
    ss_lr(session, {**train, "train_data": between})


standard_scaler = _transformed(_scaled)
DIRECTLY: dict[str, Callable[[Session, Config], None]] = {
    function.__name__: function
    for function in (
        psi,
        binning,
        woe_iv,
        train_test_split,
        table_statistics,
        pearson_correlation,
        vif,
    )
    + (biclassification_eval, regression_eval, ss_lr, ss_lr_predict, ss_xgb, ss_xgb_predict, ss_glm)
    + (ss_glm_predict, sgb, sgb_predict, ss_kmeans, workflow)
} | {
    "standard_scaler": standard_scaler,
    "label_encoder": _transformed(_coded),
    "onehot_encoder": _transformed(_onehot),
    "fillna": _transformed(_filled),
}
