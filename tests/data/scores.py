"""Labels and predictions that SecretFlow evaluates wrongly, without an error."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]
Sample = tuple[Array, Array]


def classified(rows: int = 500) -> Sample:
    """Labels 0 and 1, and scores that tell them apart well but not wholly."""
    rng = np.random.default_rng(1)
    label = rng.integers(0, 2, rows).astype(float)
    return label, np.clip(0.5 * rng.random(rows) + 0.4 * label, 0, 1)


def measured(origin: float) -> Sample:
    """Numbers around ``origin`` with standard deviation 100, and predictions that are 50 off."""
    rng = np.random.default_rng(2)
    label = rng.normal(size=500)
    return origin + 100 * label, origin + 100 * (label + 0.5 * rng.normal(size=500))


def classifications() -> dict[str, Sample]:
    """Samples for `biclassification_eval`, by what is special about them."""
    label, score = classified()
    rng = np.random.default_rng(3)
    rare = (rng.random(2000) < 0.003).astype(float)
    return {
        "plain": (label, score),
        "ten score levels": (label, score.round(1)),
        "fewer rows than buckets": (label[:50], score[:50]),
        "scores 1e-9 apart": (label, 0.5 + 1e-9 * score),
        "rare": (rare, 1 / (1 + np.exp(4 - 5 * rare - rng.normal(size=2000)))),
    }


def regressions() -> dict[str, Sample]:
    """Samples for `regression_eval`, by what is special about them."""
    return {
        "far from zero": measured(1e9),
        "constant label": (np.full(5, 3.1), np.arange(1.0, 6.0)),
        "a label of zero": (np.arange(4.0), np.array([0.1, 1, 2, 3])),
    }
