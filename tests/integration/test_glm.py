"""Generalised linear models on secret shares against statsmodels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Mapping, Sequence

import numpy as np
import pytest
import statsmodels.api as sm

from tests.data.oracles import Array
from tests.data.tables import Table, numbers
from tests.integration.bench import Execution, Workspace

pytestmark = pytest.mark.engine

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


def tables_of(dist: str, link: str, rows: int = 600, label_at: str = "alice", seed: int = 0) -> Tables:
    """Skewed, tied, correlated features of very different size, their columns in no order, and a label."""
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
    """Coefficients per standard deviation of a feature, and the intercept, that explain a linear predictor."""
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


@pytest.mark.filterwarnings("ignore:The .* link function does not respect the domain")
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
