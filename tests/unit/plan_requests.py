"""The requests that the project's plan fixed, word for word; they must be accepted."""

from __future__ import annotations

from typing import Any

PATHS = {"alice": "alice.csv", "bob": "bob.csv"}

PLAN_REQUESTS: dict[str, dict[str, Any]] = {
    "psi": {
        "keys": {"alice": ["uid"], "bob": ["uid"]},
        "input_paths": PATHS,
        "output_paths": {"alice": "psi/alice.csv", "bob": "psi/bob.csv"},
        "receiver": "alice",
        "protocol": "ECDH_PSI_2PC",
    },
    "standard_scaler": {
        "input_data": PATHS,
        "output_data": {"alice": "scaled/alice.csv", "bob": "scaled/bob.csv"},
        "columns": ["age", "income", "score"],
        "with_mean": True,
        "with_std": True,
    },
    "ss_lr": {
        "train_data": PATHS,
        "features": ["f1", "f2", "f3"],
        "label": "y",
        "label_party": "alice",
        "model_output": "/models/lr_model",
        "params": {
            "epochs": 10,
            "learning_rate": 0.01,
            "batch_size": 128,
            "penalty": "l2",
            "l2_norm": 0.1,
        },
    },
    "ss_xgb": {
        "train_data": PATHS,
        "features": ["f1", "f2", "f3", "f4"],
        "label": "y",
        "model_output": "/models/xgb_model",
        "params": {
            "num_boost_round": 10,
            "max_depth": 5,
            "learning_rate": 0.1,
            "objective": "binary:logistic",
            "reg_lambda": 0.1,
        },
    },
    "table_statistics": {
        "input_data": {"alice": "alice.csv"},
        "columns": ["age", "income", "education"],
        "output_report": "/reports/stats.json",
    },
}
