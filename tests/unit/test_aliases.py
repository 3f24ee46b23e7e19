"""The names that the plan fixed lead to the objects of the rooms."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from secretflow_task.contract.task_dispatcher import TaskDispatcher

# `{alias: {name: room}}`, both in the package.
ALIASES = {
    "task_dispatcher": {
        "TaskDispatcher": "contract.task_dispatcher",
        "Task": "contract.task_dispatcher",
    },
    "task_executor": {"execute_secretflow_task": "engine.executor"},
    "celery_app": {"create_app": "broker.celery_app", "TASK_NAME": "broker.celery_app"},
    "celery_tasks": {
        "register": "broker.celery_tasks",
        "ExecutionFailed": "broker.celery_tasks",
        "NodeStopping": "broker.celery_tasks",
    },
    "cluster_initializer": {"cluster": "engine.cluster"},
    "device_manager": {"create_devices": "engine.devices", "Devices": "engine.devices"},
    "data_loader": {"Table": "data_loader.table"},
    "utils.status_notifier": {
        "_publish_status": "engine.status",
        "bind_status_sink": "engine.status",
        "Publisher": "node.publisher",
    },
    "jobs.psi_task": {"PsiConfig": "contract.tasks.psi"},
    "jobs.preprocessing_task": {
        "StandardScalerConfig": "contract.tasks.transformation",
        "MinMaxScalerConfig": "contract.tasks.transformation",
        "LabelEncoderConfig": "contract.tasks.transformation",
        "OnehotEncoderConfig": "contract.tasks.transformation",
        "BinningConfig": "contract.tasks.transformation",
        "FillnaConfig": "contract.tasks.transformation",
        "TrainTestSplitConfig": "contract.tasks.splitting",
    },
    "jobs.ml_task": {
        "execute_ss_logistic_regression": "jobs.ml_task.linear",
        "execute_ss_lr_predict": "jobs.ml_task.linear",
        "execute_ss_xgboost": "jobs.ml_task.xgb",
        "execute_ss_xgb_predict": "jobs.ml_task.xgb",
        "execute_ss_glm": "jobs.ml_task.glm",
        "execute_ss_glm_predict": "jobs.ml_task.glm",
        "execute_sgb": "jobs.ml_task.sgb",
        "execute_sgb_predict": "jobs.ml_task.sgb",
        "execute_ss_kmeans": "jobs.ml_task.kmeans",
        "execute_ss_kmeans_predict": "jobs.ml_task.kmeans",
        "SsLrConfig": "contract.tasks.linear",
        "SsXgbConfig": "contract.tasks.trees",
        "SsGlmConfig": "contract.tasks.glm",
        "SgbConfig": "contract.tasks.trees",
        "SsKmeansConfig": "contract.tasks.kmeans",
        "PredictConfig": "contract.tasks.learning",
    },
    "jobs.stats_task": {
        "TableStatisticsConfig": "contract.tasks.statistics",
        "CorrelationConfig": "contract.tasks.statistics",
        "VifConfig": "contract.tasks.statistics",
    },
    "jobs.woe_task": {"WoeConfig": "contract.tasks.woe"},
    "jobs.evaluation_task": {
        "BiclassificationEvalConfig": "contract.tasks.evaluation",
        "RegressionEvalConfig": "contract.tasks.evaluation",
    },
    "jobs.workflow_task": {"WorkflowConfig": "contract.tasks.workflow"},
}
# `{module of the plan: functions}` with their task types.
FUNCTIONS = {
    "jobs.psi_task": {"execute_psi": "psi"},
    "jobs.preprocessing_task": {
        "execute_standard_scaler": "standard_scaler",
        "execute_min_max_scaler": "min_max_scaler",
        "execute_label_encoder": "label_encoder",
        "execute_onehot_encoder": "onehot_encoder",
        "execute_binning": "binning",
        "execute_fillna": "fillna",
        "execute_train_test_split": "train_test_split",
    },
    "jobs.ml_task": {
        "execute_ss_logistic_regression": "ss_lr",
        "execute_ss_xgboost": "ss_xgb",
        "execute_ss_glm": "ss_glm",
        "execute_sgb": "sgb",
        "execute_ss_kmeans": "ss_kmeans",
    },
    "jobs.stats_task": {
        "execute_table_statistics": "table_statistics",
        "execute_pearson_correlation": "pearson_correlation",
        "execute_vif": "vif",
    },
    "jobs.woe_task": {"execute_woe_iv": "woe_iv"},
    "jobs.evaluation_task": {
        "execute_biclassification_eval": "biclassification_eval",
        "execute_regression_eval": "regression_eval",
    },
    "jobs.workflow_task": {"execute_workflow": "workflow"},
}


def found(module: str, name: str) -> Any:
    """A name of a module of the package."""
    return getattr(importlib.import_module(f"secretflow_task.{module}"), name)


@pytest.mark.parametrize(
    ("alias", "name", "room"),
    [(alias, name, room) for alias, names in ALIASES.items() for name, room in names.items()],
)
def test_an_alias_leads_to_the_object_of_its_room(alias: str, name: str, room: str) -> None:
    assert found(alias, name) is found(room, name)


@pytest.mark.parametrize(
    ("module", "name", "task_type"),
    [(module, *pair) for module, names in FUNCTIONS.items() for pair in names.items()],
)
def test_a_function_of_the_plan_is_the_body_of_its_task(
    module: str, name: str, task_type: str
) -> None:
    assert found(module, name) is TaskDispatcher.with_body(task_type).function


def test_settings_and_logs_stay_where_the_plan_has_them() -> None:
    assert found("config.settings", "Settings").__module__ == "secretflow_task.config.settings"
    assert found("utils.log", "get_logger").__module__ == "secretflow_task.utils.log"


def test_celery_finds_its_application_by_the_name_of_the_module(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "celery", "-A", "secretflow_task.celery_app", "report"]
    url = "redis://:hidden@127.0.0.1:1/7"
    settings = {"SFWORKER_REDIS_URL": url, "SFWORKER_STATE_DIR": str(tmp_path / "state")}
    done = subprocess.run(
        command,
        env=os.environ | settings,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert "redis://127.0.0.1:1/7" in done.stdout  # Celery never has the password
    assert "hidden" not in done.stdout + done.stderr
    assert list(tmp_path.iterdir()) == []


def test_importing_the_alias_of_celery_makes_no_application() -> None:
    code = "import secretflow_task.celery_app as alias; print(alias._app.cache_info().currsize)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "0\n"


def test_the_alias_of_celery_has_no_other_names() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'apps'"):
        found("celery_app", "apps")
