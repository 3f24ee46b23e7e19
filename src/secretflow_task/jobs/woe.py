"""Bins of a column and their weight of evidence, in plain numpy at one party.

The figures are those of SecretFlow's ``VertWoeBinning``; where that has one bin for a column in
which most cells are equal, drops the missing cells from the information value, or counts the bins
of a chimerge before they were merged, these are right.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Sequence

from secretflow_task.contract.tasks.woe import Method

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

FIRST_BINS = 100  # that chimerge starts from
# Neighbours further apart differ with p < 0.1 (one degree of freedom).
_CHI_LIMIT = 2.705543454095404


@dataclass(frozen=True)
class Bins:
    """How a column is parted.

    Attributes:
        names: one per bin; None for the bin of the missing cells, which is the last if there is
            one.
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
    names = _interval_names(points)
    if len(present) < len(values):
        names.append(None)
    return Bins(names, index, points)


def category_bins(cells: Sequence[str | None]) -> Bins:
    """A bin for every category, in the order of their text."""
    import numpy as np

    categories = {cell for cell in cells if cell is not None}
    names: list[str | None] = [*sorted(categories)]
    if None in cells:
        names.append(None)
    bin_of = {name: index for index, name in enumerate(names)}
    index = np.array([bin_of[cell] for cell in cells])
    return Bins(names, index, points=np.empty(0))


def _points(present: Array, method: Method, n_bins: int) -> Array:
    """Inner split points, rising; none if all numbers are equal.

    As `pandas.cut` and `pandas.qcut`, but for cells that are mostly equal: ``qcut`` has one bin
    there.
    """
    import numpy as np
    import pandas as pd

    if present.size == 0:
        return np.empty(0)
    highest = present.max()
    if method == "eq_range":
        points = np.linspace(present.min(), highest, n_bins + 1)[1:-1]
    else:
        if method == "chimerge":
            n_bins = FIRST_BINS
        shares = np.linspace(0, 1, n_bins + 1)[1:-1]
        points = pd.Series(present).quantile(shares).to_numpy()
    points = np.unique(points[points < highest])
    if len(points) == 0:
        points = np.unique(present[present < highest])[-1:]
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
    names: list[str | None] = []
    low = "-inf"
    for point in points:
        high = repr(float(point))
        names.append(f"({low}, {high}]")
        low = high
    names.append(f"({low}, inf)")
    return names


def merged(bins: Bins, positives: Array, n_bins: int) -> tuple[Bins, Array]:
    """ChiMerge (Kerber, AAAI 1992): join similar neighbours until they differ or are ``n_bins``.

    Args:
        positives: positive rows of every bin, the missing cells' bin included.

    Returns:
        The bins that are left, and their positive rows.
    """
    import numpy as np

    points = bins.points
    intervals = len(points) + 1  # all bins but that of the missing cells
    rows = bins.rows[:intervals].astype(float)
    hits = positives[:intervals].astype(float)
    while len(rows) > n_bins:
        distances = _chi_squares(rows, hits)
        nearest = int(np.argmin(distances))
        if distances[nearest] > _CHI_LIMIT:
            break
        rows = _joined(rows, nearest)
        hits = _joined(hits, nearest)
        points = np.delete(points, nearest)
    names = _interval_names(points)
    old_ends = np.append(bins.points, np.inf)
    new_bin = np.searchsorted(points, old_ends)
    if bins.missing:
        new_bin = np.append(new_bin, len(names))
        names.append(None)
    new_positives = np.bincount(new_bin, weights=positives).astype(np.int64)
    return Bins(names, new_bin[bins.index], points), new_positives


def _chi_squares(rows: Array, positives: Array) -> Array:
    """Pearson's chi-square of every two neighbouring bins, of shape (bins - 1,)."""
    import numpy as np

    first, second = rows[:-1], rows[1:]
    share = (positives[:-1] + positives[1:]) / (first + second)
    variance = share * (1 - share) * (1 / first + 1 / second)
    difference = positives[:-1] / first - positives[1:] / second
    chi_squares = np.zeros_like(share)
    np.divide(difference**2, variance, out=chi_squares, where=variance > 0)
    return np.asarray(chi_squares)


def _joined(counts: Array, index: int) -> Array:
    """Counts of bins after the bin at ``index`` joined the next."""
    import numpy as np

    counts = counts.copy()
    counts[index + 1] += counts[index]
    return np.delete(counts, index)


def woe_and_iv(rows: Array, positives: Array) -> tuple[Array, Array]:
    """Weight of evidence and information value of every bin, each of shape (bins,).

    ``woe = ln((positives / all positives) / (negatives / all negatives))``; where a bin has none of
    one kind both counts are taken half a row higher, as SecretFlow does.
    """
    import numpy as np

    negatives = rows - positives
    half = np.where((positives == 0) | (negatives == 0), 0.5, 0.0)
    share = (positives + half) / positives.sum()
    other = (negatives + half) / negatives.sum()
    woe = np.log(share / other)
    return woe, (share - other) * woe
