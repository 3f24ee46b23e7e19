"""The declarations of k-means clustering."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from secretflow_task.contract.reveals import Fineness, Reveal, Role
from secretflow_task.contract.task_config import (
    ColumnNames,
    PartyColumns,
    PartyName,
    PathRole,
    PathText,
    Reads,
    SavesModel,
    Strict,
    TaskConfig,
)
from secretflow_task.contract.task_dispatcher import TaskDispatcher
from secretflow_task.contract.tasks.learning import PredictConfig

_CLUSTERS = "the cluster of every row, the sizes of the clusters"


class SsKmeansParams(Strict):
    """``params`` of `ss_kmeans`."""

    n_clusters: int = Field(8, ge=2, le=1000, description="Number of clusters.")
    init: Literal["k-means++", "random"] = Field(
        "k-means++", description="How the first centres are drawn."
    )
    n_init: int = Field(3, ge=1, le=100, description="Number of starts; the best one is kept.")
    max_iter: int = Field(20, ge=1, le=1000, description="Most iterations of one start.")
    tol: float = Field(
        1e-4,
        ge=0,
        lt=1,
        description=(
            "Stop when the squared moves of the centres are below this fraction of the mean "
            "variance."
        ),
    )
    seed: int = Field(0, ge=0, lt=2**32, description="The same seed draws the same first centres.")


class SsKmeansConfig(TaskConfig):
    """``task_config`` of `ss_kmeans`."""

    feature_key = "features"

    train_data: Reads = Field(description="The aligned table of each party.")
    features: ColumnNames | None = Field(
        None, description="The features; every numeric column but ids if absent."
    )
    ids: PartyColumns | None = Field(
        None, description="Columns that are never features: {party: [columns]}."
    )
    receiver: PartyName = Field(
        description="Who gets the cluster of every row and the clusters' sizes."
    )
    output_path: Annotated[PathText, PathRole("write", at="receiver")] = Field(
        description="Where the receiver writes its ids and the column `cluster`."
    )
    model_output: SavesModel = Field(description="Folder for the model at every party.")
    params: SsKmeansParams = Field(
        default_factory=SsKmeansParams, description="The algorithm's own parameters."
    )

    def reveals(self) -> list[Reveal]:
        """Names, row count and iterations to all; clusters to the receiver only."""
        stopped = "after how many iterations each start stopped"
        return [
            Reveal(Role.EVERYONE, "names of the features, number of rows", Fineness.NAMES),
            Reveal(Role.EVERYONE, stopped, Fineness.MODEL),
            Reveal(Role.RECEIVER, _CLUSTERS, Fineness.ROW, party=self.receiver),
        ]


class KmeansPredictConfig(PredictConfig):
    """``task_config`` of `ss_kmeans_predict`."""

    receiver: PartyName = Field(description="Who gets the cluster of every row.")

    def reveals(self) -> list[Reveal]:
        """The clusters, to the receiver only."""
        return [
            Reveal(Role.EVERYONE, "number of rows", Fineness.COUNT),
            Reveal(Role.RECEIVER, _CLUSTERS, Fineness.ROW, party=self.receiver),
        ]


TaskDispatcher.declare(
    "ss_kmeans",
    SsKmeansConfig,
    needs=("spu",),
    family="training",
    summary=(
        "Cluster the rows on secret shares; only the receiver sees which row is in which cluster."
    ),
    body="secretflow_task.jobs.ml_task.kmeans",
)
TaskDispatcher.declare(
    "ss_kmeans_predict",
    KmeansPredictConfig,
    needs=("spu",),
    family="prediction",
    summary="Assign rows to the clusters of `ss_kmeans`; only the receiver sees which.",
    body="secretflow_task.jobs.ml_task.kmeans",
)
