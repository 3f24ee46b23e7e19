"""Bins of a column and their weight of evidence, in plain numpy at one party.

The figures are those of SecretFlow's ``VertWoeBinning``; where that has one bin for a column in which most
cells are equal, drops the missing cells from the information value, or counts the bins of a chimerge before
they were merged, these are right.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Sequence, TYPE_CHECKING

from secretflow_task.jobs.declared.woe import Method

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

FIRST_BINS = 100  # that chimerge starts from
_CHI_LIMIT = (
    2.705543454095404  # neighbours further apart differ with p < 0.1 (one degree of freedom)
)


@dataclass(frozen=True)
class Bins:
    """How a column is parted.

    Attributes:
        names: one per bin; None for the bin of the missing cells, which is the last if there is one.
        index: every row's bin, of shape (rows,).
        points: where the bins of numbers end, each bin with its end; empty for categories.
    """

    names: list[str | None]
    index: Array
    points: Array

    @property
    def rows(self) -> Array:
        """The number of rows in every bin."""
        import numpy as np

        return np.bincount(self.index, minlength=len(self.names))

    @property
    def missing(self) -> bool:
        """Whether there are missing cells."""
        return self.names[-1:] == [None]


def numeric_bins(values: Array, method: Method, n_bins: int, least: int) -> Bins:
    """Part numbers, of shape (rows,) with NaN where a cell is missing.

    Bins with fewer than ``least`` rows join their neighbour, as empty ones do in SecretFlow.
    """
    import numpy as np

    present = values[~np.isnan(values)]
    points = _points(present, method, n_bins)
    points = _without_small_bins(points, present, least)
    index = np.searchsorted(points, values)  # left-open, right-closed; NaN comes last
    index[np.isnan(values)] = len(points) + 1
    missing: list[str | None] = [None] if len(present) < len(values) else []
    return Bins(_interval_names(points) + missing, index, points)


def category_bins(cells: Sequence[str | None]) -> Bins:
    """A bin for every category, in the order of their text."""
    import numpy as np

    categories = sorted({cell for cell in cells if cell is not None})
    names = [*categories, *([None] if None in cells else [])]
    number = {name: at for at, name in enumerate(names)}
    return Bins(names, np.array([number[cell] for cell in cells]), np.empty(0))


def _points(present: Array, method: Method, n_bins: int) -> Array:
    """Inner split points, rising; none if all numbers are equal.

    As `pandas.cut` and `pandas.qcut`, but for cells that are mostly equal: ``qcut`` has one bin there.
    """
    import numpy as np
    import pandas as pd

    low, high = (present.min(), present.max()) if len(present) else (0.0, 0.0)
    if method == "eq_range":
        points = np.linspace(low, high, n_bins + 1)[1:-1]
    else:
        shares = np.linspace(0, 1, (FIRST_BINS if method == "chimerge" else n_bins) + 1)[1:-1]
        points = pd.Series(present).quantile(shares).to_numpy()
    points = np.unique(points[points < high])
    if len(points) == 0:
        points = np.unique(present[present < high])[-1:]
    return np.asarray(points)


def _without_small_bins(points: Array, present: Array, least: int) -> Array:
    import numpy as np

    kept: list[float] = []
    size = 0
    counts = np.bincount(np.searchsorted(points, present), minlength=len(points) + 1)
    for point, count in zip(points, counts):
        size += int(count)
        if size >= least:
            kept.append(point)
            size = 0
    if kept and size + counts[-1] < least:
        kept.pop()
    return np.array(kept, dtype=float)


def _interval_names(points: Array) -> list[str | None]:
    ends = ["-inf", *(repr(float(point)) for point in points), "inf"]
    return [f"({low}, {high}{')' if high == 'inf' else ']'}" for low, high in zip(ends, ends[1:])]


def merged(bins: Bins, positives: Array, n_bins: int) -> tuple[Bins, Array]:
    """ChiMerge (Kerber, AAAI 1992): join the most similar neighbours until they differ or are ``n_bins``.

    Args:
        positives: positive rows of every bin, the missing cells' bin included.

    Returns:
        The bins that are left, and their positive rows.
    """
    import numpy as np

    points, rows, hits = bins.points, bins.rows, positives
    count = len(points) + 1
    rows, hits = rows[:count].astype(float), hits[:count].astype(float)
    while len(rows) > n_bins:
        distances = _chi_squares(rows, hits)
        at = int(np.argmin(distances))
        if distances[at] > _CHI_LIMIT:
            break
        rows, hits, points = _joined(rows, at), _joined(hits, at), np.delete(points, at)
    moved = np.searchsorted(points, np.append(bins.points, np.inf))
    names = _interval_names(points)
    if bins.missing:
        moved, names = np.append(moved, len(names)), [*names, None]
    new_positives = np.bincount(moved, weights=positives).astype(np.int64)
    return Bins(names, moved[bins.index], points), new_positives


def _chi_squares(rows: Array, positives: Array) -> Array:
    """Pearson's chi-square of every two neighbouring bins, of shape (bins - 1,)."""
    import numpy as np

    first, second = rows[:-1], rows[1:]
    share = (positives[:-1] + positives[1:]) / (first + second)
    variance = share * (1 - share) * (1 / first + 1 / second)
    difference = positives[:-1] / first - positives[1:] / second
    return np.asarray(
        np.divide(difference**2, variance, out=np.zeros_like(share), where=variance > 0)
    )


def _joined(values: Array, at: int) -> Array:
    import numpy as np

    values = values.copy()
    values[at + 1] += values[at]
    return np.delete(values, at)


def woe_and_iv(rows: Array, positives: Array) -> tuple[Array, Array]:
    """Weight of evidence and information value of every bin, each of shape (bins,).

    ``woe = ln((positives / all positives) / (negatives / all negatives))``; where a bin has none of one
    kind both counts are taken half a row higher, as SecretFlow does.
    """
    import numpy as np

    negatives = rows - positives
    half = np.where((positives == 0) | (negatives == 0), 0.5, 0.0)
    share = (positives + half) / positives.sum()
    other = (negatives + half) / negatives.sum()
    woe = np.log(share / other)
    return woe, (share - other) * woe
