"""Tables with a known answer."""

from __future__ import annotations

from typing import Any, Mapping, Sequence

import numpy as np

Table = dict[str, list[Any]]

# Keys that a text file, a shell or native code could take apart.
AWKWARD_KEYS = [
    "007",
    "7",
    "7.0",
    "+7",
    " 7",
    "7 ",
    'say "no"',
    '"',
    '""',
    "a,b",
    "a;b",
    "a\tb",
    "a\nb",
    "a\r\nb",
    "a\rb",
    "a/b",
    "a%2Cb",
    "a%2fb",
    "%",
    "NULL",
    "null",
    "NaN",
    "None",
    "-1",
    "key,row",
    "$(touch /tmp/sfworker-was-here)",
    "`id`; '",
    "\\",
    "\\n",
    "é",  # composed
    "e\u0301",  # decomposed: another text
    "张伟",
    "Ω≈ç√",
    "🙂",
    "zero\u200bwidth",
    "\u00a0",
    "123456789012345678901234567890",
    "1e5",
    "100000",
    "TRUE",
    "true",
    "x" * 5000,
]


def columns_in_order(table: Mapping[str, Sequence[Any]], order: Sequence[str]) -> Table:
    """The same table with its columns in another order."""
    return {name: list(table[name]) for name in order}


def rows_in_order(table: Mapping[str, Sequence[Any]], order: Sequence[int]) -> Table:
    """The same table with its rows in another order."""
    return {name: [cells[row] for row in order] for name, cells in table.items()}


def overlapping(rows: int, common: int, seed: int = 0) -> tuple[Table, Table]:
    """Two shuffled tables of ``rows`` rows each with ``common`` values of ``uid`` in common."""
    rng = np.random.default_rng(seed)
    first = {
        "age": [str(value) for value in rng.integers(18, 90, rows)],
        "uid": [f"{number:06d}" for number in range(rows)],
        "city": [f"c,{value}" for value in rng.integers(0, 9, rows)],
    }
    second = {
        "uid": [f"{number:06d}" for number in range(rows - common, 2 * rows - common)],
        "income": [f"{value:.2f}" for value in rng.normal(50_000, 9_000, rows)],
        "note": [f'"{value}"' for value in rng.integers(0, 9, rows)],
    }
    return rows_in_order(first, rng.permutation(rows)), rows_in_order(second, rng.permutation(rows))


def two_halves(rows: int, seed: int = 0, label_at: str = "alice") -> dict[str, Table]:
    """Aligned, scaled tables: a1 a2 a3 at alice, b1 b2 b3 at bob, an id at both, a label y."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 6))
    x[:, 4] += 0.5 * x[:, 1]
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    score = x @ [1.2, -0.8, 0.5, 0.9, -0.4, 0.3] - 0.5
    y = (rng.random(rows) < 1 / (1 + np.exp(-score))).astype(int)
    ids = [f"{row:05d}" for row in range(rows)]
    tables: dict[str, Table] = {
        "alice": {"uid": ids, **{f"a{i + 1}": x[:, i].tolist() for i in range(3)}},
        "bob": {**{f"b{i + 1}": x[:, 3 + i].tolist() for i in range(3)}, "uid": ids},
    }
    tables[label_at]["y"] = y.tolist()
    return tables


def numbers(
    tables: Mapping[str, Mapping[str, Sequence[Any]]], names: Sequence[str]
) -> np.ndarray[Any, Any]:
    """The named columns, wherever they are, as one array."""
    held = {name: cells for table in tables.values() for name, cells in table.items()}
    return np.array([[float(cell) for cell in held[name]] for name in names]).T
