"""docker-compose.yml: its services come up together, work together, and come back in any order."""

from __future__ import annotations

import random
import re
import shutil
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Iterator

import pytest

from tests.bench.waiting import wait_for
from tests.e2e.containers import ROOT, Machine, Project
from tests.e2e.shell import Docker

GUIDE = ROOT / "docs/ops_guide/deployment.md"
FILES = ["docker-compose.yml", "docker/compose.party.yml"]


@pytest.fixture(name="project")
def _project(tmp_path: Path) -> Iterator[Project]:
    """The stack, not yet started."""
    with ExitStack() as stack:
        yield Project(ROOT / "docker-compose.yml", Machine(tmp_path, stack))


@pytest.fixture(name="docker")
def _docker(project: Project, tmp_path: Path) -> Iterator[Docker]:
    """A shell for the lines of the guide."""
    with Docker(tmp_path, {ROOT: project}) as docker:
        yield docker


def blocks_to_try() -> list[str]:
    """What the guide says to type for the stack: how it is started, and how it is tried."""
    text = GUIDE.read_text("utf-8").partition("\n## To production")[0]
    return re.findall(r"^```sh\n(.*?)^```$", text, re.S | re.M)


def smoke(docker: Docker, execution_id: str) -> str:
    """Both parties run `sfworker smoke`; returns what `sfworker jobs` prints afterwards."""
    _, block = blocks_to_try()
    said = docker.shell(block.replace("--id first", f"--id {execution_id}"), ROOT)
    assert said.count("Well: alice and bob have 75 of 100 rows in common") == 2
    return said


@pytest.mark.engine
@pytest.mark.timeout(400)
def test_two_nodes_come_up_and_run_a_job_between_them(project: Project, docker: Docker) -> None:
    project.need("database")
    project.up("alice", "bob", "alice-listener")
    assert re.search(r"it .* alice .* psi .* SUCCESS", smoke(docker, "it"))


@pytest.mark.engine
@pytest.mark.matrix
@pytest.mark.timeout(1800)
def test_all_services_survive_a_restart_in_any_order(project: Project, docker: Docker) -> None:
    project.need("database", "prometheus", "alertmanager")
    docker.shell(blocks_to_try()[0], ROOT)
    dice = random.Random(3)
    names = [name for name in project.running if name != "introduction"]
    for number, end in enumerate((None, project.stop, project.kill)):
        if end is not None:
            for name in dice.sample(names, len(names)):
                end(name)
            project.start(*dice.sample(names, len(names)))
            project.up()
        smoke(docker, f"it-{number}")
        listed = project.execute("bob-listener", "sfworker", "jobs").stdout
        assert len(re.findall(r"it-\d .*SUCCESS", listed)) == 2 * (number + 1)
        wait_for(lambda: nodes_that_are_scraped(project) == {"alice:9464", "bob:9464"})


def nodes_that_are_scraped(project: Project) -> set[str]:
    """The nodes of which Prometheus has metrics now."""
    query = ["promtool", "query", "instant", "http://127.0.0.1:9090", 'up{job="sfworker"} == 1']
    return set(re.findall(r'instance="([^"]+)"', project.execute("prometheus", *query).stdout))


@pytest.mark.parametrize("name", FILES)
def test_compose_takes_the_file(name: str, tmp_path: Path) -> None:
    program = shutil.which("docker-compose")
    if program is None:
        pytest.skip("docker-compose is not installed (Debian: docker-compose)")
    (tmp_path / ".env").write_text("PARTY=alice\n")
    files = [
        "--project-directory",
        str(tmp_path),
        "--env-file",
        str(tmp_path / ".env"),
        "--file",
        name,
    ]
    done = subprocess.run(
        [program, *files, "config", "--quiet"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_image_holds_the_versions_of_the_lock_and_the_build_backend_of_the_project() -> None:
    text = (ROOT / "docker/Dockerfile").read_text("utf-8")
    assert "uv export --locked" in text and "--require-hashes" in text
    (backend,) = re.findall(r"hatchling==([\d.]+)", text)
    assert f"hatchling>={backend.rpartition('.')[0]}" in (ROOT / "pyproject.toml").read_text(
        "utf-8"
    )
