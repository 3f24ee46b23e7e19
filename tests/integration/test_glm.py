"""Generalised linear models on secret shares against statsmodels."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from typing import Any, Mapping, Sequence

import numpy as np
import pytest
import statsmodels.api as sm
from sklearn.linear_model import TweedieRegressor

from tests.data.oracles import Array
from tests.data.tables import Table, columns_in_order, numbers, rows_in_order
from tests.integration.bench import Execution, Workspace

pytestmark = [
    pytest.mark.engine,
    pytest.mark.filterwarnings("ignore:The .* link function does not respect the domain"),
]

FEATURES = ["a1", "a2", "b1", "b2"]
Tables = dict[str, Table]
FAMILIES = {
    ("Bernoulli", "Logit"): sm.families.Binomial(),
    ("Poisson", "Log"): sm.families.Poisson(),
    ("Poisson", "Identity"): sm.families.Poisson(sm.families.links.Identity()),
    ("Gamma", "Log"): sm.families.Gamma(sm.families.links.Log()),
    ("Gamma", "Reciprocal"): sm.families.Gamma(),
    ("Gamma", "Identity"): sm.families.Gamma(sm.families.links.Identity()),
    ("Tweedie", "Log"): sm.families.Tweedie(sm.families.links.Log(), 1.5),
    ("Normal", "Identity"): sm.families.Gaussian(),
    ("Normal", "Log"): sm.families.Gaussian(sm.families.links.Log()),
    ("Normal", "Reciprocal"): sm.families.Gaussian(sm.families.links.InversePower()),
}
INVERSES = {
    "Logit": lambda mu: np.log(mu / (1 - mu)),
    "Log": np.log,
    "Identity": lambda mu: mu,
    "Reciprocal": lambda mu: 1 / mu,
}


def labels(dist: str, link: str, eta: Array, seed: int = 0) -> Array:
    """A label of that distribution whose mean has that link to ``eta``, which is about 0."""
    rng = np.random.default_rng(seed)
    mu = {
        "Logit": lambda: 1 / (1 + np.exp(0.5 - 2 * eta)),
        "Log": lambda: np.exp(1 + eta),
        "Identity": lambda: 4 + eta,
        "Reciprocal": lambda: 1 / (2.5 + eta),
    }[link]()
    draw = {
        "Bernoulli": lambda: rng.random(len(mu)) < mu,
        "Poisson": lambda: rng.poisson(mu),
        "Gamma": lambda: rng.gamma(2, mu / 2),
        "Tweedie": lambda: rng.poisson(mu) * rng.gamma(2, 0.5, len(mu)),
        "Normal": lambda: mu * (1 + 0.1 * rng.uniform(-1, 1, len(mu))),
    }[dist]
    return np.asarray(draw(), dtype=float)


def tables_of(
    dist: str, link: str, rows: int = 600, label_at: str = "alice", seed: int = 0
) -> Tables:
    """Skewed, tied, correlated features of different sizes, columns in no order, and a label."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 4))
    x[:, 1] = rng.integers(0, 3, rows)
    x[:, 2] += 0.5 * x[:, 0]
    x[:, 3] = np.minimum(rng.exponential(size=rows), 4)
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    y = labels(dist, link, x @ [0.3, -0.2, 0.2, 0.1], seed)
    ids = [f"{row:05d}" for row in range(rows)]
    tables: Tables = {
        "alice": {"a2": (40 + 7 * x[:, 1]).tolist(), "uid": ids, "a1": x[:, 0].tolist()},
        "bob": {"b2": (1e-3 * x[:, 3]).tolist(), "b1": (3e4 - 5e3 * x[:, 2]).tolist(), "uid": ids},
    }
    tables[label_at]["y"] = y.tolist()
    return tables


def training(workspace: Workspace, tables: Tables, **params: Any) -> dict[str, Any]:
    """A request for a training on ``tables``, which it writes."""
    return {
        "task_type": "ss_glm",
        "train_data": workspace.write("train.csv", tables),
        "ids": {party: ["uid"] for party in tables},
        "label": "y",
        "model_output": workspace.text("model"),
        "params": params,
    }


def predicting(workspace: Workspace, data: Mapping[str, str], **more: Any) -> dict[str, Any]:
    """A request for predictions of the model of `training`."""
    return {
        "task_type": "ss_glm_predict",
        "model_path": workspace.text("model"),
        "predict_data": data,
        "output_path": workspace.text("scores.csv"),
        **more,
    }


@dataclass
class Fitted:
    """A trained model, as its predictions tell it.

    Attributes:
        eta: the linear predictor of each training row.
        mu: the prediction of each training row.
    """

    execution: Execution
    eta: Array
    mu: Array


def train(
    workspace: Workspace,
    tables: Tables,
    *,
    spu: Mapping[str, str] | None = None,
    receiver: str = "alice",
    **params: Any,
) -> Fitted:
    """Train in one execution, predict the training rows in another."""
    spu_config = dict(spu or {})
    execution = workspace.run(training(workspace, tables, **params), spu_config=spu_config)
    request = predicting(workspace, workspace.paths("train.csv", tables), receiver=receiver)
    workspace.run(request, spu_config=spu_config)
    mu = np.array([float(cell) for cell in workspace.read(receiver, "scores.csv")["prediction"]])
    link = execution.results["alice"]["link"]
    return Fitted(execution, INVERSES[link](mu), mu)


def coefficients(tables: Tables, eta: Array, features: Sequence[str] = tuple(FEATURES)) -> Array:
    """The intercept and coefficients, per deviation of a feature, behind a linear predictor."""
    x = numbers(tables, features)
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    w, *_ = np.linalg.lstsq(np.hstack([x, np.ones((len(x), 1))]), eta, rcond=None)
    return np.asarray(w)


def plain_eta(
    tables: Tables, dist: str, link: str, features: Sequence[str] = tuple(FEATURES), **more: Any
) -> Array:
    """The linear predictor of statsmodels, which gets the same columns, without the offset."""
    x = numbers(tables, features)
    x = sm.add_constant((x - x.mean(axis=0)) / x.std(axis=0))
    y = numbers(tables, ["y"]).ravel()
    fitted = sm.GLM(y, x, family=FAMILIES[dist, link], **more).fit(tol=1e-12, maxiter=100)
    return np.asarray(x @ fitted.params)


def check(tables: Tables, eta: Array, plain: Array, share: float = 0.02) -> None:
    """Every coefficient is that of the oracle to 2 % of the largest, and so is the intercept."""
    ours, theirs = coefficients(tables, eta), coefficients(tables, plain)
    np.testing.assert_allclose(ours, theirs, rtol=share, atol=share / 4 * np.abs(theirs[:-1]).max())


@pytest.mark.parametrize(
    "dist, link",
    [
        pytest.param(*pair, marks=() if pair in [("Gamma", "Reciprocal")] else pytest.mark.matrix)
        for pair in FAMILIES
    ],
)
def test_coefficients_are_those_of_statsmodels(workspace: Workspace, dist: str, link: str) -> None:
    tables = tables_of(dist, link)
    fitted = train(workspace, tables, dist=dist, link=link)
    assert fitted.execution.results["bob"]["converged"] is True
    check(tables, fitted.eta, plain_eta(tables, dist, link), share=0.005)


def test_the_logistic_function_is_the_real_one(workspace: Workspace) -> None:
    tables = tables_of("Bernoulli", "Logit", label_at="bob")
    fitted = train(workspace, tables, receiver="bob", dist="Bernoulli")
    check(tables, fitted.eta, plain_eta(tables, "Bernoulli", "Logit"), share=0.005)


@pytest.mark.matrix
@pytest.mark.parametrize("label_at", ["alice", "bob"])
@pytest.mark.parametrize(
    "spu",
    [{"field": "FM64"}, {"protocol": "CHEETAH"}, {"protocol": "CHEETAH", "field": "FM64"}],
    ids=str,
)
@pytest.mark.parametrize(
    "dist, link", [("Bernoulli", "Logit"), ("Poisson", "Log"), ("Gamma", "Reciprocal")]
)
def test_every_protocol_and_field_gives_the_same(
    workspace: Workspace, spu: dict[str, str], label_at: str, dist: str, link: str
) -> None:
    tables = tables_of(dist, link, rows=300, label_at=label_at)
    fitted = train(workspace, tables, spu=spu, receiver=label_at, dist=dist, link=link)
    check(tables, fitted.eta, plain_eta(tables, dist, link))


@pytest.mark.matrix
@pytest.mark.parametrize("field", ["FM64", "FM128"])
def test_three_parties_train_on_aby3(workspace: Workspace, field: str) -> None:
    tables = tables_of("Poisson", "Log")
    ids = {"uid": tables["alice"]["uid"]}
    tables["carol"] = ids | {"y": tables["alice"].pop("y"), "b2": tables["bob"].pop("b2")}
    spu = {"protocol": "ABY3", "field": field}
    fitted = train(workspace, tables, spu=spu, receiver="carol", dist="Poisson")
    check(tables, fitted.eta, plain_eta(tables, "Poisson", "Log"))


@pytest.mark.matrix
def test_features_may_all_lie_at_the_party_without_the_label(workspace: Workspace) -> None:
    tables = tables_of("Gamma", "Log", label_at="bob")
    tables["bob"] = {name: tables["bob"][name] for name in ("uid", "y")}
    fitted = train(workspace, tables, dist="Gamma")
    features = ["a1", "a2"]
    ours = coefficients(tables, fitted.eta, features)
    theirs = coefficients(tables, plain_eta(tables, "Gamma", "Log", features), features)
    np.testing.assert_allclose(ours, theirs, rtol=0.01)


@pytest.mark.matrix
@pytest.mark.parametrize(
    "field, dist, link",
    [("FM64", "Poisson", "Log"), ("FM64", "Gamma", "Log"), ("FM128", "Bernoulli", "Logit")],
)
def test_many_rows_keep_their_digits(
    workspace: Workspace, field: str, dist: str, link: str
) -> None:
    tables = tables_of(dist, link, rows=100_000)
    fitted = train(workspace, tables, spu={"field": field}, dist=dist, link=link)
    check(tables, fitted.eta, plain_eta(tables, dist, link), share=0.01)


@pytest.mark.parametrize(
    "field, weight_at",
    [
        ("FM128", "bob"),
        pytest.param("FM64", "alice", marks=pytest.mark.matrix),
        pytest.param("FM64", "bob", marks=pytest.mark.matrix),
    ],
)
def test_large_weights_and_an_offset_at_either_party(
    workspace: Workspace, field: str, weight_at: str
) -> None:
    rng = np.random.default_rng(5)
    tables = tables_of("Poisson", "Log")
    exposure = np.geomspace(1, 1000, 600)[rng.permutation(600)]
    weight = 4e5 * rng.uniform(0.1, 5, 600)
    tables["alice"]["y"] = rng.poisson(exposure * np.array(tables["alice"]["y"]) / 3).tolist()
    tables[weight_at]["w"] = weight.tolist()
    tables["bob"]["log_exposure"] = np.log(exposure).tolist()
    fitted = train(
        workspace, tables, spu={"field": field}, dist="Poisson", offset="log_exposure", weight="w"
    )
    plain = plain_eta(tables, "Poisson", "Log", offset=np.log(exposure), freq_weights=weight)
    check(tables, fitted.eta - np.log(exposure), plain)
    assert fitted.execution.results["alice"]["columns_used"] == ["a2", "a1"]
    assert fitted.execution.results["bob"]["columns_used"] == ["b2", "b1"]


@pytest.mark.parametrize(
    "dist, link",
    [("Normal", "Identity"), pytest.param("Gamma", "Reciprocal", marks=pytest.mark.matrix)],
)
def test_an_offset_at_the_label_party_fits_every_link(
    workspace: Workspace, dist: str, link: str
) -> None:
    tables = tables_of(dist, link)
    offset = np.random.default_rng(1).uniform(0, 0.3, 600)
    tables["alice"]["o"] = offset.tolist()
    fitted = train(workspace, tables, dist=dist, link=link, offset="o")
    check(tables, fitted.eta - offset, plain_eta(tables, dist, link, offset=offset))


@pytest.mark.parametrize(
    "spu", [{"field": "FM128"}, pytest.param({"field": "FM64"}, marks=pytest.mark.matrix)]
)
def test_linearly_dependent_features_of_two_parties_are_refused(
    workspace: Workspace, spu: dict[str, str]
) -> None:
    tables = tables_of("Poisson", "Log")
    own = np.array(tables["alice"]["a1"]) * 3 + np.array(tables["alice"]["a2"])
    tables["bob"]["b1"] = own.tolist()
    workspace.fail(
        training(workspace, tables, dist="Poisson"), "CollinearFeatures", None, spu_config=spu
    )
    assert not workspace.exists("alice", "model")
    assert train(workspace, tables, spu=spu, dist="Poisson", l2_lambda=5000.0).execution.succeeded


PENALISED = [
    ("Poisson", "Log", 1),
    ("Gamma", "Log", 2),
    ("Normal", "Identity", 0),
    ("Normal", "Log", 0),
    ("Tweedie", "Log", 1.5),
]


@pytest.mark.parametrize(
    "dist, link, power",
    [
        pytest.param(*case, marks=() if case[0] == "Gamma" else pytest.mark.matrix)
        for case in PENALISED
    ],
)
@pytest.mark.parametrize("weighted", [False, True])
def test_the_penalty_is_the_ridge_of_scikit_learn(
    workspace: Workspace, dist: str, link: str, power: float, weighted: bool
) -> None:
    tables = tables_of(dist, link, rows=300)
    tables["bob"]["b2"] = (
        1e3 * np.array(tables["bob"]["b2"])
    ).tolist()  # else its penalty is the only one felt
    tables["bob"]["b1"] = (1e-4 * np.array(tables["bob"]["b1"])).tolist()
    weight = np.random.default_rng(2).uniform(1, 9, 300) if weighted else np.ones(300)
    more = {"weight": "w"} if weighted else {}
    tables["bob"] |= {"w": weight.tolist()} if weighted else {}
    l2 = 100.0 * weight.mean()
    fitted = train(workspace, tables, dist=dist, link=link, l2_lambda=l2, **more)
    x, y = numbers(tables, FEATURES), numbers(tables, ["y"]).ravel()
    oracle = TweedieRegressor(
        power=power,
        link=link.lower(),
        alpha=l2 / weight.sum(),
        tol=1e-10,
        max_iter=10_000,
        solver="newton-cholesky",
    ).fit(x, y, weight)
    plain = x @ oracle.coef_ + oracle.intercept_
    free = plain_eta(tables, dist, link, freq_weights=weight)
    check(tables, fitted.eta, plain)
    assert np.abs(coefficients(tables, plain) / coefficients(tables, free) - 1).max() > 0.05


@pytest.mark.parametrize("field", ["FM128", pytest.param("FM64", marks=pytest.mark.matrix)])
def test_negative_and_large_normal_targets_keep_their_digits(
    workspace: Workspace, field: str
) -> None:
    tables = tables_of("Normal", "Identity")
    y = np.array(tables["alice"]["y"])
    tables["alice"]["y"] = (-1e5 + 1e3 * (y - 4)).tolist()
    fitted = train(workspace, tables, spu={"field": field}, dist="Normal")
    check(tables, fitted.eta, plain_eta(tables, "Normal", "Identity"), share=0.005)


@pytest.mark.matrix
def test_one_extreme_count_is_met_or_said_not_to_be(workspace: Workspace) -> None:
    tables = tables_of("Poisson", "Log", rows=4000)
    tables["alice"]["y"][7] = 100_000.0
    short = train(workspace, tables, dist="Poisson", epochs=3)
    assert short.execution.results["bob"]["converged"] is False
    long = train(workspace, tables, dist="Poisson", epochs=60)
    assert long.execution.results["bob"]["converged"] is True
    plain = np.exp(plain_eta(tables, "Poisson", "Log"))
    np.testing.assert_allclose(long.mu, plain, rtol=0.02, atol=1e-3 * plain.mean())
    request = training(workspace, tables, dist="Poisson")
    workspace.fail(request, "ValueRange", "alice", spu_config={"field": "FM64"})


def test_gradient_descent_comes_to_the_same_model(workspace: Workspace) -> None:
    tables = tables_of("Poisson", "Log", rows=330)
    params = {"optimizer": "sgd", "epochs": 25, "learning_rate": 0.2, "batch_size": 100, "tol": 0.0}
    fitted = train(workspace, tables, dist="Poisson", **params)
    x, y = numbers(tables, FEATURES), numbers(tables, ["y"]).ravel()
    x = np.hstack([(x - x.mean(axis=0)) / x.std(axis=0), np.ones((330, 1))])
    b = np.zeros(5)
    for _ in range(25):
        for first in range(0, 330, 100):
            batch = slice(first, first + 100)
            b += 0.2 / 100 * x[batch].T @ (y[batch] / y.mean() - np.exp(x[batch] @ b))
    np.testing.assert_allclose(fitted.eta, x @ b + np.log(y.mean()), atol=2e-3)


def test_another_execution_predicts_new_rows_with_the_models_own_offset(
    workspace: Workspace,
) -> None:
    tables = tables_of("Gamma", "Log")
    tables["bob"]["o"] = np.random.default_rng(4).uniform(0, 2, 600).tolist()
    fitted = train(workspace, tables, dist="Gamma", offset="o")
    order = np.random.default_rng(3).permutation(600)[:150]
    new = {party: rows_in_order(table, order) for party, table in tables.items()}
    new["alice"] = columns_in_order(new["alice"], ["a1", "a2", "uid"])
    new["bob"] = {"more": ["?"] * 150, **columns_in_order(new["bob"], ["o", "uid", "b1", "b2"])}
    data = workspace.write("new.csv", new)
    workspace.run(predicting(workspace, data, receiver="bob", ids={"bob": ["uid"]}))
    scores = workspace.read("bob", "scores.csv")
    assert scores["uid"] == new["bob"]["uid"]
    np.testing.assert_allclose(
        [float(cell) for cell in scores["prediction"]], fitted.mu[order], rtol=1e-4
    )
    del new["bob"]["o"]
    workspace.write("new.csv", new)
    workspace.fail(predicting(workspace, data, receiver="bob"), "MissingColumn", "bob")
    request = {"task_config": predicting(workspace, data), "spu_config": {"field": "FM64"}}
    assert workspace.bench.execute(request).code == "ModelMismatch"


def from_shares(workspace: Workspace, execution: Execution, party: str) -> list[Any]:
    """The numbers that became plain at a party, from shares."""
    logs = workspace.bench.node.settings.state_dir / "logs"
    told = (logs / f"{execution.id}.{party}.log.received").read_text(encoding="utf-8").splitlines()
    shown = [line["atoms"] for line in map(json.loads, told) if line["how"] == "from shares"]
    return [numbers for atoms in shown for _, numbers in atoms]


@pytest.mark.parametrize("optimizer", ["irls", pytest.param("sgd", marks=pytest.mark.matrix)])
def test_neither_the_information_matrix_nor_the_label_nor_its_scale_leaves_its_owner(
    workspace: Workspace, optimizer: str
) -> None:
    tables = tables_of("Poisson", "Log", rows=200)
    tables["bob"]["w"] = np.random.default_rng(4).uniform(1, 2, 200).tolist()
    request = training(
        workspace, tables, dist="Poisson", weight="w", l2_lambda=1.0, optimizer=optimizer
    )
    executions = [workspace.run(request)]
    executions.append(workspace.run(predicting(workspace, request["train_data"], receiver="alice")))
    train, predict = executions
    for party in ("alice", "bob"):
        shown = from_shares(workspace, train, party)
        assert shown and all(set(flags) <= {0.0, 1.0} and len(flags) == 2 for flags in shown)
    assert np.shape(from_shares(workspace, predict, "alice")) == (1, 200, 1)
    assert from_shares(workspace, predict, "bob") == []
    y = numbers(tables, ["y"])
    for execution in executions:
        for party, other in (("alice", "bob"), ("bob", "alice")):
            seen = workspace.bench.log_of(execution, party) + str(execution.events[party])
            cells = [
                cell for cells in tables[other].values() for cell in cells if len(str(cell)) > 6
            ]
            assert not [cell for cell in cells if str(cell) in seen]
            assert f"{y.mean():.6g}" not in seen
    assert set(executions[0].results["alice"]) == set(executions[0].results["bob"])
    files = {party: workspace.path(party, f"model/{party}") for party in ("alice", "bob")}
    assert {path.name for path in files["bob"].iterdir()} == {
        "manifest.json",
        "scales.json",
        "weights.share",
    }
    assert (files["alice"] / "target.json").exists()


@pytest.mark.parametrize("field", ["FM64", "FM128"])
def test_a_link_that_some_rows_cannot_have_is_refused(workspace: Workspace, field: str) -> None:
    rng = np.random.default_rng(4)
    x = rng.normal(size=(600, 3))
    mu = 1 / np.maximum(1.0 + 0.4 * x @ [1.0, -1.0, 0.5], 0.02)  # in truth near a pole
    tables: Tables = {
        "alice": {
            "uid": list(range(600)),
            "a": x[:, 0].tolist(),
            "y": rng.gamma(2, mu / 2).tolist(),
        },
        "bob": {"uid": list(range(600)), "b": x[:, 1].tolist(), "c": x[:, 2].tolist()},
    }
    request = training(workspace, tables, dist="Gamma", link="Reciprocal")
    workspace.fail(request, "LinkMismatch", None, spu_config={"field": field})


def test_a_copy_of_a_feature_is_found_at_every_size_and_a_feature_like_it_is_not() -> None:
    script = [sys.executable, "-m", "tests.integration.simulated_glm"]
    done = subprocess.run(script, capture_output=True, text=True, timeout=200, check=True)
    for found in json.loads(done.stdout.splitlines()[-1]).values():
        assert not any(found["0.0"]) and all(found["0.05"]), found
