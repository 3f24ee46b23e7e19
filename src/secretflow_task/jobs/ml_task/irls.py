"""Generalised linear models on secret shares: the programs that run on the SPU.

Fisher scoring as in McCullagh and Nelder, *Generalized Linear Models* (1989), section 2.5, started
as statsmodels does. SecretFlow's `SSGLM` is not used: it shows X'WX to the label party and the
largest label to all, replaces the logistic function, penalises by another amount than asked for,
and loses FM64's few digits in an inverse of order 1/rows (docs/developer_guide/silent_errors.md).
Here every matrix stays on shares, and a step is a correction of the last one, so that the rounding
of a step is repaired by the next.

Features are standardised and the target has mean 1 (mean 0 and deviation 1 for the normal
distribution with the identity link), so that all numbers are near 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Sequence

from secretflow_task.contract.tasks.glm import is_positive

if TYPE_CHECKING:
    from secretflow_task.jobs.columns import Array

# Features with a column of ones, label, offset or None, weight or None.
Rows = tuple[Any, Any, Any, Any]
_HALVINGS = 6  # exp(x) is a cubic at x / 2**6, squared six times: to 1e-3 for x up to 8


@dataclass(frozen=True)
class Family:
    """A distribution by the power of its variance function, and a link.

    Attributes:
        power: the variance is ``mu ** power``; unused for `Logit`, whose variance is ``mu (1 -
            mu)``.
        link: Logit, Log, Identity or Reciprocal.
        bound: how far from 0 the linear predictor may be where its exponential is taken.
        floor: the smallest mean and variance that the field's fraction bits resolve.
    """

    power: float
    link: str
    bound: float
    floor: float

    @property
    def positive(self) -> bool:
        """Whether the linear predictor must be over 0 because the mean is."""
        return is_positive(self.link, self.power)

    @property
    def label_scale(self) -> float:
        """The power of s by which an l2 penalty changes when the labels are divided by s."""
        of_link = {"Logit": 0.0, "Log": 0.0, "Identity": 2.0, "Reciprocal": -2.0}[self.link]
        return of_link + self.power - 2


def exp(x: Any) -> Any:
    """The exponential; SPU's own is 5 % off at 5 in its default mode."""
    x = x * 2.0**-_HALVINGS
    power = 1.0 + x * (1.0 + x * (0.5 + x * (1 / 6)))
    for _ in range(_HALVINGS):
        power = power * power
    return power


def linear_predictor(x: Any, b: Any, offset: Any) -> Any:
    """The linear predictor of shape (rows, 1); ``offset`` may be None."""
    eta = x @ b
    if offset is None:
        return eta
    return eta + offset


def response(family: Family, eta: Any) -> Any:
    """The mean for a linear predictor, both of shape (rows, 1)."""
    return _moments(family, eta)[0]


def _moments(family: Family, eta: Any) -> tuple[Any, Any, Any]:
    """Mean mu, the score's factor of ``y - mu``, and the weight of a row in X'WX."""
    import jax.numpy as jnp

    if family.link in ("Logit", "Log"):
        eta = jnp.clip(eta, -family.bound, family.bound)
    elif family.positive:
        eta = jnp.maximum(eta, family.floor)
    if family.link == "Logit":
        mu = 1.0 / (1.0 + exp(-eta))
        return mu, 1.0, jnp.maximum(mu * (1.0 - mu), family.floor)
    if family.link == "Log":
        mu = exp(eta)
        slope: Any = 1.0
        if family.power != 1:
            slope = exp((1.0 - family.power) * eta)  # mu ** (1 - power), without a division
        if family.power == 2:
            return mu, slope, jnp.ones_like(mu)
        return mu, slope, mu * slope
    if family.link == "Identity":
        if not family.power:
            ones = jnp.ones_like(eta)
            return eta, ones, ones
        weight = _power(1.0 / eta, family.power)
        return eta, weight, weight
    mu = 1.0 / eta
    return mu, -_power(mu, 2 - family.power), _power(mu, 4 - family.power)


def _power(x: Any, exponent: float) -> Any:
    product: Any = 1.0
    for _ in range(int(exponent)):
        product = product * x
    return product


def start(family: Family, y: Array) -> tuple[Array, Array]:
    """Row weights and working response of the first step, which the label party computes.

    Args:
        y: the scaled labels of shape (rows, 1).
    """
    import numpy as np

    if family.link == "Logit":
        mu = (y + 0.5) / 2
        variance = mu * (1 - mu)
        return variance, np.log(mu / (1 - mu)) + (y - mu) / variance
    if not family.positive and family.link == "Identity":
        return np.ones_like(y), y
    mu = (y + y.mean()) / 2
    if family.link == "Log":
        eta, slope = np.log(mu), 1 / mu
    elif family.link == "Identity":
        eta, slope = mu, np.ones_like(mu)
    else:
        eta, slope = 1 / mu, -1 / mu**2
    weight = 1 / (mu**family.power * slope**2)
    return weight, eta + (y - mu) * slope


def design(parts: Sequence[Any]) -> Any:
    """The parties' features and a column of ones, of shape (rows, features + 1)."""
    import jax.numpy as jnp

    return jnp.concatenate([*parts, jnp.ones((parts[0].shape[0], 1))], axis=1)


def start_sums(rows: Rows, weight0: Any, z0: Any) -> tuple[Any, Any]:
    """X'WX and X'Wz of the first step, from what `start` gives."""
    x, _, offset, weight = rows
    if offset is not None:
        z0 = z0 - offset
    if weight is not None:
        weight0 = weight0 * weight
    return _products(x * weight0, x, z0)


def sums(family: Family, rows: Rows, b: Any) -> tuple[Any, Any]:
    """X'WX and the gradient of the log-likelihood, at ``b`` of shape (features + 1, 1)."""
    x = rows[0]
    score, row_weight = _scores(family, rows, b)
    return _products(x, x * row_weight, score)


def _scores(family: Family, rows: Rows, b: Any) -> tuple[Any, Any]:
    """What each row adds to the gradient per unit of its features, and its weight in X'WX."""
    x, y, offset, weight = rows
    mu, slope, row_weight = _moments(family, linear_predictor(x, b, offset))
    score = slope * (y - mu)
    if weight is None:
        return score, row_weight
    return score * weight, row_weight * weight


def _products(left: Any, x: Any, y: Any) -> tuple[Any, Any]:
    """``left.T @ x`` and ``left.T @ y`` in one product, so ``left`` is masked and sent once."""
    import jax.numpy as jnp

    both = left.T @ jnp.concatenate([x, y], axis=1)
    return both[:, :-1], both[:, -1:]


def inside(family: Family, rows: Rows, b: Any) -> Any:
    """Whether every row's linear predictor is clear of the floor, for links that need it over 0."""
    import jax.numpy as jnp

    x, _, offset, _ = rows
    return jnp.min(linear_predictor(x, b, offset)) > 2 * family.floor


def step(
    information: Any,
    gradient: Any,
    b: Any,
    penalty: Any,
    *,
    shift: int,
    smallest: float,
    tol: float,
) -> tuple[Any, Any]:
    """The next coefficients, and ``[settled, sound]``.

    Args:
        b: the coefficients, or None in the first step.
        penalty: of each coefficient, of shape (features + 1, 1), on the scale of ``information``;
            or None.
        shift: sums are divided by ``2 ** shift``, which is exact, before they are inverted.
        smallest: a pivot of less than this share of its diagonal tells linearly dependent features.
        tol: settled if no coefficient of a standardised feature moves by more.
    """
    import jax.numpy as jnp

    if penalty is not None:
        information = information + jnp.eye(information.shape[0]) * penalty
        if b is not None:
            gradient = gradient - penalty * b
    information = information * 2.0**-shift
    change, pivots = _solve(information, gradient * 2.0**-shift)
    # One comparison for all of it: every further one takes as many rounds between the parties.
    allowed = 0.0 if b is None else tol
    moves = jnp.concatenate([change, -change])[:, 0] - allowed
    below = jnp.concatenate([moves, jnp.diagonal(information) * smallest - pivots]) < 0.0
    verdict = jnp.stack([jnp.all(below[: moves.size]), jnp.all(below[moves.size :])])
    if b is None:
        return change, verdict
    return b + change, verdict


def _solve(a: Any, r: Any) -> tuple[Any, Any]:
    """Solve ``a @ x = r`` for a symmetric positive definite ``a`` by Gauss-Jordan elimination.

    Returns:
        x and the pivots.
    """
    import jax.numpy as jnp
    from jax import lax

    size = a.shape[0]
    units = jnp.eye(size)

    def eliminate(index: Any, state: tuple[Any, Any]) -> tuple[Any, Any]:
        rows, pivots = state
        row = lax.dynamic_slice_in_dim(rows, index, 1)
        pivot = lax.dynamic_slice_in_dim(row, index, 1, axis=1)
        column = lax.dynamic_slice_in_dim(rows, index, 1, axis=1)
        unit = lax.dynamic_slice_in_dim(units, index, 1, axis=1)
        pivots = lax.dynamic_update_slice_in_dim(pivots, pivot[0], index, 0)
        # To 1e-5, which would hide what is left of a column that others determine.
        inverse = 1.0 / pivot
        inverse = inverse * (2.0 - pivot * inverse)
        return rows - (column - unit) * (row * inverse), pivots

    rows = jnp.concatenate([a, r], axis=1)
    rows, pivots = lax.fori_loop(0, size, eliminate, (rows, rows[:, 0]))
    return rows[:, size:], pivots


def descend(
    family: Family, rows: Rows, b: Any, penalty: Any, *, rate: float, size: int, total: int
) -> Any:
    """The coefficients after one epoch of gradient descent over batches of ``size`` rows.

    A last batch of fewer rows takes the share of a step that it is of a batch, and every batch its
    share of the penalty, which is that of all ``total`` rows.
    """
    from jax import lax

    count, shift = rows[0].shape[0], size.bit_length()

    def batch_step(first: Any, length: int, b: Any) -> Any:
        part: Any = tuple(
            None if column is None else lax.dynamic_slice_in_dim(column, first, length)
            for column in rows
        )
        score, _ = _scores(family, part, b)
        gradient = part[0].T @ score
        if penalty is not None:
            gradient = gradient - penalty * b * (length / total)
        # The first factor is exact in fixed point, the second near 1, so that both are.
        return b + gradient * 2.0**-shift * (rate * 2**shift / size)

    b = lax.fori_loop(0, count // size, lambda index, b: batch_step(index * size, size, b), b)
    left = count % size
    if left:
        b = batch_step(count - left, left, b)
    return b


def zeros(rows: Rows) -> Any:
    """Where gradient descent starts, of shape (features + 1, 1)."""
    return rows[0][:1].T * 0.0


def moved(before: Any, after: Any, tol: float) -> Any:
    """``[settled, sound]`` of an epoch of gradient descent, which tells nothing of dependence."""
    import jax.numpy as jnp

    settled = jnp.max(jnp.abs(after - before)) < tol
    return jnp.stack([settled, jnp.ones_like(settled)])
