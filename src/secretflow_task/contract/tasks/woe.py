"""The declaration of weight of evidence and information value."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from secretflow_task.contract.reveals import Fineness, Reveal, Role
from secretflow_task.contract.task_config import PartyName, Writes, check_same_parties
from secretflow_task.contract.task_dispatcher import TaskDispatcher
from secretflow_task.contract.tasks.statistics import StatisticsConfig

Method = Literal["quantile", "eq_range", "chimerge"]


class WoeConfig(StatisticsConfig):
    """``task_config`` of `woe_iv`."""

    output_data: Writes | None = Field(
        None,
        description="Where each party writes its table, with WOE values instead of the cells.",
    )
    label: str = Field(description="The label column.")
    label_party: PartyName | None = Field(
        None, description="Who holds the label; needed if several parties have it."
    )
    positive_value: str | int | float | None = Field(
        None,
        description=(
            "The label value that counts as positive; all others are negative. If absent, labels "
            "are 0 and 1."
        ),
    )
    method: Method = Field(
        "quantile",
        description="Equal counts, equal widths, or neighbours merged while they are similar.",
    )
    n_bins: int = Field(
        10, ge=2, le=100, description="Bins of a number column, besides missing cells."
    )
    min_bin_rows: int = Field(
        5,
        ge=1,
        description=(
            "Smaller bins are merged with a neighbour, since they would reveal labels of single "
            "rows."
        ),
    )

    @model_validator(mode="after")
    def _fits(self) -> WoeConfig:
        if self.output_data is not None:
            check_same_parties(input_data=self.input_data, output_data=self.output_data)
        if self.label in (self.columns or ()):
            raise ValueError("columns must not name the label")
        return self

    def reveals(self) -> list[Reveal]:
        """Numbers of bins to all, a bin's positive rows to its owner, IV to the label party."""
        bins = "of every bin"
        if self.method == "chimerge":
            bins = "of up to 100 bins that are joined later"
        positive = f"how many rows {bins} of the column are positive"
        values = "the information value of every column"
        return [
            *super().reveals(),
            Reveal(Role.EVERYONE, "how many bins the columns of a party have", Fineness.COUNT),
            Reveal(Role.OWNERS, positive, Fineness.BIN, (self.label,)),
            Reveal(Role.LABEL_PARTY, values, Fineness.COLUMN, party=self.label_party),
        ]


TaskDispatcher.declare(
    "woe_iv",
    WoeConfig,
    needs=("spu",),
    family="statistics",
    summary=(
        "Compute WOE and IV against any party's label: WOE per bin for a column's owner, IV for "
        "the label party."
    ),
    body="secretflow_task.jobs.woe_task",
)
