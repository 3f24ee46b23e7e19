"""Training on what no party may see whole, and prediction with the trained models."""

from secretflow_task.contract.tasks.glm import SsGlmConfig
from secretflow_task.contract.tasks.kmeans import KmeansPredictConfig, SsKmeansConfig
from secretflow_task.contract.tasks.learning import PredictConfig
from secretflow_task.contract.tasks.linear import SsLrConfig
from secretflow_task.contract.tasks.trees import SgbConfig, SgbPredictConfig, SsXgbConfig
from secretflow_task.jobs.ml_task.glm import execute_ss_glm, execute_ss_glm_predict
from secretflow_task.jobs.ml_task.kmeans import execute_ss_kmeans, execute_ss_kmeans_predict
from secretflow_task.jobs.ml_task.linear import (
    execute_ss_logistic_regression,
    execute_ss_lr_predict,
)
from secretflow_task.jobs.ml_task.sgb import execute_sgb, execute_sgb_predict
from secretflow_task.jobs.ml_task.xgb import execute_ss_xgb_predict, execute_ss_xgboost

__all__ = [
    "KmeansPredictConfig",
    "PredictConfig",
    "SgbConfig",
    "SgbPredictConfig",
    "SsGlmConfig",
    "SsKmeansConfig",
    "SsLrConfig",
    "SsXgbConfig",
    "execute_sgb",
    "execute_sgb_predict",
    "execute_ss_glm",
    "execute_ss_glm_predict",
    "execute_ss_kmeans",
    "execute_ss_kmeans_predict",
    "execute_ss_logistic_regression",
    "execute_ss_lr_predict",
    "execute_ss_xgb_predict",
    "execute_ss_xgboost",
]
