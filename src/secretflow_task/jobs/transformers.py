"""Scaling and binning: how each is fitted to one column and applied to any, at the owner."""

from __future__ import annotations

from typing import Any, TYPE_CHECKING

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
    fitted = {"mean": float(scaler.mean_[0])} if config.with_mean else {}
    return fitted | ({"std": float(scaler.scale_[0])} if config.with_std else {})


def standardize(table: Table, name: str, fitted: Fitted) -> dict[str, Array]:
    """``(x - mean) / std``; empty cells stay empty."""
    return {name: (exact_numbers(table, name) - fitted.get("mean", 0.0)) / fitted.get("std", 1.0)}


def fit_min_max(table: Table, name: str, config: MinMaxScalerConfig) -> Fitted:
    """Least and greatest value; a constant column becomes the range's lower end."""
    from sklearn.preprocessing import MinMaxScaler

    scaler = MinMaxScaler(feature_range=tuple(config.feature_range))
    scaler.fit(present_numbers(table, name).reshape(-1, 1))
    found = {"min": scaler.data_min_, "max": scaler.data_max_, "scale": scaler.scale_}
    return {key: float(value[0]) for key, value in found.items()} | {
        "lower": config.feature_range[0]
    }


def scale_to_range(table: Table, name: str, fitted: Fitted) -> dict[str, Array]:
    """``(x - min) * scale + lower``, which far from zero rounds less than ``x * scale + min_``."""
    return {name: (exact_numbers(table, name) - fitted["min"]) * fitted["scale"] + fitted["lower"]}


def fit_bins(table: Table, name: str, config: BinningConfig) -> Fitted:
    """The split points: the inner edges of pandas' ``qcut`` (equal ones once) or ``cut``."""
    import numpy as np
    import pandas as pd

    if config.split_points:
        return {"split_points": config.split_points[name]}
    present = present_numbers(table, name)
    if config.method == "quantile":
        edges = np.unique(np.quantile(present, np.linspace(0, 1, config.n_bins + 1)))
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
    return {
        name: np.where(
            np.isnan(values), -1, np.searchsorted(fitted["split_points"], values, side="left")
        )
    }


def bin_counts(table: Table, name: str, points: list[float]) -> list[dict[str, Any]]:
    """The rules and the rows of each bin of a transformed column; a missing bound is open."""
    import numpy as np

    counts = np.bincount(
        table.numbers([name]).ravel().astype(int) + 1, minlength=len(points) + 2
    ).tolist()
    edges = [None, *points, None]
    bins = [
        {"bin": index, "above": edges[index], "up_to": edges[index + 1], "count": counts[index + 1]}
        for index in range(len(points) + 1)
    ]
    return bins + ([{"bin": -1, "count": counts[0]}] if counts[0] else [])
