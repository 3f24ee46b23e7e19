"""The declaration of the split into training and test rows."""

from __future__ import annotations

from pydantic import Field, model_validator

from secretflow_task.contract.reveals import Fineness, Reveal, Role
from secretflow_task.contract.task_config import (
    Reads,
    Share,
    Strict,
    TaskConfig,
    Writes,
    check_same_parties,
)
from secretflow_task.contract.task_dispatcher import TaskDispatcher


class StratifyBy(Strict):
    """The label whose shares both parts keep."""

    party: str = Field(description="Who has the label.")
    column: str = Field(description="Its name.")


class TrainTestSplitConfig(TaskConfig):
    """``task_config`` of `train_test_split`."""

    input_data: Reads = Field(description="The aligned table of each party.")
    train_data: Writes = Field(description="Where each party writes its training rows.")
    test_data: Writes = Field(description="Where each party writes its test rows.")
    train_size: Share = Field(0.8, description="Fraction of the rows that train_data gets.")
    seed: int = Field(
        0, ge=0, lt=2**32, description="The same seed and tables give the same split."
    )
    stratify: StratifyBy | None = Field(
        None, description="Keep the proportions of this label in both parts."
    )

    @model_validator(mode="after")
    def _same_parties(self) -> TrainTestSplitConfig:
        check_same_parties(
            input_data=self.input_data, train_data=self.train_data, test_data=self.test_data
        )
        if self.stratify and self.stratify.party not in self.input_data:
            raise ValueError(f"stratify.party is {self.stratify.party}, who is not in input_data")
        return self

    def reveals(self) -> list[Reveal]:
        """The row count, and with ``stratify`` a choice of rows that depends on the label."""
        rows = Reveal(Role.EVERYONE, "number of rows", Fineness.COUNT)
        if self.stratify is None:
            return [rows]
        what = "which rows are for training, drawn in private within the groups of the label"
        columns = (self.stratify.column,)
        return [rows, Reveal(Role.OTHERS, what, Fineness.ROW, columns, self.stratify.party)]


TaskDispatcher.declare(
    "train_test_split",
    TrainTestSplitConfig,
    family="preprocessing",
    summary="Split aligned tables into the same training and test rows at every party.",
    body="secretflow_task.jobs.preprocessing_task",
)
