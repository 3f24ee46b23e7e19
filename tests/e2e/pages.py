"""Pages that are followed literally: what they tell a reader to type is typed, in one shell.

In such a page a ``bash`` block is typed. A ``yaml`` or ``python`` block that begins with ``# NAME``
is saved as that file, a ``diff`` block that does so is an edit of it. A ``text`` block is a part of
what the ``bash`` block before it prints. ``sh`` and everything else is only read.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Iterator

DOCS = Path(__file__).parents[2] / "docs"
_NEXT = "\x1e"  # printed between the outputs of blocks
_FILE = re.compile(r"# ([\w./-]+\.\w+)$")


def blocks(name: str) -> list[tuple[str, str]]:
    """``(language, content)`` of every code block of a page."""
    text = (DOCS / name).read_text(encoding="utf-8")
    return re.findall(r"^```(\w+)\n(.*?)^```$", text, re.S | re.M)


def follow(
    name: str, folder: Path, changes: dict[str, str] | None = None, **environment: str
) -> None:
    """Do all that a page says, in ``folder``, and compare what is printed with what it says.

    Args:
        changes: ``{text of the page: other text}``, such as a port that is free here.
    """
    steps = [(language, _changed(content, changes or {})) for language, content in blocks(name)]
    printed = iter(_typed("".join(_script(steps, folder)), folder, environment))
    said = ""
    for language, content in steps:
        if language == "bash":
            said = next(printed)
        elif language == "text":
            assert set(_cells(content)) <= set(_cells(said)), said


def _changed(text: str, changes: dict[str, str]) -> str:
    for before, after in changes.items():
        text = text.replace(before, after)
    return text


def _script(steps: list[tuple[str, str]], folder: Path) -> Iterator[str]:
    """The page as one script; edits are made at once, of files that it does not write itself."""
    for language, content in steps:
        named = _FILE.match(content.splitlines()[0])
        if language == "bash":
            yield f"{content}printf '{_NEXT}'\n"
        elif language == "diff" and named:
            _edit(folder / named[1], content.splitlines(keepends=True)[1:])
        elif named:
            yield (
                f"mkdir -p $(dirname {named[1]})\n"
                f"cat > {named[1]} <<'END OF FILE'\n{content}END OF FILE\n"
            )


def _edit(path: Path, lines: list[str]) -> None:
    before = "".join(line[1:] for line in lines if line[0] in " -")
    after = "".join(line[1:] for line in lines if line[0] in " +")
    text = path.read_text(encoding="utf-8")
    assert (
        before != after and text.count(before) == 1
    ), f"{path.name} has not one place like\n{before}"
    path.write_text(text.replace(before, after), encoding="utf-8")


def _typed(script: str, folder: Path, environment: dict[str, str]) -> list[str]:
    """What each block prints; nothing that it starts is left."""
    # Not measured by coverage: a page may run a changed copy of the code.
    kept = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("SFWORKER_", "COVERAGE_"))
    }
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    own = {"PATH": path, "COLUMNS": "80", "XDG_STATE_HOME": str(folder / "state"), **environment}
    with subprocess.Popen(
        ["bash", "-euc", script],
        cwd=folder,
        env=kept | own,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as shell:
        try:
            printed, _ = shell.communicate(timeout=280)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(shell.pid, signal.SIGKILL)
    assert shell.returncode == 0, printed
    return printed.split(_NEXT)


def _cells(text: str) -> list[str]:
    """The lines without the widths and borders of a table's columns."""
    return [" ".join(line.replace("│", " ").split()) for line in text.splitlines()]
