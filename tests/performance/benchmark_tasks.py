"""How long a PSI takes through the worker, against a cold SecretFlow script that does the same.

Both are measured in this one run, on this machine: the worker from the send through Celery to SUCCESS at both
parties, the script from the start of its two interpreters to their end. `make bench` prints the ratio.
"""

from __future__ import annotations

import csv
import itertools
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

from secretflow_task.cli.demo import node_process
from secretflow_task.client import Client
from secretflow_task.config.settings import Settings
from secretflow_task.messages import Status, TaskRequest
from secretflow_task.node.embedded_redis import embedded_redis
from secretflow_task.utils.psi_traces import remove_traces

ROWS = 20_000
JOBS = 20
COLD_RUNS = 5
WANTED_RATIO = 12.0
PARTIES = ("alice", "bob")
console = Console()


def write_tables(root: Path) -> None:
    """Write ``<root>/<party>.csv``: ROWS of 30,000 ids, so that about two thirds are common."""
    for party in PARTIES:
        ids = random.Random(party).sample(range(30_000), ROWS)
        with (root / f"{party}.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([["uid", "value"], *([f"u{number:06d}", number] for number in ids)])


def worker_seconds(root: Path) -> list[float]:
    """Seconds from the send to SUCCESS at both parties, for JOBS executions one after another."""
    params = {
        "sf_init_config": {"parties": list(PARTIES)},
        "task_config": {
            "task_type": "psi",
            "keys": {party: ["uid"] for party in PARTIES},
            "input_paths": {party: f"{party}.csv" for party in PARTIES},
            "output_paths": {party: f"{party}_psi.csv" for party in PARTIES},
            "receiver": "alice",
        },
    }
    with embedded_redis() as url:
        environment = {
            "SFWORKER_REDIS_URL": url,
            "SFWORKER_DATA_ROOT": str(root),
            "SFWORKER_STATE_DIR": str(root / "state"),
        }
        with node_process(environment, root / "node.log"), Client(Settings(redis_url=url)) as client:
            run_one(client, "warm-up", params)
            jobs = track(range(JOBS), f"{JOBS} through the worker", console=console)
            return [run_one(client, f"psi-{number}", params) for number in jobs]


def run_one(client: Client, execution_id: str, params: dict[str, object]) -> float:
    """Send one request and wait for SUCCESS at both parties; returns the seconds."""
    since, ended = client.position(), set()
    started = time.monotonic()
    client.submit(TaskRequest(execution_id, execution_id, params))
    for event in client.events(execution_id, since, timeout_seconds=120):
        if event is not None and event.status.terminal:
            assert event.status is Status.SUCCESS, event
            ended.add(event.party)
        if len(ended) == len(PARTIES):
            break
    return time.monotonic() - started


def cold_seconds(root: Path, cached: bool) -> list[float]:
    """Seconds of COLD_RUNS of the script, with compiled bytecode at hand or, as on a first run, without."""
    environment = dict(os.environ)
    if not cached:
        environment |= {"PYTHONPYCACHEPREFIX": str(root / "no-cache"), "PYTHONDONTWRITEBYTECODE": "1"}
    log = root / f"cold-{cached}.log"
    ports = itertools.count(19_000 if cached else 19_200)
    seconds = []
    name = "compiled before" if cached else "not compiled before"
    for _ in track(range(COLD_RUNS), f"{COLD_RUNS} cold scripts, {name}", console=console):
        own_ports = ",".join(str(next(ports)) for _ in range(4))
        started = time.monotonic()
        scripts = [
            subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name("cold_psi.py")), party, own_ports, str(root)],
                env=environment,
                stdout=log.open("ab"),
                stderr=subprocess.STDOUT,
            )
            for party in PARTIES
        ]
        assert [script.wait(timeout=120) for script in scripts] == [0, 0]
        seconds.append(time.monotonic() - started)
    remove_traces(log)
    return seconds


def main() -> None:
    """Measure and print; exit code 1 when the ratio is missed."""
    with tempfile.TemporaryDirectory(prefix="sfworker-bench-") as folder:
        root = Path(folder)
        write_tables(root)
        worker = worker_seconds(root)
        cold = {cached: cold_seconds(root, cached) for cached in (False, True)}
    median = statistics.median(worker)
    table = Table("psi of 20,000 rows", "median s", "fastest s", "slowest s", "times the worker")
    table.add_row("through the worker", f"{median:.3f}", f"{min(worker):.3f}", f"{max(worker):.3f}", "1.0")
    for cached, seconds in cold.items():
        name = f"cold script, {'compiled' if cached else 'not compiled'} before"
        middle = statistics.median(seconds)
        table.add_row(
            name, f"{middle:.3f}", f"{min(seconds):.3f}", f"{max(seconds):.3f}", f"{middle / median:.1f}"
        )
    console.print(table)
    raise SystemExit(statistics.median(cold[False]) / median < WANTED_RATIO)


if __name__ == "__main__":
    main()
