"""The declarations of the transformations."""

from __future__ import annotations

from typing import Any, Literal, Union

from pydantic import Field, model_validator

from secretflow_task.contract.cells import MISSING_TEXT
from secretflow_task.contract.reveals import Fineness, Reveal, Role
from secretflow_task.contract.task_config import (
    ColumnNames,
    LoadsModel,
    PartyColumns,
    Reads,
    SavesModel,
    TaskConfig,
    Writes,
    check_same_parties,
)
from secretflow_task.contract.task_dispatcher import TaskDispatcher


class TransformConfig(TaskConfig):
    """The part that every transformation's ``task_config`` has."""

    input_data: Reads = Field(description="The table of each party.")
    output_data: Writes = Field(description="Where each party writes its transformed table.")
    columns: ColumnNames | None = Field(
        None, description="What to transform; every numeric column but ids and label if absent."
    )
    ids: PartyColumns | None = Field(
        None, description="Columns that are left as they are: {party: [columns]}."
    )
    label: str | None = Field(None, description="A label column, which is left as it is.")
    model_output: SavesModel | None = Field(None, description="Where to save what was fitted.")
    model_path: LoadsModel | None = Field(
        None, description="Apply what was fitted before, instead of fitting."
    )

    @model_validator(mode="after")
    def _fits_or_applies(self) -> TransformConfig:
        check_same_parties(input_data=self.input_data, output_data=self.output_data)
        fitted = {"columns", "model_output", *self.options()} & self.model_fields_set
        if self.model_path and fitted:
            raise ValueError(
                f"model_path goes without {' and '.join(sorted(fitted))}, which the model has"
            )
        if not (self.wanted() or self.ids or self.label or self.model_path):
            raise ValueError("give columns, or ids or label so that they are not transformed")
        return self

    def wanted(self) -> list[str] | None:
        """The columns that the request names, in one way or another."""
        return self.columns

    def options(self) -> dict[str, Any]:
        """The keys that say how to fit."""
        common = TransformConfig.model_json_schema()["properties"]
        return {name: value for name, value in self if name not in common}

    def reveals(self) -> list[Reveal]:
        """Column names and row count; what is fitted stays with the owner of the column."""
        what = "names of the transformed columns, number of rows"
        return [Reveal(Role.EVERYONE, what, Fineness.NAMES)]


class StandardScalerConfig(TransformConfig):
    """``task_config`` of `standard_scaler`."""

    with_mean: bool = Field(True, description="Subtract the mean.")
    with_std: bool = Field(True, description="Divide by the standard deviation.")


class MinMaxScalerConfig(TransformConfig):
    """``task_config`` of `min_max_scaler`."""

    feature_range: list[float] = Field(
        [0.0, 1.0],
        min_length=2,
        max_length=2,
        description="What the smallest and the largest value become.",
    )

    @model_validator(mode="after")
    def _rises(self) -> MinMaxScalerConfig:
        if not self.feature_range[0] < self.feature_range[1]:
            raise ValueError("feature_range must rise")
        return self


class BinningConfig(TransformConfig):
    """``task_config`` of `binning`."""

    method: Literal["quantile", "equal_width", "custom"] = Field(
        "quantile",
        description=(
            "Bins with equal numbers of rows, of equal width, or between given split points."
        ),
    )
    n_bins: int = Field(
        10, ge=2, le=1000, description="Number of bins; fewer where quantiles coincide."
    )
    split_points: dict[str, list[float]] | None = Field(
        None,
        description=(
            "For custom: {column: [points]}, increasing; a value equal to a point is in the lower "
            "bin."
        ),
    )

    @model_validator(mode="after")
    def _points(self) -> BinningConfig:
        custom = self.method == "custom"
        given = self.split_points
        if custom != bool(given):
            raise ValueError("split_points go with method custom and with no other")
        if custom and "n_bins" in self.model_fields_set:
            raise ValueError("n_bins follows from split_points")
        if given and self.columns is not None and set(self.columns) != set(given):
            raise ValueError("columns and split_points must name the same columns")
        for name, points in (given or {}).items():
            if not points or any(low >= high for low, high in zip(points, points[1:])):
                raise ValueError(f"split_points of {name!r} must be one or more increasing numbers")
        return self

    def wanted(self) -> list[str] | None:
        """The columns, which split points name too."""
        if self.columns or not self.split_points:
            return self.columns
        return list(self.split_points)


class EncoderConfig(TransformConfig):
    """The part that the encoders' ``task_config`` has."""

    columns: ColumnNames | None = Field(
        None, description="What to encode; every text column but ids and label if absent."
    )


class LabelEncoderConfig(EncoderConfig):
    """``task_config`` of `label_encoder`."""


class OnehotEncoderConfig(EncoderConfig):
    """``task_config`` of `onehot_encoder`; the options are scikit-learn's."""

    drop: Literal["first", "if_binary"] | None = Field(
        None,
        description="Leave out the first category's column: of every column, or of binary ones.",
    )
    min_frequency: int | float | None = Field(
        None,
        description=(
            "Rarer categories share a column: a number of rows, or below 1 a fraction of them."
        ),
    )
    max_categories: int | None = Field(
        None, ge=1, description="Most columns that one column may become."
    )
    handle_unknown: Literal["error", "ignore", "infrequent_if_exist"] = Field(
        "error", description="What to do with a category that the encoder was not fitted on."
    )

    @model_validator(mode="after")
    def _frequency(self) -> OnehotEncoderConfig:
        least = self.min_frequency
        if least is None:
            return self
        is_count = isinstance(least, int) and least >= 1
        is_share = isinstance(least, float) and 0 < least < 1
        if not is_count and not is_share:
            raise ValueError(
                "min_frequency must be a number of rows from 1 or a share between 0 and 1"
            )
        return self


Fill = Union[int, float, str]


class FillnaConfig(TransformConfig):
    """``task_config`` of `fillna`."""

    columns: ColumnNames | None = Field(
        None,
        description=(
            "What to fill; if absent, all but ids and label: columns of numbers for mean, median "
            "or a number, of text for a text, any for most_frequent."
        ),
    )
    strategy: Literal["constant", "mean", "median", "most_frequent"] = Field(
        "mean", description="What an empty cell gets."
    )
    fill_value: Fill | dict[str, Fill] | None = Field(
        None, description="For constant: one value for all columns, or {column: value}."
    )

    @model_validator(mode="after")
    def _value(self) -> FillnaConfig:
        if (self.strategy == "constant") != (self.fill_value is not None):
            raise ValueError("fill_value goes with strategy constant and with no other")
        each = self.fill_value
        if isinstance(each, dict) and not each:
            raise ValueError("fill_value names no column")
        if isinstance(each, dict) and self.columns is not None and set(self.columns) != set(each):
            raise ValueError("columns and fill_value must name the same columns")
        if any(text.strip() in MISSING_TEXT for text in self._fills() if isinstance(text, str)):
            raise ValueError("fill_value must not be a text that stands for an empty cell")
        return self

    def wanted(self) -> list[str] | None:
        """The columns, which the values to fill with may name too."""
        if self.columns or not isinstance(self.fill_value, dict):
            return self.columns
        return list(self.fill_value)

    def fill_of(self, name: str) -> Fill:
        """The constant of a column."""
        value = self.fill_value
        if isinstance(value, dict):
            return value[name]
        assert value is not None
        return value

    def _fills(self) -> list[Fill]:
        if isinstance(self.fill_value, dict):
            return list(self.fill_value.values())
        if self.fill_value is None:
            return []
        return [self.fill_value]


TaskDispatcher.declare(
    "standard_scaler",
    StandardScalerConfig,
    family="preprocessing",
    summary=(
        "Scale columns to mean 0 and standard deviation 1, as scikit-learn does, each at its "
        "owner."
    ),
    body="secretflow_task.jobs.preprocessing_task",
)
TaskDispatcher.declare(
    "min_max_scaler",
    MinMaxScalerConfig,
    family="preprocessing",
    summary="Scale columns to a range, as scikit-learn does, each at its owner.",
    body="secretflow_task.jobs.preprocessing_task",
)
TaskDispatcher.declare(
    "label_encoder",
    LabelEncoderConfig,
    family="preprocessing",
    summary=(
        "Replace categories by their index in sorted order, as scikit-learn does, each column at "
        "its owner."
    ),
    body="secretflow_task.jobs.preprocessing_task",
)
TaskDispatcher.declare(
    "onehot_encoder",
    OnehotEncoderConfig,
    family="preprocessing",
    summary=(
        "Replace a column by a column of 0 and 1 per category, as scikit-learn does, at its "
        "owner."
    ),
    body="secretflow_task.jobs.preprocessing_task",
)
TaskDispatcher.declare(
    "binning",
    BinningConfig,
    family="preprocessing",
    summary=(
        "Replace numbers by the index of their bin, with the bins of pandas, each column at its "
        "owner."
    ),
    body="secretflow_task.jobs.preprocessing_task",
)
TaskDispatcher.declare(
    "fillna",
    FillnaConfig,
    family="preprocessing",
    summary=(
        "Fill the empty cells of columns, as scikit-learn's `SimpleImputer` does, each at its "
        "owner."
    ),
    body="secretflow_task.jobs.preprocessing_task",
)
