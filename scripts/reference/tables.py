"""The generated tables on pages that are written by hand.

A table stands between two markers; `make reference` replaces what is between them.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Callable, Iterator

from scripts.reference import rooms, task_types

ROOT = Path(__file__).parents[2]
_BEGIN = "<!-- `make reference` writes this table -->"
_END = "<!-- end of the table -->"
_BETWEEN = re.compile(f"(?<={re.escape(_BEGIN)}\n).*(?={re.escape(_END)})", re.S)

TABLES: dict[str, Callable[[], Iterator[str]]] = {
    "README.md": task_types.english_types,
    "README.zh-CN.md": task_types.chinese_types,
    "docs/developer_guide/architecture.md": rooms.english,
    "docs/developer_guide/architecture.zh-CN.md": rooms.chinese,
    "docs/user_guide/index.md": task_types.english_families,
    "docs/user_guide/index.zh-CN.md": task_types.chinese_families,
}


def renewed(page: str) -> str:
    """The text of a page with its table as it should be."""
    text = (ROOT / page).read_text(encoding="utf-8")
    lines = "\n".join(TABLES[page]())
    renewed_text, found = _BETWEEN.subn(lambda _match: lines + "\n", text)
    if found != 1:
        raise ValueError(f"{page} needs the markers of one table")
    return renewed_text
