"""The guides of operations: both languages hold the same lines, and the names in these exist."""

from __future__ import annotations

import gzip
import re
import subprocess
from pathlib import Path
from typing import Any, Callable

import pytest
import yaml

from secretflow_task.config.settings import Settings

ROOT = Path(__file__).parents[3]
GUIDES = ROOT / "docs/ops_guide"
PAGES = pytest.mark.parametrize("page", ["deployment", "backup", "upgrade", "scaling"])
ENDINGS = (".md", ".zh-CN.md")
COMPOSE_FILES = pytest.mark.parametrize("file", ["docker-compose.yml", "docker/compose.party.yml"])


def text_of(page: str, ending: str = ".md") -> str:
    """The text of a page."""
    return (GUIDES / f"{page}{ending}").read_text(encoding="utf-8")


def services_of(file: str) -> dict[str, dict[str, Any]]:
    """The services of a compose file, as it stands."""
    services: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / file).read_text(encoding="utf-8"))[
        "services"
    ]
    return services


@PAGES
def test_both_languages_hold_the_same_lines(page: str) -> None:
    english, chinese = (
        re.findall(r"^ *```sh\n(.*?)^ *```$", text_of(page, end), re.S | re.M) for end in ENDINGS
    )
    assert english == chinese and english
    names = (
        set(re.findall(r"`([A-Z_]{4,}|sfworker [\w -]+)`", text_of(page, end))) for end in ENDINGS
    )
    assert next(names) == next(names)


@PAGES
@pytest.mark.parametrize("ending", ENDINGS)
def test_links_lead_somewhere(page: str, ending: str) -> None:
    links = re.findall(r"\]\((?!https?://|#)([^)#]+)", text_of(page, ending))
    assert links and [link for link in links if not (GUIDES / link).exists()] == []


@PAGES
def test_settings_that_are_named_exist(page: str) -> None:
    known = {f"SFWORKER_{name.upper()}" for name in Settings.model_fields}
    assert set(re.findall(r"SFWORKER_[A-Z_]+", text_of(page))) <= known


@pytest.fixture(name="shell")
def _shell(tmp_path: Path) -> Callable[..., str]:
    """Runs a block of the page on backups, as at a prompt, with a `docker` that tells its calls."""
    (tmp_path / "backups").mkdir()
    program = tmp_path / "docker"
    program.write_text(
        '#!/bin/sh\necho "$*"\n'
        'case "$*" in *"run --rm backup") gzip < "$0" > backups/unfinished; exit $CODE;; esac'
    )
    program.chmod(0o755)

    def run(number: int, code: int = 0) -> str:
        block = re.findall(r"```sh\n(.*?)```", text_of("backup"), re.S)[number]
        return subprocess.run(
            ["bash", "-c", block],
            cwd=tmp_path,
            env={"PATH": f"{tmp_path}:/usr/bin:/bin", "CODE": str(code)},
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        ).stdout

    return run


@pytest.mark.parametrize("code", [0, 2])
def test_only_a_whole_backup_is_an_archive(
    code: int, shell: Callable[..., str], tmp_path: Path
) -> None:
    assert shell(0, code).endswith("compose up --detach --wait\n")
    names = [path.name for path in (tmp_path / "backups").iterdir()]
    if code:
        assert names == ["unfinished"]
    else:
        (name,) = names
        assert re.fullmatch(r"\d{4}-\d\d-\d\d\.tgz", name)


def test_what_is_named_is_restored_and_nothing_goes_before_it_is_known_to_be_whole(
    shell: Callable[..., str], tmp_path: Path
) -> None:
    whole = gzip.compress(b"tar")
    for name in ("2026-11-25.tgz", "latest.tgz", "restore.tgz"):
        (tmp_path / "backups" / name).write_bytes(whole)
    assert "backup --extract --file /backups/2026-11-25.tgz\n" in shell(1)
    (tmp_path / "backups/2026-11-25.tgz").write_bytes(whole[:-4])
    assert shell(1) == ""


def test_every_variable_of_the_production_file_is_in_the_guide() -> None:
    text = (ROOT / "docker/compose.party.yml").read_text(encoding="utf-8")
    variables = set(re.findall(r"\$\{(\w+)", text))
    assert {name for name in variables if f"`{name}`" not in text_of("deployment")} == set()


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_memory_of_a_widened_node_fits_its_jobs_and_its_host(ending: str) -> None:
    text = text_of("deployment", ending)
    widen = text[text.index("### 6.") : text.index("### 7.")]
    concurrency, memory, host = (
        int(re.findall(pattern, widen)[0])
        for pattern in (r"CONCURRENCY=(\d+)", r"MEMORY=(\d+)g", r"(\d+) GB")
    )
    assert memory * 2**30 >= concurrency * 4_000_000_000 + 10**9
    others = (
        service["deploy"]["resources"]["limits"]["memory"]
        for name, service in services_of("docker/compose.party.yml").items()
        if name != "node" and "deploy" in service
    )
    assert host > memory + sum(int(limit.removesuffix("g")) for limit in others)


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_peers_port_is_closed_where_docker_obeys(ending: str) -> None:
    assert "`DOCKER-USER`" in text_of("security", ending)
    rules = re.findall(
        r"^iptables -I DOCKER-USER .*--dport 9443 .*-j (\w+)$", text_of("deployment", ending), re.M
    )
    assert rules == ["DROP", "RETURN"]  # the later one comes before


def test_redis_refuses_before_it_is_killed() -> None:
    redis = services_of("docker/compose.party.yml")["redis"]
    refuses = redis["command"][redis["command"].index("--maxmemory") + 1]
    assert int(refuses.removesuffix("mb")) * 2**20 < 0.9 * 2 * 2**30
    assert redis["deploy"]["resources"]["limits"]["memory"] == "2g"


@COMPOSE_FILES
def test_limits_stand_in_one_place(file: str) -> None:
    """Compose refuses a file that has limits in two places, even of different things."""
    for name, service in services_of(file).items():
        if service.get("deploy", {}).get("resources", {}).get("limits"):
            assert not {"pids_limit", "cpus", "mem_limit"} & set(service), name


@COMPOSE_FILES
def test_settings_of_a_compose_file_exist(file: str) -> None:
    names = {
        name
        for service in services_of(file).values()
        for name in service.get("environment", {})
        if name.startswith("SFWORKER_")
    }
    known = {f"SFWORKER_{name.upper()}" for name in Settings.model_fields}
    assert names - known == set()


def test_grafana_is_given_the_variables_that_its_files_name() -> None:
    folder = ROOT / "monitoring/grafana/provisioning"
    texts = [path.read_text(encoding="utf-8") for path in folder.rglob("*.yml")]
    names = {name for text in texts for name in re.findall(r"\$\{?(\w+)", text)}
    assert names and names <= set(services_of("docker-compose.yml")["grafana"]["environment"])
