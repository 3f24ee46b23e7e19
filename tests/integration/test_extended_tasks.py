"""One oracle case of every extended task; each family's own file has the rest."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics

from tests.data.scores import measured
from tests.integration import test_glm, test_kmeans, test_statistics
from tests.integration.bench import Workspace
from tests.integration.test_transformations import check_transformation
from tests.integration.test_trees import check_against_xgboost

pytestmark = pytest.mark.engine


def test_a_regression_is_evaluated_as_by_scikit_learn(workspace: Workspace) -> None:
    label, prediction = measured(1e6)
    columns = {"y": label.tolist(), "p": prediction.tolist()}
    at = {"party": "alice", "path": workspace.write("in.csv", {"alice": columns})["alice"]}
    request = {
        "task_type": "regression_eval",
        "label": {**at, "column": "y"},
        "prediction": {**at, "column": "p"},
    }
    result = workspace.run(request, sf_init_config={"parties": ["alice", "bob"]}).results["alice"]
    expected = {
        "mse": metrics.mean_squared_error(label, prediction),
        "rmse": metrics.mean_squared_error(label, prediction) ** 0.5,
        "mae": metrics.mean_absolute_error(label, prediction),
        "mape": metrics.mean_absolute_percentage_error(label, prediction),
        "r2": metrics.r2_score(label, prediction),
        "explained_variance": metrics.explained_variance_score(label, prediction),
        "rows": 500,
    }
    assert {name: result[name] for name in expected} == pytest.approx(expected, rel=1e-9)
    counts, edges = np.histogram(label - prediction, bins=10)
    assert [row["rows"] for row in result["residual_histogram"]] == counts.tolist()
    assert [row["from"] for row in result["residual_histogram"]] == pytest.approx(edges[:-1])


def test_trees_on_encrypted_gradients_predict_what_xgboost_predicts(workspace: Workspace) -> None:
    check_against_xgboost(workspace, "sgb")


def test_a_generalised_linear_model_has_the_coefficients_of_statsmodels(
    workspace: Workspace,
) -> None:
    tables = test_glm.tables_of("Poisson", "Log", label_at="bob")
    fitted = test_glm.train(workspace, tables, receiver="bob", dist="Poisson")
    test_glm.check(tables, fitted.eta, test_glm.plain_eta(tables, "Poisson", "Log"), share=0.005)


def test_clusters_are_as_good_as_those_of_scikit_learn(workspace: Workspace) -> None:
    tables, truth = test_kmeans.blobs(seed=1)
    execution = workspace.run(test_kmeans.clustering(workspace, tables, receiver="alice"))
    test_kmeans.check(workspace, execution, tables, truth, "alice")


def test_correlations_across_parties_are_those_of_pandas(workspace: Workspace) -> None:
    test_statistics.run_correlation(workspace)


def test_variance_inflation_factors_are_those_of_statsmodels(workspace: Workspace) -> None:
    test_statistics.run_vif(workspace)


def test_weights_of_evidence_are_exact_and_stay_with_the_owners(workspace: Workspace) -> None:
    test_statistics.run_woe(workspace, "alice")


@pytest.mark.parametrize(
    "task_type", ["fillna", "min_max_scaler", "label_encoder", "onehot_encoder", "binning"]
)
def test_a_transformation_is_that_of_the_oracle_also_on_new_rows(
    workspace: Workspace, task_type: str
) -> None:
    check_transformation(workspace, task_type)
