"""What a clustering takes and checks before cryptography starts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Mapping

import numpy as np
import pytest

from secretflow_task.contract.errors import (
    FeatureRange,
    InvalidTaskConfig,
    MissingValues,
    NonFiniteValues,
    RowCountMismatch,
    TooFewRows,
    ValueRange,
    WorkerError,
)
from secretflow_task.contract.protocols import Protocol
from secretflow_task.contract.task_config import parse
from secretflow_task.contract.tasks.kmeans import SsKmeansConfig
from secretflow_task.jobs.ml_task.kmeans import KmeansInput, prepare_kmeans, sizes_of
from tests.unit.conftest import RunOf
from tests.unit.plan_requests import PATHS

BOB = {"features": ["g"], "rows": 4}


def config_of(**values: Any) -> SsKmeansConfig:
    """A request with other values."""
    request = {
        "train_data": PATHS,
        "ids": {"alice": ["uid"]},
        "receiver": "bob",
        "output_path": "c.csv",
        "model_output": "m",
        "params": {"n_clusters": 2},
    }
    config = parse(SsKmeansConfig, {**request, **values}, "ss_kmeans")
    assert isinstance(config, SsKmeansConfig)
    return config


def prepared(
    make_run: RunOf,
    tmp_path: Path,
    cells: tuple[Any, ...] = (1, 2, 3, 6),
    field: str = "FM128",
    bob: Mapping[str, Any] | None = None,
    **values: Any,
) -> KmeansInput:
    """What alice's process holds after the agreement."""
    (tmp_path / "data/alice").mkdir(parents=True, exist_ok=True)
    rows = "".join(f"{row},{cell}\n" for row, cell in enumerate(cells))
    (tmp_path / "data/alice/alice.csv").write_text("uid,f\n" + rows)
    run = make_run("alice", {"bob": {**BOB, **(bob or {})}})
    return prepare_kmeans(replace(run, protocol=Protocol("SEMI2K", field)), config_of(**values))


def test_features_are_centred_by_their_owner(make_run: RunOf, tmp_path: Path) -> None:
    own = prepared(make_run, tmp_path)
    assert own.names == {"alice": ["f"], "bob": ["g"]}
    assert own.values.ravel().tolist() == [-2, -1, 0, 3]
    assert own.means is not None and own.means.tolist() == [3]


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        (
            {"params": {"n_clusters": 1}},
            "params.n_clusters: input should be greater than or equal to 2",
        ),
        ({"params": {"init": "kmeans++"}}, "params.init: input should be 'k-means++' or 'random'"),
        ({"receiver": None}, "receiver: input should be a valid string"),
    ],
)
def test_a_wrong_value_is_refused(values: Mapping[str, Any], problem: str) -> None:
    with pytest.raises(InvalidTaskConfig) as caught:
        config_of(**values)
    assert caught.value.message == f"ss_kmeans: {problem}."


def test_only_the_receiver_learns_the_clusters() -> None:
    learned = "the cluster of every row, the sizes of the clusters"
    told = [reveal for reveal in config_of().reveals() if reveal.what == learned]
    assert [reveal.learners(["alice", "bob"]) for reveal in told] == [["bob"]]
    assert [use.party for use in config_of().outputs()] == ["bob"]


@pytest.mark.parametrize(
    ("cells", "field", "error"),
    [
        ((1, 2, 3, 6000), "FM64", ValueRange),
        ((1, 2, 3, 1e12), "FM128", ValueRange),
        ((0, 0, 0, 1e-3), "FM64", FeatureRange),
        ((0, 0, 0, 1e-4), "FM128", FeatureRange),
        ((1, "", 3, 6), "FM128", MissingValues),
        ((1, "inf", 3, 6), "FM128", NonFiniteValues),
    ],
)
def test_values_that_the_field_cannot_hold_are_refused_at_their_owner(
    cells: tuple[Any, ...], field: str, error: type[WorkerError], make_run: RunOf, tmp_path: Path
) -> None:
    with pytest.raises(error) as caught:
        prepared(make_run, tmp_path, cells, field)
    assert caught.value.party == "alice"


def test_a_constant_feature_does_no_harm(make_run: RunOf, tmp_path: Path) -> None:
    assert not prepared(make_run, tmp_path, (7, 7, 7, 7), "FM64").values.any()


@pytest.mark.parametrize(
    ("bob", "values", "error"),
    [
        ({"rows": 5}, {}, RowCountMismatch),
        ({}, {"params": {"n_clusters": 4}}, TooFewRows),
    ],
)
def test_rows_that_do_not_suffice_are_refused_at_all_parties(
    bob: Mapping[str, Any],
    values: Mapping[str, Any],
    error: type[WorkerError],
    make_run: RunOf,
    tmp_path: Path,
) -> None:
    with pytest.raises(error) as caught:
        prepared(make_run, tmp_path, bob=bob, **values)
    assert caught.value.party is None


def test_without_ids_or_features_nothing_tells_what_to_cluster(
    make_run: RunOf, tmp_path: Path
) -> None:
    with pytest.raises(InvalidTaskConfig):
        prepared(make_run, tmp_path, ids=None)


def test_an_empty_cluster_has_size_0() -> None:
    assert sizes_of(np.array([0, 2, 2]), 4) == [1, 0, 2, 0]
