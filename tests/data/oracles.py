"""Plain numpy for what runs on secret shares."""

from __future__ import annotations

from typing import Any, Callable

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]

_SEVENTH_DEGREE = [  # SecretFlow's least squares fit, highest power first
    -4.74674505e-06,
    -9.74060972e-08,
    3.94330487e-04,
    4.04588962e-06,
    -1.23407424e-02,
    -3.97212202e-05,
    2.35176260e-01,
    5.00052959e-01,
]
SIGMOIDS: dict[str, Callable[[Array], Array]] = {
    "real": lambda x: 1 / (1 + np.exp(-x)),
    "t1": lambda x: np.clip(0.5 + x / 4, 0, 1),
    "t3": lambda x: np.select([x < -2, x > 2], [0.0, 1.0], 0.5 + x / 4 - x**3 / 48),
    "t5": lambda x: np.clip(0.5 + x / 4 - x**3 / 48 + x**5 / 480, 0, 1),
    "df": lambda x: 0.5 * x / (1 + np.abs(x)) + 0.5,
    "sr": lambda x: 0.5 * x / np.sqrt(1 + x**2) + 0.5,
    "mix": lambda x: np.where(
        np.abs(x) > 4, 0.5 * x / np.sqrt(1 + x**2) + 0.5, np.polyval(_SEVENTH_DEGREE, x)
    ),
}


def sgd(
    x: Array,
    y: Array,
    *,
    epochs: int,
    learning_rate: float,
    batch_size: int,
    sigmoid: Callable[[Array], Array] = SIGMOIDS["real"],
    l2_norm: float = 0.0,
) -> tuple[Array, float]:
    """Coefficients and intercept of mini-batch gradient descent from zero, rows in order.

    A batch of fewer rows than ``batch_size`` takes the share of a step that it is of a batch.
    """
    design = np.hstack([x, np.ones((len(x), 1))])
    w = np.zeros(design.shape[1])
    batch_size = min(batch_size, len(x))
    for _ in range(epochs):
        for first in range(0, len(x), batch_size):
            batch, truth = design[first : first + batch_size], y[first : first + batch_size]
            step = batch.T @ (sigmoid(batch @ w) - truth) / batch_size
            penalty = l2_norm * np.append(w[:-1], 0.0) / batch_size
            w = w - learning_rate * (step + penalty * len(batch) / batch_size)
    return w[:-1], float(w[-1])
