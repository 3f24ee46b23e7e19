"""`sfworker demo`: the main job, for real, on a machine that has nothing but this package.

scikit-learn's breast cancer data is split between two hospitals: alice has half of the measurements and the
diagnosis, bob the other half, for patients that only partly overlap. A Redis and a node that hosts both are
started, and one workflow goes through Celery.
"""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Iterator, Mapping

from rich.table import Table

from secretflow_task.cli.display import ExecutionDisplay, console, print_outcome
from secretflow_task.cli.exits import Exit
from secretflow_task.client import Client
from secretflow_task.config.settings import Settings
from secretflow_task.messages import Status, StatusEvent, TaskRequest
from secretflow_task.node.embedded_redis import embedded_redis

if TYPE_CHECKING:
    import numpy as np

_TIMEOUT_SECONDS = 300.0
_PARTIES = ("alice", "bob")


def run_demo(folder: Path) -> Exit:
    """Make the data, start Redis and a node, run the workflow and show how it went; returns the exit code."""
    folder = folder.absolute()
    rows = write_data(folder / "data")
    console.print("Two hospitals, alice and bob, each have half of the measurements of their own patients.")
    console.print(
        "They look for the patients that both have, and train one model, without showing each other a row.\n"
    )
    with ExitStack() as stack:
        url = os.environ.get("SFWORKER_REDIS_URL") or stack.enter_context(embedded_redis())
        environment = {
            "SFWORKER_REDIS_URL": url,
            "SFWORKER_PARTIES": ",".join(_PARTIES),
            "SFWORKER_DATA_ROOT": str(folder / "data"),
            "SFWORKER_STATE_DIR": str(folder / "state"),
            "SFWORKER_QUEUES": f"sfworker-demo-{os.getpid()}",
        }
        node = stack.enter_context(node_process(environment, folder / "node.log"))
        last = _execute(Settings(redis_url=url, queues=environment["SFWORKER_QUEUES"]), node)
    if any(event.status is Status.FAILURE for event in last.values()):
        return print_outcome(last)
    _print_summary(folder, rows, last)
    return Exit.OK


def write_data(root: Path) -> dict[str, int]:
    """Write ``<root>/<party>/patients.csv`` and return the rows of each.

    The ids are text with leading zeros, in another order at each party, and not in the first column.
    """
    import numpy as np
    from sklearn.datasets import load_breast_cancer

    data = load_breast_cancer()
    names = [name.replace(" ", "_") for name in data.feature_names]
    random = np.random.default_rng(7)
    patients = np.array([f"{number:06d}" for number in random.permutation(10_000)[: len(data.target)]])
    shuffled = random.permutation(len(patients))
    held = {"alice": (shuffled[:500], range(0, 15)), "bob": (shuffled[60:], range(15, 30))}
    rows = {}
    for party, (patient_rows, columns) in held.items():
        own_rows = random.permutation(patient_rows)
        header = [*(names[column] for column in columns), "patient_id"]
        cells = [[*data.data[row, list(columns)], patients[row]] for row in own_rows]
        if party == "alice":
            header.append("benign")
            cells = [[*line, data.target[row]] for line, row in zip(cells, own_rows)]
        path = root / party / "patients.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([header, *cells])
        rows[party] = len(cells)
    return rows


def demo_params() -> dict[str, Any]:
    """The workflow that the demo sends."""

    def of(step: str, output: str) -> dict[str, str]:
        return {"step": step, "output": output}

    def each(name: str) -> dict[str, str]:
        return {party: name for party in _PARTIES}

    configs: dict[str, dict[str, Any]] = {
        "psi": {
            "task_type": "psi",
            "keys": {party: ["patient_id"] for party in _PARTIES},
            "input_paths": each("patients.csv"),
            "output_paths": each("out/common.csv"),
            "receiver": "alice",
        },
        "split": {
            "task_type": "train_test_split",
            "input_data": of("psi", "output_paths"),
            "train_data": each("out/train.csv"),
            "test_data": each("out/test.csv"),
            "train_size": 0.5,
            "seed": 3,
            "stratify": {"party": "alice", "column": "benign"},
        },
        "scale": {
            "task_type": "standard_scaler",
            "input_data": of("split", "train_data"),
            "label": "benign",
            "model_output": "out/scaler",
        },
        "scale_test": {
            "task_type": "standard_scaler",
            "input_data": of("split", "test_data"),
            "model_path": of("scale", "model_output"),
        },
        "train": {
            "task_type": "ss_lr",
            "train_data": of("scale", "output_data"),
            "label": "benign",
            "model_output": "out/model",
            "params": {"epochs": 20, "learning_rate": 0.3, "batch_size": 64, "penalty": "l2", "l2_norm": 0.2},
        },
        "predict": {
            "task_type": "ss_lr_predict",
            "model_path": of("train", "model_output"),
            "predict_data": of("scale_test", "output_data"),
            "output_path": "out/prediction.csv",
        },
        "evaluate": {
            "task_type": "biclassification_eval",
            "label": {"party": "alice", "path": of("scale_test", "output_data"), "column": "benign"},
            "prediction": {"party": "alice", "path": of("predict", "output_path"), "column": "prediction"},
        },
    }
    steps = [{"name": name, "task_config": config} for name, config in configs.items()]
    return {"task_config": {"task_type": "workflow", "steps": steps}}


@contextmanager
def node_process(environment: Mapping[str, str], log_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run `sfworker start` with ``environment`` until the block ends."""
    command = [sys.executable, "-m", "secretflow_task", "start"]
    with log_path.open("wb") as log:
        with subprocess.Popen(command, env=os.environ | environment, stdout=log, stderr=log) as node:
            try:
                yield node
            finally:
                node.send_signal(signal.SIGTERM)


def _execute(settings: Settings, node: subprocess.Popen[bytes]) -> dict[str, StatusEvent]:
    """Send the workflow and show it until both parties have ended."""
    execution_id = f"demo-{os.getpid()}"
    with Client(settings) as client:
        since = client.position()
        client.submit(TaskRequest(execution_id, execution_id, demo_params()))
        with ExecutionDisplay() as display, console.status("The node loads SecretFlow ...") as status:
            for event in client.events(execution_id, since, _TIMEOUT_SECONDS):
                if event is not None:
                    status.stop()
                    display.show(event)
                elif node.poll() is not None:
                    raise RuntimeError("the node ended early; its log is node.log in the demo's folder")
                if display.ended(_PARTIES):
                    break
    return display.last


def _print_summary(folder: Path, rows: Mapping[str, int], last: Mapping[str, StatusEvent]) -> None:
    result = last["alice"].data["result"]
    steps, timings = result["steps"], result["timings"]
    private, plain = steps["evaluate"]["auc"], plaintext_auc(folder / "data")
    table = Table(show_header=False)
    table.add_column(style="cyan")
    table.add_column(justify="right")
    table.add_row("patients of alice, of bob", f"{rows['alice']}, {rows['bob']}")
    table.add_row("patients in common", str(steps["psi"]["intersection_count"]))
    table.add_row(
        "rows for training, for test", f"{steps['split']['train_rows']}, {steps['split']['test_rows']}"
    )
    table.add_row("AUC of the private model", f"{private:.4f}")
    table.add_row("AUC of scikit-learn on the rows in the clear", f"{plain:.4f}")
    table.add_section()
    for stage in ("cluster_init", "device_creation", *steps):
        table.add_row(f"seconds for {stage}", f"{timings[stage]:.2f}")
    console.print(table)
    console.print(
        f"Outputs: {folder}/data/<party>/out (alice has the predictions), logs: {folder}/state/logs\n"
    )
    command = sys.argv[0]
    console.print("What to try next:")
    console.print(f"  {command} tasks                          what else it can do")
    console.print(f"  {command} tasks psi --example > my.yaml  a request to make your own")
    console.print(f"  {command} check my.yaml                  what it would do, and who would learn what")
    console.print(
        "  README.md, 'Your first own job'                a job on two small files, in five minutes"
    )


def plaintext_auc(root: Path) -> float:
    """AUC of scikit-learn's logistic regression, trained and tested on the rows that the workflow used."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    (train_x, train_y), (test_x, test_y) = (_joined(root, name) for name in ("train", "test"))
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(train_x, train_y)
    return float(roc_auc_score(test_y, model.predict_proba(test_x)[:, 1]))


def _joined(root: Path, name: str) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Both parties' columns side by side, which only this demo may do, and the label."""
    import numpy as np
    import pandas as pd

    frames = [pd.read_csv(root / party / "out" / f"{name}.csv") for party in _PARTIES]
    features = [frame.drop(columns=["patient_id", "benign"], errors="ignore") for frame in frames]
    return np.hstack(features), frames[0]["benign"].to_numpy()
