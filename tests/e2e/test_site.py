"""The site of `make docs` is whole in both languages and fetches nothing from elsewhere."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.site_hooks import CHINESE, SHARED
from tests.e2e.pages import DOCS

PAGES = {
    path.relative_to(DOCS).as_posix()
    for path in DOCS.rglob("*.md")
    if not path.name.endswith(CHINESE)
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site. A broken link, a missing anchor, or a page in one language would be an error."""
    folder = tmp_path_factory.mktemp("site")
    command = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "--quiet",
        "--site-dir",
        str(folder),
    ]
    done = subprocess.run(
        command, cwd=DOCS.parent, capture_output=True, text=True, timeout=110, check=False
    )
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stderr
    return folder


def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 2 * len(PAGES)
    fetched = re.compile(
        r"""<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)=["']?(?:https?:)?//"""
        r"""|@import|url\(["']?http"""
    )
    files = [*pages, *site.rglob("*.css")]
    assert [path.name for path in files if fetched.search(path.read_text(encoding="utf-8"))] == []


def test_blocks_are_blocks_also_within_lists(site: Path) -> None:
    assert [
        path.name for path in site.rglob("*.html") if "```" in path.read_text(encoding="utf-8")
    ] == []
    steps = (site / "ops_guide/peer_link.html").read_text(encoding="utf-8")
    assert steps.count("<ol>") == 1 and re.search(
        r"<ol>.*<pre>.*<table>.*</table>.*</ol>", steps, re.S
    )


def test_diagrams_come_with_what_draws_them(site: Path) -> None:
    for page in ("developer_guide/architecture.html", "zh-CN/developer_guide/architecture.html"):
        text = (site / page).read_text(encoding="utf-8")
        (script,) = re.findall(r'<script src="([^"]*mermaid[^"]*)"', text)
        assert (
            text.count('class="mermaid"') == 4 and (site / page).parent.joinpath(script).is_file()
        )


@pytest.mark.parametrize(("root", "word"), [("", "settlement"), ("zh-CN", "取消")])
def test_each_language_is_searched_by_its_words_without_a_server(
    site: Path, root: str, word: str
) -> None:
    script = (site / root / "search/search_index.js").read_text(encoding="utf-8")
    found = json.loads(script.removeprefix("var __index = "))
    assert {entry["location"].partition("#")[0] for entry in found["docs"]} == {
        name.removesuffix(".md") + ".html" for name in PAGES
    }
    assert any(
        word in re.split(found["config"]["separator"], entry["text"]) for entry in found["docs"]
    )
    own = [entry for entry in found["docs"] if not SHARED.match(entry["location"])]
    chinese = [
        entry
        for entry in own
        if re.search(r"[\u4e00-\u9fff]{2}", entry["title"].replace("\u200b", ""))
    ]
    assert (len(chinese) > len(own) / 2) == (root == "zh-CN")
    for page in ("index.html", "user_guide/faq.html"):
        base = re.search(r'"base": "([^"]*)"', (site / root / page).read_text(encoding="utf-8"))
        assert (
            base
            and (site / root / page).parent.joinpath(base[1]).resolve() == (site / root).resolve()
        )
