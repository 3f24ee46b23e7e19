"""Statistics at one party: pandas' figures, bins and their weights, and early refusals."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secretflow_task.contract.errors import (
    BadColumnType,
    BadLabel,
    ConstantColumn,
    InvalidTaskConfig,
    MissingValues,
    NonFiniteValues,
    TooFewRows,
    UnsupportedProtocol,
    ValueRange,
    WorkerError,
)
from secretflow_task.contract.protocols import Protocol
from secretflow_task.contract.reveals import shown
from secretflow_task.contract.task_config import parse
from secretflow_task.contract.task_dispatcher import TaskDispatcher
from secretflow_task.contract.tasks.woe import Method, WoeConfig
from secretflow_task.data_loader.table import Table
from secretflow_task.jobs.stats_task import (
    fixed_point_length,
    inflation_factors,
    number_statistics,
    row_chunks,
    text_statistics,
    unit_columns,
)
from secretflow_task.jobs.woe import category_bins, merged, numeric_bins, woe_and_iv
from secretflow_task.jobs.woe_task import bins_of, own_label
from tests.unit.conftest import RunOf
from tests.unit.plan_requests import PATHS

FIGURES = [
    *(
        "datatype",
        "total_count",
        "count",
        "count_na",
        "na_ratio",
        "min",
        "max",
        "mean",
        "var",
        "std",
        "sem",
    ),
    *("skew", "kurtosis", "q1", "q2", "q3", "moment_2", "moment_3", "moment_4"),
    *("central_moment_2", "central_moment_3", "central_moment_4", "sum", "sum_2", "sum_3", "sum_4"),
]


def table_of(**columns: Any) -> Table:
    """Alice's table in memory."""
    return Table(pa.table(columns), "alice", "input_data")


def plaintext(values: list[float]) -> dict[str, Any]:
    """The figures by numpy alone, from their definitions."""
    x = np.array([value for value in values if not math.isnan(value)])
    count, centred = len(x), x - x.mean()
    m2, m3, m4 = ((centred**power).mean() for power in (2, 3, 4))
    skew = m3 / m2**1.5 * math.sqrt(count * (count - 1)) / (count - 2)
    kurtosis = (
        (count - 1) / ((count - 2) * (count - 3)) * ((count + 1) * m4 / m2**2 - 3 * (count - 1))
    )
    var = (centred**2).sum() / (count - 1)
    return {
        "total_count": len(values),
        "count": count,
        "count_na": len(values) - count,
        "na_ratio": 1 - count / len(values),
        **{"min": x.min(), "max": x.max(), "mean": x.mean(), "var": var, "std": math.sqrt(var)},
        **{"sem": math.sqrt(var / count), "skew": skew, "kurtosis": kurtosis},
        **{f"q{quarter}": np.quantile(x, quarter / 4) for quarter in (1, 2, 3)},
        **{f"moment_{power}": (x**power).mean() for power in (2, 3, 4)},
        **{f"central_moment_{power}": (centred**power).mean() for power in (2, 3, 4)},
        **{"sum": x.sum(), **{f"sum_{power}": (x**power).sum() for power in (2, 3, 4)}},
    }


@pytest.mark.parametrize("kind", ["skewed", "ties", "missing", "offset", "large"])
def test_the_26_statistics_follow_their_definitions(kind: str) -> None:
    rng = np.random.default_rng(1)
    values = {
        "skewed": np.exp(rng.normal(size=200)),
        "ties": rng.integers(0, 4, 200).astype(float),
        "missing": np.where(rng.random(200) < 0.2, np.nan, rng.normal(size=200)),
        "offset": 1e6 + rng.normal(size=200),
        "large": 1e12 * rng.normal(size=200),
    }[kind].tolist()
    found = number_statistics(table_of(a=["" if math.isnan(v) else repr(v) for v in values]), "a")
    assert list(found) == FIGURES and len(FIGURES) == 26
    assert found.pop("datatype") == "float64"
    assert found == {
        key: pytest.approx(value, rel=1e-9) for key, value in plaintext(values).items()
    }


def test_powers_of_whole_numbers_do_not_overflow() -> None:
    """pandas' own do, and with them SecretFlow's: 200,000 to the power of 4 is beyond 64 bits."""
    whole = pd.Series([200_000, 200_001, 200_005])
    assert (whole**4).sum() < 2e21 < float((whole.astype(float) ** 4).sum())
    found = number_statistics(table_of(a=whole.to_numpy()), "a")
    assert found["sum_4"] == pytest.approx(3 * 2e5**4, rel=1e-3) and found["datatype"] == "int64"


def test_what_is_undefined_or_beyond_a_float_is_none() -> None:
    one = number_statistics(table_of(a=["5", ""]), "a")
    assert (one["mean"], one["var"], one["skew"], one["count_na"]) == (5.0, None, None, 1)
    huge = number_statistics(table_of(a=["1e100", "-1e100", "3e100"]), "a")
    assert huge["sum_4"] is None and huge["max"] == 3e100
    none = number_statistics(table_of(a=["", ""]), "a")
    assert (none["mean"], none["sum"], none["count"], none["na_ratio"]) == (None, 0.0, 0, 1.0)


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        (["1", "2"], "int64"),
        (["1", ""], "float64"),
        (["1.5", "2"], "float64"),
        (pa.array([1, 2], pa.int32()), "int32"),
        (pa.array([True, False]), "bool"),
    ],
)
def test_a_type_is_named_as_pandas_does(cells: Any, kind: str) -> None:
    assert number_statistics(table_of(a=cells), "a")["datatype"] == kind


@pytest.mark.parametrize(
    "cells",
    [
        *(
            ["007", "12"],
            [" 7 ", "8"],
            ["-5", "-0"],
            ["+5", "1"],
            ["1e5", "2"],
            ["1.0", "2"],
            ["", "NA"],
        ),
        *(
            [str(2**63)],
            [str(2**63), "-1"],
            [str(-(2**63))],
            [str(2**64)],
            ["3", "x"],
            ["1", "", "2"],
        ),
        *(["0x1F", "1"], ["1_0"], ["1,5"], [".5", "5."], ["\u00a07", "8"], ["\u0667"]),
    ],
)
@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
def test_the_type_of_texts_is_what_pandas_makes_of_them(
    cells: list[str], kind: pa.DataType
) -> None:
    table = table_of(a=pa.array(cells, kind))
    texts = pd.Series(
        [None if cell in ("", "NA") else cell.strip() for cell in cells], dtype=object
    )
    numbers = pd.to_numeric(texts, errors="coerce")
    expected = str(numbers.dtype) if numbers.count() == texts.count() else "object"
    assert text_statistics(table, "a")["datatype"] == expected


def test_texts_are_counted_with_their_missing_cells() -> None:
    assert text_statistics(table_of(a=["x", "y", "x", "", "NA"]), "a") == {
        "datatype": "object",
        "total_count": 5,
        "count": 3,
        "count_na": 2,
        "na_ratio": 0.4,
        "nunique": 2,
    }


ALICE = "uid,age,education,note\n007,20,MSc,a\n008,41,BSc,\n009,,MSc,c\n"


@pytest.mark.parametrize(
    ("request_", "numbers", "texts"),
    [
        ({"columns": ["age", "education"]}, ["age"], ["education"]),
        ({"ids": {"alice": ["uid"]}}, ["age"], ["education", "note"]),
        ({"ids": {}}, ["uid", "age"], ["education", "note"]),
    ],
)
def test_all_columns_but_ids_are_described_unless_they_are_named(
    make_run: RunOf, tmp_path: Path, request_: dict[str, Any], numbers: list[str], texts: list[str]
) -> None:
    run = make_run("alice", {}, parties=("alice",))
    (tmp_path / "data/alice/alice.csv").write_text(ALICE)
    task = TaskDispatcher.get("table_statistics")
    assert task.prepare is not None
    own = task.prepare(run, task.parse({"input_data": {"alice": "alice.csv"}, **request_}))
    assert (list(own.numbers), list(own.texts)) == (numbers, texts)
    described = own.described()
    assert (list(described["statistics"]), list(described["categories"])) == (numbers, texts)


def test_without_columns_and_ids_nothing_is_described(make_run: RunOf, tmp_path: Path) -> None:
    run = make_run("alice", {}, parties=("alice",))
    (tmp_path / "data/alice/alice.csv").write_text(ALICE)
    task = TaskDispatcher.get("table_statistics")
    assert task.prepare is not None
    with pytest.raises(InvalidTaskConfig, match="Give columns or ids"):
        task.prepare(run, task.parse({"input_data": {"alice": "alice.csv"}}))


@pytest.mark.parametrize("scale", [1e-300, 1e-9, 1.0, 1e9, 1e140])
def test_columns_of_any_scale_become_unit_columns(scale: float) -> None:
    x = np.random.default_rng(0).normal(5, 1, (50, 2)) * [scale, 1.0]
    units = unit_columns(table_of(a=x[:, 0], b=x[:, 1]), ["b", "a"])
    np.testing.assert_allclose(units.sum(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose((units**2).sum(axis=0), 1)
    assert units[:, 0] @ units[:, 1] == pytest.approx(np.corrcoef(x[:, 0] / scale, x[:, 1])[0, 1])


def test_a_constant_column_has_no_correlation() -> None:
    with pytest.raises(
        ConstantColumn, match="alice: column 'b' of input_data has the same value in every"
    ):
        unit_columns(table_of(a=[1.0, 2.0], b=[0.1, 0.1]), ["a", "b"])


@pytest.mark.parametrize(
    ("field", "runtime", "length"),
    [
        ("FM64", {}, 2**10),
        ("FM128", {}, 2**10),
        ("FM64", {"fxp_fraction_bits": 24}, 2**6),
        ("FM128", {"fxp_fraction_bits": 40}, 2**10),
    ],
)
def test_products_of_shared_columns_fit_their_field(
    field: str, runtime: dict[str, int], length: int
) -> None:
    found = fixed_point_length(Protocol("SEMI2K", field, runtime))
    bits, fraction = {"FM64": (64, 18), "FM128": (128, 26)}[field]
    assert found == length
    assert found**2 * 2.0 ** (2 * runtime.get("fxp_fraction_bits", fraction)) <= 2.0 ** (bits - 4)


def test_fraction_bits_that_leave_no_room_are_refused() -> None:
    with pytest.raises(UnsupportedProtocol, match="FM64 with 31 fraction bits leave no room"):
        fixed_point_length(Protocol("SEMI2K", "FM64", {"fxp_fraction_bits": 31}))


@given(st.integers(1, 10**8), st.integers(1, 10**5))
def test_chunks_cover_every_row_once(rows: int, columns: int) -> None:
    size = max(1, 2**22 // columns)
    if rows // size > 1000:
        return
    parts = [part for _, part in row_chunks(rows, columns)]
    assert parts[0].start == 0 and parts[-1].stop == rows
    assert all(one.stop == two.start for one, two in zip(parts, parts[1:]))


def test_inflation_factors_are_the_diagonal_of_the_inverse() -> None:
    x = np.random.default_rng(0).normal(size=(100, 5)) @ np.random.default_rng(1).normal(
        size=(5, 5)
    )
    matrix = np.corrcoef(x.T)
    assert inflation_factors(matrix) == pytest.approx(np.diag(np.linalg.inv(matrix)))
    assert inflation_factors(np.eye(1)) == [1.0]


@pytest.mark.parametrize("noise", [0.0, 1e-8, -1e-8])
def test_only_columns_of_a_collinear_combination_have_no_factor(noise: float) -> None:
    x = np.random.default_rng(0).normal(size=(100, 4))
    matrix = np.corrcoef(np.hstack([x, x[:, [0]] - 0.01 * x[:, [1]]]).T)
    matrix[0, 4] += noise
    matrix[4, 0] += noise
    found = inflation_factors(matrix)
    assert [found[0], found[1], found[4]] == [None] * 3
    assert [found[2], found[3]] == pytest.approx(
        np.diag(np.linalg.inv(matrix[:4, :4]))[2:], rel=1e-6
    )


# Bins and weights


def counts(values: Any, method: Method, n_bins: int, least: int = 1) -> list[int]:
    """The rows of every bin."""
    return numeric_bins(np.array(values, dtype=float), method, n_bins, least).rows.tolist()


@given(
    st.lists(st.floats(-1e6, 1e6) | st.just(math.nan), min_size=2, max_size=60),
    st.sampled_from(["quantile", "eq_range"]),
    st.integers(2, 12),
)
def test_bins_part_the_rows_in_order_and_keep_missing_cells_apart(
    values: list[float], method: Any, n_bins: int
) -> None:
    if all(math.isnan(value) for value in values):
        return
    bins = numeric_bins(np.array(values), method, n_bins, 1)
    assert bins.rows.sum() == len(values) and bins.rows.min() > 0
    assert len(bins.names) == len(bins.points) + 1 + bins.missing <= n_bins + 1
    assert bins.missing == any(math.isnan(value) for value in values)
    for value, index in zip(values, bins.index):
        ends = [-math.inf, *bins.points, math.inf]
        assert (
            index == len(ends) - 1 if math.isnan(value) else ends[index] < value <= ends[index + 1]
        )  # left-open, right-closed
    distinct = len({value for value in values if not math.isnan(value)})
    assert (len(bins.points) > 0) == (distinct > 1)


@pytest.mark.parametrize("n_bins", [2, 5, 10, 37])
def test_bins_of_spread_numbers_are_those_of_pandas(n_bins: int) -> None:
    x = np.exp(np.random.default_rng(4).normal(size=500))
    quantiles, ranges = (cut(pd.Series(x), n_bins, labels=False) for cut in (pd.qcut, pd.cut))
    assert counts(x, "quantile", n_bins) == quantiles.value_counts().sort_index().tolist()
    assert counts(x, "eq_range", n_bins) == ranges.value_counts().sort_index().tolist()


@pytest.mark.parametrize("method", ["quantile", "eq_range", "chimerge"])
@pytest.mark.parametrize("ones", [2, 50, 98])
def test_a_binary_column_has_two_bins(method: Method, ones: int) -> None:
    """SecretFlow: quantile bins of pandas would be one."""
    assert counts([0] * (100 - ones) + [1] * ones, method, 10) == [100 - ones, ones]


def test_a_column_of_mostly_equal_cells_keeps_the_others_apart() -> None:
    assert counts([0] * 95 + [1, 2, 3, 4, 5], "quantile", 10) == [95, 5]
    assert counts([0, 1, 2, 3, 4] + [9] * 95, "quantile", 10) == [5, 95]


def test_small_bins_join_their_neighbours() -> None:
    values = [0] * 20 + [3] * 2 + [5] * 20 + [9] * 3
    assert counts(values, "eq_range", 9) == [20, 2, 20, 3]
    assert counts(values, "eq_range", 9, least=5) == [20, 25]
    assert counts([0] * 50 + [1] * 4, "eq_range", 2, least=5) == [54]


def test_categories_are_bins_in_the_order_of_their_text() -> None:
    bins = category_bins(["b", None, "a", "b"])
    assert (bins.names, bins.rows.tolist(), bins.index.tolist()) == (
        ["a", "b", None],
        [1, 2, 1],
        [1, 2, 0, 1],
    )


def test_woe_and_iv_follow_their_definitions_also_where_a_bin_has_one_kind_only() -> None:
    woe, iv = woe_and_iv(np.array([10, 20, 5, 5]), np.array([2, 12, 0, 5]))
    good, bad = [2 / 19, 12 / 19, 0.5 / 19, 5.5 / 19], [8 / 21, 8 / 21, 5.5 / 21, 0.5 / 21]
    expected = [math.log(one / other) for one, other in zip(good, bad)]
    assert woe.tolist() == pytest.approx(expected)
    assert iv.tolist() == pytest.approx([(g - b) * w for g, b, w in zip(good, bad, expected)])


def test_chimerge_joins_the_most_similar_neighbours_until_they_differ() -> None:
    values = np.repeat(np.arange(6.0), 100)
    values[:7] = np.nan
    bins = numeric_bins(values, "chimerge", 5, 1)
    positives = np.array([10, 12, 50, 51, 52, 90, 3])
    left, hits = merged(bins, positives, 2)
    assert left.points.tolist() == [1, 4]
    assert (left.rows.tolist(), hits.tolist()) == ([193, 300, 100, 7], [22, 153, 90, 3])
    few, hits = merged(bins, np.array([10, 12, 14, 16, 18, 20, 3]), 2)
    assert hits.sum() == 93 and len(few.points) == 1 and few.names[-1] is None
    assert np.bincount(few.index).tolist() == few.rows.tolist()


WOE = {"input_data": PATHS, "label": "y", "columns": ["x"]}


def woe_config(**values: Any) -> WoeConfig:
    """A request of `woe_iv`."""
    config: WoeConfig = parse(WoeConfig, {**WOE, **values}, "woe_iv")
    return config


@pytest.mark.parametrize(
    ("cells", "options", "error"),  # most of these end SecretFlow's session
    [
        (["3"] * 9, {}, ConstantColumn),
        (["0"] * 9 + ["1"] * 3, {}, ConstantColumn),
        (["a"] * 9, {}, ConstantColumn),
        ([""] * 9, {}, MissingValues),
        (["1", "2", "inf"] * 9, {"method": "eq_range"}, NonFiniteValues),
        (["a"] * 9 + ["b"] * 4, {}, TooFewRows),
        (["1", "2"] * 9 + [""] * 4, {}, TooFewRows),
        (["1", "2"] * 9 + ["-1.7e308", "1.7e308"], {}, ValueRange),
    ],
)
def test_columns_that_cannot_be_weighed_are_refused(
    cells: list[str], options: dict[str, Any], error: type[WorkerError]
) -> None:
    with pytest.raises(error, match="'x'"):
        bins_of(table_of(x=cells), "x", woe_config(**options))


def test_small_bins_are_allowed_where_they_are_asked_for() -> None:
    config = woe_config(min_bin_rows=1)
    assert bins_of(table_of(x=["a"] * 9 + ["b"]), "x", config).rows.tolist() == [9, 1]
    assert bins_of(table_of(x=["1", "2"] * 9 + [""]), "x", config).rows.tolist() == [9, 9, 1]


@pytest.mark.parametrize(
    ("cells", "value", "expected"),
    [
        (["1", "0", "1.0"], None, [1, 0, 1]),
        (["2", "0", "1"], 2, [1, 0, 0]),
        (["b", "a, b", "c"], "a, b", [0, 1, 0]),
        (["1", "0", "0"], "1", [1, 0, 0]),
    ],
)
def test_a_label_is_positive_where_it_has_the_value(
    cells: list[str], value: Any, expected: list[int]
) -> None:
    assert own_label(table_of(y=cells), woe_config(positive_value=value)).tolist() == expected


@pytest.mark.parametrize(
    ("cells", "value", "error"),
    [
        (["1", "2", "1"], None, BadLabel),
        (["1", "1", "1"], None, BadLabel),
        (["1", "0", "1"], 3, BadLabel),
        (["a", "b", "b"], "c", BadLabel),
        (["a", "", "b"], "a", MissingValues),
        (["1", "", "0"], None, MissingValues),
        (["a", "b", "b"], None, BadColumnType),
    ],
)
def test_a_label_without_two_kinds_is_refused(
    cells: list[str], value: Any, error: type[WorkerError]
) -> None:
    """SecretFlow: labels 1 and 2 are not 0 and 1."""
    with pytest.raises(error, match="'y'"):
        own_label(table_of(y=cells), woe_config(positive_value=value))


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"label": "x"}, "columns must not name the label"),
        (
            {"output_data": {"alice": "a.csv"}},
            "input_data and output_data must name the same parties: output_data lacks bob",
        ),
        ({"method": "kmeans"}, "method: input should be 'quantile', 'eq_range' or 'chimerge'"),
        ({"n_bins": 1}, "n_bins: input should be greater than or equal to 2"),
    ],
)
def test_a_wrong_woe_request_is_refused(values: dict[str, Any], problem: str) -> None:
    with pytest.raises(InvalidTaskConfig) as caught:
        woe_config(**values)
    assert caught.value.message == f"woe_iv: {problem}."


def test_what_is_revealed_is_said() -> None:
    def told(task_type: str, **values: Any) -> list[tuple[str, str]]:
        config = TaskDispatcher.get(task_type).parse({"input_data": PATHS, **values})
        return shown(config.reveals(), [*PATHS])

    assert told("table_statistics") == [(party, "names of the columns") for party in PATHS]
    shared = [(party, "all statistics of all columns") for party in PATHS]
    assert told("table_statistics", share=True) == shared
    matrix = "the correlation of every two columns, of all parties"
    for task_type in ("pearson_correlation", "vif"):
        assert {("alice", matrix), ("bob", matrix)} <= set(told(task_type))
    woe = told("woe_iv", label="y", label_party="bob")
    assert ("owner of a column", "how many rows of every bin of the column are positive (y)") in woe
    assert ("bob", "the information value of every column") in woe
