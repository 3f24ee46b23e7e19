"""What is left of something large is JSON, fits, and has what a person would look for first."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secretflow_task.utils.excerpt import excerpt

SCALARS = st.none() | st.booleans() | st.integers() | st.text(max_size=30)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=5), inner)
)


def size(value: object) -> int:
    """In bytes, as JSON."""
    return len(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))


@given(st.dictionaries(st.text(max_size=5), VALUES, max_size=100), st.integers(2, 2000))
def test_a_part_fits_and_holds_nothing_that_the_whole_has_not(
    value: dict[str, Any], limit: int
) -> None:
    part = excerpt(value, limit)
    assert size(part) <= limit and part.keys() <= value.keys()
    for name, item in part.items():
        assert type(item) is type(value[name])
        if isinstance(item, list):
            assert len(item) <= len(value[name])
    json.loads(json.dumps(part))


def test_a_matrix_keeps_its_corner_and_the_names_of_it() -> None:
    names = [f"column_{number}" for number in range(1002)]
    matrix = [[1 / (1 + row + column) for column in range(1002)] for row in range(1002)]
    steps = {"corr": {"columns": names, "correlation": matrix, "rows": 5000}, "psi": {"rows": 7}}
    part = excerpt({"steps": steps, "timings": {"task_execution": 1.5}}, 2**16)
    kept = part["steps"]["corr"]
    rows = len(kept["correlation"])
    assert part["timings"] == {"task_execution": 1.5} and part["steps"]["psi"] == {"rows": 7}
    assert kept["rows"] == 5000 and rows == 30 and kept["columns"] == names[:rows]
    assert kept["correlation"] == [row[:rows] for row in matrix[:rows]]
    assert size(part) <= 2**16


@pytest.mark.parametrize(
    "value",
    [
        {"text": "é" * 10**6, "rows": 3},
        {"rows": 3, **{f"column {number}": [1.0] * 100 for number in range(64)}},
        {"deep": [[[[[[1.0] * 100] * 100] * 10] * 10]], "rows": 3},
    ],
)
def test_figures_stay_whatever_else_is_too_large(value: dict[str, Any]) -> None:
    part = excerpt(value, 3000)
    assert part["rows"] == 3 and size(part) <= 3000
