"""The reference pages say what the code says."""

from __future__ import annotations

import ast
import re
import socket
import tempfile
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from scripts.reference import PAGES, events, log_actions, source, tables, task_types
from secretflow_task.cli import app
from secretflow_task.contract.errors import error_classes
from secretflow_task.contract.messages import ACCEPTED, WAITING_FOR_PEER, Stage, Status
from secretflow_task.contract.task_dispatcher import TaskDispatcher
from secretflow_task.node.job.ending import Ending, success

FOLDER = Path(__file__).parents[3] / "docs" / "reference"


@cache
def page(name: str) -> str:
    """The page as the code of today makes it."""
    return PAGES[name]()


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_that_of_make_reference(name: str) -> None:
    written = (FOLDER / f"{name}.md").read_text(encoding="utf-8")
    assert written == page(name), "run `make reference`"


@pytest.mark.parametrize("name", tables.TABLES)
def test_a_table_on_another_page_is_that_of_make_reference(name: str) -> None:
    written = (tables.ROOT / name).read_text(encoding="utf-8")
    assert written == tables.renewed(name), "run `make reference`"


def test_every_task_type_has_a_page_and_a_chinese_summary() -> None:
    names = [name for family in task_types.families() for name in family["task_types"]]
    assert sorted(names) == TaskDispatcher.list_supported_tasks()
    chinese = [text for family in task_types.families() for text in family["task_types"].values()]
    assert [text for text in chinese if not re.search("[\u4e00-\u9fff]", text)] == []


def test_every_page_is_generated() -> None:
    assert {path.stem for path in FOLDER.glob("*.md")} == set(PAGES)


def test_every_key_of_every_task_has_a_meaning() -> None:
    text = page("requests")
    assert re.findall(r"^## `(\w+)`$", text, re.M) == TaskDispatcher.list_supported_tasks()
    rows = [
        re.split(r"(?<!\\) \| ", line.strip("| "))
        for line in text.splitlines()
        if line.startswith("| `")
    ]
    assert len(rows) > 100
    assert [row for row in rows if len(row) != 4 or not row[3]] == []


def test_types_and_ranges_and_who_learns_what_are_told() -> None:
    text = page("requests")
    psi = text.partition("## `psi`")[2].partition("\n## ")[0]
    assert "| `keys` | {party: list of string} | required | The columns to join on" in psi
    assert "| `protocol` | RR22 \\| ECDH \\| KKRT |  |" in psi
    assert "- bob: which of its own rows the other parties have too, and their number (id)" in psi
    assert "| `bucket_size` | integer from 2 to 1000 | 10 |" in text
    assert "| `train_size` | number above 0 below 1 |" in text


def test_every_error_is_told_once_with_what_to_do() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.+) \| (yes|no) \| (.+) \|$", page("errors"), re.M)
    assert Counter(row[0] for row in rows) == Counter(list(error_classes()))
    assert [row for row in rows if not (row[1].endswith(".") and row[3].endswith("."))] == []
    retryable = {row[0] for row in rows if row[2] == "yes"}
    assert retryable == {name for name, kind in error_classes().items() if kind.retryable}


def test_every_key_of_an_event_is_told() -> None:
    stages, details = events.reported()
    made = {*stages, *(stage.value for stage in Stage), "settling"}
    made |= {ACCEPTED, WAITING_FOR_PEER}
    assert made == set(events.STAGES)
    assert (
        set(events.DATA[Status.RUNNING])
        == {
            "stage",
            "progress",
            "step",
            "waiting_for",
        }
        | details
    )
    assert set(events.DATA[Status.SUCCESS]) == set(success({}))
    failures = [error(step="x") for error in error_classes().values()]
    told = {key for failure in failures for key in Ending.of(failure).data}
    assert set(events.DATA[Status.FAILURE]) == told


def test_every_log_record_has_an_action_of_its_own_and_a_sentence() -> None:
    records = list(log_actions.records())
    assert len(records) > 40
    assert [
        action for action, count in Counter(each.action for each in records).items() if count > 1
    ] == []
    assert [each for each in records if not re.fullmatch(r"[a-z]+(_[a-z]+)*", each.action)] == []
    assert [each for each in records if not re.fullmatch(r"[A-Z][^\n]+\.", each.message)] == []


def test_every_module_that_logs_does_so_by_the_name_that_is_looked_for() -> None:
    for path in source.SOURCE.rglob("*.py"):
        if path.name == "log.py":
            continue
        text = path.read_text(encoding="utf-8")
        assert "logging.getLogger" not in text and "structlog" not in text, path
        if "get_logger()" not in text:
            continue
        named = [
            ast.unparse(node.targets[0])
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.Assign) and ast.unparse(node.value) == "get_logger()"
        ]
        assert named in ([], ["log"]), path


def test_the_settings_are_told_alike_on_every_machine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before = PAGES["settings"]()
    monkeypatch.setattr(socket, "gethostname", lambda: "elsewhere")
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    for name in ("HOME", "XDG_STATE_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    assert PAGES["settings"]() == before
    assert "| `SFWORKER_STREAM_MAXLEN` | `1000000` |" in before
    assert "| `SFWORKER_LOG_FILE_BYTES` | `100000000` | bytes |" in before


def test_every_command_and_option_is_told() -> None:
    text = page("commands")
    names = [
        str(command.callback and command.callback.__name__) for command in app.registered_commands
    ]
    names += [
        str(group.typer_instance and group.typer_instance.info.name)
        for group in app.registered_groups
    ]
    assert re.findall(r"^## `sfworker (\w+)`$", text, re.M) == names
    assert "* `-f, --follow`: Keep printing until the execution has ended." in text
    assert not re.search(r"\w\.{3}\n", text) and "--help`:" not in text


@pytest.mark.parametrize("name", PAGES)
def test_tables_are_whole_and_links_lead_somewhere(name: str) -> None:
    text = page(name)
    for block in re.findall(r"(?:^\|.*\n)+", text, re.M):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1, block
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert (FOLDER / target).is_file(), target
