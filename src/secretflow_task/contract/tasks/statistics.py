"""The declarations of the statistics."""

from __future__ import annotations

from pydantic import Field

from secretflow_task.contract.reveals import Fineness, Reveal, Role
from secretflow_task.contract.task_config import (
    ColumnNames,
    PartyColumns,
    Reads,
    Report,
    TaskConfig,
)
from secretflow_task.contract.task_dispatcher import TaskDispatcher


class StatisticsConfig(TaskConfig):
    """The part that every ``task_config`` of this module has."""

    input_data: Reads = Field(description="The table of each party.")
    columns: ColumnNames | None = Field(
        None, description="Which columns; every numeric column but ids and label if absent."
    )
    ids: PartyColumns | None = Field(
        None, description="Columns that are left out: {party: [columns]}."
    )
    output_report: Report | None = Field(
        None, description="Where each party writes its result as JSON."
    )

    def reveals(self) -> list[Reveal]:
        """Column names and row count to all."""
        return [Reveal(Role.EVERYONE, "names of the columns, number of rows", Fineness.NAMES)]


class TableStatisticsConfig(StatisticsConfig):
    """``task_config`` of `table_statistics`."""

    columns: ColumnNames | None = Field(None, description="Which columns; all but ids if absent.")
    share: bool = Field(False, description="Show all statistics to all parties.")

    def reveals(self) -> list[Reveal]:
        """Column names, and with ``share`` the statistics."""
        names = tuple(self.columns or ())
        if self.share:
            what = "all statistics of all columns"
            return [Reveal(Role.EVERYONE, what, Fineness.COLUMN, names)]
        return [Reveal(Role.EVERYONE, "names of the columns", Fineness.NAMES, names)]


class CorrelationConfig(StatisticsConfig):
    """``task_config`` of `pearson_correlation`."""

    def reveals(self) -> list[Reveal]:
        """The matrix, to all."""
        what = "the correlation of every two columns, of all parties"
        return [*super().reveals(), Reveal(Role.EVERYONE, what, Fineness.COLUMN)]


class VifConfig(CorrelationConfig):
    """``task_config`` of `vif`."""

    def reveals(self) -> list[Reveal]:
        """What it is computed from, and the result."""
        vif = Reveal(Role.EVERYONE, "the VIF of every column", Fineness.COLUMN)
        return [*super().reveals(), vif]


TaskDispatcher.declare(
    "table_statistics",
    TableStatisticsConfig,
    family="statistics",
    summary=(
        "Summarise columns at their owners: 26 statistics of each number column, counts of each "
        "text column."
    ),
    body="secretflow_task.jobs.stats_task",
)
TaskDispatcher.declare(
    "pearson_correlation",
    CorrelationConfig,
    needs=("spu",),
    family="statistics",
    summary="Correlate all columns of all parties; every party learns the whole matrix.",
    body="secretflow_task.jobs.stats_task",
)
TaskDispatcher.declare(
    "vif",
    VifConfig,
    needs=("spu",),
    family="statistics",
    summary=(
        "Find columns that the other columns, of all parties, already explain (variance inflation "
        "factors)."
    ),
    body="secretflow_task.jobs.stats_task",
)
