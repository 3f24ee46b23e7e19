"""The guides of operations: both languages hold the same lines, and the names in these exist."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from secretflow_task.config.settings import Settings

ROOT = Path(__file__).parents[2]
GUIDES = ROOT / "docs/ops_guide"
PAGES = pytest.mark.parametrize("page", ["deployment", "backup", "upgrade", "scaling"])
ENDINGS = (".md", ".zh-CN.md")
COMPOSE_FILES = pytest.mark.parametrize("file", ["docker-compose.yml", "docker/compose.party.yml"])


def text_of(page: str, ending: str = ".md") -> str:
    """The text of a page."""
    return (GUIDES / f"{page}{ending}").read_text(encoding="utf-8")


def services_of(file: str) -> dict[str, dict[str, Any]]:
    """The services of a compose file, as it stands."""
    services: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / file).read_text(encoding="utf-8"))["services"]
    return services


@PAGES
def test_both_languages_hold_the_same_lines(page: str) -> None:
    english, chinese = (
        re.findall(r"^ *```sh\n(.*?)^ *```$", text_of(page, end), re.S | re.M) for end in ENDINGS
    )
    assert english == chinese and english
    names = (set(re.findall(r"`([A-Z_]{4,}|sfworker [\w -]+)`", text_of(page, end))) for end in ENDINGS)
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


def test_every_variable_of_the_production_file_is_in_the_guide() -> None:
    text = (ROOT / "docker/compose.party.yml").read_text(encoding="utf-8")
    variables = set(re.findall(r"\$\{(\w+)", text))
    assert {name for name in variables if f"`{name}`" not in text_of("deployment")} == set()


@COMPOSE_FILES
def test_limits_stand_in_one_place(file: str) -> None:
    """Compose refuses a file that has them in two, even where one says nothing of what the other limits."""
    for name, service in services_of(file).items():
        if service.get("deploy", {}).get("resources", {}).get("limits"):
            assert not {"pids_limit", "cpus", "mem_limit"} & set(service), name


@COMPOSE_FILES
def test_settings_of_a_compose_file_exist_but_for_those_of_other_programs(file: str) -> None:
    names = {
        name
        for service in services_of(file).values()
        for name in service.get("environment", {})
        if name.startswith("SFWORKER_")
    }
    known = {f"SFWORKER_{name.upper()}" for name in Settings.model_fields}
    assert names - known <= {"SFWORKER_DASHBOARDS"}
