"""Hooks of mkdocs: what the pages need as a site besides what they need in the repository."""

from __future__ import annotations

import json
import logging
import posixpath
import re
from pathlib import Path
from typing import Any

import jieba
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page
from mkdocs.utils import get_relative_url

CHINESE = ".zh-CN.md"
_CHINESE_ROOT = "zh-CN/"
# Generated pages are in English only and belong to both languages.
SHARED = re.compile(r"(reference|performance)/|.*\.table\.")
_DIAGRAMS = "assets/vendor/mermaid.tiny.js"

log = logging.getLogger("mkdocs.hooks.site")  # warnings of this logger end a strict build


def lonely_pages(folder: Path) -> list[str]:
    """The pages below ``folder`` that exist in one language only."""
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*.md")}
    chinese = {name.removesuffix(CHINESE) for name in names if name.endswith(CHINESE)}
    english = {name.removesuffix(".md") for name in names if not name.endswith(CHINESE)}
    needed = {name for name in english if not SHARED.match(f"{name}.md")}
    return sorted(
        {f"{name}.md" for name in needed - chinese} | {name + CHINESE for name in chinese - english}
    )


def on_startup(**_options: Any) -> None:
    """Keep quiet what looks up words."""
    jieba.setLogLevel(logging.WARNING)


def on_pre_build(config: MkDocsConfig) -> None:
    """Refuse a page in one language: it would be missing in the other, or be the wrong one."""
    for name in lonely_pages(Path(config.docs_dir)):
        log.warning("%s has no page in the other language.", name)


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Remove links to the other language, which the site has itself, and links out of docs."""
    markdown = re.sub(r"^(English \| )?\[(简体中文|English)\]\(.*\n?", "", markdown, flags=re.M)
    markdown = re.sub(r"^```(\w+) (\w+)$", r'```\1 title="\2"', markdown, flags=re.M)
    folder = posixpath.dirname(page.file.src_uri)

    def text_if_outside(link: re.Match[str]) -> str:
        outside = posixpath.normpath(posixpath.join(folder, link[2])).startswith("../")
        return link[1] if outside else link[0]

    return _wide_lists(re.sub(r"\[([^\]]*)\]\((\.\./[^)#\s]+)[^)]*\)", text_if_outside, markdown))


def _wide_lists(markdown: str) -> str:
    """What belongs to a list item, indented by 4: less ends the list in Python's Markdown."""
    lines, width, fenced = [], 0, False
    for line in markdown.splitlines():
        fenced ^= line.startswith("```")
        item = None if fenced else re.match(r"(\d+\.|[-*]) ", line)
        if item:
            width = len(item[0])
        elif line[:1].strip():
            width = 0
        elif line and width:
            line = " " * (4 - width) + line
        lines.append(line)
    return "\n".join(lines) + "\n"


def on_post_page(output: str, *, page: Page, config: MkDocsConfig) -> str:
    """Let a page search its own language and draw its diagrams without fetching a script."""
    if page.url.startswith(_CHINESE_ROOT):
        root = get_relative_url(_CHINESE_ROOT, page.url).rstrip("/")
        output = re.sub(r'"base": "[^"]*"', f'"base": "{root}"', output, count=1)
    if 'class="mermaid"' in output:
        script = f'<script src="{get_relative_url(_DIAGRAMS, page.url)}"></script>'
        output = output.replace("</head>", f"{script}</head>", 1)
    return output


@event_priority(-200)  # after the plugins that write one index for all
def on_post_build(config: MkDocsConfig) -> None:
    """Give each language an index of its own: a reader looks for pages in one language."""
    site = Path(config.site_dir)
    index = json.loads((site / "search/search_index.json").read_text(encoding="utf-8"))
    english, chinese = [], []
    for entry in index["docs"]:
        location = entry["location"].removeprefix(_CHINESE_ROOT)
        if location == entry["location"]:
            english.append(entry)
        if location != entry["location"] or SHARED.match(location):
            chinese.append({**entry, "location": location})
    _write_index(site / "search", {**index, "docs": english})
    _write_index(site / _CHINESE_ROOT / "search", {**index, "docs": chinese})


def _write_index(folder: Path, index: dict[str, Any]) -> None:
    """As a file for servers, and as a script for pages that are opened without one."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(index, ensure_ascii=False)
    (folder / "search_index.json").write_text(text, encoding="utf-8")
    (folder / "search_index.js").write_text(f"var __index = {text}", encoding="utf-8")
