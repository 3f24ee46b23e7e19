"""`make shape`: how dense the code is, beside code bases that read well.

Nothing fails on these figures. They show where a plain statement would read better::

    make shape                               # the table
    make shape ARGS=--densest                # and the 20 bodies with the most tokens
    make shape ARGS="--root /tmp/elsewhere"  # of another checkout
"""

from __future__ import annotations

import argparse
import ast
import io
import tokenize
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median, quantiles
from typing import Iterator, Sequence, Union

ROOT = Path(__file__).parents[1]
LONG_LINE = 88
# Lines and tokens of bodies as median / 90th percentile, expressions per 1,000 lines.
HEADER = (
    "",
    "modules",
    "body lines",
    "body tokens",
    "conditional expr.",
    "comprehensions",
    "private, used once",
    f"lines over {LONG_LINE}",
    "tests / code",
)
# Counted with the same definitions; their modules were not.
OTHERS = (
    ("dramatiq", "-", "4 / 15", "28 / 96", "1.3", "2.9", "5 %", "1 %", "0.79"),
    ("procrastinate", "-", "5 / 20", "28 / 99", "3.5", "9.7", "5 %", "0 %", "1.48"),
    ("httpx", "-", "5 / 22", "28 / 112", "9.3", "6.3", "5 %", "0 %", "1.01"),
)
# Tokens that only lay out the code.
_LAYOUT = {
    tokenize.COMMENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
    tokenize.INDENT,
    tokenize.NEWLINE,
    tokenize.NL,
}
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
Function = Union[ast.FunctionDef, ast.AsyncFunctionDef]


@dataclass(frozen=True)
class Body:
    """What a function does, without its signature and docstring; blank lines are not counted."""

    name: str
    place: str
    lines: int
    tokens: int


@dataclass(frozen=True)
class Code:
    """The files of a package and what stands in them."""

    modules: int
    lines: list[str]
    nodes: list[ast.AST]
    bodies: list[Body]

    @classmethod
    def read(cls, folder: Path) -> Code:
        """All Python files below a folder."""
        code = cls(0, [], [], [])
        paths = sorted(folder.rglob("*.py"))
        for path in paths:
            source = path.read_text(encoding="utf-8")
            nodes = list(ast.walk(ast.parse(source)))
            code.lines.extend(source.splitlines())
            code.nodes.extend(nodes)
            code.bodies.extend(_bodies(path.relative_to(folder), source, nodes))
        return replace(code, modules=len(paths))

    @property
    def functions(self) -> list[Function]:
        """All functions and methods, those without a body included."""
        return [node for node in self.nodes if isinstance(node, _FUNCTIONS)]

    def per_1000_lines(self, *types: type[ast.AST]) -> str:
        """How often nodes of these types stand in 1,000 lines."""
        count = sum(isinstance(node, types) for node in self.nodes)
        return f"{1000 * count / len(self.lines):.1f}"

    def private_used_once(self) -> str:
        """The share of the functions that are private and that at most one place names."""
        uses = Counter(_names(self.nodes))
        names = [function.name for function in self.functions]
        single = [name for name in names if _is_private(name) and uses[name] <= 1]
        return f"{len(single) / len(names):.0%}".replace("%", " %")

    def long_lines(self) -> str:
        """The share of the lines that are longer than ``LONG_LINE``."""
        return f"{sum(len(line) > LONG_LINE for line in self.lines) / len(self.lines):.0%}".replace(
            "%", " %"
        )


def _bodies(path: Path, source: str, nodes: Sequence[ast.AST]) -> Iterator[Body]:
    text = source.splitlines()
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    tokens_of_line = Counter(token.start[0] for token in tokens if token.type not in _LAYOUT)
    for node in nodes:
        if not isinstance(node, _FUNCTIONS):
            continue
        statements = node.body
        if ast.get_docstring(node) is not None:
            statements = statements[1:]
        if not statements:
            continue
        lines = range(statements[0].lineno, (node.end_lineno or 0) + 1)
        not_blank = [line for line in lines if text[line - 1].strip()]
        tokens_of_body = sum(tokens_of_line[line] for line in lines)
        yield Body(node.name, f"{path}:{node.lineno}", len(not_blank), tokens_of_body)


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def _names(nodes: Sequence[ast.AST]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr


def row(root: Path) -> tuple[str, ...]:
    """The figures of the checkout at ``root``, in the order of ``HEADER``."""
    code, tests = Code.read(root / "src"), Code.read(root / "tests")
    return (
        "ours",
        str(code.modules),
        _median_and_p90([body.lines for body in code.bodies]),
        _median_and_p90([body.tokens for body in code.bodies]),
        code.per_1000_lines(ast.IfExp),
        code.per_1000_lines(ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp),
        code.private_used_once(),
        code.long_lines(),
        f"{len(tests.lines) / len(code.lines):.2f}",
    )


def _median_and_p90(values: list[int]) -> str:
    return f"{median(values):.0f} / {quantiles(values, n=10)[-1]:.0f}"


def densest(root: Path, count: int = 20) -> list[tuple[str, ...]]:
    """The bodies with the most tokens: tokens, lines, name and place."""
    bodies = sorted(Code.read(root / "src").bodies, key=lambda body: body.tokens, reverse=True)
    return [(str(body.tokens), str(body.lines), body.name, body.place) for body in bodies[:count]]


def _print(rows: Sequence[tuple[str, ...]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows)]
    for cells in rows:
        line = "  ".join(cell.ljust(width) for cell, width in zip(cells, widths))
        print(line.rstrip())


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--densest", action="store_true", help="list the 20 densest bodies too")
    parser.add_argument("--root", type=Path, default=ROOT, help="another checkout")
    options = parser.parse_args()
    _print([HEADER, *OTHERS, row(options.root)])
    if options.densest:
        print()
        _print([("tokens", "lines", "body", "place"), *densest(options.root)])


if __name__ == "__main__":
    main()
