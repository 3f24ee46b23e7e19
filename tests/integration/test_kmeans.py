"""K-means on secret shares against scikit-learn."""

from __future__ import annotations

from typing import Any, Mapping

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

from tests.data.oracles import Array
from tests.data.tables import Table, columns_in_order, numbers, rows_in_order
from tests.integration.bench import Execution, Workspace

pytestmark = pytest.mark.engine

FEATURES = ["a1", "a2", "b1", "b2"]
Tables = dict[str, Table]


def blobs(sizes: tuple[int, ...] = (150, 60, 25, 15), seed: int = 0) -> tuple[Tables, Array]:
    """Clusters of uneven sizes, tied values, shuffled columns; and each row's true cluster."""
    rng = np.random.default_rng(seed)
    centers = np.array([[0, 0, 0, 0], [6, 0, 5, 0], [0, 6, -5, 3], [-6, -5, 0, 6]], dtype=float)
    truth = np.repeat(np.arange(len(sizes)), sizes)[rng.permutation(sum(sizes))]
    x = centers[truth] + rng.normal(size=(len(truth), 4))
    x[:, 1] = np.round(x[:, 1])
    ids = [f"{row:05d}" for row in range(len(truth))]
    tables: Tables = {
        "alice": {"a2": x[:, 1].tolist(), "uid": ids, "a1": x[:, 0].tolist()},
        "bob": {"uid": ids, "b2": x[:, 3].tolist(), "b1": x[:, 2].tolist()},
    }
    return tables, truth


def clustering(
    workspace: Workspace, tables: Tables, receiver: str = "bob", **params: Any
) -> dict[str, Any]:
    """A request for a clustering of ``tables``, which it writes."""
    return {
        "task_type": "ss_kmeans",
        "train_data": workspace.write("train.csv", tables),
        "ids": {party: ["uid"] for party in tables},
        "receiver": receiver,
        "output_path": workspace.text("clusters.csv"),
        "model_output": workspace.text("model"),
        "params": {"n_clusters": 4, **params},
    }


def assigning(
    workspace: Workspace, data: Mapping[str, str], receiver: str = "bob"
) -> dict[str, Any]:
    """A request for the clusters of ``data`` by the model of `clustering`."""
    return {
        "task_type": "ss_kmeans_predict",
        "model_path": workspace.text("model"),
        "predict_data": data,
        "ids": {receiver: ["uid"]},
        "receiver": receiver,
        "output_path": workspace.text("predicted.csv"),
    }


def clusters(workspace: Workspace, party: str, name: str = "clusters.csv") -> Array:
    """The cluster of each row that a party got."""
    table = workspace.read(party, name)
    assert list(table) == ["uid", "cluster"]
    return np.array([int(cell) for cell in table["cluster"]])


def inertia(x: Array, labels: Array) -> float:
    """The squared distances to the means of the clusters."""
    return float(
        sum(((x[labels == one] - x[labels == one].mean(axis=0)) ** 2).sum() for one in set(labels))
    )


def check(
    workspace: Workspace,
    execution: Execution,
    tables: Tables,
    truth: Array,
    receiver: str = "bob",
) -> None:
    """The clusters are the true ones, as good as scikit-learn's, and only the receiver has them."""
    x, labels = numbers(tables, FEATURES), clusters(workspace, receiver)
    plain = KMeans(4, n_init=10, random_state=0).fit(x)
    assert adjusted_rand_score(labels, truth) >= adjusted_rand_score(plain.labels_, truth) - 0.01
    assert adjusted_rand_score(labels, truth) > 0.95
    assert inertia(x, labels) <= 1.05 * plain.inertia_
    assert execution.results[receiver]["sizes"] == np.bincount(labels, minlength=4).tolist()
    for party in set(tables) - {receiver}:
        assert not workspace.exists(party, "clusters.csv")
        assert set(execution.results[party]).isdisjoint({"sizes", "output_path"})


def test_clusters_are_those_of_scikit_learn_and_another_execution_assigns_the_same(
    workspace: Workspace,
) -> None:
    tables, truth = blobs()
    execution = workspace.run(clustering(workspace, tables))
    check(workspace, execution, tables, truth)
    assert max(execution.results["alice"]["iterations"]) < 20
    order = np.random.default_rng(3).permutation(len(truth))[:100]
    new = {party: rows_in_order(table, order) for party, table in tables.items()}
    new["alice"] = columns_in_order(new["alice"], ["uid", "a1", "a2"])
    new["bob"] = {"more": ["?"] * 100, **columns_in_order(new["bob"], ["b1", "uid", "b2"])}
    predicted = workspace.run(assigning(workspace, workspace.write("new.csv", new)))
    labels = clusters(workspace, "bob")[order]
    assert clusters(workspace, "bob", "predicted.csv").tolist() == labels.tolist()
    assert predicted.results["bob"]["sizes"] == np.bincount(labels, minlength=4).tolist()
    assert "sizes" not in predicted.results["alice"] and not workspace.exists(
        "alice", "predicted.csv"
    )


@pytest.mark.matrix
@pytest.mark.parametrize("init", ["k-means++", "random"])
@pytest.mark.parametrize(
    "spu",
    [{}, {"field": "FM64"}, {"protocol": "CHEETAH"}, {"protocol": "CHEETAH", "field": "FM64"}],
    ids=str,
)
def test_every_protocol_and_field_gives_the_same(
    workspace: Workspace, spu: dict[str, str], init: str
) -> None:
    tables, truth = blobs()
    request = clustering(workspace, tables, "alice", init=init, n_init=5 if init == "random" else 3)
    check(workspace, workspace.run(request, spu_config=spu), tables, truth, "alice")


@pytest.mark.matrix
def test_three_parties_cluster_on_aby3(workspace: Workspace) -> None:
    tables, truth = blobs()
    tables["carol"] = {"uid": tables["bob"]["uid"], "b2": tables["bob"].pop("b2")}
    request = clustering(workspace, tables, "carol")
    check(
        workspace, workspace.run(request, spu_config={"protocol": "ABY3"}), tables, truth, "carol"
    )


@pytest.mark.matrix
def test_features_may_all_lie_at_one_party(workspace: Workspace) -> None:
    tables, truth = blobs()
    tables["alice"] |= {name: tables["bob"].pop(name) for name in ("b1", "b2")}
    check(workspace, workspace.run(clustering(workspace, tables)), tables, truth)


@pytest.mark.parametrize("size", [1e-2, pytest.param(1e6, marks=pytest.mark.matrix)])
def test_features_of_any_size_are_right_or_refused(workspace: Workspace, size: float) -> None:
    tables, truth = blobs()
    for table in tables.values():
        table.update(
            {
                name: [1e3 * size + size * cell for cell in table[name]]
                for name in FEATURES
                if name in table
            }
        )
    check(workspace, workspace.run(clustering(workspace, tables)), tables, truth)
    if size > 1:
        small, _ = blobs()
        mixed = {"alice": tables["alice"], "bob": small["bob"]}
        workspace.fail(
            clustering(workspace, mixed), "ValueRange", "alice", spu_config={"field": "FM64"}
        )


@pytest.mark.matrix
@pytest.mark.parametrize("field", ["FM64", "FM128"])
def test_many_rows_keep_their_digits(workspace: Workspace, field: str) -> None:
    tables, truth = blobs((12_000, 5_000, 2_000, 1_000))
    request = clustering(workspace, tables)
    check(workspace, workspace.run(request, spu_config={"field": field}), tables, truth)


def test_more_clusters_than_distinct_rows_never_join_two_of_them(workspace: Workspace) -> None:
    rows = [0.0, 0.0, 0.0, 9.0, 9.0, 9.0]
    tables: Tables = {
        "alice": {"uid": list("abcdef"), "a1": rows},
        "bob": {"uid": list("abcdef"), "b1": rows},
    }
    execution = workspace.run(clustering(workspace, tables, init="random"))
    labels = clusters(workspace, "bob")
    assert set(labels[:3]).isdisjoint(
        labels[3:]
    )  # centres that coincide may share the rows of a point
    assert execution.results["bob"]["sizes"] == np.bincount(labels, minlength=4).tolist()


def test_progress_tells_start_and_iteration(workspace: Workspace) -> None:
    tables, _ = blobs((20, 10, 8, 8))
    execution = workspace.run(clustering(workspace, tables, n_init=2, max_iter=3, tol=0.0))
    told = [
        event.data for event in execution.events["alice"] if event.data.get("stage") == "training"
    ]
    assert {(data["start"], data["iteration"]) for data in told} <= {
        (s, i) for s in (0, 1) for i in (0, 1, 2)
    }
    assert (told[0]["start"], told[-1]["start"]) == (0, 1)
