"""The list of all reference pages."""

from __future__ import annotations

from scripts import reference

_HEAD = """\
# Reference

`make reference` writes these pages from the code that they describe, and a test compares them.
They are in English only.

| page |
|---|
"""


def page() -> str:
    """The list as Markdown, with the title that each page gives itself."""
    titles = {
        name: make().partition("\n")[0]
        for name, make in reference.PAGES.items()
        if make is not page
    }
    return _HEAD + "".join(
        f"| [{title.removeprefix('# ')}]({name}.md) |\n" for name, title in titles.items()
    )
