"""Hooks of mkdocs: what the pages need as a site besides what they need in the repository."""

from __future__ import annotations

import logging
import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page
from mkdocs.utils import get_relative_url

CHINESE = ".zh-CN.md"
# Generated pages are in English only and belong to both languages.
SHARED = re.compile(r"(reference|performance)/|.*\.table\.md$")
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


def on_pre_build(config: MkDocsConfig) -> None:
    """Refuse to build a page in one language: it would be left out of the other, or be in the wrong one."""
    for name in lonely_pages(Path(config.docs_dir)):
        log.warning("%s has no page in the other language.", name)


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Take out what the site has itself or does not have: links to the other language, links out of docs."""
    markdown = re.sub(r"^(English \| )?\[(简体中文|English)\]\(.*\n?", "", markdown, flags=re.M)
    folder = posixpath.dirname(page.file.src_uri)

    def text_if_outside(link: re.Match[str]) -> str:
        outside = posixpath.normpath(posixpath.join(folder, link[2])).startswith("../")
        return link[1] if outside else link[0]

    return re.sub(r"\[([^\]]*)\]\((\.\./[^)#\s]+)[^)]*\)", text_if_outside, markdown)


def on_post_page(output: str, *, page: Page, config: MkDocsConfig) -> str:
    """Give a page with diagrams the script that draws them; without it the theme would fetch one."""
    if 'class="mermaid"' not in output:
        return output
    script = f'<script src="{get_relative_url(_DIAGRAMS, page.url)}"></script>'
    return output.replace("</head>", f"{script}</head>", 1)
