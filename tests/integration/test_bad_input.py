"""Every task refuses a bad table by its own code at the right party, or computes rightly."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Callable, Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn import metrics

from tests.data.oracles import Array
from tests.data.tables import Table, numbers
from tests.integration.bench import read_csv, write_csv
from tests.integration.cases import CASES, Finished, Runs

pytestmark = pytest.mark.engine

# What a task does with a table that it takes.
SAME = "the same as with the good table"
RIGHT = "what RIGHT_RESULTS says of its task"

# Whose table is made bad, a column of it that the task computes with, and one that it does not;
# else _USUAL.
_USUAL = ("bob", "b1", "city")
_TARGETS = {
    "psi": ("bob", "uid", "city"),
    "label_encoder": ("bob", "city", "b2"),
    "onehot_encoder": ("bob", "city", "b2"),
    "table_statistics": ("bob", "b1", "uid"),
    "biclassification_eval": ("alice", "score", "grade"),
    "regression_eval": ("alice", "score", "grade"),
}


@dataclass(frozen=True)
class Target:
    """The table that is made bad, in a copy of a case that was run with good tables."""

    original: Finished
    case: Finished
    party: str
    column: str
    extra: str

    @property
    def path(self) -> Path:
        """Where the table lies."""
        return self.case.workspace.path(self.party, "in.csv")

    @property
    def table(self) -> Table:
        """The good table."""
        return read_csv(self.path)

    def rewrite(self, change: Callable[[bytes], bytes]) -> None:
        """Change the file's content."""
        self.path.write_bytes(change(self.path.read_bytes()))

    def cells(self, column: str, *cells: str) -> None:
        """Put texts into a column, from its fourth row on."""
        table = self.table
        table[column][3 : 3 + len(cells)] = cells
        write_csv(self.path, table)

    def whole_column(self, column: str, change: Callable[[str], str]) -> None:
        """Change every cell of a column."""
        table = self.table
        table[column] = [change(cell) for cell in table[column]]
        write_csv(self.path, table)

    def rename(self, name: str) -> None:
        """Give the file another name, in the request too."""
        text = self.case.workspace.text
        self.path.rename(self.path.with_name(name))
        self.case.config.update(_at_party(self.case.config, self.party, text("in.csv"), text(name)))


def _at_party(value: Any, party: str, old: str, new: str) -> Any:
    """A request with the path of one party replaced."""
    if isinstance(value, list):
        return [_at_party(item, party, old, new) for item in value]
    if not isinstance(value, dict):
        return value
    mine = {
        key for key, item in value.items() if item == old and party in (key, value.get("party"))
    }
    return {
        key: new if key in mine else _at_party(item, party, old, new) for key, item in value.items()
    }


def encoded(encoding: str, cell: str) -> Callable[[Target], None]:
    """A file in another encoding, with a cell that is not ASCII."""

    def make(target: Target) -> None:
        target.cells(target.extra, cell)
        target.rewrite(lambda data: data.decode().encode(encoding))

    return make


def put(*cells: str) -> Callable[[Target], None]:
    """Cells in the column that the task computes with."""
    return lambda target: target.cells(target.column, *cells)


def label(*cells: str) -> Callable[[Target], None]:
    """Cells in the label column, in all rows if there is only one."""

    def make(target: Target) -> None:
        at_alice = replace(target, party="alice")
        if len(cells) == 1:
            at_alice.whole_column("y", lambda _: cells[0])
        else:
            at_alice.cells("y", *cells)

    return make


def duplicate_header(target: Target) -> None:
    """The column that is used is there twice."""
    target.rewrite(lambda data: data.replace(target.extra.encode(), target.column.encode(), 1))


def ragged(target: Target) -> None:
    """One row has a cell more."""
    lines = target.path.read_bytes().splitlines(keepends=True)
    lines[7] = lines[7].rstrip() + b",1\n"
    target.path.write_bytes(b"".join(lines))


def nested(target: Target) -> None:
    """Parquet with a column of lists."""
    table = target.table
    cells = pa.array([[1.0, 2.0]] * len(table[target.column]))
    target.rename("in.parquet")
    pq.write_table(pa.table({**table, target.column: cells}), target.path.with_suffix(".parquet"))


def without_column(target: Target) -> None:
    """The column that the task computes with is not there."""
    table = target.table
    del table[target.column]
    write_csv(target.path, table)


def column_of_both(target: Target) -> None:
    """The other party has a column of the same name."""
    other = target.case.workspace.path("alice" if target.party == "bob" else "bob", "in.csv")
    write_csv(other, {**read_csv(other), target.column: target.table[target.column]})


def one_row_less(target: Target) -> None:
    """The last row is missing."""
    write_csv(target.path, {name: cells[:-1] for name, cells in target.table.items()})


def repeated_row(target: Target) -> None:
    """One row is there twice, in the place of another."""
    write_csv(target.path, {name: [cells[0], *cells[:-1]] for name, cells in target.table.items()})


def folder(target: Target) -> None:
    """A folder has the file's name."""
    target.path.unlink()
    target.path.mkdir()


def reversed_columns(target: Target) -> None:
    """Other order of columns."""
    write_csv(target.path, dict(reversed(target.table.items())))


@dataclass(frozen=True)
class Kind:
    """A kind of bad table.

    Attributes:
        answers: by task type, and under "*" for all others: an error code, `SAME` or `RIGHT`.
        party: whose table is bad, if not the target's.
    """

    make: Callable[[Target], None]
    answers: Mapping[str, str]
    party: str | None = None


def all_tasks(answer: str) -> dict[str, str]:
    """One answer for every task."""
    return {"*": answer}


def each(tasks: Sequence[str], answer: str) -> dict[str, str]:
    """One answer for some tasks."""
    return dict.fromkeys(tasks, answer)


ENCODERS = ("label_encoder", "onehot_encoder")
SCALERS = ("standard_scaler", "min_max_scaler")
TRANSFORMATIONS = (*ENCODERS, *SCALERS, "binning", "fillna")
EVALUATIONS = ("biclassification_eval", "regression_eval")
PREDICTIONS = tuple(task for task in CASES if task.endswith("_predict"))
WITH_CLASSES = ("sgb", "ss_glm", "ss_lr", "ss_xgb", "woe_iv", "biclassification_eval", "workflow")
WITH_LABEL = (*WITH_CLASSES, "regression_eval")
BY_NAME = (
    "psi",
    "train_test_split",
    "table_statistics",
    *ENCODERS,
)  # numbers and texts are all the same

UNREADABLE = all_tasks("UnreadableFile")
GAPS = {
    **each(("train_test_split", "table_statistics", *TRANSFORMATIONS), RIGHT),
    "woe_iv": "TooFewRows",
}
TEXTS = {"*": "BadColumnType", **each(BY_NAME, RIGHT), "woe_iv": "TooFewRows"}
LARGE = each(("psi", "train_test_split", *ENCODERS), RIGHT)

KINDS: dict[str, Kind] = {
    "empty file": Kind(lambda target: target.rewrite(lambda data: b""), all_tasks("EmptyInput")),
    "header only": Kind(
        lambda target: target.rewrite(lambda data: data.splitlines(True)[0]),
        all_tasks("EmptyInput"),
    ),
    "duplicate header": Kind(duplicate_header, all_tasks("DuplicateColumn")),
    "byte order mark": Kind(
        lambda target: target.rewrite(lambda data: b"\xef\xbb\xbf" + data), all_tasks(SAME)
    ),
    "carriage returns": Kind(
        lambda target: target.rewrite(lambda data: data.replace(b"\n", b"\r\n")), all_tasks(SAME)
    ),
    "quoted newlines": Kind(
        lambda target: target.cells(target.extra, "two\nlines", 'a "quote", a comma'),
        {"*": SAME, **each(ENCODERS, RIGHT)},
    ),
    "columns in another order": Kind(reversed_columns, {"*": SAME, "table_statistics": RIGHT}),
    "GBK": Kind(encoded("gbk", "武汉"), UNREADABLE),
    "UTF-16": Kind(encoded("utf-16", "武汉"), UNREADABLE),
    "Latin-1": Kind(encoded("latin-1", "Zürich"), UNREADABLE),
    "ragged rows": Kind(ragged, UNREADABLE),
    "open quote": Kind(
        lambda target: target.rewrite(lambda data: data.replace(b",", b',"', 40)), UNREADABLE
    ),
    "NUL bytes": Kind(
        lambda target: target.rewrite(lambda data: data[:-9] + b"\0" + data[-8:]), UNREADABLE
    ),
    "CSV named Parquet": Kind(lambda target: target.rename("in.parquet"), UNREADABLE),
    "nested Parquet": Kind(nested, UNREADABLE),
    "wrong suffix": Kind(lambda target: target.rename("in.xlsx"), all_tasks("UnsupportedFormat")),
    "missing file": Kind(lambda target: target.path.unlink(), all_tasks("MissingFile")),
    "folder in its place": Kind(folder, all_tasks("MissingFile")),
    "missing column": Kind(
        without_column,
        {"*": "MissingColumn", **each(("train_test_split", "table_statistics"), RIGHT)},
    ),
    "column of both parties": Kind(
        column_of_both,
        {
            "*": "AmbiguousColumn",
            **each(("psi", "train_test_split"), RIGHT),
            **each((*PREDICTIONS, *EVALUATIONS), SAME),
        },
    ),
    "unequal row counts": Kind(
        one_row_less,
        {"*": "RowCountMismatch", **each(("psi", "table_statistics", *EVALUATIONS), RIGHT)},
    ),
    "repeated row": Kind(repeated_row, {"*": RIGHT, "psi": "DuplicateKeys"}),
    "text among numbers": Kind(put("unknown"), TEXTS),
    "thousands separators": Kind(put("1,234.5"), TEXTS),
    "empty cell": Kind(put(""), {"*": "MissingValues", "psi": "MissingKeys", **GAPS}),
    "NaN": Kind(put("NaN"), {"*": "MissingValues", "psi": RIGHT, **GAPS}),
    "infinity": Kind(put("-inf"), {"*": "NonFiniteValues", **LARGE}),
    "beyond float64": Kind(put("1e400"), {"*": "NonFiniteValues", **LARGE}),
    "largest float64": Kind(put("1e308", "-1e308"), {"*": "ValueRange", **LARGE}),
    "integers beyond 2^53": Kind(
        put("9007199254740993", "9007199254740992"),
        {
            "*": RIGHT,
            **each((*SCALERS, "binning", "fillna", "ss_kmeans", "workflow"), "ValueRange"),
            **each(("ss_lr_predict", "ss_glm_predict", "ss_kmeans_predict"), "ValueRange"),
            "ss_lr": "FeatureRange",
        },
    ),
    "constant column": Kind(
        lambda target: target.whole_column(target.column, lambda cell: "0.25"),
        {
            "*": RIGHT,
            "psi": "DuplicateKeys",
            **each(("binning", "pearson_correlation", "vif", "ss_glm", "woe_iv"), "ConstantColumn"),
        },
    ),
    "one class": Kind(label("1"), {"*": RIGHT, **each(WITH_CLASSES, "BadLabel")}, "alice"),
    "third class": Kind(
        label("0", "1", "2"),
        {"*": RIGHT, "train_test_split": "TooFewRows", **each(WITH_CLASSES, "BadLabel")},
        "alice",
    ),
    "label without value": Kind(
        label("", "1"),
        {"*": RIGHT, "train_test_split": "TooFewRows", **each(WITH_LABEL, "MissingValues")},
        "alice",
    ),
    "label as text": Kind(
        label("yes", "no"),
        {"*": RIGHT, "train_test_split": "TooFewRows", **each(WITH_LABEL, "BadColumnType")},
        "alice",
    ),
}


def rows_of(table: Table) -> list[tuple[str, ...]]:
    """The rows of a table, without the names."""
    return list(zip(*table.values()))


def right_psi(target: Target) -> None:
    """Both get the rows with common keys, each as it was, in one order."""
    workspace = target.case.workspace
    tables = {party: workspace.read(party, "in.csv") for party in ("alice", "bob")}
    outputs = {party: workspace.read(party, "out.csv") for party in tables}
    assert outputs["alice"]["uid"] == outputs["bob"]["uid"]
    assert set(outputs["bob"]["uid"]) == set(tables["alice"]["uid"]) & set(tables["bob"]["uid"])
    for party, output in outputs.items():
        assert set(rows_of(output)) <= set(rows_of(tables[party])) and list(output) == list(
            tables[party]
        )


def right_split(target: Target) -> None:
    """Every row is in one of the parts, as it was."""
    workspace = target.case.workspace
    for party in ("alice", "bob"):
        parts = [workspace.read(party, f"{name}.csv") for name in ("train_data", "test_data")]
        rows = rows_of(parts[0]) + rows_of(parts[1])
        assert sorted(rows) == sorted(rows_of(workspace.read(party, "in.csv")))


def right_transformation(target: Target) -> None:
    """The column that was changed is what its task makes of it; all others are as they were."""
    before, after = target.table, target.case.workspace.read(target.party, "out.csv")
    columns = target.case.config["columns"]
    kept = [name for name in before if name not in columns]
    assert [before[name] for name in kept] == [after[name] for name in kept]
    codes = list(
        zip(*(after[name] for name in after if name not in before or name == target.column))
    )
    TRANSFORMED[target.case.config["task_type"]](before[target.column], codes)


def check_numbers(
    transform: Callable[[Array], Array],
) -> Callable[[Sequence[str], Sequence[Any]], None]:
    """The column is what numpy makes of it."""

    def check(cells: Sequence[str], codes: Sequence[Any]) -> None:
        x, found = (
            np.array([cell or "nan" for cell in column], float)
            for column in (cells, next(zip(*codes)))
        )
        assert np.allclose(found, transform(x), rtol=1e-6, atol=1e-9, equal_nan=True)

    return check


def check_codes(cells: Sequence[str], codes: Sequence[Any]) -> None:
    """Equal cells, and only they, have equal codes; NaN is as missing as nothing."""
    present = [cell.replace("NaN", "") for cell in cells]
    assert len(set(zip(present, codes))) == len(set(present)) == len(set(codes))


def check_bins(cells: Sequence[str], codes: Sequence[Any]) -> None:
    """Bins are in the order of their numbers, of nearly one size, the missing by themselves."""
    bins = [
        (float(cell), int(code)) for cell, (code,) in zip(cells, codes) if cell not in ("", "NaN")
    ]
    numbers = [code for _, code in sorted(bins)]
    assert numbers == sorted(numbers) and set(numbers) == {0, 1, 2, 3}
    missing = {code for cell, (code,) in zip(cells, codes) if cell in ("", "NaN")}
    assert not missing & {str(number) for number in numbers} and len(missing) <= 1


TRANSFORMED: dict[str, Callable[[Sequence[str], Sequence[Any]], None]] = {
    "standard_scaler": check_numbers(lambda x: (x - np.nanmean(x)) / (np.nanstd(x) or 1.0)),
    "min_max_scaler": check_numbers(
        lambda x: (x - np.nanmin(x)) / (np.nanmax(x) - np.nanmin(x) or 1.0)
    ),
    "fillna": check_numbers(lambda x: np.where(np.isnan(x), np.nanmedian(x), x)),
    "label_encoder": check_codes,
    "onehot_encoder": check_codes,
    "binning": check_bins,
}


def right_statistics(target: Target) -> None:
    """As pandas counts and averages."""
    assert target.case.execution
    result = target.case.execution.results[target.party]
    for name, figures in result["statistics"].items():
        column = pd.read_csv(target.path)[name]
        assert (figures["count"], figures["count_na"]) == (column.count(), column.isna().sum())
        assert figures["mean"] == pytest.approx(column.mean()) and figures["std"] == pytest.approx(
            column.std()
        )
    for name, figures in result["categories"].items():
        assert figures["nunique"] == pd.read_csv(target.path)[name].nunique()


def right_correlation(target: Target) -> None:
    """As numpy correlates the columns of both."""
    assert target.case.execution
    result = target.case.execution.results["alice"]
    tables = {party: target.case.workspace.read(party, "in.csv") for party in ("alice", "bob")}
    expected = np.corrcoef(numbers(tables, target.case.config["columns"]).T)
    if "correlation" in result:
        assert np.allclose(result["correlation"], expected, atol=1e-3)
    else:
        assert [*result["vif"].values()] == pytest.approx(
            [*np.diag(np.linalg.inv(expected))], rel=1e-2
        )


def right_weights(target: Target) -> None:
    """Every column has an information value; the family's own tests have the oracle."""
    assert target.case.execution
    values = target.case.execution.results["alice"]["iv"]
    assert set(values) == set(target.case.config["columns"]) and all(
        0 < value < 9 for value in values.values()
    )


def right_evaluation(target: Target) -> None:
    """AUC, or mean squared error, as scikit-learn's."""
    assert target.case.execution
    y, score = (
        np.array(target.case.workspace.read("alice", "in.csv")[name], float)
        for name in ("y", "score")
    )
    result = target.case.execution.results["alice"]
    if "auc" in result:
        assert result["auc"] == pytest.approx(metrics.roc_auc_score(y, score))
    else:
        assert result["mse"] == pytest.approx(metrics.mean_squared_error(y, score))


def right_prediction(target: Target) -> None:
    """The rows that were not changed have the predictions that they had."""
    column = "cluster" if target.case.config["task_type"].startswith("ss_kmeans") else "prediction"
    now, before = (
        some.workspace.read("alice", "out.csv") for some in (target.case, target.original)
    )
    old_cells = target.original.tables[target.party][target.column]
    kept = [old == new for old, new in zip(old_cells, target.table[target.column])]
    same = np.isclose(np.array(now[column], float), np.array(before[column], float), atol=1e-4)
    assert same[kept].all() and now["uid"] == before["uid"]


def right_training(target: Target) -> None:
    """A model of the features that the request names; the family's own tests have the oracle."""
    for party in ("alice", "bob"):
        path = target.case.workspace.path(party, f"model/{party}/manifest.json")
        features = json.loads(path.read_text())["features"]
        assert sorted(sum(features.values(), [])) == sorted(target.case.config["features"])


def right_workflow(target: Target) -> None:
    """Its first step scaled the column."""
    assert target.case.execution
    results = target.case.execution.results["bob"]["steps"]["scale"]
    column = np.array(target.table[target.column], float)
    assert results["mean"][target.column] == pytest.approx(column.mean())


RIGHT_RESULTS: dict[str, Callable[[Target], None]] = {
    "psi": right_psi,
    "train_test_split": right_split,
    "table_statistics": right_statistics,
    "woe_iv": right_weights,
    "workflow": right_workflow,
    **dict.fromkeys(TRANSFORMATIONS, right_transformation),
    **dict.fromkeys(("pearson_correlation", "vif"), right_correlation),
    **dict.fromkeys(EVALUATIONS, right_evaluation),
    **dict.fromkeys(PREDICTIONS, right_prediction),
    **dict.fromkeys(("ss_lr", "ss_glm", "ss_xgb", "ss_kmeans", "sgb"), right_training),
}


def check_same(target: Target) -> None:
    """Results and tables are the good table's, but for the column that no one computes with."""
    old, new = target.original, target.case
    assert old.execution and new.execution
    for party, result in new.execution.results.items():
        assert_close(comparable(new, result), comparable(old, old.execution.results[party]))
        for path in new.workspace.path(party, "").glob("o*.csv"):
            before, after = old.workspace.read(party, path.name), read_csv(path)
            assert set(before) == set(after)
            for name in set(before) - {target.extra}:
                assert_close(after[name], before[name])


def comparable(case: Finished, result: Mapping[str, Any]) -> dict[str, Any]:
    """A result without its times, and with paths that do not depend on the test's folder."""
    text = json.dumps({name: value for name, value in result.items() if name != "timings"})
    return dict(json.loads(text.replace(f"/{case.workspace.name}/", "/")))


def assert_close(found: Any, expected: Any) -> None:
    """Equal, but for the noise of fixed-point numbers."""
    if isinstance(expected, dict):
        assert set(found) == set(expected)
        for key, value in expected.items():
            assert_close(found[key], value)
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected):
            assert_close(one, other)
    elif found != expected:
        assert float(found) == pytest.approx(float(expected), abs=1e-3)


def spoiled(original: Finished, kind: Kind) -> Target:
    """A copy of a case with a bad table."""
    task_type = original.config["task_type"]
    target = Target(original, original.copy(), *_TARGETS.get(task_type, _USUAL))
    kind.make(target)
    return target


def files(case: Finished) -> list[Path]:
    """Everything that the parties have."""
    return [
        path for party in case.tables for path in sorted(case.workspace.path(party, "").rglob("*"))
    ]


def pairs() -> Iterator[Any]:
    """Every kind with every task; `make test` has every kind once and every task twice or more."""
    tasks, kinds = list(CASES), list(KINDS)
    quick = set(zip(kinds, itertools.cycle(tasks)))
    quick |= {(kinds[(5 * place + 3) % len(kinds)], task) for place, task in enumerate(tasks)}
    for task, kind in itertools.product(tasks, kinds):
        marks = () if (kind, task) in quick else pytest.mark.matrix
        yield pytest.param(task, kind, id=f"{task}-{kind}", marks=marks)


def whose(task_type: str, kind: str, answer: str, target: Target) -> str | None:
    """The party at which it must fail; None for what no party can see in its own table."""
    owned = ("psi", *EVALUATIONS, *PREDICTIONS)  # say whose each column is
    between = answer in ("AmbiguousColumn", "RowCountMismatch")
    between |= answer == "MissingColumn" and task_type not in owned
    return None if between else KINDS[kind].party or target.party


@pytest.mark.parametrize("task_type, kind", list(pairs()))
def test_a_bad_table_is_refused_by_name_or_done_rightly(
    runs: Runs, task_type: str, kind: str
) -> None:
    target = spoiled(runs[task_type], KINDS[kind])
    answer = KINDS[kind].answers.get(task_type, KINDS[kind].answers["*"])
    before = files(target.case)
    if answer in (SAME, RIGHT):
        check = check_same if answer == SAME else RIGHT_RESULTS[task_type]
        check(replace(target, case=target.case.run()))
    else:
        target.case.workspace.fail(
            target.case.config, answer, whose(task_type, kind, answer, target)
        )
        assert files(target.case) == before


@pytest.mark.parametrize(
    "task_type", [pytest.param(task, marks=pytest.mark.matrix) for task in CASES]
)
def test_after_all_that_the_good_table_still_runs(runs: Runs, task_type: str) -> None:
    target = Target(runs[task_type], runs[task_type].copy().run(), *_TARGETS.get(task_type, _USUAL))
    check_same(target)
