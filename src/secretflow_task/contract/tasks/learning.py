"""What the requests of all trainings have in common, and those of all predictions."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from secretflow_task.contract.reveals import Fineness, Reveal, Role
from secretflow_task.contract.task_config import (
    ColumnNames,
    LoadsModel,
    PartyColumns,
    PartyName,
    PathRole,
    Reads,
    SavesModel,
    TaskConfig,
)


class TrainingConfig(TaskConfig):
    """The part that every supervised training's ``task_config`` has."""

    feature_key = "features"

    train_data: Reads = Field(description="The aligned table of each party.")
    features: ColumnNames | None = Field(
        None, description="The features; every numeric column but ids and label if absent."
    )
    label: str = Field(description="The label column.")
    label_party: PartyName | None = Field(
        None, description="Who holds the label; needed if several parties have it."
    )
    ids: PartyColumns | None = Field(
        None, description="Columns that are never features: {party: [columns]}."
    )
    model_output: SavesModel = Field(description="Folder for the model at every party.")

    @model_validator(mode="after")
    def _label_is_no_feature(self) -> TrainingConfig:
        if self.label in (self.features or ()):
            raise ValueError("features must not name the label")
        return self

    def reveals(self) -> list[Reveal]:
        """Column names and row count to all."""
        return [Reveal(Role.EVERYONE, "names of the features, number of rows", Fineness.NAMES)]


_ADDED = {"prediction", "cluster"}  # the columns that the outputs add


class PredictConfig(TaskConfig):
    """``task_config`` of the predictions."""

    model_path: LoadsModel = Field(description="Folder of the model, as named for training.")
    predict_data: Reads = Field(description="The aligned table of each party.")
    receiver: PartyName | None = Field(
        None, description="Who gets the predictions; the label party if absent."
    )
    output_path: Annotated[str, PathRole("write", at="receiver")] = Field(
        description="Where the receiver writes its ids and the column `prediction` or `cluster`."
    )
    ids: PartyColumns | None = Field(
        None, description="Columns that the output repeats: {party: [columns]}."
    )

    @model_validator(mode="after")
    def _distinct_columns(self) -> PredictConfig:
        for columns in (self.ids or {}).values():
            if len(set(columns)) < len(columns) or _ADDED.intersection(columns):
                raise ValueError(
                    "ids must not name a column twice, nor 'prediction' or 'cluster', "
                    "which outputs add"
                )
        return self

    def reveals(self) -> list[Reveal]:
        """The predictions, to the receiver only."""
        predicted = "the prediction for every row"
        return [
            Reveal(Role.EVERYONE, "number of rows", Fineness.COUNT),
            Reveal(Role.RECEIVER, predicted, Fineness.ROW, party=self.receiver),
        ]
