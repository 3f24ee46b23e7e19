"""What both READMEs tell a newcomer to type is typed here, and prints what they show."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from secretflow_task.contract.task_dispatcher import TaskDispatcher
from tests.e2e.nodes import running_node

ROOT = Path(__file__).parents[2]
READMES = (
    "README.md",
    "README.zh-CN.md",
)  # with the same code, as tests/unit/documents/test_guides.py finds
# What a block of the first job ends with; every other one ends with 0.
EXIT_CODES = {"sfworker check typo.yaml": 3}
PRINTED = """\
customer_id,age,income
0007,34,5200
0012,51,7100
0044,46,6800
visits,client
5,0007
7,0012
3,0044
"""


def blocks(text: str) -> list[tuple[str, str]]:
    """``(language, content)`` of every code block."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", text, re.S | re.M)


def page(name: str) -> str:
    """The text of a page."""
    return (ROOT / name).read_text(encoding="utf-8")


def section(name: str, title: str) -> str:
    """The one section whose title begins with ``title``."""
    (found,) = (part for part in page(name).split("\n## ") if part.startswith(title))
    return found


def shell(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a block as a newcomer does, in ``folder`` and with `sfworker` on the PATH."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    kept = {key: value for key, value in os.environ.items() if not key.startswith("SFWORKER_")}
    environment = kept | {
        "PATH": path,
        "COLUMNS": "80",
        "XDG_STATE_HOME": str(folder / "state"),
        "SFWORKER_REDIS_URL": "redis://127.0.0.1:1/0",
    }
    return subprocess.run(
        ["bash", "-euc", script],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def cells(text: str) -> list[str]:
    """The lines without the widths of a table's columns."""
    return [" ".join(line.split()) for line in text.splitlines()]


def write_request(text: str, folder: Path) -> None:
    """Save a request under the name that its first line gives."""
    (folder / text.splitlines()[0].removeprefix("# ")).write_text(text, encoding="utf-8")


@pytest.mark.engine
def test_the_first_own_job_does_what_the_page_says(tmp_path: Path) -> None:
    said, results = "", []
    for language, text in blocks(section("README.md", "Your first own job")):
        if language == "yaml":
            write_request(text, tmp_path)
        elif language == "bash":
            done = shell(text, tmp_path)
            assert done.returncode == EXIT_CODES.get(text.splitlines()[-1], 0), done.stderr
            said = done.stdout + done.stderr
            results.append(text)
        elif language == "text":
            assert set(cells(text)) <= set(cells(said)), said
    assert all(PRINTED in page(name) for name in READMES)
    outputs = [tmp_path / "data" / party / "matched.csv" for party in ("alice", "bob")]
    assert "".join(path.read_text() for path in outputs) == PRINTED
    assert set(EXIT_CODES) < {text.splitlines()[-1] for text in results}


@pytest.fixture(name="python", params=["ours", pytest.param("empty", marks=pytest.mark.matrix)])
def _python(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """An interpreter for the web application: of this environment, or of one with what the page
    installs and nothing else.
    """
    if request.param == "ours":
        return Path(sys.executable)
    (install,) = (
        text
        for language, text in blocks(section("README.md", "The same through a node"))
        if language == "sh" and "pip install" in text
    )
    subprocess.run(["bash", "-euc", install], cwd=tmp_path, check=True, timeout=280)
    return tmp_path / "web/bin/python"


@pytest.mark.engine
@pytest.mark.timeout(500)
def test_the_web_application_of_the_page_sees_its_job_end(
    redis_url: str, python: Path, tmp_path: Path
) -> None:
    tables, *_rest = (
        text for language, text in blocks(section("README.md", "Your first")) if language == "bash"
    )
    assert shell(tables, tmp_path).returncode == 0
    (request,) = (text for language, text in blocks(page("README.md")) if language == "yaml")
    write_request(request, tmp_path)
    (program,) = (text for language, text in blocks(page("README.md")) if language == "python")
    queue = f"secretflow_queue_readme_{tmp_path.name}"
    (tmp_path / "client.py").write_text(
        program.replace('"secretflow_queue"', f'"{queue}"').replace("web-0001", queue)
    )
    with running_node(tmp_path, redis_url, SFWORKER_QUEUES=queue):
        done = subprocess.run(
            [python, "client.py"],
            cwd=tmp_path,
            env={"PATH": os.environ["PATH"], "SFWORKER_REDIS_URL": redis_url},
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert sorted(line.split()[0] for line in lines if "SUCCESS SUCCESS" in line) == [
        "alice",
        "bob",
    ]
    assert {"alice 1 RUNNING accepted", "alice 2 RUNNING cluster_init"} <= set(lines)


@pytest.mark.parametrize("name", READMES)
def test_the_table_lists_exactly_the_task_types_that_exist(name: str) -> None:
    assert (
        sorted(re.findall(r"^\| `(\w+)` \|", page(name), re.M))
        == TaskDispatcher.list_supported_tasks()
    )
