"""The table of rooms on the architecture page, in both languages."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Iterator

import yaml

from scripts.reference.markdown import code, table

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src/secretflow_task"
_FORBIDDEN = re.compile(
    r'type = "forbidden"\nsource_modules = \[(.*?)\]\nforbidden_modules = \[(.*?)\]', re.S
)


def described() -> dict[str, dict[str, str]]:
    """What each room is for, in each language."""
    text = Path(__file__).with_suffix(".yml").read_text(encoding="utf-8")
    rooms: dict[str, dict[str, str]] = yaml.safe_load(text)
    return rooms


def rooms_of_tree() -> set[str]:
    """The folders of the package, relative to it; Alembic's folder belongs to its listener."""
    folders = {path.parent.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py")}
    return {name for name in folders if name != "." and "migrations" not in name}


def modules(room: str) -> list[str]:
    """The names of the modules in a room."""
    return sorted(path.stem for path in (PACKAGE / room).glob("*.py") if path.stem != "__init__")


def contracts() -> Iterator[tuple[set[str], set[str]]]:
    """``(who, whom)`` of each import contract by which the former never reach the latter."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for sources, targets in _FORBIDDEN.findall(text):
        yield _rooms(sources), _rooms(targets)


def _rooms(text: str) -> set[str]:
    names = re.findall(r'"([\w.]+)"', text)
    return {name.removeprefix("secretflow_task.").replace(".", "/") for name in names}


def never_reaches(room: str) -> list[str]:
    """The rooms and libraries that a room never reaches, directly or through others."""
    found: set[str] = set()
    for sources, targets in contracts():
        if room.partition("/")[0] in sources:
            found |= targets
    aliases = {name for name in found if (PACKAGE / f"{name}.py").exists() and name != "client"}
    return sorted(found - aliases)


def english() -> Iterator[str]:
    """The table in English."""
    yield from table("room | holds | modules | never reaches", _rows("en", ", "))


def chinese() -> Iterator[str]:
    """The same in Chinese."""
    yield from table("目录 | 内容 | 模块 | 不得触及", _rows("zh-CN", "、"))


def _rows(language: str, comma: str) -> Iterator[tuple[Any, ...]]:
    for room, texts in described().items():
        names = comma.join(map(code, modules(room)))
        limits = comma.join(map(code, never_reaches(room)))
        if "/" in room:  # as the room that it is in
            limits = ""
        yield code(f"{room}/"), texts[language], names, limits
