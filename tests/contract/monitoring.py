"""The files of monitoring/ as the tests read them, and what a PromQL expression names."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Iterator, Mapping

import promql_parser as promql
import yaml

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "monitoring"
OF_PROMETHEUS = {
    "up": {"job", "instance"},
    "scrape_duration_seconds": {"job", "instance"},
    "ALERTS": {"alertname", "alertstate", "severity", "instance"},
}
_DURATION = re.compile(r"(?<![\w.])(\d+)(ms|s|m|h|d)\b")
_MILLISECONDS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


def program(*names: str) -> str | None:
    """The first of these programs that is installed (Debian: prometheus-alertmanager)."""
    return next((path for path in map(shutil.which, names) if path), None)


def faster(text: str, factor: int) -> str:
    """A configuration or rule file with every duration in it divided, and nothing else changed."""

    def divide(found: re.Match[str]) -> str:
        return f"{round(int(found[1]) * _MILLISECONDS[found[2]] / factor)}ms"

    return _DURATION.sub(divide, text)


def rules(path: str) -> list[dict[str, Any]]:
    """The rules of all groups of a file."""
    groups = yaml.safe_load((FOLDER / path).read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


RECORDED = {rule["record"]: rule["expr"] for rule in rules("rules/sfworker.yml")}
ALERTS = {rule["alert"]: rule for rule in rules("alerts/sfworker.yml")}


def dashboards() -> dict[str, dict[str, Any]]:
    """The dashboards by their file's name."""
    paths = (FOLDER / "grafana" / "dashboards").glob("*.json")
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in paths}


@dataclass(frozen=True)
class Use:
    """An expression, where it stands, and the labels that texts beside it show."""

    where: str
    expression: str
    labels: frozenset[str] = frozenset()


def uses() -> Iterator[Use]:
    """Every expression of rules, alerts and dashboards; ``$name`` is what a reader chooses."""
    for name, expression in RECORDED.items():
        yield Use(name, expression)
    for name, rule in ALERTS.items():
        shown = re.findall(r"\$labels\.(\w+)", " ".join(rule["annotations"].values()))
        yield Use(name, rule["expr"], frozenset(shown))
    for name, board in dashboards().items():
        for panel in board["panels"]:
            for target in panel["targets"]:
                shown = re.findall(r"{{(\w+)}}", target["legendFormat"])
                yield Use(f"{name}: {panel['title']}", target["expr"], frozenset(shown))
        for annotation in board["annotations"]["list"]:
            yield Use(f"{name}: {annotation['name']}", annotation["expr"])
        for variable in board["templating"]["list"]:
            if found := re.fullmatch(
                r"label_values\((\w+), (\w+)\)", variable.get("definition", "")
            ):
                yield Use(f"{name}: {variable['name']}", found[1], frozenset([found[2]]))


def selectors(expression: str) -> list[promql.VectorSelector]:
    """What an expression reads."""
    found: list[promql.VectorSelector] = []

    def visit(part: promql.Expr) -> None:
        if isinstance(part, promql.VectorSelector):
            found.append(part)

    promql.walk(promql.parse(expression), visit)
    return found


def labels_of(part: promql.Expr, known: Mapping[str, set[str]]) -> set[str]:
    """The labels of an expression's result; fails where a label is asked for that is not there."""
    if isinstance(part, promql.VectorSelector):
        assert part.name in known, f"no metric {part.name}"
        wanted = {matcher.name for matcher in part.matchers.matchers}
        assert wanted <= known[part.name], f"{part.name} has no {wanted - known[part.name]}"
        return known[part.name]
    if isinstance(part, promql.MatrixSelector):
        return labels_of(part.vector_selector, known)
    if isinstance(part, promql.AggregateExpr):
        inner = labels_of(part.expr, known)
        by = set(part.modifier.labels) if part.modifier else set()
        assert by <= inner, f"no {by - inner} in {part.expr}"
        return by
    if isinstance(part, promql.BinaryExpr):
        both = labels_of(part.lhs, known), labels_of(part.rhs, known)
        on = part.modifier.matching if part.modifier else None
        assert (
            not on or set(on.labels) <= both[0] & both[1]
        ), f"no {on.labels} on both sides of {part}"
        return both[0] or both[1]
    if isinstance(part, promql.Call):
        inner = set().union(*(labels_of(argument, known) for argument in part.args))
        return inner - {"le"} if part.func.name == "histogram_quantile" else inner
    if isinstance(part, (promql.ParenExpr, promql.UnaryExpr, promql.SubqueryExpr)):
        return labels_of(part.expr, known)
    assert isinstance(part, (promql.NumberLiteral, promql.StringLiteral)), part
    return set()
