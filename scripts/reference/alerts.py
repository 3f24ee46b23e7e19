"""The reference of all alerts and recorded series, from the rule files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Iterator

import yaml

_MONITORING = Path(__file__).parents[2] / "monitoring"
_HEAD = """\
# All alerts

`make reference` writes this page from `monitoring/alerts` and `monitoring/rules`; a test compares
them. The name of an alert leads to its section of the [runbook](../ops_guide/runbook.md).
Capitals stand for what is filled in.
"""
_RECORDED = """\
## Recorded series

Dashboards and alerts read these; the part before the first colon says which labels they have.
"""


def page() -> str:
    """The reference as Markdown."""
    alerts = (line for rule in _rules("alerts") for line in _alert(rule))
    recorded = (line for rule in _rules("rules") for line in _series(rule))
    return "\n".join([_HEAD, *alerts, _RECORDED, *recorded])


def _rules(folder: str) -> Iterator[dict[str, Any]]:
    for path in sorted((_MONITORING / folder).glob("*.yml")):
        for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]:
            yield from group["rules"]


def _alert(rule: dict[str, Any]) -> Iterator[str]:
    texts = rule["annotations"]
    yield f"## [{rule['alert']}]({texts['runbook'].replace('docs/', '../')})\n"
    held = f"after {rule['for']}" if "for" in rule else "at once"
    yield f"{_filled(texts['summary'])}. ({rule['labels']['severity']}, {held})\n"
    yield f"{_filled(texts['description'])}\n"
    yield _code(rule["expr"])


def _series(rule: dict[str, Any]) -> Iterator[str]:
    yield f"### `{rule['record']}`\n"
    yield _code(rule["expr"])


def _filled(text: str) -> str:
    """Without the language of templates: ``{{ $labels.queue }}`` becomes QUEUE."""
    return re.sub(r"{{.*?\$(?:labels\.)?(\w+).*?}}", lambda found: found[1].upper(), text)


def _code(expression: str) -> str:
    return f"```promql\n{expression.strip()}\n```\n"
