"""The reference pages say what the code says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from scripts.reference import PAGES
from secretflow_task.task_dispatcher import TaskDispatcher

FOLDER = Path(__file__).parents[2] / "docs" / "reference"


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_that_of_make_reference(name: str) -> None:
    assert (FOLDER / f"{name}.md").read_text(encoding="utf-8") == PAGES[name](), "run `make reference`"


def test_every_page_is_generated() -> None:
    assert {path.stem for path in FOLDER.iterdir()} == set(PAGES)


def test_every_key_of_every_task_has_a_meaning() -> None:
    text = PAGES["requests"]()
    assert re.findall(r"^## `(\w+)`$", text, re.M) == TaskDispatcher.list_supported_tasks()
    rows = [
        re.split(r"(?<!\\) \| ", line.strip("| ")) for line in text.splitlines() if line.startswith("| `")
    ]
    assert len(rows) > 100
    assert [row for row in rows if len(row) != 4 or not row[3]] == []


def test_types_and_ranges_and_who_learns_what_are_told() -> None:
    text = PAGES["requests"]()
    psi = text.partition("## `psi`")[2].partition("\n## ")[0]
    assert "| `keys` | {party: list of string} | required | The columns to join on" in psi
    assert "| `protocol` | RR22 \\| ECDH \\| KKRT |  |" in psi
    assert "- bob: which of its own rows the other parties have too, and their number (id)" in psi
    assert "| `bucket_size` | integer from 2 to 1000 | 10 |" in text
    assert "| `train_size` | number above 0 below 1 |" in text
