"""`sfworker demo`: the main job, for real, on a machine that has nothing but this package.

scikit-learn's breast cancer data is split between two hospitals: alice has half of the measurements
and the diagnosis, bob the other half, for patients that only partly overlap. Each gets a Redis, a
node and a certificate of its own, and its own copy of one workflow through Celery; or one node
hosts both.
"""

from __future__ import annotations

import csv
import os
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Iterator, Mapping

import yaml
from rich.table import Table

from secretflow_task.broker.embedded_redis import embedded_redis
from secretflow_task.cli.display import ExecutionDisplay, print_outcome
from secretflow_task.cli.exits import Exit
from secretflow_task.cli.terminal import console, print_text
from secretflow_task.client import Client
from secretflow_task.config.settings import Settings
from secretflow_task.contract.messages import Status, StatusEvent
from secretflow_task.contract.requests import TaskRequest
from secretflow_task.node.link.peer.certificates import make_certificate
from secretflow_task.utils.network import free_ports

if TYPE_CHECKING:
    import numpy as np

_TIMEOUT_SECONDS = 600.0
_PARTIES = ("alice", "bob")
_INTRODUCTION = """\
Two hospitals, alice and bob, each have half of the measurements of their own patients.
They look for the patients that both have, and train one model, without showing each other a row.
"""
_TWO_NODES = """\
Each has its own node, Redis, folder and certificate, as in two companies, and gets its own request.
The nodes talk over one encrypted port each; the protocol, CHEETAH, trusts neither side.
(`sfworker demo --one-node` has one node that hosts both, as for a first try of your own.)
"""
_ONE_NODE = """\
One node hosts both, each in a process of its own: real cryptography, but one owner of the machine.
"""


@dataclass(frozen=True)
class Site:
    """A running node of the demo, and how to reach its Redis."""

    parties: tuple[str, ...]
    settings: Settings
    process: subprocess.Popen[bytes]


def run_demo(folder: Path, one_node: bool = False) -> Exit:
    """Make the data, start Redis and nodes, run the workflow and show how it went."""
    folder = folder.absolute()
    rows = write_data(folder / "data")
    console.print(_INTRODUCTION, highlight=False)
    console.print(_ONE_NODE if one_node else _TWO_NODES, highlight=False)
    with ExitStack() as stack:
        if one_node:
            sites = [_site_of_both(folder, stack)]
        else:
            sites = _sites(folder, stack)
        last = _execute(sites)
    if any(event.status is Status.FAILURE for event in last.values()):
        return print_outcome(last)
    _print_summary(folder, rows, last)
    return Exit.OK


def _site_of_both(folder: Path, stack: ExitStack) -> Site:
    url = os.environ.get("SFWORKER_REDIS_URL") or stack.enter_context(embedded_redis())
    environment = {"SFWORKER_REDIS_URL": url, "SFWORKER_DATA_ROOT": str(folder / "data")}
    return _started(_PARTIES, folder, environment, stack)


def _sites(folder: Path, stack: ExitStack) -> list[Site]:
    """A node for each hospital, which knows the other's address and certificate, nothing else."""
    shutil.rmtree(folder / "certs", ignore_errors=True)  # of an earlier demo
    ports = free_ports(len(_PARTIES))
    entries: dict[str, dict[str, Any]] = {}
    for party, port in zip(_PARTIES, ports):
        identity, fingerprint = make_certificate(party, folder / "certs" / party)
        entries[party] = {
            "host": "127.0.0.1",
            "port": port,
            "certificate": str(identity.certificate),
            "fingerprints": [fingerprint],
        }
    sites = []
    for party, port in zip(_PARTIES, ports):
        certs = folder / "certs" / party
        book = certs / "parties.yaml"
        others = {other: entry for other, entry in entries.items() if other != party}
        book.write_text(yaml.safe_dump(others), encoding="utf-8")
        environment = {
            "SFWORKER_REDIS_URL": stack.enter_context(embedded_redis()),
            "SFWORKER_DATA_ROOT": str(folder / "data" / party),
            "SFWORKER_PEER_LISTEN": f"127.0.0.1:{port}",
            "SFWORKER_PEERS_FILE": str(book),
            "SFWORKER_PEER_CERTIFICATE": str(certs / f"{party}.crt"),
            "SFWORKER_PEER_KEY": str(certs / f"{party}.key"),
        }
        sites.append(_started((party,), folder, environment, stack))
    return sites


def _started(
    parties: tuple[str, ...], folder: Path, environment: Mapping[str, str], stack: ExitStack
) -> Site:
    name = "-".join(parties)
    own = {
        "SFWORKER_PARTIES": ",".join(parties),
        "SFWORKER_NAME": f"node-of-{name}",
        "SFWORKER_STATE_DIR": str(folder / "state" / name),
        "SFWORKER_QUEUES": f"sfworker-demo-{os.getpid()}",
    }
    process = stack.enter_context(node_process({**environment, **own}, folder / f"node-{name}.log"))
    url: Any = environment["SFWORKER_REDIS_URL"]
    return Site(parties, Settings(redis_url=url, queues=(own["SFWORKER_QUEUES"],)), process)


def write_data(root: Path) -> dict[str, int]:
    """Write ``<root>/<party>/patients.csv`` and return the rows of each.

    The ids are text with leading zeros, in another order at each party, not in the first column.
    """
    import numpy as np
    from sklearn.datasets import load_breast_cancer

    data = load_breast_cancer()
    names = [name.replace(" ", "_") for name in data.feature_names]
    random = np.random.default_rng(7)
    patients = np.array(
        [f"{number:06d}" for number in random.permutation(10_000)[: len(data.target)]]
    )
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
            "params": {
                "epochs": 5,
                "learning_rate": 0.6,
                "batch_size": 64,
                "penalty": "l2",
                "l2_norm": 0.2,
            },
        },
        "predict": {
            "task_type": "ss_lr_predict",
            "model_path": of("train", "model_output"),
            "predict_data": of("scale_test", "output_data"),
            "output_path": "out/prediction.csv",
        },
        "evaluate": {
            "task_type": "biclassification_eval",
            "label": {
                "party": "alice",
                "path": of("scale_test", "output_data"),
                "column": "benign",
            },
            "prediction": {
                "party": "alice",
                "path": of("predict", "output_path"),
                "column": "prediction",
            },
        },
    }
    steps = [{"name": name, "task_config": config} for name, config in configs.items()]
    # Scaled features and a few hundred rows are within what the faster field holds.
    return {
        "task_config": {"task_type": "workflow", "steps": steps},
        "spu_config": {"field": "FM64"},
    }


@contextmanager
def node_process(
    environment: Mapping[str, str], log_path: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """Run `sfworker start` with ``environment`` until the block ends."""
    command = [sys.executable, "-m", "secretflow_task", "start"]
    with log_path.open("wb") as log:
        with subprocess.Popen(
            command, env=os.environ | environment, stdout=log, stderr=log
        ) as node:
            try:
                yield node
            finally:
                node.send_signal(signal.SIGTERM)


def _execute(sites: list[Site]) -> dict[str, StatusEvent]:
    """Send each site the workflow and show it until all parties have ended."""
    execution_id = f"demo-{os.getpid()}"
    waiting = console.status("SecretFlow is loaded ...")
    with (
        ExecutionDisplay() as display,
        waiting,
        ThreadPoolExecutor(len(sites)) as threads,
    ):

        def follow(site: Site) -> None:
            for event in _events(site, execution_id):
                waiting.stop()
                display.show(event)

        list(threads.map(follow, sites))
    return display.last


def _events(site: Site, execution_id: str) -> Iterator[StatusEvent]:
    """The events of one site, until its parties have ended."""
    ended: set[str] = set()
    with Client(site.settings) as client:
        since = client.position()
        client.submit(TaskRequest(execution_id, execution_id, demo_params()))
        for event in client.events(execution_id, since, _TIMEOUT_SECONDS):
            if event is not None:
                yield event
                if event.status.terminal:
                    ended.add(event.party)
            elif site.process.poll() is not None:
                raise RuntimeError("a node ended early; its log is node-*.log in the demo's folder")
            if ended == set(site.parties):
                return


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
        "rows for training, for test",
        f"{steps['split']['train_rows']}, {steps['split']['test_rows']}",
    )
    table.add_row("AUC of the private model", f"{private:.4f}")
    table.add_row("AUC of scikit-learn on the rows in the clear", f"{plain:.4f}")
    table.add_section()
    for stage in ("cluster_init", "device_creation", *steps):
        table.add_row(f"seconds for {stage}", f"{timings[stage]:.2f}")
    console.print(table)
    print_text(f"Outputs: {folder}/data/<party>/out (alice has the predictions)")
    print_text(f"Logs: {folder}/state/*/logs\n")
    command = sys.argv[0]
    console.print("What to try next:")
    console.print(f"  {command} tasks                          what else it can do")
    console.print(f"  {command} tasks psi --example > my.yaml  a request to make your own")
    console.print(
        f"  {command} check my.yaml                  what it would do, and who would learn what"
    )
    console.print(
        "  README.md, 'Your first own job'                a job on two small files, in five minutes"
    )


def plaintext_auc(root: Path) -> float:
    """AUC of scikit-learn's logistic regression on the rows that the workflow used."""
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
