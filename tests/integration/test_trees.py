"""Boosted trees on secret shares and on encrypted gradients, against XGBoost."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass, field
from typing import Any, Iterator, Mapping, Sequence

import numpy as np
import pytest
import xgboost
from sklearn.metrics import log_loss, r2_score, roc_auc_score

from tests.data.oracles import Array
from tests.data.tables import Table, columns_in_order, numbers, rows_in_order
from tests.integration.bench import Bench, Execution, Workspace

pytestmark = pytest.mark.engine

NAMES = ["a1", "a2", "a3", "b1", "b2", "b3"]
TREES = {
    "num_boost_round": 5,
    "max_depth": 3,
    "learning_rate": 0.3,
    "reg_lambda": 1.0,
    "sketch_eps": 0.05,
}
Tables = Mapping[str, Table]


def skewed(
    rows: int, seed: int = 0, label_at: str = "alice", target: str = "binary"
) -> dict[str, Table]:
    """Unscaled, skewed features with ties and a constant one; a rare class, or a large target."""
    rng = np.random.default_rng(seed)
    a1, b1 = rng.lognormal(8, 1.5, rows), rng.normal(size=rows)
    a2, b2 = rng.poisson(1.5, rows).astype(float), rng.choice([0.0, 1.0], rows, p=[0.9, 0.1])
    b3 = np.round(rng.exponential(30, rows))
    score = np.log(a1) - 9 + 0.7 * a2 + b1 * (a2 > 1) + 1.5 * b2 - b3 / 60
    ids = [f"{row:05d}" for row in range(rows)]
    tables: dict[str, Table] = {
        "alice": {"uid": ids, "a1": a1.tolist(), "a2": a2.tolist(), "a3": [7.0] * rows},
        "bob": {"b1": b1.tolist(), "b2": b2.tolist(), "b3": b3.tolist(), "uid": ids},
    }
    if target in ("binary", "rare"):
        score -= 4.5 if target == "rare" else 0
        y = (rng.random(rows) < 1 / (1 + np.exp(-score))).astype(int)
    else:
        y = 2e6 + 3e5 * (score + 0.5 * rng.normal(size=rows))
    tables[label_at]["y"] = y.tolist()
    return tables


@dataclass
class Trained:
    """A training and its predictions for the training rows and new ones, in one execution."""

    workspace: Workspace
    execution: Execution
    known: Array
    fresh: Array
    request: dict[str, Any] = field(default_factory=dict)


def training(
    workspace: Workspace, kind: str, tables: Tables, label_party: str | None = None, **params: Any
) -> dict[str, Any]:
    """A request for a training on ``tables``, which it writes."""
    return {
        "task_type": kind,
        "train_data": workspace.write("train.csv", tables),
        "ids": {party: ["uid"] for party in tables if "uid" in tables[party]},
        "label": "y",
        "label_party": label_party,
        "model_output": workspace.text("model"),
        "params": TREES | params,
    }


def predicting(
    workspace: Workspace,
    kind: str,
    data: Mapping[str, str],
    output: str = "scores.csv",
    **more: Any,
) -> dict[str, Any]:
    """A request for predictions of the model of `training`."""
    return {
        "task_type": f"{kind}_predict",
        "model_path": workspace.text("model"),
        "predict_data": data,
        "output_path": workspace.text(output),
        **more,
    }


def scores(workspace: Workspace, party: str, name: str = "scores.csv") -> Array:
    """The predictions that a party got."""
    return np.array([float(cell) for cell in workspace.read(party, name)["prediction"]])


def train(
    workspace: Workspace,
    kind: str,
    tables: Tables,
    new: Tables,
    label_party: str = "alice",
    spu: Mapping[str, Any] | None = None,
    heu: Mapping[str, Any] | None = None,
    **params: Any,
) -> Trained:
    """Train, and predict known and new rows, all in one execution."""
    request = training(workspace, kind, tables, label_party, **params)
    model = {"model_path": {"step": "train", "output": "model_output"}}
    known = predicting(workspace, kind, request["train_data"], "known.csv") | model
    fresh = predicting(workspace, kind, workspace.write("new.csv", new), "fresh.csv") | model
    steps = {"train": request, "known": known, "fresh": fresh}
    execution = workspace.run(
        {
            "task_type": "workflow",
            "steps": [{"name": name, "task_config": step} for name, step in steps.items()],
        },
        spu_config=dict(spu or {}),
        heu_config=dict(heu) if heu else None,
    )
    predicted = [scores(workspace, label_party, name) for name in ("known.csv", "fresh.csv")]
    return Trained(workspace, execution, *predicted, request)


def features(tables: Tables, names: list[str] | None = None) -> Array:
    """All features."""
    return numbers(tables, names or NAMES)


def labels(tables: Tables) -> Array:
    """The label."""
    return numbers(tables, ["y"]).ravel()


def xgboost_scores(
    tables: Tables, new: Tables, names: list[str] | None = None, **params: Any
) -> tuple[Array, Array]:
    """What XGBoost predicts for known and new rows with the same parameters."""
    given = TREES | params
    rounds, eps = given.pop("num_boost_round"), given.pop("sketch_eps")
    plain = {
        "objective": "binary:logistic",
        "base_score": 0.5,
        "min_child_weight": 0,
        "tree_method": "hist",
        "max_bin": round(1 / eps),
        "nthread": 1,
        **given,
    }
    model = xgboost.train(plain, xgboost.DMatrix(features(tables, names), labels(tables)), rounds)
    first, second = (
        model.predict(xgboost.DMatrix(features(part, names))) for part in (tables, new)
    )
    return first.astype(float), second.astype(float)


def check_classifier(
    model: Trained, tables: Tables, new: Tables, names: list[str] | None = None, **params: Any
) -> None:
    """AUC and log loss within 0.01 of XGBoost's, for known and for new rows."""
    expected = xgboost_scores(tables, new, names, **params)
    for got, wanted, part in zip((model.known, model.fresh), expected, (tables, new)):
        y = labels(part)
        assert roc_auc_score(y, got) == pytest.approx(roc_auc_score(y, wanted), abs=0.01)
        assert log_loss(y, got) == pytest.approx(log_loss(y, wanted), abs=0.01)
        upper = wanted >= np.median(wanted)
        for half in (upper, ~upper):
            assert got[half].mean() == pytest.approx(wanted[half].mean(), abs=0.03)


def _few(cells: Sequence[float]) -> list[float]:
    return list(np.round(2 * np.log1p(np.abs(cells))).clip(0, 11))


def coarse(tables: Tables) -> dict[str, Table]:
    """The same tables, at most twelve values per feature, so every value has its own bin."""
    return {
        party: {
            name: cells if name in ("uid", "y") else _few(cells) for name, cells in table.items()
        }
        for party, table in tables.items()
    }


def check_exact(
    model: Trained,
    tables: Tables,
    new: Tables,
    tolerance: float = 2e-3,
    names: list[str] | None = None,
    **params: Any,
) -> None:
    """Predictions are XGBoost's, where both have the same candidates for splits.

    Where two splits gain alike, each takes another one: a few rows may differ, and more of the new
    ones, which may lie between two thresholds that part the known rows alike.
    """
    for got, wanted, allowed in zip(
        (model.known, model.fresh), xgboost_scores(tables, new, names, **params), (0.04, 0.08)
    ):
        assert np.mean(np.abs(got - wanted) > tolerance) <= allowed


def check_against_xgboost(workspace: Workspace, kind: str) -> None:
    """Trees are XGBoost's, with the label at bob and so few values that each has its own bin."""
    tables, new = (coarse(skewed(400, seed, label_at="bob")) for seed in (0, 1))
    params = {"num_boost_round": 3, "reg_lambda": 0.1}
    model = train(workspace, kind, tables, new, "bob", **params)
    check_exact(model, tables, new, **params)
    assert not workspace.exists("alice", "known.csv")


KINDS = ["ss_xgb", "sgb"]


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Both kinds of trees."""
    return str(request.param)


@pytest.fixture(scope="module")
def trained(bench: Bench, kind: str) -> Trained:
    """Trees with the label at alice, of unscaled, skewed features with ties and a constant one."""
    return train(bench.workspace(f"trees-{kind}"), kind, skewed(600), skewed(600, seed=1))


@pytest.fixture
def copied(trained: Trained, workspace: Workspace) -> Workspace:
    """A workspace with a copy of the trained model and the new rows."""
    for party in ("alice", "bob"):
        source = trained.workspace.path(party, "")
        shutil.copytree(source / "model", workspace.path(party, "model"))
        shutil.copy(source / "new.csv", workspace.path(party, "new.csv"))
    return workspace


def test_auc_and_log_loss_are_those_of_xgboost_on_skewed_features(trained: Trained) -> None:
    check_classifier(trained, skewed(600), skewed(600, seed=1))


def test_another_execution_predicts_what_training_would_have(
    trained: Trained, copied: Workspace, kind: str
) -> None:
    tables = skewed(600, seed=1)
    order = np.random.default_rng(3).permutation(600)
    tables["alice"] = columns_in_order(tables["alice"], ["a3", "uid", "a1", "y", "a2"])
    tables["bob"] = {
        "unused": ["?"] * 600,
        **columns_in_order(tables["bob"], ["b2", "uid", "b3", "b1"]),
    }
    data = copied.write(
        "other.csv", {party: rows_in_order(table, order) for party, table in tables.items()}
    )
    execution = copied.run(predicting(copied, kind, data, receiver="bob", ids={"bob": ["uid"]}))
    np.testing.assert_allclose(scores(copied, "bob"), trained.fresh[order], atol=1e-4)
    assert copied.read("bob", "scores.csv")["uid"] == [tables["bob"]["uid"][row] for row in order]
    assert not copied.exists("alice", "scores.csv")
    assert "output_path" not in execution.results["alice"]


def test_every_tree_is_reported_to_both_parties(trained: Trained) -> None:
    for events in trained.execution.events.values():
        told = [event.data["tree"] for event in events if event.data.get("stage") == "training"]
        assert told == list(range(TREES["num_boost_round"] + 1))


def own_json(workspace: Workspace, party: str, name: str) -> Any:
    """A JSON file of a party's model; only what the standard calls JSON is read."""

    def refuse(text: str) -> None:
        raise AssertionError(f"{text} is no JSON")

    text = workspace.path(party, f"model/{party}/{name}").read_text()
    return json.loads(text, parse_constant=refuse)


def test_a_model_folder_holds_only_the_own_splits_by_name(trained: Trained, kind: str) -> None:
    seen: dict[str, list[Any]] = {}
    for party, names in (("alice", NAMES[:3]), ("bob", NAMES[3:])):
        trees = own_json(trained.workspace, party, "splits.json")
        seen[party] = [tree["splits"] if kind == "sgb" else tree for tree in trees]
        own = [split[0] for tree in seen[party] for split in tree if split]
        assert own and set(own) <= set(names) - {"a3"}  # a constant feature splits nothing
    assert all(not (a and b) for one, two in zip(*seen.values()) for a, b in zip(one, two))
    files = {party: os.listdir(trained.workspace.path(party, f"model/{party}")) for party in seen}
    shares = ["weights.share"] if kind == "ss_xgb" else []
    assert sorted(files["bob"]) == ["manifest.json", "splits.json", *shares]
    assert sorted(files["alice"]) == sorted(
        [*files["bob"], *(["leaves.json"] if kind == "sgb" else [])]
    )


def test_a_regression_holds_large_targets(workspace: Workspace, kind: str) -> None:
    tables, new = (coarse(skewed(400, seed, target="number")) for seed in (0, 1))
    y = labels(tables)
    params = {"objective": "reg:squarederror", "num_boost_round": 3}
    model = train(workspace, kind, tables, new, **params)
    check_exact(model, tables, new, 2e-3 * y.std(), **params, base_score=float(y.mean()))
    assert r2_score(y, model.known) > 0.2
    assert [trained_file(workspace, party) for party in ("alice", "bob")] == [True, False]


def trained_file(workspace: Workspace, party: str) -> bool:
    """Whether a party's model has the mean and deviation of the target."""
    return workspace.path(party, f"model/{party}/target.json").exists()


def only_features_of(party: str, *parts: dict[str, Table]) -> list[dict[str, Table]]:
    """The tables without any feature of the other party, which keeps its id and label."""
    return [
        {
            name: (
                table
                if name == party
                else {key: table[key] for key in ("uid", "y") if key in table}
            )
            for name, table in tables.items()
        }
        for tables in parts
    ]


def test_the_label_party_may_have_no_feature(workspace: Workspace, kind: str) -> None:
    tables, new = only_features_of("bob", *(coarse(skewed(300, seed)) for seed in (0, 1)))
    params = {"num_boost_round": 2, "max_depth": 2}
    model = train(workspace, kind, tables, new, **params)
    check_exact(model, tables, new, names=NAMES[3:], **params)
    assert own_json(workspace, "alice", "splits.json") == []


def test_a_label_that_is_not_0_and_1_is_refused(workspace: Workspace, kind: str) -> None:
    tables = skewed(30)
    tables["alice"]["y"] = [1 + value for value in tables["alice"]["y"]]
    workspace.fail(training(workspace, kind, tables), "BadLabel", "alice")


@pytest.mark.parametrize("cell, code", [("", "MissingValues"), ("inf", "NonFiniteValues")])
def test_a_missing_or_infinite_feature_is_refused_by_name(
    workspace: Workspace, kind: str, cell: str, code: str
) -> None:
    tables = skewed(30)
    tables["bob"]["b2"][3] = cell
    execution = workspace.fail(training(workspace, kind, tables), code, "bob")
    assert "'b2'" in execution.failures["alice"]["error"]


@pytest.mark.parametrize("heu", [{"sk_keeper": "bob"}, {"evaluators": ["alice"]}])
def test_the_key_for_the_gradients_lies_at_the_label_party_or_nowhere(
    workspace: Workspace, heu: dict[str, Any]
) -> None:
    request = training(workspace, "sgb", skewed(30))
    workspace.fail(request, "InvalidTaskConfig", None, heu_config=heu)


def test_trees_on_fm64_are_refused_where_their_sums_lose_the_gain(workspace: Workspace) -> None:
    request = training(workspace, "ss_xgb", skewed(5_001))
    workspace.fail(request, "ValueRange", None, spu_config={"field": "FM64"})


@pytest.mark.matrix
def test_no_split_is_worth_a_huge_gamma(workspace: Workspace) -> None:
    workspace.fail(training(workspace, "sgb", skewed(60), gamma=1e4), "InvalidTaskConfig", None)


def received(workspace: Workspace, execution: Execution, party: str) -> Iterator[Any]:
    """Every list of numbers that a party's process got from peers or that became plain in it."""
    log = workspace.bench.node.settings.state_dir / "logs" / f"{execution.id}.{party}.log.received"
    for line in map(json.loads, log.read_text().splitlines()):
        yield from (
            value for kind, value in line["atoms"] if kind == "numbers" and line["how"] != "facts"
        )


def test_no_gradient_gain_or_leaf_weight_reaches_a_party_without_the_label(
    workspace: Workspace, kind: str
) -> None:
    tables = skewed(40)
    execution = workspace.run(training(workspace, kind, tables, num_boost_round=2, max_depth=2))
    lists = [np.ravel(value) for value in received(workspace, execution, "bob")]
    assert len(lists) > 20
    # Nodes, bins, and which rows lie where are whole numbers; all that tells of the label is a
    # fraction.
    assert not [some for some in lists if not np.equal(some, np.round(some)).all()]
    label = labels(tables)
    assert not [some for some in lists if some.tolist() in (label.tolist(), (1 - label).tolist())]
    if kind == "sgb":
        sums = [np.ravel(value) for value in received(workspace, execution, "alice")]
        assert [
            some for some in sums if not np.equal(some, np.round(some)).all()
        ]  # what is looked for is found
        assert "CiphertextArray" in workspace.bench.log_of(execution, "bob")


@pytest.mark.matrix
@pytest.mark.parametrize("objective", ["binary:logistic", "linear"])
def test_base_score_is_that_of_xgboost(workspace: Workspace, kind: str, objective: str) -> None:
    target = "binary" if objective == "binary:logistic" else "number"
    tables, new = (coarse(skewed(300, seed, target=target)) for seed in (0, 1))
    params = {
        "base_score": 0.2 if target == "binary" else 1.5e6,
        "num_boost_round": 2,
        "objective": objective,
    }
    model = train(workspace, kind, tables, new, **params)
    plain = params | {"objective": objective.replace("linear", "reg:squarederror")}
    check_exact(
        model, tables, new, 2e-3 if target == "binary" else 2e-3 * labels(tables).std(), **plain
    )


@pytest.mark.matrix
@pytest.mark.parametrize(
    "kind, size, spu",
    [
        ("ss_xgb", 0.1, {"field": "FM64"}),
        ("ss_xgb", 0.1, {"field": "FM64", "protocol": "CHEETAH"}),
        ("ss_xgb", 1e8, {"field": "FM128"}),
        ("sgb", 1e12, {}),
    ],
)
def test_a_target_of_any_size_is_learned(
    workspace: Workspace, kind: str, size: float, spu: dict[str, str]
) -> None:
    tables, new = (coarse(skewed(150, seed, target="number")) for seed in (0, 1))
    for part in (tables, new):
        part["alice"]["y"] = [value * size for value in part["alice"]["y"]]
    y = labels(tables)
    params = {"objective": "reg:squarederror", "num_boost_round": 2, "max_depth": 2}
    model = train(workspace, kind, tables, new, spu=spu, **params)
    check_exact(model, tables, new, 2e-3 * y.std(), **params, base_score=float(y.mean()))


def test_a_target_that_predictions_on_shares_could_not_hold_is_refused(
    workspace: Workspace,
) -> None:
    request = training(workspace, "ss_xgb", skewed(30, target="number"), objective="linear")
    workspace.fail(request, "ValueRange", "alice", spu_config={"field": "FM64"})


@pytest.mark.matrix
@pytest.mark.parametrize("penalty", [0.001, 50.0])
def test_every_penalty_is_that_of_xgboost(workspace: Workspace, kind: str, penalty: float) -> None:
    tables, new = (coarse(skewed(300, seed)) for seed in (0, 1))
    params = {"reg_lambda": penalty, "num_boost_round": 2, "max_depth": 2}
    check_exact(train(workspace, kind, tables, new, **params), tables, new, **params)


@pytest.mark.matrix
@pytest.mark.parametrize(
    "field, label_at", [("FM64", "alice"), ("FM64", "bob"), ("FM128", "alice")]
)
def test_cheetah_grows_the_same_trees(workspace: Workspace, field: str, label_at: str) -> None:
    tables, new = (coarse(skewed(100, seed, label_at)) for seed in (0, 1))
    params = {"num_boost_round": 1, "max_depth": 2}
    spu = {"protocol": "CHEETAH", "field": field}
    check_exact(
        train(workspace, "ss_xgb", tables, new, label_at, spu, **params), tables, new, **params
    )


def of_three(tables: dict[str, Table], label_at: str) -> dict[str, Table]:
    """The same tables with one feature, and maybe the label, at carol."""
    tables["carol"] = {"b3": tables["bob"].pop("b3")}
    if label_at == "carol":
        tables["carol"]["y"] = tables["alice"].pop("y")
    return tables


@pytest.mark.matrix
@pytest.mark.parametrize("label_at", ["alice", "carol"])
@pytest.mark.parametrize("field", ["FM64", "FM128"])
def test_three_parties_grow_the_same_trees(
    workspace: Workspace, kind: str, field: str, label_at: str
) -> None:
    tables, new = (of_three(coarse(skewed(200, seed)), label_at) for seed in (0, 1))
    params = {"num_boost_round": 2, "max_depth": 3}
    spu = {"protocol": "ABY3", "field": field} if kind == "ss_xgb" else None
    check_exact(train(workspace, kind, tables, new, label_at, spu, **params), tables, new, **params)


@pytest.mark.matrix
@pytest.mark.parametrize("party", ["alice", "bob"])
@pytest.mark.parametrize("label_at", ["alice", "bob"])
def test_features_may_lie_at_one_party_only(
    workspace: Workspace, kind: str, party: str, label_at: str
) -> None:
    tables, new = only_features_of(party, *(coarse(skewed(200, seed, label_at)) for seed in (0, 1)))
    params = {"num_boost_round": 2, "max_depth": 2}
    names = [name for name in NAMES if name in tables[party]]
    check_exact(
        train(workspace, kind, tables, new, label_at, **params), tables, new, names=names, **params
    )


@pytest.mark.matrix
def test_samples_of_rows_and_features_still_learn(workspace: Workspace, kind: str) -> None:
    tables, new = skewed(1000), skewed(1000, seed=1)
    params = {"subsample": 0.7, "colsample_by_tree": 0.5, "num_boost_round": 8, "seed": 7}
    model = train(workspace, kind, tables, new, **params)
    params["colsample_bytree"] = params.pop("colsample_by_tree")
    _, wanted = xgboost_scores(tables, new, **params)
    y = labels(new)
    assert roc_auc_score(y, model.fresh) == pytest.approx(roc_auc_score(y, wanted), abs=0.03)
    columns = {
        tuple(sorted({split[0] for split in (tree["splits"] if kind == "sgb" else tree) if split}))
        for tree in own_json(workspace, "bob", "splits.json")
    }
    assert all(len(names) <= 2 for names in columns) and len(columns) > 1


@pytest.mark.matrix
def test_fm64_grows_the_trees_of_fm128_on_the_rows_that_it_takes(workspace: Workspace) -> None:
    tables, new = (coarse(skewed(5_000, seed)) for seed in (0, 1))
    params = {"num_boost_round": 3}
    model = train(workspace, "ss_xgb", tables, new, spu={"field": "FM64"}, **params)
    check_exact(model, tables, new, 5e-3, **params)


@pytest.mark.matrix
def test_the_finest_bins_are_counted_right(workspace: Workspace, kind: str) -> None:
    """SecretFlow numbers bins in one signed byte: more than 127 would wrap without an error."""
    tables, new = skewed(1000), skewed(1000, seed=1)
    params = {"sketch_eps": 0.01, "num_boost_round": 3}
    check_classifier(train(workspace, kind, tables, new, **params), tables, new, **params)


@pytest.mark.matrix
@pytest.mark.parametrize("scheme", ["paillier", "zpaillier"])
def test_every_scheme_of_encryption_grows_the_same_trees(workspace: Workspace, scheme: str) -> None:
    tables, new = (coarse(skewed(100, seed)) for seed in (0, 1))
    params = {"num_boost_round": 2, "max_depth": 2}
    heu = {"schema": scheme, "sk_keeper": "alice", "evaluators": ["bob"]}
    check_exact(train(workspace, "sgb", tables, new, heu=heu, **params), tables, new, **params)


@pytest.mark.matrix
def test_a_rare_class_is_learned_as_by_xgboost(workspace: Workspace, kind: str) -> None:
    """Few hundredths of rows are 1: an approximate sigmoid doubles their mean probability."""
    tables, new = (coarse(skewed(3000, seed, target="rare")) for seed in (0, 1))
    assert 0.01 < labels(tables).mean() < 0.06
    params = {"num_boost_round": 8, "max_depth": 4}
    model = train(workspace, kind, tables, new, **params)
    check_classifier(model, tables, new, **params)
    _, wanted = xgboost_scores(tables, new, **params)
    assert model.fresh.mean() == pytest.approx(wanted.mean(), rel=0.02)
