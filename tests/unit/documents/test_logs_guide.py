"""The guide to logs, and the configuration that collects them, name what is really logged."""

from __future__ import annotations

import json
import re
from datetime import datetime
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts.reference import log_actions
from secretflow_task.config.settings import Settings

ROOT = Path(__file__).parents[3]
PAGES = pytest.mark.parametrize("name", ["logs.md", "logs.zh-CN.md"])
COMMON = {
    "timestamp",
    "level",
    "action",
    "message",
    "execution_id",
    "task_request_id",
    "task_type",
    "party",
}
VECTOR: dict[str, Any] = yaml.safe_load((ROOT / "monitoring" / "logs" / "vector.yaml").read_text())
LABELS: dict[str, str] = VECTOR["sinks"]["loki"]["labels"]


@cache
def known_records() -> dict[str, log_actions.Record]:
    """``{action: record}`` of all that our code logs."""
    return {record.action: record for record in log_actions.records()}


def page(name: str) -> str:
    """The text of a page."""
    return (ROOT / "docs" / "ops_guide" / name).read_text(encoding="utf-8")


def blocks(name: str, language: str) -> list[str]:
    """The lines of all code blocks of a language."""
    found = re.findall(rf"^```{language}\n(.*?)^```$", page(name), re.S | re.M)
    return [line for block in found for line in block.splitlines()]


def fields_of(action: str) -> set[str]:
    """All fields that a record may have."""
    return COMMON | set(known_records()[action].fields)


@PAGES
def test_the_records_of_the_guide_are_as_they_are_logged(name: str) -> None:
    records = [json.loads(line) for line in blocks(name, "json")]
    assert [record["action"] for record in records] == ["stage_ended", "execution_ended"]
    for record in records:
        known = known_records()[record["action"]]
        assert set(record) <= fields_of(record["action"])
        assert (record["level"], record["message"]) == (known.level, known.message)


@PAGES
def test_the_actions_and_settings_of_the_guide_exist(name: str) -> None:
    text, known = page(name), known_records()
    rows = re.findall(r"^\| `(\w+)` \|.*\| ((?:`\w+`(?:, |、)?)+) \|$", text, re.M)
    told = {action: set(re.findall(r"\w+", fields)) for action, fields in rows if action in known}
    assert set(told) == {"execution_started", "stage_ended", "execution_ended", "request_refused"}
    assert {action: set(known[action].fields) for action in told} == told
    assert set(re.findall(r"`(job_\w+)`", text)) == {
        name for name in known if name.startswith("job_")
    } - {"job_aborted"}
    variables = set(re.findall(r"SFWORKER_(\w+)", text))
    assert {variable.lower() for variable in variables} <= set(Settings.model_fields)
    defaults = re.findall(r"^\| `SFWORKER_(\w+)` \| `(\w+)` \|", text, re.M)
    assert len(defaults) == 4
    for variable, default in defaults:
        assert str(getattr(Settings(), variable.lower())).lower() == default.lower()


@PAGES
def test_the_queries_of_the_guide_use_labels_and_fields_that_exist(name: str) -> None:
    queries = blocks(name, "logql")
    assert len(queries) == 4
    for query in queries:
        labels = dict(re.findall(r'(\w+)="(\w+)"', query[query.index("{") : query.index("}")]))
        assert set(labels) <= set(LABELS) and labels["service"] == LABELS["service"]
        action = labels.get("action", "execution_ended")
        used = re.findall(r"\.(\w+)\}\}|unwrap (\w+)|\| (\w+)=\"", query)
        assert {field for fields in used for field in fields if field} <= fields_of(action)


@PAGES
def test_links_lead_somewhere(name: str) -> None:
    links = re.findall(r"\]\((?!https?://)([^)#]+)", page(name))
    assert len(links) == 3
    assert [link for link in links if not (ROOT / "docs" / "ops_guide" / link).is_file()] == []


def test_the_parts_of_the_collector_are_connected_from_the_files_to_loki() -> None:
    sources, transforms, sinks = VECTOR["sources"], VECTOR["transforms"], VECTOR["sinks"]
    assert sinks["loki"]["inputs"] == list(transforms)
    assert transforms["sfworker_records"]["inputs"] == list(sources)


def test_the_collector_labels_by_fields_of_every_record_and_by_no_id() -> None:
    used = {found for value in LABELS.values() for found in re.findall(r"{{ (\w+) }}", value)}
    assert used == {"host", "level", "action"}
    script = VECTOR["transforms"]["sfworker_records"]["source"]
    read = set(re.findall(r"(?<=\W)\.(\w+)", script))
    assert read == {"host", "message", "timestamp"}  # of Vector's own event, then of the record


@PAGES
def test_the_collector_reads_the_file_of_the_guide_and_none_that_was_renamed(name: str) -> None:
    (pattern,) = VECTOR["sources"]["sfworker_files"]["include"]
    (path,) = re.findall(r"SFWORKER_LOG_FILE=(\S+)", page(name))
    assert fnmatch(path, pattern) and not fnmatch(f"{path}.1", pattern)


@PAGES
def test_times_are_of_the_form_that_the_collector_reads(name: str) -> None:
    for line in blocks(name, "json"):
        assert datetime.strptime(json.loads(line)["timestamp"], "%Y-%m-%dT%H:%M:%S.%f%z").tzinfo
