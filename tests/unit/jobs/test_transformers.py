"""Fitted to one column and applied to any, transformers equal pandas and scikit-learn."""

from __future__ import annotations

import datetime
import io
import json
from decimal import Decimal
from pathlib import Path
from typing import Any, Callable, Mapping

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import MinMaxScaler, OneHotEncoder, OrdinalEncoder, StandardScaler

from secretflow_task.contract.errors import (
    BadColumnType,
    ConstantColumn,
    DuplicateColumn,
    EmptyColumn,
    InvalidTaskConfig,
    NonFiniteValues,
    TooManyCategories,
    UnseenCategory,
    ValueRange,
    WorkerError,
)
from secretflow_task.contract.task_config import parse
from secretflow_task.contract.tasks.transformation import (
    BinningConfig,
    FillnaConfig,
    LabelEncoderConfig,
    MinMaxScalerConfig,
    OnehotEncoderConfig,
    StandardScalerConfig,
    TransformConfig,
)
from secretflow_task.data_loader.table import Table
from secretflow_task.jobs.cells import exact_numbers
from secretflow_task.jobs.encoders import (
    encode_labels,
    encode_onehot,
    fit_labels,
    fit_onehot,
    text_columns,
)
from secretflow_task.jobs.filling import fill, fillable_columns, fit_fill, missing_count
from secretflow_task.jobs.transformation import numeric_columns
from secretflow_task.jobs.transformers import (
    bin_counts,
    bin_index,
    fit_bins,
    fit_min_max,
    fit_standard,
    scale_to_range,
    standardize,
)

Fit = Callable[[Table, str, Any], dict[str, Any]]
Apply = Callable[[Table, str, dict[str, Any]], Mapping[str, Any]]
PATHS = {"input_data": {"alice": "a.csv"}, "output_data": {"alice": "b.csv"}}

BIG = 2**53 + 1


def text(*column: str) -> Table:
    """A table of one column as a CSV has it."""
    return Table(pa.table({"x": pa.array(column, pa.string())}), "alice", "input_data")


def typed(column: Any, kind: Any = None) -> Table:
    """A table of one column as Parquet has it."""
    return Table(pa.table({"x": pa.array(column, kind)}), "alice", "input_data")


def as_pandas(table: Table) -> pd.DataFrame:
    """What a data scientist has in a notebook."""
    if table.data.column("x").type != pa.string():
        return pd.DataFrame(table.data.to_pandas()).replace({None: np.nan})
    lines = table.data.column("x").to_pylist()
    quoted = ['"' + cell.replace('"', '""') + '"' for cell in lines]
    return pd.read_csv(io.StringIO("\n".join(["x", *quoted])), skip_blank_lines=False)


def run(fit: Fit, apply: Apply, kind: type[TransformConfig], table: Table, **options: Any) -> Table:
    """The table after fitting and applying; what was fitted passes through JSON."""
    config = parse(kind, {**PATHS, "columns": ["x"], **options}, "t")
    fitted = json.loads(json.dumps(fit(table, "x", config), allow_nan=False))
    return table.replace_column("x", apply(table, "x", fitted))


def labels(table: Table) -> list[float | None]:
    """The column, encoded."""
    after = run(fit_labels, encode_labels, LabelEncoderConfig, table)
    return list(after.data.column("x").to_pylist())


def onehot(table: Table, **options: Any) -> pd.DataFrame:
    """The column, encoded."""
    return pd.DataFrame(
        run(fit_onehot, encode_onehot, OnehotEncoderConfig, table, **options).data.to_pandas()
    )


def binned(table: Table, **options: Any) -> list[int]:
    """The column's bins."""
    return list(
        run(fit_bins, bin_index, BinningConfig, table, **options).data.column("x").to_pylist()
    )


def filled(table: Table, **options: Any) -> list[Any]:
    """The column, filled."""
    return list(run(fit_fill, fill, FillnaConfig, table, **options).data.column("x").to_pylist())


CATEGORIES = {
    "text": text("b", "a", "c", "a", "Z", "é", "张", "a"),
    "missing": text("b", "", "a", "NA", "b", "n/a", "null"),
    "integers": text("10", "9", "100", "9"),
    "integers of two spellings": text("10", "+9", " 10", "9 "),
    "integers and missing": text("10", "", "9"),
    "numbers": text("1", "1.0", "0.5", "1e0"),
    "numbers and missing": text("1.5", "NaN", "-2"),
    "text that differs by spaces": text(" a", "a", "a ", "a a"),
    "numbers among text": text("1", "1.0", "x", "1"),
    "more than 64 bits": text("12345678901234567890123", "9"),
    "beyond 64 bits below 0": text("9223372036854775808", "-1"),
    "64 bits": text("9223372036854775808", "9223372036854775807"),
    "beyond 2**53": text(str(BIG), str(BIG - 1), str(BIG)),
    "underscores": text("1_000", "2"),
    "other digits": text("１", "2"),
    "true and false": text("True", "False", "True"),
    "quotes": text('say "no"', "a,b", "a\nb"),
    "Parquet integers": typed([10, 9, 100]),
    "Parquet integers and missing": typed([10, None, 9]),
    "Parquet beyond 2**53": typed([BIG, BIG - 1]),
    "Parquet floats": typed([1.0, 0.5, float("nan")]),
    "Parquet bool": typed([True, False, True]),
    "Parquet text": typed(["b", "a", None], pa.large_string()),
    "Parquet dates": typed([datetime.date(2024, 5, 1), datetime.date(2023, 5, 1)]),
    "Parquet unsigned": typed([2**64 - 1, 5], pa.uint64()),
}
each_kind = pytest.mark.parametrize("name", CATEGORIES)


@each_kind
def test_labels_are_those_of_scikit_learn_on_what_pandas_reads(name: str) -> None:
    frame = as_pandas(CATEGORIES[name])
    expected = OrdinalEncoder().fit_transform(frame).ravel()
    np.testing.assert_array_equal(np.array(labels(CATEGORIES[name]), dtype=float), expected)


@each_kind
def test_onehot_columns_and_their_names_are_those_of_scikit_learn(name: str) -> None:
    frame = as_pandas(CATEGORIES[name])
    plain = OneHotEncoder(sparse_output=False).set_output(transform="pandas")
    pd.testing.assert_frame_equal(
        onehot(CATEGORIES[name]), plain.fit_transform(frame).astype(np.int8)
    )


OPTIONS: list[dict[str, Any]] = [
    {"drop": "first"},
    {"drop": "if_binary"},
    {"min_frequency": 2},
    {"min_frequency": 0.2},
    {"max_categories": 2},
    {"max_categories": 1},
    {"max_categories": 3, "min_frequency": 2},
    {"drop": "first", "max_categories": 2},
    {"drop": "if_binary", "min_frequency": 3, "handle_unknown": "infrequent_if_exist"},
    {"handle_unknown": "ignore"},
    {"max_categories": 2, "handle_unknown": "infrequent_if_exist"},
    {"handle_unknown": "infrequent_if_exist"},
    {"max_categories": 2, "handle_unknown": "ignore", "drop": "first"},
]
SKEWED = ["a"] * 5 + ["b"] * 3 + ["c", "c", "d", "e"]


@pytest.mark.filterwarnings("ignore:Found unknown categories")
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize(
    "cells_", [SKEWED, [*SKEWED, "", ""], ["u", "v", "u"]], ids=["5", "5+", "2"]
)
def test_options_and_new_categories_are_those_of_scikit_learn(
    options: Any, cells_: list[str]
) -> None:
    table, new = text(*cells_), text("c", "new", "e", "a", "u", "")
    plain = OneHotEncoder(sparse_output=False, **options).set_output(transform="pandas")
    expected = plain.fit_transform(as_pandas(table))
    pd.testing.assert_frame_equal(onehot(table, **options), expected.astype(np.int8))

    config = parse(OnehotEncoderConfig, {**PATHS, "columns": ["x"], **options}, "t")
    fitted = fit_onehot(table, "x", config)
    if options.get("handle_unknown", "error") == "error":
        with pytest.raises(
            UnseenCategory, match="^alice: column 'x' of input_data holds a category that"
        ):
            encode_onehot(new, "x", fitted)
    else:
        after = pd.DataFrame(encode_onehot(new, "x", fitted))
        pd.testing.assert_frame_equal(after, plain.transform(as_pandas(new)).astype(np.int8))


def test_digits_with_leading_zeros_stay_text_where_pandas_would_lose_them() -> None:
    assert list(onehot(text("007", "7", "010"))) == ["x_007", "x_010", "x_7"]


def test_large_integers_keep_their_digits_where_pandas_would_lose_them_to_a_missing_cell() -> None:
    table = text(str(BIG), "", str(BIG - 1))
    assert as_pandas(table).x.nunique() == 1
    assert list(onehot(table)) == [f"x_{BIG - 1}", f"x_{BIG}", "x_nan"]
    assert labels(table) == [1, None, 0]
    assert labels(typed([BIG, None, BIG - 1])) == [1, None, 0]


def test_spaces_alone_and_the_empty_text_are_missing_in_csv_and_parquet_alike() -> None:
    for table in (
        text("a", "", "  ", " NA"),
        typed(["a", "", "  ", " NA"]),
        typed(["a", None, None, None]),
    ):
        assert labels(table) == [0, None, None, None]


def test_decimals_are_numbers_and_times_are_text() -> None:
    assert labels(typed([Decimal("10.50"), Decimal("9.00"), None])) == [1, 0, None]
    times = [datetime.datetime(2024, 1, 2, 3), datetime.datetime(2023, 1, 2)]
    assert list(onehot(typed(times))) == ["x_2023-01-02 00:00:00", "x_2024-01-02 03:00:00"]


@pytest.mark.parametrize(
    "other", [typed([9, 10]), typed([9.0, 10.0]), text("9.0", " 10"), text("+9", "1e1")]
)
def test_numbers_are_known_again_however_they_are_written(other: Table) -> None:
    fitted = fit_labels(text("10", "9"), "x", None)  # type: ignore[arg-type]
    assert encode_labels(other, "x", fitted)["x"].to_pylist() == [0, 1]


@pytest.mark.parametrize("other", [typed([1, 2]), text("1", "2"), typed([1, 2], pa.int8())])
def test_numbers_that_were_fitted_among_text_are_known_again(other: Table) -> None:
    fitted = fit_labels(text("1", "2", "x"), "x", None)  # type: ignore[arg-type]
    assert encode_labels(other, "x", fitted)["x"].to_pylist() == [0, 1]


@pytest.mark.parametrize("cell", ["c", "A", "a ", "7"])
def test_an_unseen_label_is_refused(cell: str) -> None:
    fitted = fit_labels(text("a", "b"), "x", None)  # type: ignore[arg-type]
    with pytest.raises(UnseenCategory) as caught:
        encode_labels(text("a", cell), "x", fitted)
    assert caught.value.party == "alice" and repr(cell) not in str(caught.value.to_dict())


@given(
    st.lists(
        st.one_of(st.integers(-3, 12).map(str), st.sampled_from(["", "1.5", "a", " b", "NA"])),
        min_size=1,
    )
)
def test_labels_of_any_mixture_are_those_of_scikit_learn(column: list[str]) -> None:
    table = text(*column)
    frame = as_pandas(table)
    if frame.x.isna().all():
        with pytest.raises(EmptyColumn):
            labels(table)
    else:
        expected = OrdinalEncoder().fit_transform(frame).ravel()
        np.testing.assert_array_equal(np.array(labels(table), dtype=float), expected)


def numbers(kind: str, rows: int = 200) -> np.ndarray[Any, Any]:
    """A column of a known kind, NaN where it is missing."""
    rng = np.random.default_rng(3)
    values = {
        "normal": rng.normal(size=rows),
        "skew": rng.lognormal(3, 2, rows),
        "ties": rng.integers(0, 4, rows) * 0.1,
        "offset": 1e9 + rng.normal(size=rows),
        "tiny": rng.normal(size=rows) * 1e-12,
        "large": rng.normal(size=rows) * 1e100,
        "rare": (rng.random(rows) < 0.3).astype(float),
        "constant": np.full(rows, 0.1),
        "missing": np.where(rng.random(rows) < 0.2, np.nan, rng.normal(size=rows)),
    }
    return values[kind]


MODE = {"strategy": "most_frequent"}


def both(values: np.ndarray[Any, Any]) -> list[Table]:
    """The column as CSV and as Parquet."""
    return [
        text(*("" if np.isnan(value) else repr(value) for value in values.tolist())),
        typed(values),
    ]


KINDS = ["normal", "skew", "ties", "offset", "tiny", "large", "rare", "constant", "missing"]
each_column = pytest.mark.parametrize("kind", KINDS)
SCALERS: Any = {
    "standard": (fit_standard, standardize, StandardScalerConfig, {}, StandardScaler()),
    "min_max": (fit_min_max, scale_to_range, MinMaxScalerConfig, {}, MinMaxScaler()),
    "range": (
        *(fit_min_max, scale_to_range, MinMaxScalerConfig, {"feature_range": [-2, 3]}),
        MinMaxScaler(feature_range=(-2, 3)),
    ),
}


@each_column
@pytest.mark.parametrize("scaler", SCALERS)
def test_scaled_columns_are_those_of_scikit_learn(kind: str, scaler: str) -> None:
    fit, apply, config, options, plain = SCALERS[scaler]
    values = numbers(kind)
    expected = plain.fit_transform(values.reshape(-1, 1)).ravel()
    for table in both(values):
        after = run(fit, apply, config, table, **options).numbers(["x"], missing=True).ravel()
        np.testing.assert_allclose(after, expected, rtol=1e-6, atol=1e-6)


def test_far_from_zero_the_range_is_exact_where_scikit_learn_rounds() -> None:
    values = 2.0**50 + np.arange(0, 2, 0.25)
    after, _ = (run(fit_min_max, scale_to_range, MinMaxScalerConfig, t) for t in both(values))
    assert after.numbers(["x"]).ravel() == pytest.approx([step / 7 for step in range(8)], rel=1e-15)
    plain = MinMaxScaler().fit_transform(values.reshape(-1, 1)).ravel()
    assert abs(plain - after.numbers(["x"]).ravel()).max() > 0.01


def test_a_constant_column_becomes_the_lower_end() -> None:
    after = run(
        fit_min_max, scale_to_range, MinMaxScalerConfig, text("3", "3", ""), feature_range=[2, 4]
    )
    assert after.data.column("x").to_pylist() == [2.0, 2.0, None]


@each_column
@pytest.mark.parametrize("n_bins", [2, 10, 37])
def test_quantile_bins_are_those_of_qcut(kind: str, n_bins: int) -> None:
    values = numbers(kind)
    expected = pd.qcut(pd.Series(values), n_bins, duplicates="drop").cat.codes.tolist()
    for table in both(values):
        if max(expected) < 1:
            with pytest.raises(ConstantColumn, match="one bin would be left"):
                binned(table, n_bins=n_bins)
        else:
            assert binned(table, n_bins=n_bins) == expected


@pytest.mark.parametrize("n_bins", [2, 5, 10])
def test_a_binary_column_is_not_left_in_one_bin_but_refused(n_bins: int) -> None:
    column = text(*["0"] * 96, *["1"] * 4)
    with pytest.raises(ConstantColumn, match="has quantiles that coincide") as caught:
        binned(column, n_bins=n_bins)
    assert caught.value.hint.startswith("Use method equal_width or custom")
    assert binned(column, n_bins=n_bins, method="equal_width") == [0] * 96 + [n_bins - 1] * 4


def test_a_width_below_the_precision_makes_fewer_bins() -> None:
    column = typed([2**55, 2**55 + 8, 2**55 + 16])
    assert binned(column, n_bins=10, method="equal_width") == [0, 0, 1]


@each_column
@pytest.mark.parametrize("n_bins", [2, 10])
def test_bins_of_equal_width_are_those_of_cut(kind: str, n_bins: int) -> None:
    values = numbers(kind)
    expected = pd.cut(pd.Series(values), n_bins).cat.codes.tolist()
    for table in both(values):
        assert binned(table, n_bins=n_bins, method="equal_width") == expected


def test_own_split_points_are_those_of_cut_with_open_ends() -> None:
    values = np.array([-5.0, 1.0, 1.5, 2.0, 2.5, 99.0, np.nan])
    expected = pd.cut(pd.Series(values), [-np.inf, 1, 2, np.inf]).cat.codes.tolist()
    assert expected == [0, 0, 1, 1, 2, 2, -1]
    for table in both(values):
        assert binned(table, method="custom", split_points={"x": [1, 2]}) == expected


def test_new_values_beyond_the_fitted_ones_are_in_the_outer_bins() -> None:
    config = parse(BinningConfig, {**PATHS, "columns": ["x"], "n_bins": 2}, "t")
    fitted = fit_bins(text("1", "2", "3", "4"), "x", config)
    assert fitted == {"split_points": [2.5]}
    assert bin_index(text("-9", "2.5", "2.6", "", "99"), "x", fitted)["x"].tolist() == [
        0,
        0,
        1,
        -1,
        1,
    ]


def test_the_rules_say_the_bounds_and_the_rows_of_each_bin() -> None:
    after = run(fit_bins, bin_index, BinningConfig, text("1", "2", "3", "4", ""), n_bins=2)
    assert bin_counts(after, "x", [2.5]) == [
        {"bin": 0, "above": None, "up_to": 2.5, "count": 2},
        {"bin": 1, "above": 2.5, "up_to": None, "count": 2},
        {"bin": -1, "count": 1},
    ]
    assert [some["count"] for some in bin_counts(after, "x", [2.5, 9.0])] == [2, 2, 0, 1]


@each_column
@pytest.mark.parametrize("strategy", ["mean", "median", "most_frequent"])
def test_filled_numbers_are_those_of_scikit_learn(kind: str, strategy: str) -> None:
    values = numbers(kind)
    values[::7] = np.nan
    expected = SimpleImputer(strategy=strategy).fit_transform(values.reshape(-1, 1)).ravel()
    for table in both(values):
        after = np.array([float(cell) for cell in filled(table, strategy=strategy)])
        np.testing.assert_allclose(after, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    "options", [{"strategy": "most_frequent"}, {"strategy": "constant", "fill_value": "?"}]
)
def test_filled_text_is_that_of_scikit_learn(options: Any) -> None:
    table = text("b", "", "a", "NA", "b", "a", "c")
    plain = SimpleImputer(missing_values=np.nan, **options)
    assert filled(table, **options) == plain.fit_transform(as_pandas(table)).ravel().tolist()


@pytest.mark.parametrize(
    ("table", "options", "expected"),
    [
        (text("3.50", "", " 7"), {"strategy": "constant", "fill_value": 0}, ["3.50", "0", " 7"]),
        (text("1", "", "2"), {"strategy": "mean"}, ["1", "1.5", "2"]),
        (text("2", "", "2", "1"), {"strategy": "most_frequent"}, ["2", "2", "2", "1"]),
        (text("2.0", "", "2", "1"), {"strategy": "most_frequent"}, ["2.0", "2.0", "2", "1"]),
        (text("007", "", "007"), {"strategy": "most_frequent"}, ["007", "007", "007"]),
        (text("True", "", "True"), {"strategy": "most_frequent"}, ["True", "True", "True"]),
        (text("", "NA"), {"strategy": "constant", "fill_value": "none"}, ["none", "none"]),
        (text("", "NA"), {"strategy": "constant", "fill_value": 5}, ["5", "5"]),
        (text(str(BIG), ""), {"strategy": "most_frequent"}, [str(BIG)] * 2),
        (text(str(BIG), ""), {"strategy": "constant", "fill_value": 0}, [str(BIG), "0"]),
        (typed([1, None, 1]), {"strategy": "most_frequent"}, [1, 1, 1]),
        (typed([1, None, 2]), {"strategy": "mean"}, [1.0, 1.5, 2.0]),
        (typed([1, None], pa.int8()), {"strategy": "constant", "fill_value": 1000}, [1, 1000]),
        (typed([1, None], pa.uint8()), {"strategy": "constant", "fill_value": -1}, [1, -1]),
        (typed([1, None], pa.uint64()), {"strategy": "constant", "fill_value": -1}, [1.0, -1.0]),
        (typed([BIG, None]), {"strategy": "constant", "fill_value": BIG}, [BIG, BIG]),
        (typed([None, None], pa.null()), {"strategy": "constant", "fill_value": 2}, [2.0, 2.0]),
        (typed([None, None], pa.null()), {"strategy": "constant", "fill_value": "a"}, ["a", "a"]),
        (typed([1.5, float("nan"), None]), {"strategy": "mean"}, [1.5, 1.5, 1.5]),
        (typed([True, None, True]), {"strategy": "most_frequent"}, [True, True, True]),
        (
            typed([datetime.date(2024, 1, 2), None]),
            {"strategy": "most_frequent"},
            [datetime.date(2024, 1, 2)] * 2,
        ),
        (typed([Decimal("1.50"), None]), {"strategy": "mean"}, [1.5, 1.5]),
    ],
)
def test_what_is_filled_keeps_its_form(table: Table, options: Any, expected: list[Any]) -> None:
    after = filled(table, **options)
    assert after == expected and list(map(type, after)) == list(map(type, expected))


def test_text_that_was_fitted_fills_rows_that_happen_to_be_numbers() -> None:
    fitted = fit_fill(
        text("x1", "x1", "7"), "x", parse(FillnaConfig, {**PATHS, "columns": ["x"], **MODE}, "t")
    )
    assert fill(text("7", "", "8"), "x", fitted)["x"].to_pylist() == ["7", "x1", "8"]
    with pytest.raises(BadColumnType, match="a type that cannot hold the fill value"):
        fill(typed([7, None]), "x", fitted)


def test_what_was_filled_is_counted() -> None:
    assert missing_count(text("a", "", "NA", " "), "x") == 3
    assert missing_count(typed([1.0, float("nan"), None]), "x") == 2


ALL: Any = {
    "standard": (fit_standard, standardize, StandardScalerConfig, {}),
    "min_max": (fit_min_max, scale_to_range, MinMaxScalerConfig, {}),
    "label": (fit_labels, encode_labels, LabelEncoderConfig, {}),
    "onehot": (fit_onehot, encode_onehot, OnehotEncoderConfig, {}),
    "quantile": (fit_bins, bin_index, BinningConfig, {}),
    "equal_width": (fit_bins, bin_index, BinningConfig, {"method": "equal_width"}),
    "custom": (
        fit_bins,
        bin_index,
        BinningConfig,
        {"method": "custom", "split_points": {"x": [1.0]}},
    ),
    "mean": (fit_fill, fill, FillnaConfig, {"strategy": "mean"}),
    "mode": (fit_fill, fill, FillnaConfig, {"strategy": "most_frequent"}),
    "zero": (fit_fill, fill, FillnaConfig, {"strategy": "constant", "fill_value": 0}),
    "text": (fit_fill, fill, FillnaConfig, {"strategy": "constant", "fill_value": "a"}),
}
REFUSED = [
    ("x", "standard min_max quantile equal_width custom mean zero", BadColumnType),
    ("inf", "standard min_max quantile equal_width custom mean zero", NonFiniteValues),
    ("5", "text", BadColumnType),
    ("", "standard min_max label onehot quantile equal_width mean mode", EmptyColumn),
    (str(BIG), "standard min_max quantile equal_width custom mean", ValueRange),
    ("3", "quantile", ConstantColumn),
]


@pytest.mark.parametrize(
    ("cell", "task", "error"),
    [(cell, task, error) for cell, some, error in REFUSED for task in some.split()],
)
def test_what_a_task_cannot_do_is_refused_with_its_own_code(
    cell: str, task: str, error: type[WorkerError]
) -> None:
    fit, apply, config, options = ALL[task]
    with pytest.raises(error, match="^alice: column 'x' of input_data ") as caught:
        run(fit, apply, config, text(cell, "", cell), **options)
    assert caught.value.party == "alice"


@pytest.mark.parametrize("column", [typed([float("inf"), 1.0])])
@pytest.mark.parametrize("task", sorted(set(ALL) - {"text"}))
def test_infinity_in_parquet_is_refused(column: Table, task: str) -> None:
    fit, apply, config, options = ALL[task]
    with pytest.raises(NonFiniteValues):
        run(fit, apply, config, column, **options)


def test_bytes_are_no_categories() -> None:
    with pytest.raises(BadColumnType):
        labels(typed([b"\xff", b"a"]))


@pytest.mark.parametrize(
    "column", [typed([BIG]), text(str(BIG)), typed([Decimal(BIG)]), typed([2**64 - 1], pa.uint64())]
)
def test_integers_that_would_lose_digits_are_refused(column: Table) -> None:
    with pytest.raises(ValueRange, match="would lose digits"):
        exact_numbers(column, "x")


@pytest.mark.parametrize(
    "column", [typed([2**60]), text(str(2**60)), text("1.1e18"), typed([1.1e18])]
)
def test_large_numbers_that_lose_nothing_are_taken(column: Table) -> None:
    assert exact_numbers(column, "x")[0] == float(column.data.column("x")[0].as_py())


def test_an_id_is_not_made_a_thousand_columns_of() -> None:
    many = text(*(f"id{row}" for row in range(1001)))
    with pytest.raises(TooManyCategories, match="more than 1000 columns"):
        onehot(many)
    assert onehot(many, max_categories=2).shape == (1001, 2)


def test_a_category_that_is_named_as_the_rare_ones_is_not_taken_for_them() -> None:
    options = {"handle_unknown": "infrequent_if_exist", "columns": ["x"]}
    fitted = fit_onehot(
        text("infrequent_sklearn", "a"), "x", parse(OnehotEncoderConfig, PATHS | options, "t")
    )
    assert [some.sum() for some in encode_onehot(text("new"), "x", fitted).values()] == [0, 0]


def test_a_category_that_drop_leaves_nothing_of_is_refused() -> None:
    with pytest.raises(ConstantColumn, match="`drop` removes"):
        onehot(text("a", "a"), drop="first")


def test_columns_of_one_name_are_refused() -> None:
    with pytest.raises(DuplicateColumn, match="two columns with the same name"):
        onehot(text("infrequent_sklearn", "infrequent_sklearn", "b", "c"), max_categories=2)
    table = Table(pa.table({"x": ["a"], "x_a": ["1"]}), "alice", "input_data")
    with pytest.raises(DuplicateColumn, match="becomes 'x_a', which the table has"):
        onehot(table)


@pytest.mark.parametrize(
    ("kind", "values", "problem"),
    [
        (MinMaxScalerConfig, {"feature_range": [1, 1]}, "feature_range must rise"),
        (
            MinMaxScalerConfig,
            {"feature_range": [1]},
            "feature_range: list should have at least 2 items",
        ),
        (
            OnehotEncoderConfig,
            {"min_frequency": 0},
            "min_frequency must be a number of rows from 1 or a share",
        ),
        (
            OnehotEncoderConfig,
            {"min_frequency": 1.0},
            "min_frequency must be a number of rows from 1",
        ),
        (OnehotEncoderConfig, {"drop": "last"}, "drop: input should be 'first' or 'if_binary'"),
        (BinningConfig, {"method": "custom"}, "split_points go with method custom"),
        (BinningConfig, {"split_points": {"x": [1.0]}}, "split_points go with method custom"),
        (
            BinningConfig,
            {"method": "custom", "split_points": {"x": []}},
            "of 'x' must be one or more increasing numbers",
        ),
        (
            BinningConfig,
            {"method": "custom", "split_points": {"x": [1, 1]}},
            "of 'x' must be one or more",
        ),
        (
            BinningConfig,
            {"method": "custom", "split_points": {"y": [1]}},
            "must name the same columns",
        ),
        (
            BinningConfig,
            {"method": "custom", "split_points": {"x": [1]}, "n_bins": 3},
            "n_bins follows from split_points",
        ),
        (FillnaConfig, {"strategy": "constant"}, "fill_value goes with strategy constant"),
        (FillnaConfig, {"fill_value": 1}, "fill_value goes with strategy constant"),
        (FillnaConfig, {"strategy": "constant", "fill_value": "NA"}, "stands for an empty cell"),
        (FillnaConfig, {"strategy": "constant", "fill_value": {}}, "fill_value names no column"),
        (
            FillnaConfig,
            {"strategy": "constant", "fill_value": {"y": 1}},
            "must name the same columns",
        ),
        (FillnaConfig, {"strategy": "constant", "fill_value": True}, "fill_value: "),
    ],
)
def test_a_wrong_request_is_refused(kind: type[TransformConfig], values: Any, problem: str) -> None:
    with pytest.raises(InvalidTaskConfig) as caught:
        parse(kind, {**PATHS, "columns": ["x"], **values}, "t")
    assert problem in caught.value.message and len(caught.value.message) < 200


FRAME = Table(
    pa.table({"id": ["7", "8"], "n": ["1", ""], "t": ["a", "1"], "y": ["0", "1"], "e": ["", "NA"]}),
    "alice",
    "input_data",
)


@pytest.mark.parametrize(
    ("of_kind", "kind", "values", "expected"),
    [
        (numeric_columns, MinMaxScalerConfig, {}, ["n", "e"]),
        (text_columns, LabelEncoderConfig, {}, ["t"]),
        (text_columns, OnehotEncoderConfig, {}, ["t"]),
        (numeric_columns, BinningConfig, {}, ["n", "e"]),
        (fillable_columns, FillnaConfig, {}, ["n", "e"]),
        (fillable_columns, FillnaConfig, {"strategy": "most_frequent"}, ["n", "t", "e"]),
        (fillable_columns, FillnaConfig, {"strategy": "constant", "fill_value": 0}, ["n", "e"]),
        (fillable_columns, FillnaConfig, {"strategy": "constant", "fill_value": "0"}, ["t"]),
    ],
)
def test_without_a_list_each_task_takes_columns_of_its_kind(
    of_kind: Callable[..., list[str]],
    kind: type[TransformConfig],
    values: Any,
    expected: list[str],
) -> None:
    config = parse(kind, {**PATHS, "ids": {"alice": ["id"]}, "label": "y", **values}, "t")
    assert config.wanted() is None
    assert of_kind(config, FRAME, {"id", "y"}) == expected


def test_values_and_points_name_their_columns() -> None:
    fills = {"strategy": "constant", "fill_value": {"t": "?", "n": 0}}
    config = parse(FillnaConfig, {**PATHS, **fills}, "t")
    assert config.wanted() == ["t", "n"]
    assert [fit_fill(FRAME, name, config) for name in ("t", "n")] == [
        {"fill_value": "?"},
        {"fill_value": 0},
    ]
    points = {"method": "custom", "split_points": {"n": [1]}}
    assert parse(BinningConfig, {**PATHS, **points}, "t").wanted() == ["n"]


def test_csv_and_parquet_are_read_alike(tmp_path: Path) -> None:
    column = ["1", "", "2", "1"]
    tables = []
    for ending in ("csv", "parquet"):
        path = tmp_path / f"a.{ending}"
        text(*column).write(path)
        tables.append(onehot(Table.read(path, "alice", "input_data")))
    pd.testing.assert_frame_equal(*tables)
    assert list(tables[0]) == ["x_1.0", "x_2.0", "x_nan"]
