"""Regression on secret shares against scikit-learn and plain numpy."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from typing import Any, Mapping, Sequence

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score

from tests.data.oracles import SIGMOIDS, Array, sgd
from tests.data.tables import Table, columns_in_order, numbers, rows_in_order, two_halves
from tests.integration.bench import Bench, Execution, Workspace, read_csv

pytestmark = pytest.mark.engine

FEATURES = ["a1", "a2", "a3", "b1", "b2", "b3"]
Tables = Mapping[str, Table]


@dataclass
class Trained:
    """A training with the weights that its model must have, learned from predictions.

    Attributes:
        w: coefficients in the order of FEATURES.
        scores: predictions for the training rows, made in the execution that trained.
    """

    workspace: Workspace
    execution: Execution
    w: Array
    b: float
    scores: Array


def unit_rows(names: Sequence[str]) -> Table:
    """Columns of a table whose first row is zero and whose row i + 1 is one in feature i only."""
    return {name: [0.0] + [float(other == name) for other in FEATURES] for name in names}


def prediction(workspace: Workspace, party: str, name: str = "scores.csv") -> Array:
    """The predictions that a party got."""
    return np.array([float(cell) for cell in workspace.read(party, name)["prediction"]])


def training(
    workspace: Workspace, tables: Tables, label_party: str = "alice", **params: Any
) -> dict[str, Any]:
    """A request for a training on ``tables``, which it writes."""
    return {
        "task_type": "ss_lr",
        "train_data": workspace.write("train.csv", tables),
        "features": FEATURES,
        "label": "y",
        "label_party": label_party,
        "model_output": workspace.text("model"),
        "params": {"sig_type": "real", **params},
    }


def predicting(
    workspace: Workspace, data: Mapping[str, str], output: str = "scores.csv", **more: Any
) -> dict[str, Any]:
    """A request for predictions of the model of `training`."""
    return {
        "task_type": "ss_lr_predict",
        "model_path": workspace.text("model"),
        "predict_data": data,
        "output_path": workspace.text(output),
        **more,
    }


def train(
    workspace: Workspace,
    tables: Tables,
    label_party: str = "alice",
    *,
    spu: Mapping[str, str] | None = None,
    **params: Any,
) -> Trained:
    """Train, and predict the training rows and the unit rows, all in one execution."""
    units = {
        party: unit_rows([name for name in FEATURES if name in table])
        for party, table in tables.items()
    }
    request = training(workspace, tables, label_party, **params)
    data = request["train_data"]
    model = {"step": "train", "output": "model_output"}
    steps = [
        ("train", request),
        ("scores", predicting(workspace, data) | {"model_path": model}),
        (
            "units",
            predicting(workspace, workspace.write("units.csv", units), "units.csv.out.csv")
            | {"model_path": model},
        ),
    ]
    workflow = {
        "task_type": "workflow",
        "steps": [{"name": name, "task_config": step} for name, step in steps],
    }
    execution = workspace.run(workflow, spu_config=dict(spu or {}))
    values = prediction(workspace, label_party, "units.csv.out.csv")
    if params.get("reg_type") != "linear":
        values = np.log(values / (1 - values))
    return Trained(
        workspace,
        execution,
        values[1:] - values[0],
        float(values[0]),
        prediction(workspace, label_party),
    )


ENOUGH = {
    "epochs": 10,
    "learning_rate": 2.0,
    "batch_size": 200,
}  # gradient descent has come to within 0.04


@pytest.fixture(scope="module")
def trained(bench: Bench) -> Trained:
    """A model with the label at alice, of 530 rows in batches of 200, the last one short."""
    return train(bench.workspace("lr"), two_halves(530), report_metrics=True, **ENOUGH)


@pytest.fixture
def copied(trained: Trained, workspace: Workspace) -> Workspace:
    """A workspace with a copy of the trained model and its training data."""
    for party in ("alice", "bob"):
        source = trained.workspace.path(party, "")
        shutil.copytree(source / "model", workspace.path(party, "model"))
        shutil.copy(source / "train.csv", workspace.path(party, "train.csv"))
    return workspace


def plaintext(tables: Tables) -> tuple[Array, Array]:
    """Features and label of all parties."""
    return numbers(tables, FEATURES), numbers(tables, ["y"]).ravel()


def check_against_oracle(
    model: Trained, tables: Tables, tolerance: float = 1e-2, **params: Any
) -> None:
    """The weights are those of plain gradient descent over the same batches."""
    w, b = sgd(*plaintext(tables), **params)
    np.testing.assert_allclose(model.w, w, atol=tolerance)
    assert model.b == pytest.approx(b, abs=tolerance)


def check_against_scikit_learn(model: Trained, tables: Tables) -> None:
    """Coefficients to 0.05, AUC to 0.005."""
    x, y = plaintext(tables)
    plain = LogisticRegression(penalty=None, tol=1e-8, max_iter=1000).fit(x, y)
    np.testing.assert_allclose(model.w, plain.coef_[0], atol=0.05)
    assert model.b == pytest.approx(plain.intercept_[0], abs=0.05)
    assert roc_auc_score(y, model.scores) == pytest.approx(
        roc_auc_score(y, plain.decision_function(x)), abs=0.005
    )


def test_weights_and_auc_are_those_of_scikit_learn(trained: Trained) -> None:
    check_against_scikit_learn(trained, two_halves(530))
    x, _ = plaintext(two_halves(530))
    expected = SIGMOIDS["real"](x @ trained.w + trained.b)
    np.testing.assert_allclose(
        trained.scores, expected, atol=3e-3
    )  # SPU's own exponential is not exact


def test_the_label_may_lie_at_either_party_and_columns_in_any_order(workspace: Workspace) -> None:
    tables = two_halves(530, label_at="bob")
    tables["bob"] = columns_in_order(tables["bob"], ["y", "b3", "uid", "b1", "b2"])
    tables["alice"] = columns_in_order(tables["alice"], ["a3", "a1", "a2", "uid"])
    model = train(workspace, tables, "bob", **ENOUGH)
    check_against_scikit_learn(model, tables)
    assert model.execution.results["bob"]["steps"]["scores"]["receiver"] == "bob"
    assert not workspace.exists("alice", "scores.csv")


def test_a_last_short_batch_takes_its_share_of_a_step(trained: Trained) -> None:
    tables = two_halves(530)
    check_against_oracle(trained, tables, **ENOUGH)
    w, _ = sgd(*(part[:400] for part in plaintext(tables)), **ENOUGH)
    assert np.abs(trained.w - w).max() > 0.05  # what SecretFlow gives, which drops those rows


def test_metrics_are_those_of_the_model_and_only_for_the_label_party(trained: Trained) -> None:
    results = {
        party: result["steps"]["train"] for party, result in trained.execution.results.items()
    }
    metrics, (_, y) = results["alice"]["metrics"], plaintext(two_halves(530))
    assert len(metrics) == ENOUGH["epochs"]
    assert metrics[-1]["loss"] == pytest.approx(log_loss(y, trained.scores), abs=1e-4)
    assert metrics[-1]["auc"] == pytest.approx(roc_auc_score(y, trained.scores), abs=1e-4)
    assert metrics[0]["loss"] > metrics[-1]["loss"]
    assert set(results["bob"]) == {"model_output", "rows", "columns_used"}
    assert "metrics" not in json.dumps([event.data for event in trained.execution.events["bob"]])


def test_every_epoch_is_reported_to_both_parties(trained: Trained) -> None:
    for events in trained.execution.events.values():
        epochs = [event.data["epoch"] for event in events if event.data.get("stage") == "training"]
        assert epochs == list(range(ENOUGH["epochs"] + 1))


def test_the_l2_penalty_shrinks_as_documented(workspace: Workspace) -> None:
    tables = two_halves(130)
    params = {"epochs": 4, "learning_rate": 1.0, "batch_size": 50, "l2_norm": 5.0}
    model = train(workspace, tables, penalty="l2", **params)
    check_against_oracle(model, tables, **params)
    w, _ = sgd(*plaintext(tables), **params | {"l2_norm": 0.0})
    assert np.abs(model.w - w).max() > 0.05


def test_fewer_rows_than_a_batch_are_one_batch(workspace: Workspace) -> None:
    tables = two_halves(40)
    params = {"epochs": 4, "learning_rate": 1.0, "batch_size": 128}
    check_against_oracle(train(workspace, tables, **params), tables, **params)


def test_cheetah_gives_the_same_weights(workspace: Workspace) -> None:
    tables = two_halves(60)
    params = {"epochs": 2, "learning_rate": 1.0, "batch_size": 40}
    model = train(workspace, tables, spu={"protocol": "CHEETAH"}, **params)
    check_against_oracle(model, tables, **params)
    assert {
        (result["protocol"], result["field"]) for result in model.execution.results.values()
    } == {("CHEETAH", "FM128")}
    assert "protocol_note" not in model.execution.results["alice"]


def test_fm64_is_enough_for_scaled_features(workspace: Workspace) -> None:
    tables = two_halves(130)
    params = {"epochs": 3, "learning_rate": 1.0, "batch_size": 64}
    check_against_oracle(
        train(workspace, tables, spu={"field": "FM64"}, **params), tables, **params
    )


def test_fm64_is_refused_where_it_would_overflow(workspace: Workspace) -> None:
    tables = two_halves(60)
    tables["bob"]["b2"][7] = 1e6
    request = training(workspace, tables, epochs=1, batch_size=40, allow_unscaled=True)
    workspace.fail(request, "ValueRange", "bob", spu_config={"field": "FM64"})
    request["params"]["batch_size"] = 20
    workspace.run(request, spu_config={"field": "FM64"})


@pytest.mark.parametrize("sigmoid", ["t1", "t3", "t5", "df", "sr", "mix"])
def test_every_sigmoid_is_the_function_that_it_says(workspace: Workspace, sigmoid: str) -> None:
    tables = two_halves(100)
    params = {"epochs": 2, "learning_rate": 1.0, "batch_size": 64}
    model = training(workspace, tables, sig_type=sigmoid, **params)
    predict = predicting(workspace, model["train_data"]) | {
        "model_path": {"step": "train", "output": "model_output"}
    }
    steps = [{"name": "train", "task_config": model}, {"name": "predict", "task_config": predict}]
    workspace.run({"task_type": "workflow", "steps": steps})
    x, y = plaintext(tables)
    w, b = sgd(x, y, sigmoid=SIGMOIDS[sigmoid], **params)
    np.testing.assert_allclose(
        prediction(workspace, "alice"), SIGMOIDS[sigmoid](x @ w + b), atol=1e-2
    )


def test_the_real_sigmoid_is_right_every_time(bench: Bench) -> None:
    tables = two_halves(100)
    params = {"epochs": 2, "learning_rate": 1.0, "batch_size": 64}
    for _ in range(4):
        check_against_oracle(train(bench.workspace("real"), tables, **params), tables, **params)


def test_rare_events_keep_their_order(workspace: Workspace) -> None:
    tables = two_halves(3000)
    x, _ = plaintext(tables)
    score = x @ [1.2, -0.8, 0.5, 0.9, -0.4, 0.3] - 6.5
    y = np.random.default_rng(5).random(3000) < SIGMOIDS["real"](score)
    assert 0.003 < y.mean() < 0.03
    tables["alice"]["y"] = y.astype(int).tolist()
    model = train(workspace, tables, epochs=5, learning_rate=1.0, batch_size=200)
    w, b = sgd(x, y.astype(float), epochs=5, learning_rate=1.0, batch_size=200)
    assert roc_auc_score(y, model.scores) == pytest.approx(roc_auc_score(y, x @ w), abs=0.002)
    np.testing.assert_allclose(model.scores, SIGMOIDS["real"](x @ w + b), atol=5e-3)
    assert len(np.unique(model.scores)) > 2900  # SecretFlow's default gives ties at 0


def test_a_linear_regression_holds_large_targets(workspace: Workspace) -> None:
    tables = two_halves(300)
    x, _ = plaintext(tables)
    rng = np.random.default_rng(1)
    target = 2e5 + 1e5 * x @ [1.0, -0.5, 0.25, 0.75, 0.1, -0.2] + 5e3 * rng.normal(size=300)
    tables["alice"]["y"] = target.tolist()
    params = {
        "epochs": 20,
        "learning_rate": 0.3,
        "batch_size": 128,
        "reg_type": "linear",
        "report_metrics": True,
    }
    model = train(workspace, tables, **params)
    plain, *_ = np.linalg.lstsq(np.hstack([x, np.ones((300, 1))]), target, rcond=None)
    np.testing.assert_allclose([*model.w, model.b], plain, atol=0.01 * target.std())
    residual = target - model.scores
    r2 = 1 - (residual**2).sum() / ((target - target.mean()) ** 2).sum()
    metrics = model.execution.results["alice"]["steps"]["train"]["metrics"][-1]
    assert metrics["r2"] == pytest.approx(r2, abs=1e-4) and r2 > 0.99


def test_a_target_that_predictions_on_shares_could_not_hold_is_refused(
    workspace: Workspace,
) -> None:
    tables = two_halves(300)
    tables["alice"]["y"] = [1e9 * value for value in tables["alice"]["a1"]]
    request = training(workspace, tables, reg_type="linear")
    workspace.fail(request, "ValueRange", "alice", spu_config={"field": "FM64"})
    workspace.run(request)


def test_training_stops_when_the_weights_stand_still(workspace: Workspace) -> None:
    request = training(
        workspace, two_halves(100), epochs=30, learning_rate=1.0, batch_size=100, tol=0.05
    )
    execution = workspace.run(request)
    stages = [
        event.data for event in execution.events["bob"] if event.data.get("stage") == "training"
    ]
    assert 2 <= stages[-1]["epoch"] < 15


def test_features_may_all_lie_at_the_party_without_the_label(workspace: Workspace) -> None:
    tables = two_halves(100)
    tables["alice"] = {"uid": tables["alice"]["uid"], "y": tables["alice"]["y"]}
    request = training(workspace, tables, epochs=2, learning_rate=1.0, batch_size=64) | {
        "features": None
    }
    request["ids"] = {party: ["uid"] for party in tables}
    workspace.run(request)
    predict = predicting(workspace, request["train_data"], receiver="bob", ids={"bob": ["uid"]})
    workspace.run(predict)
    x, y = numbers(tables, ["b1", "b2", "b3"]), numbers(tables, ["y"]).ravel()
    w, b = sgd(x, y, epochs=2, learning_rate=1.0, batch_size=64)
    scores = workspace.read("bob", "scores.csv")
    assert list(scores) == ["uid", "prediction"] and scores["uid"] == tables["bob"]["uid"]
    np.testing.assert_allclose(prediction(workspace, "bob"), SIGMOIDS["real"](x @ w + b), atol=1e-2)


def test_three_parties_train_on_aby3(workspace: Workspace) -> None:
    tables = two_halves(60)
    tables["carol"] = {"b3": tables["bob"].pop("b3")}
    request = training(workspace, tables, epochs=2, learning_rate=1.0, batch_size=40)
    spu = {"protocol": "ABY3", "field": "FM64"}
    workspace.run(request, spu_config=spu)
    workspace.run(predicting(workspace, request["train_data"], receiver="carol"), spu_config=spu)
    x, y = plaintext(tables)
    w, b = sgd(x, y, epochs=2, learning_rate=1.0, batch_size=40)
    np.testing.assert_allclose(
        prediction(workspace, "carol"), SIGMOIDS["real"](x @ w + b), atol=1e-2
    )


def test_another_execution_predicts_what_training_would_have(
    trained: Trained, copied: Workspace
) -> None:
    tables = two_halves(530)
    order = np.random.default_rng(3).permutation(530)
    tables["alice"] = columns_in_order(tables["alice"], ["a3", "uid", "a1", "y", "a2"])
    tables["bob"] = {
        "unused": ["?"] * 530,
        **columns_in_order(tables["bob"], ["b2", "uid", "b3", "b1"]),
    }
    data = copied.write(
        "new.csv", {party: rows_in_order(table, order) for party, table in tables.items()}
    )
    execution = copied.run(predicting(copied, data, receiver="bob", ids={"bob": ["uid"]}))
    np.testing.assert_allclose(prediction(copied, "bob"), trained.scores[order], atol=1e-4)
    assert copied.read("bob", "scores.csv")["uid"] == [tables["bob"]["uid"][row] for row in order]
    assert not copied.exists("alice", "scores.csv")
    assert execution.results["bob"]["output_path"] == str(copied.path("bob", "scores.csv"))
    assert "output_path" not in execution.results["alice"]


def manifest(workspace: Workspace, party: str) -> dict[str, Any]:
    """A party's manifest."""
    return dict(json.loads((workspace.path(party, f"model/{party}") / "manifest.json").read_text()))


def test_a_model_says_what_it_belongs_to_and_no_party_has_all_of_it(trained: Trained) -> None:
    alice, bob = (manifest(trained.workspace, party) for party in ("alice", "bob"))
    assert (
        alice["features"]
        == bob["features"]
        == {"alice": ["a1", "a2", "a3"], "bob": ["b1", "b2", "b3"]}
    )
    assert (alice["label"], alice["label_party"]) == ("y", "alice")
    assert (alice["protocol"], alice["field"], alice["parties"]) == (
        "SEMI2K",
        "FM128",
        ["alice", "bob"],
    )
    shares = [
        trained.workspace.path(party, f"model/{party}/weights.share").read_bytes()
        for party in ("alice", "bob")
    ]
    assert shares[0] != shares[1]
    for party in ("alice", "bob"):
        folder = trained.workspace.path(party, f"model/{party}")
        assert {path.name for path in folder.iterdir()} == {"manifest.json", "weights.share"}


def drop_a_column(workspace: Workspace) -> None:
    """Bob's new data lacks a feature."""
    table = read_csv(workspace.path("bob", "train.csv"))
    table.pop("b2")
    workspace.write("train.csv", {"bob": table})


def change_the_manifest(workspace: Workspace) -> None:
    """Bob's manifest has its columns in another order."""
    path = workspace.path("bob", "model/bob/manifest.json")
    path.write_text(path.read_text().replace('"b1"', '"b0"'))


def change_the_share(workspace: Workspace) -> None:
    """One byte of alice's share is another."""
    path = workspace.path("alice", "model/alice/weights.share")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def remove_the_share(workspace: Workspace) -> None:
    """Bob has no share."""
    workspace.path("bob", "model/bob/weights.share").unlink()


def remove_the_model(workspace: Workspace) -> None:
    """Bob has no model."""
    shutil.rmtree(workspace.path("bob", "model"))


def keep_other_rows(workspace: Workspace) -> None:
    """Bob's new data has a row less."""
    table = read_csv(workspace.path("bob", "train.csv"))
    workspace.write("train.csv", {"bob": rows_in_order(table, range(529))})


@pytest.mark.parametrize(
    "fault, code, party",
    [
        (drop_a_column, "MissingColumn", "bob"),
        (change_the_manifest, "ModelDamaged", "bob"),
        (change_the_share, "ModelDamaged", "alice"),
        (remove_the_share, "ModelDamaged", "bob"),
        (remove_the_model, "MissingFile", "bob"),
        (keep_other_rows, "RowCountMismatch", None),
    ],
)
def test_a_prediction_that_would_be_wrong_is_refused(
    copied: Workspace, fault: Any, code: str, party: str | None
) -> None:
    fault(copied)
    copied.fail(predicting(copied, copied.paths("train.csv")), code, party)
    assert not copied.exists("alice", "scores.csv")


@pytest.mark.parametrize("spu", [{"protocol": "CHEETAH"}, {"field": "FM64"}])
def test_a_model_is_not_used_under_another_protocol_or_field(
    copied: Workspace, spu: dict[str, str]
) -> None:
    request = predicting(copied, copied.paths("train.csv"))
    execution = copied.bench.execute({"task_config": request, "spu_config": spu})
    assert execution.code == "ModelMismatch"
    assert [*spu][0] in execution.failures["alice"]["error"]


def test_folders_of_two_trainings_do_not_mix(copied: Workspace, bench: Bench) -> None:
    other = bench.workspace("other")
    request = training(other, two_halves(530), epochs=1, batch_size=530)
    other.run(request)
    shutil.rmtree(copied.path("bob", "model"))
    shutil.copytree(other.path("bob", "model"), copied.path("bob", "model"))
    copied.fail(predicting(copied, copied.paths("train.csv")), "ModelMismatch", None)


def test_a_model_is_replaced_by_the_next_training(workspace: Workspace) -> None:
    request = training(workspace, two_halves(60), epochs=1, batch_size=60)
    first, second = workspace.run(request), workspace.run(request)
    assert (
        first.id
        != second.id
        == manifest(workspace, "alice")["model_id"]
        == manifest(workspace, "bob")["model_id"]
    )


def test_a_target_that_hardly_varies_far_from_zero_is_refused(workspace: Workspace) -> None:
    tables = two_halves(100)
    tables["alice"]["y"] = [1e9 + 10 * value for value in tables["alice"]["a1"]]
    workspace.fail(training(workspace, tables, reg_type="linear"), "ValueRange", "alice")
