"""Someone who follows a guide literally gets to its end."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest

from secretflow_task.utils.network import free_ports
from tests.e2e.pages import DOCS, follow

pytestmark = [pytest.mark.engine, pytest.mark.timeout(300)]


@pytest.fixture
def port() -> str:
    """A port that is free here."""
    return str(free_ports(1)[0])


def test_the_quick_start_ends_with_two_jobs_done(tmp_path: Path, port: str) -> None:
    follow("user_guide/quick_start.md", tmp_path, {"6379": port})
    tables = {}
    for party in ("alice", "bob"):
        with (tmp_path / "data" / party / "common.csv").open(newline="") as file:
            tables[party] = list(csv.DictReader(file))
    keys = [row["customer"] for row in tables["alice"]]
    assert keys == [row["client"] for row in tables["bob"]] and len(set(keys)) == 500
    report = json.loads((tmp_path / "data/bob/correlation.bob.json").read_text())
    assert report["columns"] == ["age", "spent", "orders"] and 0.5 < report["correlation"][0][2] < 1


def test_the_web_application_sees_its_jobs_end_in_every_way(tmp_path: Path, port: str) -> None:
    follow("user_guide/web_application.md", tmp_path, {"6379": port})


def test_a_task_type_is_added_in_a_copy_of_the_sources(tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    left_out = shutil.ignore_patterns(".*", "build", "vendor", "__pycache__", "sfworker-demo")
    shutil.copytree(DOCS.parent, clone, ignore=left_out)
    follow("developer_guide/adding_a_task.md", clone, PYTHONPATH=str(clone / "src"))


def test_two_parties_that_are_linked_by_hand_find_their_customers(tmp_path: Path) -> None:
    ports = [str(number) for number in free_ports(4)]
    changes = dict(zip(("6381", "6382", "9443", "9444"), ports))
    follow("ops_guide/first_hour.md", tmp_path, changes)
