"""Statistics across parties equal pandas, statsmodels and numpy; and who learns what."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from typing import Any, Sequence

import numpy as np
import pandas as pd
import pytest
from statsmodels.stats.outliers_influence import variance_inflation_factor
from statsmodels.tools import add_constant

from tests.data.tables import Table
from tests.integration.bench import Execution, Workspace
from tests.integration.test_who_learns_what import received

pytestmark = pytest.mark.engine

TWO = ("alice", "bob")
THREE = ("alice", "bob", "carol")
SPU = [
    {"protocol": "SEMI2K", "field": "FM64"},
    {"protocol": "SEMI2K", "field": "FM128"},
    {"protocol": "CHEETAH", "field": "FM64"},
    {"protocol": "CHEETAH", "field": "FM128"},
    {"protocol": "ABY3", "field": "FM64"},
    {"protocol": "ABY3", "field": "FM128"},
]


def spu_id(config: dict[str, str]) -> str:
    """The name of a parametrised protocol."""
    return f"{config['protocol']}-{config['field']}"


def parties_of(spu: dict[str, str]) -> tuple[str, ...]:
    """As many as the protocol takes."""
    return THREE if spu["protocol"] == "ABY3" else TWO


def dealt(frame: pd.DataFrame, parties: tuple[str, ...], seed: int = 5) -> dict[str, Table]:
    """The columns of a frame in shuffled order, dealt to the parties in turn."""
    names = np.random.default_rng(seed).permutation(list(frame.columns)).tolist()
    return {
        party: {name: frame[name].tolist() for name in names[at :: len(parties)]}
        for at, party in enumerate(parties)
    }


def skewed(rows: int = 300) -> pd.DataFrame:
    """Columns with skew, ties, heavy tails, and scales from 1e-9 to 1e9, some correlated."""
    rng = np.random.default_rng(3)
    base = rng.normal(size=rows)
    return pd.DataFrame(
        {
            "normal": base + 0.5 * rng.normal(size=rows),
            "lognormal": np.exp(2 * base),
            "count": rng.poisson(np.exp(0.5 * base)).astype(float),
            "flag": (base > 1).astype(float),
            "tiny": 1e-9 * (base + rng.normal(size=rows)),
            "large": 1e9 * (rng.normal(size=rows) - base),
            "offset": 1e9 + base + rng.normal(size=rows),
            "outlier": np.where(np.arange(rows) == 7, 1e6, rng.normal(size=rows)),
            "alone": rng.uniform(-5, -4, size=rows),
        }
    )


def statistic(
    workspace: Workspace, task_type: str, tables: dict[str, Table], **more: Any
) -> dict[str, Any]:
    """A request of a statistics task on tables that are written."""
    names = [name for table in tables.values() for name in table]
    return {
        "task_type": task_type,
        "input_data": workspace.write("in.csv", tables),
        "columns": sorted(names),
    } | more


def correlation(execution: Execution, party: str = "alice") -> pd.DataFrame:
    """The matrix of a result."""
    result = execution.results[party]
    return pd.DataFrame(result["correlation"], result["columns"], result["columns"])


def check_correlation(execution: Execution, frame: pd.DataFrame, tolerance: float = 1e-6) -> None:
    """All parties have pandas' matrix, whose diagonal is 1."""
    expected = frame[sorted(frame.columns)].corr()
    for party in execution.results:
        found = correlation(execution, party)
        pd.testing.assert_frame_equal(found, expected, rtol=0, atol=tolerance)
        assert np.diag(found).tolist() == [1.0] * len(found)
        assert (found == found.T).all(axis=None)


def run_correlation(workspace: Workspace) -> None:
    """The case of `test_extended_tasks`: skew, scales and offsets of any kind, with a report."""
    frame = skewed()
    request = statistic(workspace, "pearson_correlation", dealt(frame, TWO))
    report = workspace.text("r.json")
    execution = workspace.run(request | {"output_report": report})
    check_correlation(execution, frame)
    for party in TWO:
        result = execution.results[party]
        path = workspace.path(party, f"r.{party}.json")
        assert result["output_report"] == {party: str(path)}
        content = json.loads(path.read_text())
        assert content == {key: result[key] for key in ("columns", "correlation", "rows")}
        own = dealt(frame, TWO)[party]
        assert result["columns_used"] == [name for name in result["columns"] if name in own]


def test_columns_at_one_party_only_are_correlated_too(workspace: Workspace) -> None:
    frame = skewed()[["normal", "count", "flag"]]
    tables = {"alice": {"uid": list(range(300))}, "bob": frame.to_dict("list")}
    request = statistic(workspace, "pearson_correlation", tables, columns=list(frame.columns))
    execution = workspace.run(request)
    expected = frame.corr()
    for party in TWO:
        pd.testing.assert_frame_equal(correlation(execution, party), expected, rtol=0, atol=1e-12)


@pytest.mark.matrix
@pytest.mark.parametrize("spu", SPU, ids=spu_id)
def test_the_correlation_holds_under_every_protocol_and_field(
    workspace: Workspace, spu: dict[str, str]
) -> None:
    frame = skewed()
    request = statistic(workspace, "pearson_correlation", dealt(frame, parties_of(spu)))
    check_correlation(workspace.run(request, spu_config=spu), frame)


@pytest.mark.matrix
@pytest.mark.parametrize("spu", [SPU[0], SPU[2], SPU[4]], ids=spu_id)
def test_fm64_holds_the_correlation_and_vif_of_a_hundred_thousand_rows(
    workspace: Workspace, spu: dict[str, str]
) -> None:
    """SecretFlow: its VIF is 0 there."""
    frame = skewed(100_000)
    tables = dealt(frame, parties_of(spu))
    check_correlation(
        workspace.run(statistic(workspace, "pearson_correlation", tables), spu_config=spu), frame
    )
    execution = workspace.run(statistic(workspace, "vif", tables), spu_config=spu)
    check_factors(execution, frame)


@pytest.mark.matrix
def test_a_hundred_columns_are_correlated_on_fm64(workspace: Workspace) -> None:
    rng = np.random.default_rng(9)
    values = (
        rng.standard_t(3, size=(5_000, 100))
        @ rng.normal(size=(100, 100))
        * rng.uniform(1e-9, 1e9, 100)
    )
    frame = pd.DataFrame(values, columns=[f"c{number:02d}" for number in range(100)])
    request = statistic(workspace, "pearson_correlation", dealt(frame, TWO))
    check_correlation(workspace.run(request, spu_config=SPU[0]), frame)


def check_factors(execution: Execution, frame: pd.DataFrame, tolerance: float = 1e-3) -> None:
    """All parties have the factors of statsmodels with a constant, and none is infinite."""
    scaled = add_constant(
        (frame - frame.mean()) / frame.std()
    )  # statsmodels itself needs it for such scales
    expected = {
        name: variance_inflation_factor(scaled.to_numpy(), at + 1)
        for at, name in enumerate(frame.columns)
    }
    for result in execution.results.values():
        assert result["vif"] == pytest.approx(expected, rel=tolerance)
        assert result["collinear"] == []


def run_vif(workspace: Workspace) -> None:
    """The case of `test_extended_tasks`: factors up to 1e4, of columns at both parties."""
    frame = skewed()
    frame["twin"] = (
        frame["normal"] - frame["alone"] + 0.01 * np.random.default_rng(1).normal(size=len(frame))
    )
    execution = workspace.run(statistic(workspace, "vif", dealt(frame, TWO)))
    check_factors(execution, frame)
    assert max(execution.results["bob"]["vif"].values()) > 5000


@pytest.mark.parametrize(
    "spu", [SPU[1], pytest.param(SPU[2], marks=pytest.mark.matrix)], ids=spu_id
)
def test_columns_that_determine_each_other_across_parties_have_no_finite_vif(
    workspace: Workspace, spu: dict[str, str]
) -> None:
    """SecretFlow: fixed-point noise makes any number of an infinite one."""
    frame = skewed()[["normal", "count", "tiny", "alone"]]
    frame["twin"] = 3 * frame["normal"] - 1e-3 * frame["count"] + 7
    alice, bob = ["normal", "alone"], ["twin", "tiny", "count"]
    tables = {
        party: frame[names].to_dict("list") for party, names in (("alice", alice), ("bob", bob))
    }
    execution = workspace.run(statistic(workspace, "vif", tables), spu_config=spu)
    rest = frame[["normal", "alone", "tiny", "count"]]
    expected = np.diag(np.linalg.inv(rest.corr()))
    for result in execution.results.values():
        assert result["collinear"] == ["count", "normal", "twin"]
        assert [result["vif"][name] for name in ("normal", "twin", "count")] == [None] * 3
        assert result["vif"]["alone"] == pytest.approx(expected[1], rel=1e-3)
        assert result["vif"]["tiny"] == pytest.approx(expected[2], rel=1e-3)


@pytest.mark.matrix
@pytest.mark.parametrize("spu", SPU, ids=spu_id)
def test_vif_holds_under_every_protocol_and_field(
    workspace: Workspace, spu: dict[str, str]
) -> None:
    frame = skewed()
    execution = workspace.run(
        statistic(workspace, "vif", dealt(frame, parties_of(spu))), spu_config=spu
    )
    check_factors(execution, frame)


@pytest.mark.parametrize(
    "cell, code", [("", "MissingValues"), ("nan", "MissingValues"), ("inf", "NonFiniteValues")]
)
@pytest.mark.parametrize("task_type", ["pearson_correlation", "vif"])
def test_a_missing_or_infinite_cell_is_refused_at_its_owner(
    workspace: Workspace, task_type: str, cell: str, code: str
) -> None:
    """SecretFlow: shares take it for 0."""
    tables = dealt(skewed()[["normal", "count", "flag"]], TWO)
    name = next(iter(tables["bob"]))
    tables["bob"][name][4] = cell
    execution = workspace.fail(statistic(workspace, task_type, tables), code, "bob")
    assert f"'{name}'" in execution.failures["alice"]["error"]


@pytest.mark.parametrize("task_type", ["pearson_correlation", "vif"])
def test_a_constant_column_is_refused_at_its_owner(workspace: Workspace, task_type: str) -> None:
    """SecretFlow: its correlations are 0 and its VIF is 350,000."""
    tables = dealt(skewed()[["normal", "count", "flag"]], TWO)
    tables["alice"]["same"] = [0.1] * 300
    execution = workspace.fail(statistic(workspace, task_type, tables), "ConstantColumn", "alice")
    assert "'same'" in execution.failures["bob"]["error"]


def test_as_many_columns_as_rows_are_refused_since_cells_could_be_solved_for(
    workspace: Workspace,
) -> None:
    tables = dealt(skewed(9), TWO)
    workspace.fail(statistic(workspace, "pearson_correlation", tables), "TooFewRows", None)


def a_scorecard(rows: int = 1200) -> tuple[pd.DataFrame, pd.Series]:
    """Features with ties, skew, gaps and text, and a label that some bins never have."""
    rng = np.random.default_rng(21)
    risk = rng.normal(size=rows)
    label = pd.Series((rng.random(rows) < 1 / (1 + np.exp(2.2 - 1.5 * risk))).astype(int))
    frame = pd.DataFrame(
        {
            "age": rng.integers(18, 70, rows).astype(float),
            "income": np.exp(10 - 0.5 * risk + rng.normal(size=rows)),
            "usage": risk + 0.3 * rng.normal(size=rows),
            "flag": (rng.random(rows) < 0.03 + 0.1 * (risk > 0.5)).astype(float),
            "gap": np.where(rng.random(rows) < 0.1 + 0.2 * label, np.nan, rng.normal(size=rows)),
            "city": rng.choice(["Wuhan", "Lhasa", "Xi'an", "a, b"], rows, p=[0.5, 0.3, 0.15, 0.05]),
            "pure": np.where(label == 1, rng.integers(0, 2, rows), rng.integers(0, 4, rows)).astype(
                float
            ),
        }
    )
    frame.loc[rng.random(rows) < 0.07, "city"] = None
    return frame, label


def weighed(codes: pd.Series, label: pd.Series) -> tuple[list[dict[str, float]], list[float]]:
    """``(figures of every bin in order, the missing last; WOE of every row)``, cell by cell."""
    order = [*sorted(codes.dropna().unique()), *([None] if codes.isna().any() else [])]
    bins, of_bin = [], {}
    for code in order:
        inside = label[codes.isna() if code is None else codes == code]
        good, bad = int(inside.sum()), int((1 - inside).sum())
        more = 0.5 if good == 0 or bad == 0 else 0.0
        share, other = (good + more) / label.sum(), (bad + more) / (1 - label).sum()
        woe = math.log(share / other)
        bins.append(
            {"rows": len(inside), "positives": good, "woe": woe, "iv": (share - other) * woe}
        )
        of_bin[code] = woe
    return bins, [of_bin[None if pd.isna(code) else code] for code in codes]


def quantile_codes(frame: pd.DataFrame, n_bins: int) -> pd.DataFrame:
    """Every cell's bin by pandas; few-valued columns are their own bins."""
    plain = frame[["flag", "pure", "city"]]
    cut = {
        name: pd.qcut(frame[name], n_bins, labels=False)
        for name in ("age", "income", "usage", "gap")
    }
    return pd.DataFrame({**plain, **cut})[list(frame)]


def range_codes(frame: pd.DataFrame, n_bins: int) -> pd.DataFrame:
    """Every cell's bin by pandas, text by itself."""
    cut = {name: pd.cut(frame[name], n_bins, labels=False) for name in frame if name != "city"}
    return pd.DataFrame({**cut, "city": frame["city"]})[list(frame)]


def scorecard(
    workspace: Workspace, frame: pd.DataFrame, label: Sequence[Any], label_party: str, **more: Any
) -> dict[str, Any]:
    """A `woe_iv` with columns in shuffled order at both parties and the label at one of them."""
    text = frame.astype(object).where(frame.notna(), "")
    tables = dealt(text, TWO)
    tables[label_party] = {"y": list(label), **tables[label_party]}
    return {
        "task_type": "woe_iv",
        "input_data": workspace.write("in.csv", tables),
        "columns": list(frame.columns),
        "label": "y",
        "n_bins": 8,
    } | more


def check_woe(
    execution: Execution, codes: pd.DataFrame, label: pd.Series, label_party: str
) -> None:
    """Owners have exactly their own bins; only the label's party has all information values."""
    expected = {name: weighed(codes[name], label)[0] for name in codes}
    tables = dealt(codes, TWO)
    for party, result in execution.results.items():
        assert set(result["woe"]) == set(tables[party])
        for name, figures in result["woe"].items():
            found = [
                {key: row[key] for key in ("rows", "positives", "woe", "iv")}
                for row in figures["bins"]
            ]
            assert found == [
                pytest.approx(row, rel=1e-9, abs=1e-12) for row in expected[name]
            ], name
            assert figures["iv"] == pytest.approx(sum(row["iv"] for row in expected[name]))
        assert ("iv" in result) == (party == label_party)
    values = {name: sum(row["iv"] for row in rows) for name, rows in expected.items()}
    assert execution.results[label_party]["iv"] == pytest.approx(values, rel=1e-9)


def run_woe(workspace: Workspace, label_party: str) -> None:
    """The case of `test_extended_tasks`: quantile bins, gaps, text, and the tables as WOE."""
    frame, label = a_scorecard()
    request = scorecard(
        workspace, frame, label, label_party, output_data=workspace.paths("out.csv")
    )
    execution = workspace.run(request)
    codes = quantile_codes(frame, 8)
    check_woe(execution, codes, label, label_party)
    for party in TWO:
        table = workspace.read(party, "out.csv")
        for name in dealt(frame, TWO)[party]:
            woe = weighed(codes[name], label)[1]
            np.testing.assert_allclose(np.array(table[name], dtype=float), woe, rtol=1e-9)
    assert workspace.read(label_party, "out.csv")["y"] == [str(value) for value in label]
    figures = execution.results["alice"]["woe"] | execution.results["bob"]["woe"]
    assert figures["flag"]["split_points"] == [0.0]
    assert any(row["positives"] == 0 for row in figures["pure"]["bins"])  # the half rows are tested
    assert figures["gap"]["bins"][-1]["bin"] is None and figures["gap"]["bins"][-1]["iv"] > 0.01


def test_woe_is_exact_with_the_label_at_bob(workspace: Workspace) -> None:
    run_woe(workspace, "bob")


def test_a_label_may_be_text_and_equal_ranges_may_be_empty(workspace: Workspace) -> None:
    frame, label = a_scorecard()
    words = ["bad, late" if value else "paid" for value in label]
    options = {"method": "eq_range", "positive_value": "bad, late", "min_bin_rows": 1}
    execution = workspace.run(scorecard(workspace, frame, words, "bob", **options))
    check_woe(execution, range_codes(frame, 8), label, "bob")


@pytest.mark.matrix
@pytest.mark.parametrize("label_party", TWO)
@pytest.mark.parametrize("spu", SPU[:4], ids=spu_id)
def test_woe_is_exact_under_every_protocol_and_field(
    workspace: Workspace, spu: dict[str, str], label_party: str
) -> None:
    frame, label = a_scorecard()
    execution = workspace.run(scorecard(workspace, frame, label, label_party), spu_config=spu)
    check_woe(execution, quantile_codes(frame, 8), label, label_party)


@pytest.mark.matrix
@pytest.mark.parametrize("spu", SPU[4:], ids=spu_id)
def test_woe_of_three_parties_is_exact(workspace: Workspace, spu: dict[str, str]) -> None:
    frame, label = a_scorecard()
    tables = dealt(frame[["age", "usage", "flag", "pure"]], ("bob", "carol"))
    tables = {"alice": {"y": label.tolist()}, **tables}
    request = {
        "task_type": "woe_iv",
        "input_data": workspace.write("in.csv", tables),
        "columns": ["age", "usage", "flag", "pure"],
        "label": "y",
        "n_bins": 8,
    }
    execution = workspace.run(request, spu_config=spu)
    codes = quantile_codes(frame, 8)
    for party in ("bob", "carol"):
        assert set(execution.results[party]["woe"]) == set(tables[party])
        for name, figures in execution.results[party]["woe"].items():
            rows = [(row["rows"], row["positives"]) for row in figures["bins"]]
            assert rows == [
                (row["rows"], row["positives"]) for row in weighed(codes[name], label)[0]
            ]
    assert execution.results["alice"]["woe"] == {}
    assert set(execution.results["alice"]["iv"]) == {"age", "usage", "flag", "pure"}


@pytest.mark.matrix
@pytest.mark.parametrize("spu", [SPU[0], SPU[2]], ids=spu_id)
def test_counts_of_a_million_rows_are_exact(workspace: Workspace, spu: dict[str, str]) -> None:
    rng = np.random.default_rng(2)
    rows = 1_000_000
    values, label = rng.integers(0, 5, rows), pd.Series((rng.random(rows) < 0.9).astype(int))
    tables = {"alice": {"y": label.tolist()}, "bob": {"x": values.tolist()}}
    request = {
        "task_type": "woe_iv",
        "input_data": workspace.write("in.csv", tables),
        "columns": ["x"],
    }
    execution = workspace.run(
        request | {"label": "y", "method": "eq_range", "n_bins": 5}, spu_config=spu
    )
    found = [
        (row["rows"], row["positives"]) for row in execution.results["bob"]["woe"]["x"]["bins"]
    ]
    expected = label.groupby(values).agg(["size", "sum"])
    assert found == list(expected.itertuples(index=False, name=None))


def plain_chimerge(rows: list[int], positives: list[int], n_bins: int) -> list[tuple[int, int]]:
    """SecretFlow's own kernel in its own process: ``[(rows, positives)]`` of the bins left."""
    script = (
        "import json, sys\n"
        "from secretflow.preprocessing.binning.kernels.chi_merge import chi_merge\n"
        "from scipy.stats import chi2\n"
        "bins, n = json.load(sys.stdin)\n"
        "merged = chi_merge([tuple(b) for b in bins], n, chi2.ppf(0.9, df=1))[0]; "
        "print('RESULT', json.dumps(merged))"
    )
    told = json.dumps([list(zip(rows, positives)), n_bins])
    done = subprocess.run(
        [sys.executable, "-c", script], input=told, capture_output=True, text=True, check=True
    )
    return [tuple(row) for row in json.loads(done.stdout.split("RESULT ")[1])]


@pytest.mark.matrix
def test_chimerge_joins_as_secretflow_does_and_counts_the_bins_after_it(
    workspace: Workspace,
) -> None:
    """SecretFlow: it cuts the other party's IV by the bins before they were merged."""
    frame, label = a_scorecard(6000)
    frame = frame[["income", "usage", "gap", "city"]]
    execution = workspace.run(
        scorecard(workspace, frame, label, "alice", method="chimerge", n_bins=6)
    )
    figures = execution.results["alice"]["woe"] | execution.results["bob"]["woe"]
    for name in ("income", "usage", "gap"):
        codes = pd.qcut(frame[name], 100, labels=False)
        first = label.groupby(codes).agg(["size", "sum"])
        merged = plain_chimerge(first["size"].tolist(), first["sum"].tolist(), 6)
        found = [
            (row["rows"], row["positives"])
            for row in figures[name]["bins"]
            if row["bin"] is not None
        ]
        assert found == merged and len(found) == len(figures[name]["split_points"]) + 1 < 100
        table, _ = weighed(
            pd.cut(frame[name], [-np.inf, *figures[name]["split_points"], np.inf], labels=False),
            label,
        )
        assert execution.results["alice"]["iv"][name] == pytest.approx(
            sum(row["iv"] for row in table)
        )


def people(rows: int = 80) -> pd.DataFrame:
    """The columns of the plan's request: ages with ties, skewed incomes with gaps, and a text."""
    rng = np.random.default_rng(8)
    income = np.exp(rng.normal(10, 1, rows)).round(2)
    income[::9] = np.nan
    education = rng.choice(["BSc", "MSc", "PhD, MD"], rows).astype(object)
    education[::13] = None
    return pd.DataFrame(
        {"age": rng.integers(18, 90, rows), "income": income, "education": education}
    )


def as_table(frame: pd.DataFrame) -> Table:
    """A frame as cells, empty where it has none."""
    return {name: ["" if pd.isna(cell) else cell for cell in frame[name]] for name in frame}


def run_statistics(workspace: Workspace) -> None:
    """The case of `test_core_tasks`: the plan's request, of one party alone."""
    frame = people()
    request = {
        "task_type": "table_statistics",
        "input_data": workspace.write("in.csv", {"alice": as_table(frame)}),
        "columns": ["age", "income", "education"],
        "output_report": workspace.text("stats.json"),
    }
    execution = workspace.run(request)
    result = execution.results["alice"]
    assert set(execution.results) == {"alice"}
    assert (list(result["statistics"]), list(result["categories"])) == (
        ["age", "income"],
        ["education"],
    )
    assert result["columns_used"] == ["age", "income", "education"]
    report = json.loads(workspace.path("alice", "stats.json").read_text())
    assert report == {key: result[key] for key in ("statistics", "categories", "rows")}


@pytest.mark.parametrize("share", [False, True])
def test_each_owner_has_its_own_statistics_and_with_share_all_have_all(
    workspace: Workspace, share: bool
) -> None:
    """The tables need not be aligned."""
    frames = {
        "alice": people(80),
        "bob": pd.DataFrame({"debt": [1.5, 2.5, 10.0], "town": ["x", "y", "x"]}),
    }
    tables = {party: as_table(frame) for party, frame in frames.items()}
    request = {
        "task_type": "table_statistics",
        "input_data": workspace.write("in.csv", tables),
        "ids": {},
        "share": share,
    }
    execution = workspace.run(request, sf_init_config={"parties": THREE})
    for party in THREE:
        result = execution.results[party]
        shown = list(frames) if share else [party] if party in frames else []
        numbers = {name for owner in shown for name in frames[owner].select_dtypes("number")}
        assert set(result["statistics"]) == numbers
        assert set(result["categories"]) == {name for o in shown for name in frames[o]} - numbers
        for owner in shown:
            for name in set(frames[owner]) & numbers:
                column, found = frames[owner][name], result["statistics"][name]
                assert found["mean"] == pytest.approx(column.mean(), rel=1e-9)
                assert found["kurtosis"] == (
                    pytest.approx(column.kurtosis(), rel=1e-9) if len(column) > 3 else None
                )


@pytest.mark.matrix
def test_statistics_are_those_of_secretflow_but_for_its_overflow_of_whole_numbers(
    workspace: Workspace,
) -> None:
    """The powers of its int64 columns wrap around without an error."""
    frame = people()
    frame["amount"] = frame["age"] * 10_007
    path = workspace.write("in.csv", {"alice": as_table(frame)})
    script = (
        "import sys, pandas as pd\n"
        "from secretflow.stats import table_statistics, categorical_statistics\n"
        "frame = pd.read_csv(sys.argv[1])\n"
        "for table in (table_statistics(frame), categorical_statistics(frame)):\n"
        "    print('RESULT', table.astype(str).to_json(orient='index'))"
    )
    command = [sys.executable, "-c", script, str(workspace.path("alice", "in.csv"))]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    numbers, texts = (
        json.loads(line.split(" ", 1)[1]) for line in re.findall(r"^RESULT.*$", told, re.M)
    )
    result = workspace.run(
        {"task_type": "table_statistics", "input_data": path, "ids": {}}
    ).results["alice"]
    wrong = set()
    for name, figures in {**numbers, **texts}.items():
        own = {**result["statistics"], **result["categories"]}[name]
        for key, value in figures.items():
            found = own[re.sub(r"\(.*", "", key)]
            if found != (
                value if isinstance(found, str) else pytest.approx(float(value), rel=1e-9)
            ):
                wrong.add((name, key))
    assert wrong == {("amount", "moment_4"), ("amount", "sum_3"), ("amount", "sum_4")}
    exact = sum(int(value) ** 4 for value in frame["amount"])
    assert result["statistics"]["amount"]["sum_4"] == pytest.approx(exact, rel=1e-12)


SHARES = {
    "{",  # what the parties agree on: names, rows, numbers of bins
    "None",
    "SPUIOInfo",
    "SPUValueMeta",
    "ShapeDtypeStruct",
    "<spu.libspu.Executable",
    "b",
    "",
    "0",
    "1",
    "2",
}


def shown_to(workspace: Workspace, execution: Execution, party: str) -> str:
    """All that a party's process logged, received and reported."""
    events = "".join(event.to_json() for event in execution.events[party])
    return workspace.bench.log_of(execution, party) + events


def appears(value: float, text: str) -> bool:
    """Whether a number is in a text, whole or cut to nine digits."""
    return f"{value:.9g}"[:-1] in text


def without(values: list[float], others: list[float]) -> list[float]:
    """The values that are not among the others, and not 0."""
    return [
        value
        for value in values
        if value and not np.isclose(value, others, rtol=1e-9, atol=0).any()
    ]


def test_statistics_that_are_not_shared_never_leave_their_owner(workspace: Workspace) -> None:
    tables = dealt(skewed()[["normal", "lognormal", "alone", "tiny"]], TWO)
    execution = workspace.run(statistic(workspace, "table_statistics", tables))
    for party, other in (TWO, TWO[::-1]):
        text = shown_to(workspace, execution, party)
        assert received(workspace, execution, party) <= {"None", "{"}  # the names of the columns
        figures = [
            value
            for row in execution.results[other]["statistics"].values()
            for value in row.values()
        ]
        fractions = [value for value in figures if isinstance(value, float) and value % 1]
        assert len(fractions) > 30 and not [value for value in fractions if appears(value, text)]


def test_correlation_shows_the_matrix_and_no_cell(workspace: Workspace) -> None:
    frame = skewed()[["normal", "lognormal", "alone", "tiny"]]
    tables = dealt(frame, TWO)
    execution = workspace.run(statistic(workspace, "pearson_correlation", tables))
    units = (frame - frame.mean()) / frame.std(ddof=0) / math.sqrt(len(frame))
    for party, other in (TWO, TWO[::-1]):
        text = shown_to(workspace, execution, party)
        assert received(workspace, execution, party) <= SHARES | {"array"}
        arrays = re.findall(r"RECEIVED array\((.*?)\)\n", text, re.S)
        assert len(arrays) <= 2  # the other's own block, and the block of both
        cells = [
            cell
            for name in tables[other]
            for cell in (*frame[name], *units[name], *(1024 * units[name]))
        ]
        assert len(cells) == 1800 and not [cell for cell in cells if appears(cell, text)]


@pytest.mark.parametrize("method", ["quantile", "chimerge"])
def test_woe_shows_the_label_party_no_bins_and_the_others_no_label(
    workspace: Workspace, method: str
) -> None:
    frame, label = a_scorecard()
    request = scorecard(workspace, frame, label, "alice", method=method)
    execution = workspace.run(request)
    tables = dealt(frame, TWO)
    of_alice, of_bob = (shown_to(workspace, execution, party) for party in TWO)
    bob = execution.results["bob"]["woe"]
    assert received(workspace, execution, "alice") <= SHARES  # and a dict of information values
    assert received(workspace, execution, "bob") <= SHARES | {"array"}
    width = sum(len(figures["bins"]) for figures in bob.values()) if method == "quantile" else 320
    arrays = re.findall(r"RECEIVED array\((.*?)\)\n", of_bob, re.S)
    assert (
        sum(array.count(",") for array in arrays) <= width
    )  # the positive rows of bins and nothing of a row
    told = re.findall(r"RECEIVED (\{'[a-z].*?\})\n", of_alice)
    assert [json.loads(text.replace("'", '"')) for text in told] == [
        {name: figures["iv"] for name, figures in bob.items()}
    ]
    secrets = [point for figures in bob.values() for point in figures["split_points"] if point % 1]
    secrets += [row["woe"] for figures in bob.values() for row in figures["bins"]]
    own = [
        row["woe"]
        for figures in execution.results["alice"]["woe"].values()
        for row in figures["bins"]
    ]
    # Bins of both that happen to have the same counts have the same WOE.
    secrets, own = without(secrets, own), without(own, secrets)
    assert len(secrets) > 20 and not [value for value in secrets if appears(value, of_alice)]
    others = own + [
        cell
        for name in tables["alice"]
        for cell in frame[name]
        if isinstance(cell, float) and cell % 1
    ]
    assert len(others) > 1000 and not [value for value in others if appears(value, of_bob)]
    assert "iv" not in execution.results["bob"]


def test_a_text_that_names_rows_would_tell_labels_and_is_refused(workspace: Workspace) -> None:
    frame, label = a_scorecard(60)
    frame = pd.DataFrame({"usage": frame["usage"], "name": [f"n{row}" for row in range(60)]})
    request = scorecard(workspace, frame, label, "alice")
    owner = "bob" if "name" in dealt(frame, TWO)["bob"] else "alice"
    workspace.fail(request, "TooFewRows", owner)
