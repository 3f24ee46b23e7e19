"""What `make shape` counts."""

from __future__ import annotations

from pathlib import Path

from scripts.shape import HEADER, OTHERS, Code, densest, row

SOURCE = '''\
"""A docstring of a module."""


class Box:
    """A docstring is not counted."""

    def open(self, key):
        """Nor is this one."""
        value = self._turn(key)  # three names, a dot, two brackets, a sign

        return value if value else None

    def _turn(self, key):
        return [key for key in key]

    def empty(self):
        """A function without a body counts as a function only."""
'''


def checkout(root: Path) -> Path:
    """One module of code with one long line, and tests of half its length."""
    for name in ("src", "tests"):
        (root / name).mkdir()
    (root / "src/box.py").write_text(SOURCE + "x = 1  # " + 90 * "-" + "\n")
    (root / "tests/test_box.py").write_text("x = 1\n" * 9)
    return root


def test_bodies_are_counted_without_signature_docstring_and_layout(tmp_path: Path) -> None:
    bodies = Code.read(checkout(tmp_path) / "src").bodies
    assert [(body.name, body.lines, body.tokens) for body in bodies] == [
        ("open", 2, 14),
        ("_turn", 1, 8),
    ]


def test_the_row_has_the_figures_of_a_checkout(tmp_path: Path) -> None:
    figures = dict(zip(HEADER, row(checkout(tmp_path))))
    assert figures["modules"] == "1"
    assert figures["conditional expr."] == figures["comprehensions"] == "55.6"  # 1 in 18 lines
    assert figures["private, used once"] == "33 %"  # of three functions
    assert figures["lines over 88"] == "6 %"
    assert figures["tests / code"] == "0.50"


def test_the_densest_body_comes_first(tmp_path: Path) -> None:
    assert densest(checkout(tmp_path), 1) == [("14", "2", "open", "box.py:7")]


def test_every_row_of_the_table_has_all_its_columns() -> None:
    assert {len(each) for each in OTHERS} == {len(HEADER)}
