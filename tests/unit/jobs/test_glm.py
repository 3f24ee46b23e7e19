"""What generalised linear models take, check and scale before cryptography starts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Mapping

import numpy as np
import pytest

from secretflow_task.contract.errors import (
    AmbiguousColumn,
    BadLabel,
    ConstantColumn,
    InvalidTaskConfig,
    MissingColumn,
    MissingValues,
    NonFiniteValues,
    ValueRange,
    WorkerError,
)
from secretflow_task.contract.protocols import Protocol
from secretflow_task.contract.reveals import Fineness, Reveal, Role
from secretflow_task.contract.task_config import parse
from secretflow_task.contract.tasks.glm import LINKS, SsGlmConfig
from secretflow_task.jobs.ml_task import irls
from secretflow_task.jobs.ml_task.glm import GlmInput, prepare_glm, row_slices, scaled_offset
from tests.unit.conftest import RunOf
from tests.unit.plan_requests import PATHS

ROWS = 6
BOB = {"features": ["g"], "rows": ROWS, "has_label": False, "extra": []}
ALICE = "y,uid,f,w,o\n" + "".join(
    f"{row + 1},{row:03d},{3 * row - 1e6},{row + 1},{row / 2}\n" for row in range(ROWS)
)


def config_of(ids: Mapping[str, list[str]] | None = None, **params: Any) -> SsGlmConfig:
    """A request with other parameters."""
    value = {
        "train_data": PATHS,
        "ids": ids or {"alice": ["uid"]},
        "label": "y",
        "model_output": "m",
    }
    config = parse(SsGlmConfig, {**value, "params": {"dist": "Poisson", **params}}, "ss_glm")
    assert isinstance(config, SsGlmConfig)
    return config


def prepared(
    make_run: RunOf,
    tmp_path: Path,
    content: str = ALICE,
    bob: Mapping[str, Any] | None = None,
    field: str = "FM128",
    **params: Any,
) -> GlmInput:
    """What alice's process holds after the agreement."""
    (tmp_path / "data/alice").mkdir(parents=True, exist_ok=True)
    (tmp_path / "data/alice/alice.csv").write_text(content)
    run = replace(
        make_run("alice", {"bob": {**BOB, **(bob or {})}}), protocol=Protocol("SEMI2K", field)
    )
    return prepare_glm(run, config_of(**params))


@pytest.mark.parametrize(
    ("params", "problem"),
    [
        ({"dist": "Weibull"}, "params.dist: input should be 'Bernoulli'"),
        ({"dist": "Poisson", "link": "Logit"}, "params: the links of Poisson are Log, Identity"),
        ({"dist": "Bernoulli", "link": "Log"}, "params: the links of Bernoulli are Logit"),
        (
            {"tweedie_power": 0.5},
            "params.tweedie_power: input should be greater than or equal to 1",
        ),
        ({"l2_lambda": -1}, "params.l2_lambda: input should be greater than or equal to 0"),
        ({"offset": "w", "weight": "w"}, "params: offset and weight must be two columns"),
        ({"offset": "y"}, "params.offset and params.weight must be neither features nor the label"),
    ],
)
def test_a_wrong_parameter_is_refused(params: Mapping[str, Any], problem: str) -> None:
    with pytest.raises(InvalidTaskConfig) as caught:
        config_of(**params)
    assert caught.value.message.startswith(f"ss_glm: {problem}")


@pytest.mark.parametrize("dist", LINKS)
def test_the_first_link_of_a_distribution_is_its_default(dist: str) -> None:
    assert config_of(dist=dist).params.link_name == LINKS[dist][0]


def test_training_reveals_no_number_but_how_many_epochs_it_took() -> None:
    told = {reveal.what for reveal in config_of().reveals()}
    assert told == {
        "names of the features, number of rows",
        "whether the features are linearly dependent, after how many epochs training stopped",
    }
    holders = "who holds the columns of params.offset and params.weight"
    told_of_offset = config_of(offset="o").reveals()
    assert Reveal(Role.EVERYONE, holders, Fineness.NAMES) in told_of_offset


def test_features_of_any_size_are_standardised_by_their_owner(
    make_run: RunOf, tmp_path: Path
) -> None:
    own = prepared(make_run, tmp_path, offset="o", weight="w")
    assert own.names == {"alice": ["f"], "bob": ["g"]}
    raw = 3 * np.arange(ROWS) - 1e6
    assert own.scales is not None and own.extra is not None
    np.testing.assert_allclose(own.scales.ravel(), [raw.mean(), raw.std()])
    np.testing.assert_allclose(own.values.ravel(), (raw - raw.mean()) / raw.std(), atol=1e-9)
    assert own.extra["w"].ravel().tolist() == [1, 2, 3, 4, 5, 6]
    assert own.holders == {"o": "alice", "w": "alice"}


def test_the_label_is_scaled_by_its_owner_and_what_undoes_it_stays_there(
    make_run: RunOf, tmp_path: Path
) -> None:
    own = prepared(make_run, tmp_path, offset="o", weight="w")
    assert own.label is not None and own.target == (0.0, 3.5)
    np.testing.assert_allclose(own.label.ravel() * 3.5, np.arange(1, 7))
    normal = prepared(make_run, tmp_path, dist="Normal", weight="w")
    assert normal.target == pytest.approx((3.5, np.arange(6).std()))


def test_weight_and_offset_may_be_the_other_partys(make_run: RunOf, tmp_path: Path) -> None:
    content = ALICE.replace(",w,o", ",u,v")
    own = prepared(make_run, tmp_path, content, {"extra": ["w", "o"]}, offset="o", weight="w")
    assert (own.extra, own.holders) == ({}, {"o": "bob", "w": "bob"})


@pytest.mark.parametrize(
    ("bob", "params", "error"),
    [
        ({"extra": ["o"]}, {"offset": "o"}, AmbiguousColumn),
        ({}, {"offset": "nowhere"}, MissingColumn),
        ({"extra": ["p"]}, {"offset": "p", "dist": "Normal"}, InvalidTaskConfig),
    ],
)
def test_an_offset_that_cannot_be_used_is_refused_at_all_parties(
    bob: Mapping[str, Any],
    params: Mapping[str, Any],
    error: type[WorkerError],
    make_run: RunOf,
    tmp_path: Path,
) -> None:
    with pytest.raises(error) as caught:
        prepared(make_run, tmp_path, bob=bob, **params)
    assert caught.value.party is None


@pytest.mark.parametrize(
    ("column", "cell", "params", "error"),
    [
        (0, "-1", {}, BadLabel),
        (0, "0", {"dist": "Gamma"}, BadLabel),
        (0, "0", {"dist": "Tweedie", "tweedie_power": 2.0}, BadLabel),
        (0, "0", {"dist": "Normal", "link": "Log"}, BadLabel),
        (0, "2", {"dist": "Bernoulli"}, BadLabel),
        (0, "", {}, MissingValues),
        (0, "inf", {}, NonFiniteValues),
        (0, "1e7", {"field": "FM64"}, ValueRange),
        (0, "1e7", {"field": "FM64", "dist": "Normal"}, ValueRange),
        (2, "nan", {}, MissingValues),
        (2, "-inf", {}, NonFiniteValues),
        (3, "0", {"weight": "w"}, ValueRange),
        (3, "-2", {"weight": "w"}, ValueRange),
        (3, "", {"weight": "w"}, MissingValues),
        (4, "inf", {"offset": "o"}, NonFiniteValues),
    ],
)
def test_bad_values_are_refused_at_their_owner(
    column: int,
    cell: str,
    params: Mapping[str, Any],
    error: type[WorkerError],
    make_run: RunOf,
    tmp_path: Path,
) -> None:
    lines = ALICE.splitlines()
    cells = lines[3].split(",")
    lines[3] = ",".join([*cells[:column], cell, *cells[column + 1 :]])
    with pytest.raises(error) as caught:
        prepared(make_run, tmp_path, "\n".join(lines) + "\n", **params)
    assert caught.value.party == "alice"


def test_a_constant_feature_or_label_is_refused(make_run: RunOf, tmp_path: Path) -> None:
    rows = "".join(f"{row},0.1\n" for row in range(ROWS))
    with pytest.raises(ConstantColumn, match="feature 'f' of train_data is constant"):
        prepared(make_run, tmp_path, "y,f\n" + rows, ids={"bob": ["uid"]})
    for dist in ("Poisson", "Gamma", "Normal"):
        with pytest.raises(BadLabel):
            prepared(make_run, tmp_path, "f,y\n" + rows, ids={"bob": ["uid"]}, dist=dist)


@pytest.mark.parametrize(
    ("power", "link", "share"),
    [
        (1, "Log", -1),
        (2, "Log", 0),
        (0, "Log", -2),
        (0, "Identity", 0),
        (1, "Identity", 1),
        (2, "Reciprocal", -2),
    ],
)
def test_a_penalty_changes_with_the_scale_of_the_label(
    power: float, link: str, share: float
) -> None:
    assert irls.Family(power, link, 8.0, 0.01).label_scale == share


def test_an_offset_is_scaled_as_the_linear_predictor_is() -> None:
    offset, target = np.array([[6.0]]), (0.0, 2.0)
    scaled = {
        link: scaled_offset(config_of(dist=dist, link=link).params, offset, target)
        for dist, link in (("Poisson", "Log"), ("Normal", "Identity"), ("Gamma", "Reciprocal"))
    }
    assert {link: float(values[0, 0]) for link, values in scaled.items() if values is not None} == {
        "Log": 6.0,
        "Identity": 3.0,
        "Reciprocal": 12.0,
    }


@pytest.mark.parametrize("link", ["Log", "Identity", "Reciprocal"])
def test_a_start_gives_the_working_response_of_its_means(link: str) -> None:
    y = np.array([[0.5], [1.0], [1.5]])
    weight, response = irls.start(irls.Family(2.0, link, 8.0, 0.01), y)
    mu = (y + 1) / 2
    slope = {"Log": 1 / mu, "Identity": 1 + 0 * mu, "Reciprocal": -1 / mu**2}[link]
    eta = {"Log": np.log(mu), "Identity": mu, "Reciprocal": 1 / mu}[link]
    np.testing.assert_allclose(response, eta + (y - mu) * slope)
    np.testing.assert_allclose(weight, 1 / (mu**2 * slope**2))


def test_every_row_is_in_one_part() -> None:
    parts = list(row_slices(1_000_001, 19))
    assert len(parts) == 6
    assert sum(part.stop - part.start for part in parts) == 1_000_001
    assert all(one.stop == two.start for one, two in zip(parts, parts[1:]))
