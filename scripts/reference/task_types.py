"""The tables of task types of the README and of the user guide, in both languages."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, Iterator

import yaml

from scripts.reference.markdown import code, table
from secretflow_task.contract.task_dispatcher import TaskDispatcher


@cache
def families() -> list[dict[str, Any]]:
    """The pages of the user guide with their task types, from `task_types.yml`."""
    text = Path(__file__).with_suffix(".yml").read_text(encoding="utf-8")
    families: list[dict[str, Any]] = yaml.safe_load(text)
    return families


def english_types() -> Iterator[str]:
    """Every task type with the summary that it declares."""
    rows = []
    for family in families():
        for name in family["task_types"]:
            summary = TaskDispatcher.get(name).summary.removesuffix(".")
            rows.append((code(name), summary))
    yield from table("task type | what it does", rows)


def chinese_types() -> Iterator[str]:
    """The same in Chinese."""
    rows = []
    for family in families():
        for name, summary in family["task_types"].items():
            rows.append((code(name), summary))
    yield from table("任务类型 | 作用", rows)


def english_families() -> Iterator[str]:
    """The pages of the user guide, with the task types that each describes."""
    yield from table("page | task types | use", _families("en", ".md", ", "))


def chinese_families() -> Iterator[str]:
    """The same in Chinese."""
    yield from table("页面 | 任务类型 | 用途", _families("zh-CN", ".zh-CN.md", "、"))


def _families(language: str, ending: str, comma: str) -> Iterator[tuple[str, str, str]]:
    for family in families():
        link = f"[{family['title'][language]}]({family['page']}{ending})"
        names = comma.join(code(name) for name in family["task_types"])
        yield link, names, family["use"][language]
