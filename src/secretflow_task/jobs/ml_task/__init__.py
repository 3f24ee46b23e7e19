"""Training on what no party may see whole, and prediction with the trained models."""

from secretflow_task.jobs.ml_task.linear import execute_ss_logistic_regression, execute_ss_lr_predict

__all__ = ["execute_ss_logistic_regression", "execute_ss_lr_predict"]
