"""The user guide: every example of its pages is run, and what they say comes out is what comes out.

In a page, ``bash`` blocks make tables below ``data/``, ``yaml`` blocks that begin with
``# NAME.yaml`` are requests, and a ``json alice`` block after one is a part of alice's result.
``text`` and ``sh`` are not run.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, Iterator

import pytest
import yaml

from tests.integration.bench import Bench, Execution
from tests.integration.cases import CASES

GUIDE = Path(__file__).parents[2] / "docs" / "user_guide"
CHINESE = ".zh-CN.md"
PAGES = sorted(path.name for path in GUIDE.glob("*.md"))
ENGLISH = [name for name in PAGES if not name.endswith(CHINESE)]
FOLLOWED = {
    "quick_start.md",
    "web_application.md",
}  # from beginning to end, in tests/e2e/test_guides.py
Block = tuple[str, str, str]


def page(name: str) -> str:
    """The text of a page."""
    return (GUIDE / name).read_text(encoding="utf-8")


def blocks(name: str) -> list[Block]:
    """``(language, party, content)`` of every code block of a page."""
    text = page(name)
    found = re.findall(r"^```(\w+) ?(\w*)\n(.*?)^```$", text, re.S | re.M)
    assert 2 * len(found) == len(
        re.findall(r"^\s*```", text, re.M)
    ), "a block has no language or no end"
    return found


def is_request(block: Block) -> bool:
    """Whether a block is a request that one could save and run."""
    return (
        block[0] == "yaml" and re.match(r"# [\w.-]+\.yaml$", block[2].splitlines()[0]) is not None
    )


def assert_part(expected: Any, actual: Any, where: str) -> None:
    """``expected`` is in ``actual``: every key that it names, lists whole, numbers to 1e-3."""
    if isinstance(expected, dict):
        assert isinstance(actual, dict) and set(expected) <= set(actual), where
        for key, value in expected.items():
            assert_part(value, actual[key], f"{where}.{key}")
    elif isinstance(expected, list):
        assert isinstance(actual, list) and len(expected) == len(actual), where
        for index, value in enumerate(expected):
            assert_part(value, actual[index], f"{where}[{index}]")
    elif float in (type(expected), type(actual)) and expected is not None:
        assert actual == pytest.approx(expected, rel=1e-3), where
    else:
        assert (type(actual), actual) == (type(expected), expected), where


@pytest.mark.parametrize(
    "actual",
    [
        {"n": 4},
        {"n": 3.1},
        {"n": True},
        {"n": None},
        {},
        {"n": 3, "x": {"a": [1.002]}},
        {"n": 3, "x": {"a": []}},
    ],
)
def test_another_result_than_that_of_the_page_is_noticed(actual: dict[str, Any]) -> None:
    said = {"n": 3, "x": {"a": [1.0]}}
    assert_part(said, {"n": 3, "x": {"a": [1.0009], "b": 1}, "y": 2}, "")
    with pytest.raises(AssertionError):
        assert_part(said, actual, "")


@pytest.fixture
def folder(bench: Bench) -> Iterator[Path]:
    """The folder that holds ``data``; what the test made there is gone afterwards."""
    before = set((bench.root / "data").rglob("*"))
    yield bench.root
    for path in sorted(set((bench.root / "data").rglob("*")) - before):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


@pytest.mark.engine
@pytest.mark.parametrize("name", sorted({*ENGLISH} - FOLLOWED))
def test_every_example_gives_what_its_page_says(bench: Bench, folder: Path, name: str) -> None:
    execution: Execution | None = None
    for block in blocks(name):
        language, party, content = block
        if language == "bash":
            subprocess.run(["bash", "-euc", content], cwd=folder, check=True, timeout=60)
        elif is_request(block):
            execution = bench.execute(yaml.safe_load(content))
            assert execution.succeeded, (content.splitlines()[0], execution.failures)
        elif language == "json" and party:
            assert execution is not None, "a result stands before the first request"
            assert_part(json.loads(content), execution.results[party], party)


@pytest.mark.parametrize("ending", [".md", CHINESE])
def test_the_index_leads_to_every_page_and_names_every_task_type(ending: str) -> None:
    text = page(f"index{ending}")
    others = [name.removesuffix(".md") + ending for name in ENGLISH if name != "index.md"]
    assert [name for name in others if f"({name})" not in text] == []
    assert [name for name in CASES if f"`{name}`" not in text] == []
