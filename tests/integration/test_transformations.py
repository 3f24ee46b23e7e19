"""Transformations in real processes equal pandas and scikit-learn, on new rows too; no leaks."""

from __future__ import annotations

import datetime
import json
from decimal import Decimal
from typing import Any, Callable, Sequence

import numpy as np
import pandas as pd
import pytest
from sklearn.impute import SimpleImputer
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import MinMaxScaler, OneHotEncoder, OrdinalEncoder, StandardScaler

from tests.data.tables import Table, columns_in_order
from tests.integration.bench import Execution, Workspace
from tests.integration.test_who_learns_what import received

pytestmark = pytest.mark.engine

Frame = pd.DataFrame
Oracle = Callable[[Frame, Frame], Frame]
COLUMNS = {
    "numbers": {"alice": ["age", "visits"], "bob": ["income", "ratio"], "carol": ["height"]},
    "texts": {"alice": ["city", "branch"], "bob": ["grade", "sort"], "carol": ["colour"]},
}
TWO, THREE = ("alice", "bob"), ("alice", "bob", "carol")


def people(rows: int, seed: int, parties: Sequence[str] = TWO) -> dict[str, Table]:
    """Skewed, tied, far from zero, empty cells of several spellings, several kinds of category."""
    rng = np.random.default_rng(seed)

    def holes(cells: Sequence[Any]) -> list[str]:
        kinds = rng.choice(["", "", "NaN", "null"], rows)
        return [
            kind if hole else str(cell)
            for cell, kind, hole in zip(cells, kinds, rng.random(rows) < 0.1)
        ]

    def some(*cells: Any) -> list[Any]:
        weights = 1.0 / np.arange(1, len(cells) + 1) ** 2
        return [cells[place] for place in rng.choice(len(cells), rows, p=weights / weights.sum())]

    ids = [f"{row:05d}" for row in rng.permutation(rows)]
    tables: dict[str, Table] = {
        "alice": {
            "city": holes(some("Wuhan", "Xi'an", " Wuhan", "Lhasa, Tibet", 'a "b"', "青岛")),
            "uid": ids,
            "age": holes([repr(value) for value in rng.lognormal(3, 0.7, rows).tolist()]),
            "branch": some(100, 9, 20, 3),
            "visits": holes(rng.poisson(1.5, rows).tolist()),
        },
        "bob": {
            "income": [repr(1e9 + value) for value in rng.normal(size=rows).tolist()],
            "grade": holes(some("basalt", "gneiss", "quartz", "ok")),
            "uid": ids,
            "ratio": holes([f"{value:.2f}" for value in rng.exponential(0.2, rows)]),
            "sort": some("first", "seventh"),
        },
        "carol": {
            "height": rng.normal(170, 9, rows).tolist(),
            "colour": some("red", "blue"),
            "uid": ids,
        },
    }
    return {party: tables[party] for party in parties}


def qcut(train: Frame, new: Frame) -> Frame:
    """Bins of pandas, with open ends; -1 for an empty cell."""

    def codes(name: str) -> Any:
        _, edges = pd.qcut(train[name], 5, retbins=True, duplicates="drop")
        return pd.cut(new[name], [-np.inf, *edges[1:-1], np.inf]).cat.codes.astype(float)

    return Frame({name: codes(name) for name in train})


def sklearns(transformer: Any) -> Oracle:
    """What a transformer of scikit-learn makes of new rows."""

    def oracle(train: Frame, new: Frame) -> Frame:
        transformed = transformer.fit(train).transform(new)
        names = getattr(transformer, "get_feature_names_out")()
        return Frame(transformed, columns=names)

    return oracle


TASKS: dict[str, tuple[str, dict[str, Any], Oracle]] = {
    "standard_scaler": ("numbers", {}, sklearns(StandardScaler())),
    "min_max_scaler": (
        "numbers",
        {"feature_range": [-1, 1]},
        sklearns(MinMaxScaler(feature_range=(-1, 1))),
    ),
    "label_encoder": ("texts", {}, sklearns(OrdinalEncoder())),
    "onehot_encoder": (
        "texts",
        {"min_frequency": 0.1, "drop": "if_binary"},
        sklearns(OneHotEncoder(min_frequency=0.1, drop="if_binary", sparse_output=False)),
    ),
    "binning": ("numbers", {"n_bins": 5}, qcut),
    "fillna": ("numbers", {"strategy": "median"}, sklearns(SimpleImputer(strategy="median"))),
}


def frame(workspace: Workspace, party: str, name: str) -> Frame:
    """A party's file as a data scientist reads it."""
    path = workspace.path(party, name)
    if name.endswith("parquet"):
        return pd.read_parquet(path)
    return pd.read_csv(path, float_precision="round_trip")


def config(
    workspace: Workspace, task_type: str, parties: Sequence[str], **more: Any
) -> dict[str, Any]:
    """A request that transforms `in.csv`."""
    paths = {
        "input_data": workspace.paths("in.csv", parties),
        "output_data": workspace.paths("out.csv", parties),
    }
    return {"task_type": task_type, **paths, **more}


def fitting(workspace: Workspace, task_type: str, parties: Sequence[str] = TWO) -> dict[str, Any]:
    """A request that fits and saves; writes the tables."""
    kind, options, _ = TASKS[task_type]
    workspace.write("in.csv", people(200, 1, parties))
    names = [name for party in reversed(parties) for name in COLUMNS[kind][party]]
    return config(
        workspace,
        task_type,
        parties,
        columns=names,
        model_output=workspace.text("model"),
        **options,
    )


def applying(workspace: Workspace, task_type: str, parties: Sequence[str] = TWO) -> dict[str, Any]:
    """A request that applies what was saved to new rows, columns reordered and one more."""
    fresh = people(60, 2, parties)
    for party, table in fresh.items():
        table["more"] = list(range(60))
        fresh[party] = columns_in_order(table, sorted(table))
    workspace.write("new.csv", fresh)
    request = config(workspace, task_type, parties, model_path=workspace.text("model"))
    return request | {"input_data": workspace.paths("new.csv", parties)}


def check_output(workspace: Workspace, task_type: str, party: str, name: str) -> None:
    """The output is the oracle's in each transformed column, and unchanged in all others."""
    kind, _, oracle = TASKS[task_type]
    columns = COLUMNS[kind][party]
    before, after = workspace.read(party, name), workspace.read(party, "out.csv")
    train, new = (frame(workspace, party, file)[columns] for file in ("in.csv", name))
    expected = oracle(train, new)
    place = {
        column: [made for made in expected if made.split("_")[0] == column] for column in columns
    }
    assert list(after) == [made for column in before for made in place.get(column, [column])]
    np.testing.assert_allclose(
        frame(workspace, party, "out.csv")[list(expected)].to_numpy(float),
        expected.to_numpy(float),
        rtol=1e-6, atol=1e-6,
    )  # fmt: skip
    for column in set(before) - set(columns):
        assert after[column] == before[column]


def check_at_home(workspace: Workspace, execution: Execution, tables: dict[str, Table]) -> None:
    """No cell, category or figure of a party reaches another's process or events."""
    for party in tables:
        assert received(workspace, execution, party) <= {
            "None",
            "{",
        }  # that it is done, and the facts
        seen = workspace.bench.log_of(execution, party)
        seen += "".join(event.to_json() for event in execution.events[party])
        for other in set(tables) - {party}:
            cells = {
                str(cell)
                for name, column in tables[other].items()
                if name != "uid"
                for cell in column
            }
            assert not [cell for cell in cells if len(cell) > 5 and cell in seen]
            result = execution.results[other]
            figures = [result[key] for key in ("mean", "std", "min", "max") if key in result]
            assert not [
                str(value)
                for part in figures
                for value in part.values()
                if len(str(value)) > 5 and str(value) in seen
            ]


def check_transformation(
    workspace: Workspace, task_type: str, parties: Sequence[str] = TWO
) -> None:
    """A fit, and its later use on new rows, are the oracle's, and all stays at home."""
    more = {"spu_config": {"protocol": "ABY3"}} if len(parties) == 3 else {}
    for request in (
        fitting(workspace, task_type, parties),
        applying(workspace, task_type, parties),
    ):
        execution = workspace.run(request, **more)
        name = request["input_data"]["alice"].split("/")[-1]
        for party in parties:
            check_output(workspace, task_type, party, name)
            result = execution.results[party]
            assert sorted(result["columns_used"]) == sorted(COLUMNS[TASKS[task_type][0]][party])
            assert result["rows"] == len(workspace.read(party, name)["uid"])
        check_at_home(
            workspace, execution, {party: workspace.read(party, name) for party in parties}
        )


def test_the_scaler_is_that_of_scikit_learn_also_far_from_zero_and_on_new_rows(
    workspace: Workspace,
) -> None:
    check_transformation(workspace, "standard_scaler")


@pytest.mark.matrix
@pytest.mark.parametrize("task_type", TASKS)
def test_a_transformation_of_three_parties_is_that_of_the_oracle(
    workspace: Workspace, task_type: str
) -> None:
    check_transformation(workspace, task_type, THREE)


def test_the_owner_sees_what_was_fitted_and_only_the_owner(workspace: Workspace) -> None:
    results = {
        task: workspace.run(fitting(workspace, task)).results
        for task in ("label_encoder", "binning", "fillna")
    }
    alice, bob = (frame(workspace, party, "in.csv") for party in TWO)
    categories = results["label_encoder"]["bob"]["categories"]
    assert categories == {
        "grade": ["basalt", "gneiss", "ok", "quartz"],
        "sort": ["first", "seventh"],
    }
    assert results["label_encoder"]["alice"]["category_count"] == {"city": 6, "branch": 4}
    bins = results["binning"]["alice"]["bins"]
    counts = pd.qcut(alice.age, 5).value_counts(sort=False)
    assert [some["count"] for some in bins["age"]] == [*counts.tolist(), alice.age.isna().sum()]
    points = alice.age.quantile([0.2, 0.4, 0.6, 0.8]).tolist()
    assert [some["above"] for some in bins["age"][1:5]] == pytest.approx(points, rel=1e-12)
    assert [some["up_to"] for some in bins["age"][:4]] == pytest.approx(points, rel=1e-12)
    assert bins["age"][0]["above"] is bins["age"][4]["up_to"] is None
    assert set(results["binning"]["bob"]["bins"]) == {"income", "ratio"}
    values = results["fillna"]["bob"]
    assert values["fill_value"] == {"income": bob.income.median(), "ratio": bob.ratio.median()}
    assert values["filled_cells"] == {"income": 0, "ratio": bob.ratio.isna().sum()}
    missing = {name: alice[name].isna().sum() for name in ("age", "visits")}
    assert results["fillna"]["alice"]["filled_cells"] == missing


MATRIX = [
    "standard_scaler",
    *(pytest.param(task, marks=pytest.mark.matrix) for task in [*TASKS][1:]),
]


@pytest.mark.parametrize("task_type", MATRIX)
def test_what_was_fitted_is_refused_where_it_does_not_fit(
    workspace: Workspace, task_type: str
) -> None:
    workspace.run(fitting(workspace, task_type))
    apply = applying(workspace, task_type)
    without = COLUMNS[TASKS[task_type][0]]["bob"][0]

    table = workspace.read("bob", "new.csv")
    workspace.write(
        "less.csv", {"bob": {name: cells for name, cells in table.items() if name != without}}
    )
    less = {"alice": workspace.text("new.csv"), "bob": workspace.text("less.csv")}
    workspace.fail(apply | {"input_data": less}, "MissingColumn", "bob")

    three = fitting(workspace, task_type, THREE) | {"model_output": workspace.text("of_three")}
    workspace.run(three, spu_config={"protocol": "ABY3"})
    of_three = workspace.bench.execute(
        {"task_config": apply | {"model_path": workspace.text("of_three")}}
    )
    assert of_three.code == "ModelMismatch" and "carol" in of_three.failures["bob"]["error"]

    other = "fillna" if task_type != "fillna" else "binning"
    of_other = workspace.bench.execute({"task_config": apply | {"task_type": other}})
    assert of_other.code == "ModelMismatch" and "kind of model" in of_other.failures["bob"]["error"]

    manifest = workspace.path("bob", "model/bob/manifest.json")
    original = manifest.read_text()
    manifest.write_text(original.replace(without, "another"))
    workspace.fail(apply, "ModelDamaged", "bob")
    manifest.write_text(original)
    parameters = workspace.path("bob", "model/bob/parameters.json")
    parameters.write_text(parameters.read_text() + " ")
    workspace.fail(apply, "ModelDamaged", "bob")


REFUSALS = [
    ({"task_type": "binning", "n_bins": 2}, {"x": ["0", "0", "0", "1"]}, "ConstantColumn"),
    ({"task_type": "min_max_scaler"}, {"x": ["", "NaN", "", "null"]}, "EmptyColumn"),
    ({"task_type": "standard_scaler"}, {"x": [str(2**53 + 1), "1", "2", "3"]}, "ValueRange"),
    (
        {"task_type": "label_encoder", "model_path": "labels"},
        {"x": ["a", "b", "c", "a"]},
        "UnseenCategory",
    ),
    (
        {"task_type": "onehot_encoder", "model_path": "onehot"},
        {"x": ["a", "b", "", "a"]},
        "UnseenCategory",
    ),
    (
        {"task_type": "fillna", "strategy": "constant", "fill_value": "none"},
        {"x": ["1", "2", "", "4"]},
        "BadColumnType",
    ),
]


def test_what_a_task_cannot_do_is_refused_with_whose_column_it_is(workspace: Workspace) -> None:
    rows = {"alice": {"a": ["1", "2", "3", "4"]}}
    workspace.write("in.csv", rows | {"bob": {"x": ["a", "b", "a", "b"]}})
    for name in ("label", "onehot"):
        model = workspace.text("labels" if name == "label" else name)
        workspace.run(config(workspace, f"{name}_encoder", TWO, columns=["x"], model_output=model))
    for options, column, code in REFUSALS:
        workspace.write("in.csv", rows | {"bob": column})
        request = config(workspace, **{"parties": TWO, **options})
        if "model_path" in options:
            request["model_path"] = workspace.text(options["model_path"])
        else:
            request["columns"] = ["x"]
        execution = workspace.fail(request, code, "bob")
        assert execution.failures["alice"]["error"].startswith("bob: column 'x' of input_data ")


def test_typed_parquet_is_encoded_and_filled_as_pandas_reads_it(workspace: Workspace) -> None:
    typed = Frame(
        {
            "kind": pd.Categorical(["b", "a", None, "b"], categories=["b", "unused", "a"]),
            "number": pd.array([10, 9, None, 10], dtype="Int64"),
            "plain": [10, 9, 100, 9],
            "flag": [True, False, True, True],
            "day": [datetime.date(2024, 5, day) for day in (3, 1, 2, 3)],
            "price": [Decimal("1.50"), Decimal("10.00"), None, Decimal("9.25")],
            "code": ["007", "7", "007", None],
        }
    )
    path = workspace.path("alice", "in.parquet")
    path.parent.mkdir(parents=True)
    typed.to_parquet(path)
    workspace.write("in.csv", {"bob": {"b": ["1"] * 4}})
    paths = {"alice": workspace.text("in.parquet"), "bob": workspace.text("in.csv")}
    outputs = {"alice": workspace.text("out.parquet"), "bob": workspace.text("out.csv")}
    request = config(workspace, "onehot_encoder", TWO) | {
        "input_data": paths,
        "output_data": outputs,
    }
    workspace.run(request | {"columns": ["kind", "plain", "flag", "day", "code"]})
    expected = pd.get_dummies(
        typed.astype({"kind": object, "flag": str, "plain": str, "day": str})[
            ["kind", "flag", "day", "code"]
        ],
        columns=["kind", "flag", "day", "code"],
        dummy_na=True,
    )
    output = frame(workspace, "alice", "out.parquet")
    dummies = [name for name in output if name.split("_")[0] in ("kind", "flag", "day", "code")]
    assert dummies == [name for name in expected if name not in ("flag_nan", "day_nan")]
    pd.testing.assert_frame_equal(output[dummies], expected[dummies].astype(np.int8))
    assert [name for name in output if name.startswith("plain")] == [
        "plain_9",
        "plain_10",
        "plain_100",
    ]

    fill = {
        "task_type": "fillna",
        "columns": ["number", "price", "kind"],
        "strategy": "most_frequent",
    }
    execution = workspace.run(request | fill)
    output = frame(workspace, "alice", "out.parquet")
    assert output.number.tolist() == [10, 9, 10, 10] and output.number.dtype == "Int64"
    assert output.kind.tolist() == ["b", "a", "b", "b"] and output.price.tolist() == [
        1.5,
        10.0,
        1.5,
        9.25,
    ]
    assert execution.results["alice"]["fill_value"] == {"number": 10, "price": 1.5, "kind": "b"}
    assert output.day.tolist() == typed.day.tolist() and output.flag.tolist() == typed.flag.tolist()

    encode = {"task_type": "label_encoder", "columns": ["kind", "number", "flag", "day", "code"]}
    workspace.run(request | encode)
    output = frame(workspace, "alice", "out.parquet")
    assert output.kind.fillna(-1).tolist() == [1, 0, -1, 1] and output.flag.tolist() == [1, 0, 1, 1]
    assert output.day.tolist() == [2, 0, 1, 2] and output.number.fillna(-1).tolist() == [
        1,
        0,
        -1,
        1,
    ]
    assert output.code.fillna(-1).tolist() == [0, 1, 0, -1] and output.plain.tolist() == [
        10,
        9,
        100,
        9,
    ]


def chain(workspace: Workspace) -> list[tuple[str, dict[str, Any]]]:
    """The five transformations in a row, with what each is told."""
    numbers = [name for names in COLUMNS["numbers"].values() for name in names if name != "height"]
    return [
        ("fillna", {"columns": [*numbers, "city", "grade"], "strategy": "most_frequent"}),
        ("label_encoder", {"columns": ["branch", "sort"]}),
        ("onehot_encoder", {"columns": ["city", "grade"], "max_categories": 3}),
        ("binning", {"columns": ["age", "ratio"], "n_bins": 4}),
        ("min_max_scaler", {"columns": ["visits", "income", "age"]}),
    ]


def chained(train: Frame, new: Frame) -> Frame:
    """The same chain by pandas and scikit-learn on one party's columns."""
    train, new = train.copy(), new.copy()

    def each(names: Sequence[str], transformer: Any) -> None:
        held = [name for name in names if name in train]
        first, second = (
            transformer.fit(train[held]).transform(part[held]) for part in (train, new)
        )
        if getattr(transformer, "categories_", None) and hasattr(transformer, "drop"):
            made = transformer.get_feature_names_out()
            train.drop(columns=held, inplace=True)
            new.drop(columns=held, inplace=True)
        else:
            made = held
        train[made], new[made] = first, second

    each(["age", "visits", "income", "ratio"], SimpleImputer(strategy="most_frequent"))
    each(["city", "grade"], SimpleImputer(strategy="most_frequent"))
    each(["branch", "sort"], OrdinalEncoder())
    each(["city", "grade"], OneHotEncoder(max_categories=3, sparse_output=False))
    for name in {"age", "ratio"} & set(train):
        _, edges = pd.qcut(train[name], 4, retbins=True, duplicates="drop")
        for part in (train, new):
            part[name] = pd.cut(part[name], [-np.inf, *edges[1:-1], np.inf]).cat.codes.astype(float)
    each(["visits", "income", "age"], MinMaxScaler())
    return new


def test_a_workflow_passes_tables_and_what_was_fitted_through_all_transformations(
    workspace: Workspace,
) -> None:
    workspace.write("train.csv", people(200, 3))
    workspace.write("test.csv", people(80, 4))
    steps: list[dict[str, Any]] = []
    tables: dict[str, Any] = {
        "fit": workspace.paths("train.csv"),
        "use": workspace.paths("test.csv"),
    }
    for task_type, options in chain(workspace):
        fit, use = f"fit_{task_type}", f"use_{task_type}"
        first = {"task_type": task_type, "input_data": tables["fit"], **options}
        model = {"step": fit, "output": "model_output"}
        second = {"task_type": task_type, "input_data": tables["use"], "model_path": model}
        steps += [{"name": fit, "task_config": first}, {"name": use, "task_config": second}]
        tables = {
            "fit": {"step": fit, "output": "output_data"},
            "use": {"step": use, "output": "output_data"},
        }
    steps[-1]["task_config"]["output_data"] = workspace.paths("out.csv")
    execution = workspace.run({"task_type": "workflow", "steps": steps})
    for party in TWO:
        expected = chained(*(frame(workspace, party, name) for name in ("train.csv", "test.csv")))
        output = frame(workspace, party, "out.csv")
        assert set(output) == set(expected)
        np.testing.assert_allclose(
            output[list(expected)].to_numpy(float), expected.to_numpy(float), atol=1e-6
        )
        assert [path.name for path in sorted(workspace.path(party, "").iterdir())] == [
            "out.csv", "test.csv", "train.csv",
        ]  # fmt: skip
    categories = execution.results["bob"]["steps"]["fit_onehot_encoder"]["categories"]
    assert set(categories) == {"grade"}


def test_a_split_keeps_the_shares_of_a_label_of_many_numbers(workspace: Workspace) -> None:
    rng = np.random.default_rng(7)
    label = [value if value < 13 else "" for value in rng.integers(0, 14, 300).tolist()]
    tables: dict[str, Table] = {
        "alice": {"row": list(range(300))},
        "bob": {"y": label, "row": list(range(300))},
    }
    request = {
        "task_type": "train_test_split",
        "input_data": workspace.write("in.csv", tables),
        "train_data": workspace.paths("train.csv"),
        "test_data": workspace.paths("test.csv"),
        "train_size": 0.6,
        "seed": 9,
        "stratify": {"party": "bob", "column": "y"},
    }
    workspace.run(request)
    groups = [
        13 if value == "" else value for value in label
    ]  # a missing one is a group of its own
    plain = train_test_split(groups, train_size=0.6, random_state=9, stratify=groups)
    for name, expected in zip(("train", "test"), plain):
        rows = [int(row) for row in workspace.read("bob", f"{name}.csv")["row"]]
        counts = np.bincount([groups[row] for row in rows], minlength=14)
        assert np.abs(counts - np.bincount(expected, minlength=14)).max() <= 1 and len(rows) == len(
            expected
        )
        assert [int(row) for row in workspace.read("alice", f"{name}.csv")["row"]] == rows


def test_splitting_and_encoding_send_no_category(workspace: Workspace) -> None:
    execution = workspace.run(fitting(workspace, "onehot_encoder"))
    names = json.dumps(execution.results["bob"]["output_columns"])
    assert "basalt" in names and "basalt" not in json.dumps(execution.results["alice"])
