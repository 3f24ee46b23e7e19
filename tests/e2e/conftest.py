"""One node for all tests that leave it as it was, and tables for it."""

from __future__ import annotations

import csv
import gc
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from secretflow_task.broker.celery_app import create_app
from secretflow_task.broker.embedded_redis import embedded_redis
from tests.e2e.nodes import PARTIES, RunningNode, running_node

ROWS = 400


def write_tables(root: Path) -> None:
    """``<root>/<party>/in.csv``: text ids, not first, 300 of 400 in common, a label at alice."""
    for seed, (party, first) in enumerate((("alice", 0), ("bob", 100))):
        random.seed(seed)
        rows = [
            [
                f"{random.gauss(0, 1):.6f}",
                f"{number:05d}",
                f"{random.gauss(0, 1):.6f}",
                int(random.random() > 0.5),
            ]
            for number in range(first, first + ROWS)
        ]
        random.shuffle(rows)
        (root / party).mkdir(parents=True, exist_ok=True)
        with (root / party / "in.csv").open("w", newline="") as file:
            names = [f"{party}_1", "uid", f"{party}_2", "y" if party == "alice" else f"{party}_3"]
            csv.writer(file).writerows([names, *rows])


def psi_params(**changes: Any) -> dict[str, Any]:
    """A request for an intersection of the tables of `write_tables`."""
    task_config = {
        "task_type": "psi",
        "keys": {party: ["uid"] for party in PARTIES},
        "input_paths": {party: "in.csv" for party in PARTIES},
        "output_paths": {party: "out.csv" for party in PARTIES},
        "receiver": "alice",
    }
    return {"task_config": task_config | changes}


def training_params(epochs: int, model: str = "model") -> dict[str, Any]:
    """A request for a training on the tables of `write_tables`, the longer the more epochs."""
    psi = {
        key: value for key, value in psi_params()["task_config"].items() if key != "output_paths"
    }
    train = {
        "task_type": "ss_lr",
        "train_data": {"step": "psi", "output": "output_paths"},
        "label": "y",
        "model_output": model,
        "params": {"epochs": epochs, "batch_size": 32},
    }
    steps = [{"name": "psi", "task_config": psi}, {"name": "train", "task_config": train}]
    return {"task_config": {"task_type": "workflow", "steps": steps}}


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """A real Redis."""
    with embedded_redis() as url:
        yield url


@pytest.fixture(scope="session")
def node(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    """A real node that hosts alice and bob; its `node.log` is JSON."""
    root = tmp_path_factory.mktemp("node")
    write_tables(root / "data")
    logs = {"SFWORKER_LOG_JSON": "true", "SFWORKER_LOG_FILE": str(root / "node.log")}
    with running_node(root, redis_url, **logs) as running:
        yield running


@pytest.fixture
def app(node: RunningNode) -> Iterator[Celery]:
    """A web application's Celery on the node's Redis."""
    with create_app(node.settings) as app:
        yield app
        gc.collect()  # results, which take their leave of the backend
        app.backend.result_consumer.stop()
        app.backend.client.connection_pool.disconnect()
