"""What every page names exists, and both languages of a page say the same."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Iterator

import pytest
import typer.main

from scripts.site_hooks import CHINESE, lonely_pages
from secretflow_task.cli import app
from secretflow_task.config.settings import Settings
from secretflow_task.contract.errors import error_classes

ROOT = Path(__file__).parents[3]
DOCS = ROOT / "docs"
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(DOCS.rglob("*.md"))]
TRANSLATED = [page for page in PAGES if page.with_name(page.stem + CHINESE).exists()]
EVERY_PAGE = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
BOTH_LANGUAGES = pytest.mark.parametrize(
    "page", TRANSLATED, ids=lambda page: str(page.relative_to(ROOT))
)

_BLOCK = re.compile(r"^ *```(\w*)[^\n]*\n(.*?)^ *```$", re.S | re.M)
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]  # a group


def options_of(command: typer.core.TyperCommand) -> set[str]:
    """The options that a command takes."""
    named = {
        option
        for parameter in command.params
        for option in (*parameter.opts, *parameter.secondary_opts)
    }
    return named | {"--help"}


OPTIONS = {name: options_of(command) for name, command in COMMANDS.items()}
# Those of a group, such as `node health`.
OPTIONS |= {
    f"{group} {name}": options_of(command)
    for group, commands in COMMANDS.items()
    for name, command in getattr(commands, "commands", {}).items()
}
SETTINGS = {f"SFWORKER_{name.upper()}" for name in Settings.model_fields}
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))


def text_of(page: Path) -> str:
    """A page as it stands."""
    return page.read_text(encoding="utf-8")


def blocks(text: str) -> list[tuple[str, str]]:
    """``(language, content)`` of every code block."""
    found = _BLOCK.findall(text)
    assert 2 * len(found) == len(re.findall(r"^\s*```", text, re.M)), "a block has no end"
    return found


def code(text: str) -> Iterator[str]:
    """The lines of code blocks, and what stands in backquotes."""
    for _, content in blocks(text):
        yield from content.replace("\\\n", "").splitlines()
    yield from re.findall(r"`([^`\n]+)`", _BLOCK.sub("", text))


def links(text: str) -> list[str]:
    """The relative links outside of code."""
    prose = re.sub(r"`[^`\n]*`", "", _BLOCK.sub("", text))
    return re.findall(r"\]\((?!\w+://|mailto:)([^)\s]+)\)", prose)


def anchors(text: str) -> set[str]:
    """The anchors of headings, as code hosts and the site make them."""
    titles = re.findall(r"^#+ (.*)$", _BLOCK.sub("", text), re.M)
    plain = (re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title) for title in titles)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in plain}


def wrong_commands(text: str) -> list[str]:
    """What is called `sfworker X --option` and does not exist."""
    wrong = []
    for line in code(text):
        for name, rest in re.findall(
            r"(?:(?<=bin/)|(?<![\w./-]))sfworker ([a-z]\w*)([^|&;]*)", line
        ):
            used = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", rest))
            of_a_group = re.match(r"\s*([a-z]+)", rest)
            if of_a_group and hasattr(COMMANDS.get(name), "commands"):
                name = f"{name} {of_a_group[1]}"
            if name not in OPTIONS or used - OPTIONS[name]:
                wrong.append(f"sfworker {name}: {rest}")
    return wrong


@EVERY_PAGE
def test_every_command_and_option_exists(page: Path) -> None:
    assert wrong_commands(text_of(page)) == []


@pytest.mark.parametrize(
    "call",
    [
        "sfworker strat",
        "sfworker run F --jsn",
        "x && sfworker jobs \\\n --limits 3",
        "sfworker node puase",
        "sfworker node health --jsn",
    ],
)
def test_a_command_that_does_not_exist_is_noticed(call: str) -> None:
    assert len(wrong_commands(f"```sh\nsfworker jobs --limit 3\n{call}\n```\n")) == 1


@EVERY_PAGE
def test_every_setting_exists(page: Path) -> None:
    named = set(re.findall(r"SFWORKER_[A-Z][A-Z_]*[A-Z]", text_of(page)))
    assert named <= SETTINGS


def test_every_value_of_a_setting_is_one_that_it_takes() -> None:
    files = [
        content
        for page in PAGES
        for language, content in blocks(text_of(page))
        if language == "ini"
    ]
    values = [dict(re.findall(r"^SFWORKER_(\w+)=(.*)$", content, re.M)) for content in files]
    settings = [
        Settings(**{name.lower(): value for name, value in found.items()})
        for found in values
        if found
    ]
    assert "alice-1" in [each.name for each in settings]


@EVERY_PAGE
def test_every_make_target_exists(page: Path) -> None:
    named = [
        words
        for line in code(text_of(page))
        for words in re.findall(r"(?:^|&& )make((?: [a-z-]+)+)", line)
    ]
    assert {word for words in named for word in words.split()} <= TARGETS


@EVERY_PAGE
def test_every_link_and_anchor_leads_somewhere(page: Path) -> None:
    lost = []
    for link in links(text_of(page)):
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        if not target.exists() or (anchor and anchor not in anchors(text_of(target))):
            lost.append(link)
    assert lost == []


def test_every_page_exists_in_both_languages() -> None:
    assert lonely_pages(DOCS) == []
    assert len(TRANSLATED) > 20


def test_a_page_in_one_language_is_noticed(tmp_path: Path) -> None:
    for name in ("both.md", "both.zh-CN.md", "a.md", "b.zh-CN.md", "reference/c.md", "d.table.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("# Title\n")
    assert lonely_pages(tmp_path) == ["a.md", "b.zh-CN.md"]


@pytest.mark.parametrize("guide", ["user_guide", "ops_guide", "developer_guide"])
def test_the_index_of_a_guide_leads_to_each_of_its_pages(guide: str) -> None:
    found = {path.name for path in (DOCS / guide).glob("*.md") if not path.name.endswith(CHINESE)}
    assert found - {"index.md"} - {*links(text_of(DOCS / guide / "index.md"))} == set()


@pytest.mark.parametrize("ending", [".md", CHINESE])
def test_troubleshooting_has_every_error_once(ending: str) -> None:
    rows = re.findall(
        r"^\| (`.*?`) \|", text_of(DOCS / f"user_guide/troubleshooting{ending}"), re.M
    )
    codes = re.findall(
        r"`([A-Z]\w+)`", " ".join(row for row in rows if " " not in row.replace(", ", ""))
    )
    families = {kind.__name__ for kind in error_classes().values() if kind.__subclasses__()}
    concrete = {*error_classes()} - families
    assert concrete <= {*codes} <= {*error_classes()} and len(codes) == len({*codes})


@BOTH_LANGUAGES
def test_both_languages_have_the_same_code(page: Path) -> None:
    def same(path: Path) -> list[tuple[str, str]]:
        """All but comments and labels; on a page that is typed, text is output, and the same."""
        found = blocks(text_of(path))
        typed = any(language == "bash" for language, _ in found)
        own = {"mermaid"} if typed else {"mermaid", "text", ""}
        return [
            (language, re.sub(r"(^|\s+)#.*", "", content))
            for language, content in found
            if language not in own
        ]

    assert same(page) == same(page.with_name(page.stem + CHINESE))


@BOTH_LANGUAGES
def test_both_languages_have_the_same_parts_and_links(page: Path) -> None:
    def parts(path: Path) -> list[str]:
        return re.findall(r"^(#+ |\| *-|\|)", _BLOCK.sub("", text_of(path)), re.M)

    def targets(path: Path) -> set[str]:
        """Where links lead, without anchors, which are translated, and the other language."""
        return {link.partition("#")[0] for link in links(text_of(path))}

    chinese = page.with_name(page.stem + CHINESE)
    assert parts(page) == parts(chinese)
    translated = {
        (
            name.removesuffix(".md") + CHINESE
            if (page.parent / name).with_name(Path(name).stem + CHINESE).exists()
            else name
        )
        for name in targets(page) - {chinese.name}
    }
    assert translated == targets(chinese) - {page.name}
