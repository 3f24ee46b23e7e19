"""The declarations of the statistics."""

from __future__ import annotations

from pydantic import Field

from secretflow_task.contract.task_config import (
    ColumnNames,
    PartyColumns,
    Reads,
    Report,
    TaskConfig,
    Use,
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

    def reveals(self) -> list[Use]:
        """Column names and row count to all."""
        return [
            Use(party, "", (), "names of the columns, number of rows") for party in self.parties()
        ]


class TableStatisticsConfig(StatisticsConfig):
    """``task_config`` of `table_statistics`."""

    columns: ColumnNames | None = Field(None, description="Which columns; all but ids if absent.")
    share: bool = Field(False, description="Show all statistics to all parties.")

    def reveals(self) -> list[Use]:
        """Column names, and with ``share`` the statistics."""
        names = tuple(self.columns or ())
        if self.share:
            everyone = [*self.parties(), "every other party"]
            return [Use(party, "", names, "all statistics of all columns") for party in everyone]
        return [Use(party, "", names, "names of the columns") for party in self.parties()]


class CorrelationConfig(StatisticsConfig):
    """``task_config`` of `pearson_correlation`."""

    def reveals(self) -> list[Use]:
        """The matrix, to all."""
        what = "the correlation of every two columns, of all parties"
        return super().reveals() + [Use(party, "", (), what) for party in self.parties()]


class VifConfig(CorrelationConfig):
    """``task_config`` of `vif`."""

    def reveals(self) -> list[Use]:
        """What it is computed from, and the result."""
        return super().reveals() + [
            Use(party, "", (), "the VIF of every column") for party in self.parties()
        ]


TaskDispatcher.declare(
    "table_statistics",
    TableStatisticsConfig,
    family="statistics",
    summary="Summarise columns at their owners: 26 statistics of each number column, counts of each text column.",
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
    summary="Find columns that the other columns, of all parties, already explain (variance inflation factors).",
    body="secretflow_task.jobs.stats_task",
)
