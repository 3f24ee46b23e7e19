"""Scaling and binning: how each is fitted to one column and applied to any, at the owner."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from secretflow_task.contract.errors import ConstantColumn
from secretflow_task.contract.tasks.transformation import (
    BinningConfig,
    MinMaxScalerConfig,
    StandardScalerConfig,
)
from secretflow_task.data_loader.table import Table
from secretflow_task.jobs.cells import exact_numbers, present_numbers
from secretflow_task.jobs.transformation import Fitted

if TYPE_CHECKING:
    from secretflow_task.jobs.columns import Array


def fit_standard(table: Table, name: str, config: StandardScalerConfig) -> Fitted:
    """Mean and population standard deviation (1 for a constant column) of what is there."""
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler(with_mean=config.with_mean, with_std=config.with_std)
    scaler.fit(present_numbers(table, name).reshape(-1, 1))
    fitted = {}
    if config.with_mean:
        fitted["mean"] = float(scaler.mean_[0])
    if config.with_std:
        fitted["std"] = float(scaler.scale_[0])
    return fitted


def standardize(table: Table, name: str, fitted: Fitted) -> dict[str, Array]:
    """``(x - mean) / std``; empty cells stay empty."""
    values = exact_numbers(table, name)
    return {name: (values - fitted.get("mean", 0.0)) / fitted.get("std", 1.0)}


def fit_min_max(table: Table, name: str, config: MinMaxScalerConfig) -> Fitted:
    """Least and greatest value; a constant column becomes the range's lower end."""
    from sklearn.preprocessing import MinMaxScaler

    scaler = MinMaxScaler(feature_range=tuple(config.feature_range))
    scaler.fit(present_numbers(table, name).reshape(-1, 1))
    return {
        "min": float(scaler.data_min_[0]),
        "max": float(scaler.data_max_[0]),
        "scale": float(scaler.scale_[0]),
        "lower": config.feature_range[0],
    }


def scale_to_range(table: Table, name: str, fitted: Fitted) -> dict[str, Array]:
    """``(x - min) * scale + lower``, which far from zero rounds less than ``x * scale + min_``."""
    values = exact_numbers(table, name)
    return {name: (values - fitted["min"]) * fitted["scale"] + fitted["lower"]}


def fit_bins(table: Table, name: str, config: BinningConfig) -> Fitted:
    """The split points: the inner edges of pandas' ``qcut`` (equal ones once) or ``cut``."""
    import numpy as np
    import pandas as pd

    if config.split_points:
        return {"split_points": config.split_points[name]}
    present = present_numbers(table, name)
    if config.method == "quantile":
        shares = np.linspace(0, 1, config.n_bins + 1)
        edges = np.unique(np.quantile(present, shares))
    else:
        _, edges = pd.cut(present, config.n_bins, labels=False, retbins=True, duplicates="drop")
    points = [float(edge) for edge in edges[1:-1]]
    if not points:
        raise ConstantColumn(
            table.about(name, "has quantiles that coincide, so only one bin would be left"),
            party=table.party,
            hint="Use method equal_width or custom, or leave the column out: it has few values.",
        )
    return {"split_points": points}


def bin_index(table: Table, name: str, fitted: Fitted) -> dict[str, Array]:
    """The bin of each cell from 0, closed at the right; -1 for an empty cell."""
    import numpy as np

    values = exact_numbers(table, name)
    index = np.searchsorted(fitted["split_points"], values, side="left")
    return {name: np.where(np.isnan(values), -1, index)}


def bin_counts(table: Table, name: str, points: list[float]) -> list[dict[str, Any]]:
    """The rules and the rows of each bin of a transformed column; a missing bound is open."""
    import numpy as np

    index = table.numbers([name]).ravel().astype(int)
    missing, *counts = np.bincount(index + 1, minlength=len(points) + 2).tolist()
    bins: list[dict[str, Any]] = []
    lower_ends = [None, *points]
    upper_ends = [*points, None]
    for number, (above, up_to, count) in enumerate(zip(lower_ends, upper_ends, counts)):
        bins.append({"bin": number, "above": above, "up_to": up_to, "count": count})
    if missing:
        bins.append({"bin": -1, "count": missing})
    return bins
