"""The glossary: every class that it names exists, and both languages have the same terms."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

GUIDE = Path(__file__).parents[3] / "docs/developer_guide"


def rows(name: str) -> list[list[str]]:
    """The cells of each row below the head of the table."""
    lines = (GUIDE / name).read_text(encoding="utf-8").splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line[:1] == "|"]
    return cells[2:]


ENGLISH, CHINESE = rows("glossary.md"), rows("glossary.zh-CN.md")
CLASSES = [place.strip("`") for _, _, _, place in ENGLISH if place]


def test_both_languages_have_the_same_terms_and_classes() -> None:
    assert [(term, chinese, place) for term, chinese, _, place in ENGLISH] == [
        (term, chinese, place) for chinese, term, _, place in CHINESE
    ]
    assert all(meaning for row in (*ENGLISH, *CHINESE) for meaning in row[:3])


@pytest.mark.parametrize("place", CLASSES)
def test_a_class_that_the_glossary_names_exists(place: str) -> None:
    module, _, name = place.rpartition(".")
    assert isinstance(getattr(importlib.import_module(f"secretflow_task.{module}"), name), type)


def test_a_term_stands_for_one_thing() -> None:
    for column in zip(*((term, chinese) for term, chinese, _, _ in ENGLISH)):
        assert len(set(column)) == len(column)
    assert len(set(CLASSES)) == len(CLASSES) > 25


def test_no_two_classes_of_the_rooms_share_the_name_of_a_term() -> None:
    package = GUIDE.parents[1] / "src/secretflow_task"
    found = [
        name
        for room in ("broker", "contract", "engine", "jobs", "node")
        for path in (package / room).rglob("*.py")
        for name in re.findall(r"^class (\w+)", path.read_text(encoding="utf-8"), re.M)
    ]
    ours = {place.rpartition(".")[2] for place in CLASSES}
    assert [name for name in ours if found.count(name) != 1] == []
