"""What the guides say of the tests, the engine and the task types holds."""

from __future__ import annotations

import re
from pathlib import Path

from scripts.reference import rooms, task_types

ROOT = Path(__file__).parents[3]
PAGE, CHINESE = (
    (ROOT / f"docs/developer_guide/silent_errors{ending}").read_text(encoding="utf-8")
    for ending in (".md", ".zh-CN.md")
)
WRONG = """
    SSGLM SSPValue SSVertVIF SSVertPearsonR BiClassificationEval RegressionEval VertWoeBinning
    VertBinSubstitution psi_eval prediction_bias_eval feature_iv head_report secretflow.ml.cluster
    secretflow.preprocessing secretflow.data.split
    """.split()


def test_every_test_that_the_page_names_exists() -> None:
    named = re.findall(r"`((?:unit|integration)/[\w/]+\.py)::(test_\w+)`", PAGE)
    assert len(named) > 50
    missing = [
        (path, name)
        for path, name in named
        if f"def {name}(" not in (ROOT / "tests" / path).read_text(encoding="utf-8")
    ]
    assert missing == []
    assert re.findall(r"::test_\w+`", CHINESE) == re.findall(r"::test_\w+`", PAGE)


def test_every_row_of_the_page_names_a_test() -> None:
    rows = [
        line
        for line in PAGE.splitlines()
        if line.startswith("| ") and not line.startswith("| Secret")
    ]
    assert [row for row in rows if "::test_" not in row] == []


def test_classes_that_are_silently_wrong_are_not_used() -> None:
    imports = [
        line
        for path in (ROOT / "src").rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.match(r"\s*(from|import) ", line)
    ]
    assert [line for line in imports for name in WRONG if name in line] == []


def test_the_page_of_a_task_type_describes_it() -> None:
    for family in task_types.families():
        for ending in (".md", ".zh-CN.md"):
            path = ROOT / "docs/user_guide" / (family["page"] + ending)
            text = path.read_text(encoding="utf-8")
            words = set(re.findall(r"\w+", text))
            assert set(family["task_types"]) <= words


def test_every_room_of_the_tree_is_described_and_kept_by_a_contract() -> None:
    assert set(rooms.described()) == rooms.rooms_of_tree()
    outer = {name.partition("/")[0] for name in rooms.rooms_of_tree()}
    kept = {name for sources, _ in rooms.contracts() for name in sources}
    assert outer - kept == {"config", "utils"}, "what every room may use"


def test_every_room_that_a_contract_names_exists() -> None:
    named = {name for pair in rooms.contracts() for names in pair for name in names}
    ours = {name for name in named if (rooms.PACKAGE / name.partition("/")[0]).is_dir()}
    assert {name for name in ours if not (rooms.PACKAGE / name).exists()} <= {
        "utils/status_notifier"
    }
    assert "node" in rooms.never_reaches("engine") and "engine" in rooms.never_reaches("node")


def test_every_module_stands_in_the_table_of_its_room() -> None:
    for name in (".md", ".zh-CN.md"):
        text = (ROOT / f"docs/developer_guide/architecture{name}").read_text(encoding="utf-8")
        for room in rooms.rooms_of_tree():
            row = re.search(rf"^\| `{room}/` \|.*$", text, re.M)
            assert row and set(rooms.modules(room)) <= set(re.findall(r"`(\w+)`", row[0]))
