"""What is computed from measured seconds: medians, spreads, growth, whether a ratio was lost."""

from __future__ import annotations

import math
import statistics
from typing import Sequence

_SHARE, _SECONDS = 0.05, 0.5  # what a job may take longer than the same work in a warm process
_LOST = 1.2  # 25 % must be noticed: the rest is left to noise


def spread(seconds: Sequence[float]) -> float:
    """Half the range between the quartiles, as a share of the median; 0 for one measurement."""
    if len(seconds) < 2:
        return 0.0
    first, middle, third = statistics.quantiles(seconds, method="inclusive")
    return (third - first) / 2 / middle


def beyond_limit(worker: float, warm: float) -> float:
    """Seconds beyond SecretFlow's in a warm process plus 5 % and half a second; else negative."""
    return worker - warm * (1 + _SHARE) - _SECONDS


def exponent(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """The slope of the line of least squares through the logarithms: 1 is linear growth."""
    x, y = ([math.log(value) for value in values] for values in (sizes, seconds))
    return statistics.linear_regression(x, y).slope


def ratio(worker: Sequence[float], warm: Sequence[float]) -> float:
    """The median of the ratios of measurements that were made one right after the other.

    What slows the machine down for a while slows down both, and one disturbed pair moves a median
    little.
    """
    return statistics.median(one / other for one, other in zip(worker, warm))


def is_lost(measured: float, baseline: float) -> bool:
    """Whether a quarter or so was lost, compared with SecretFlow on the same machine."""
    return measured > _LOST * baseline
