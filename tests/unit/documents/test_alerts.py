"""Rules, alerts, dashboards and runbook agree with each other."""

from __future__ import annotations

import re
from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Any

import promql_parser as promql
import pytest
import yaml
from typer.main import get_command

from scripts.dashboards import DASHBOARDS, page
from secretflow_task.cli import app
from secretflow_task.config.settings import Settings
from secretflow_task.contract.errors import error_classes
from tests.contract.monitoring import (
    ALERTS,
    FOLDER,
    RECORDED,
    ROOT,
    dashboards,
    faster,
    labels_of,
    selectors,
    uses,
)

OPS_GUIDE = ROOT / "docs" / "ops_guide"
LANGUAGES = ["", ".zh-CN"]
TESTS = yaml.safe_load((FOLDER / "tests" / "alerts.yml").read_text(encoding="utf-8"))["tests"]
# Of the families of bad requests and bad data, what the operator of a node mends all the same.
OF_OPERATORS = {
    "BadSetting",
    "VersionMismatch",
    "UnknownExecution",
    "OutputNotWritable",
    "ModelDamaged",
}


def page_of(name: str, language: str) -> str:
    """A page of the guide for operators."""
    return (OPS_GUIDE / f"{name}{language}.md").read_text(encoding="utf-8")


def metrics_of(expression: str) -> set[str]:
    """The metrics behind an expression, through recorded ones."""
    names = {str(selector.name) for selector in selectors(expression)}
    recorded = names & set(RECORDED)
    return names - recorded | {metric for name in recorded for metric in metrics_of(RECORDED[name])}


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_says_how_bad_it_is_what_is_wrong_and_where_to_read_on(name: str) -> None:
    rule = ALERTS[name]
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert set(rule["annotations"]) == {"summary", "description", "runbook"}
    assert rule["annotations"]["runbook"] == f"docs/ops_guide/runbook.md#{name.lower()}"


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_runbook_has_a_section_for_each_alert(language: str) -> None:
    assert re.findall(r"^## (Sfworker\w+)$", page_of("runbook", language), re.M) == list(ALERTS)


@pytest.mark.parametrize("name", ["runbook", "monitoring"])
def test_both_languages_of_a_page_show_the_same_commands_and_names(name: str) -> None:
    english, chinese = (
        Counter(re.findall(r"```.*?```|`[^`]+`", page_of(name, each), re.S)) for each in LANGUAGES
    )
    assert english == chinese


@pytest.mark.parametrize("language", LANGUAGES)
def test_what_the_pages_name_exists(language: str) -> None:
    text = page_of("runbook", language) + page_of("monitoring", language)
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "src").rglob("*.py"))
    commands = get_command(app).commands  # type: ignore[attr-defined]
    assert set(re.findall(r"(?:`|^ *)sfworker ([a-z]+)", text, re.M)) <= set(commands)
    assert set(re.findall(r"SFWORKER_([A-Z_]+)", text)) <= {
        name.upper() for name in Settings.model_fields
    }
    assert set(re.findall(r"[a-z_]+:sfworker_[\w:]+", text)) <= set(RECORDED)
    assert all(f'action="{name}"' in sources for name in re.findall(r"`([a-z]+_[a-z_]+)`", text))
    assert all((ROOT / path).exists() for path in re.findall(r"\bmonitoring/[\w./]+\b", text))
    codes = re.findall(r"^\| (`[A-Z].*?) \|", text, re.M)
    assert len(codes) > 10 and set(re.findall(r"\w+", " ".join(codes))) <= set(error_classes())


@pytest.mark.parametrize(
    "path",
    [*OPS_GUIDE.glob("[mr]*.md"), ROOT / "docs" / "reference" / "alerts.md"],
    ids=lambda path: path.name,
)
def test_a_link_leads_to_a_page_and_its_section(path: Path) -> None:
    links = re.findall(r"\]\(([^)#]*)#?([^)]*)\)", path.read_text(encoding="utf-8"))
    assert links
    for target, section in links:
        text = (path.parent / (target or path.name)).read_text(encoding="utf-8")
        assert not section or section in re.findall(r"^## (\w+)$", text.lower(), re.M)


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_panels_that_the_runbook_names_exist(language: str) -> None:
    titles = {panel["title"] for board in dashboards().values() for panel in board["panels"]}
    named = set(re.findall(r'"([^"]+)"', page_of("runbook", language)))
    assert len(named) > 5 and named <= titles


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_is_tried_before_while_and_after_it_fires(name: str) -> None:
    (tried,) = (test for test in TESTS if test["name"] == name)
    cases: list[dict[str, Any]] = tried["alert_rule_test"]
    assert {case["alertname"] for case in cases} == {name}
    assert [len(case.get("exp_alerts", [])) for case in cases] == [0, 1, 0]
    inputs = {re.split("{", series["series"])[0] for series in tried["input_series"]}
    assert inputs >= metrics_of(ALERTS[name]["expr"])


def counts(selector: promql.VectorSelector, labels: dict[str, str]) -> bool:
    """Whether a selector takes in a series with these labels."""
    for matcher in selector.matchers.matchers:
        is_one_of_them = labels.get(matcher.name, "") in matcher.value.split("|")
        leaves_out = matcher.op in (promql.MatchOp.NotEqual, promql.MatchOp.NotRe)
        if is_one_of_them is leaves_out:
            return False
    return True


def test_failures_that_are_not_the_operators_are_those_of_requests_and_data() -> None:
    *faults, _ = selectors(RECORDED["instance:sfworker_executions_faults:sum"])
    counted: set[str] = set()
    mended: set[str] = {"TaskCancelled"}
    for code, kind in error_classes().items():
        family = kind("").family
        labels = {"outcome": "failure", "error_type": family, "code": code}
        if any(counts(selector, labels) for selector in faults):
            counted.add(code)
        if family in {"RequestError", "DataError"} and code not in OF_OPERATORS:
            mended.add(code)
    assert counted == set(error_classes()) - mended


@pytest.mark.parametrize("name", DASHBOARDS)
def test_a_dashboard_is_that_of_make_reference(name: str) -> None:
    path = FOLDER / "grafana" / "dashboards" / f"{name}.json"
    assert path.read_text(encoding="utf-8") == page(name), "run `make reference`"


def test_every_dashboard_is_generated_and_has_an_address_of_its_own() -> None:
    boards = dashboards()
    assert set(boards) == set(DASHBOARDS)
    assert len({board["uid"] for board in boards.values()}) == len(boards)


@pytest.mark.parametrize("name", DASHBOARDS)
def test_panels_stand_side_by_side_and_ask_the_chosen_data_source(name: str) -> None:
    board = dashboards()[name]
    cells = [
        {
            (position["x"] + x, position["y"] + y)
            for x in range(position["w"])
            for y in range(position["h"])
        }
        for position in (panel["gridPos"] for panel in board["panels"])
    ]
    assert not any(one & other for one, other in combinations(cells, 2))
    assert max(x for panel in cells for x, _ in panel) < 24
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    asked = [panel["datasource"] for panel in board["panels"]]
    asked += [target["datasource"] for panel in board["panels"] for target in panel["targets"]]
    assert all(source == {"type": "prometheus", "uid": "${datasource}"} for source in asked)
    for panel in board["panels"]:
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"]) > 0
        assert panel["fieldConfig"]["defaults"]["unit"] in {"none", "s", "bytes", "percentunit"}


@pytest.mark.parametrize("name", DASHBOARDS)
def test_a_dashboard_declares_the_variables_that_it_uses(name: str) -> None:
    board = dashboards()[name]
    declared = {variable["name"] for variable in board["templating"]["list"]}
    used = {
        word
        for use in uses()
        if use.where.startswith(f"{name}:")
        for word in re.findall(r"\$(\w+)", use.expression)
    }
    assert used - {"__rate_interval"} == declared - {"datasource"}


@pytest.mark.parametrize(
    "path",
    [
        "prometheus.yml",
        "rules/sfworker.yml",
        "alerts/sfworker.yml",
        "alertmanager/alertmanager.yml",
    ],
)
def test_a_file_made_faster_differs_in_its_durations_alone(path: str) -> None:
    """The tests that see alerts fire do so on files of which only this has changed."""
    text = (FOLDER / path).read_text(encoding="utf-8")
    slow, fast = faster(text, 1), faster(text, 60)
    durations = [
        [int(found) for found in re.findall(r"\b(\d+)ms\b", each)] for each in (slow, fast)
    ]
    assert durations[0] and durations[1] == [round(slowly / 60) for slowly in durations[0]]
    words = [re.sub(r"\b\d+(ms|s|m|h|d)\b", "DURATION", each) for each in (text, slow, fast)]
    assert words[0] == words[1] == words[2]


@pytest.mark.parametrize(
    "expression",
    [
        "c",
        "rate(c[5m])",
        'a{y="1"}',
        "sum by (y) (a)",
        "sum by (le, x) (histogram_quantile(0.5, a))",
        "a / on (x) b",
    ],
)
def test_a_name_that_is_not_exported_is_found(expression: str) -> None:
    """The test on a running node can fail."""
    with pytest.raises(AssertionError):
        labels_of(promql.parse(expression), {"a": {"x", "le"}, "b": {"y"}})
