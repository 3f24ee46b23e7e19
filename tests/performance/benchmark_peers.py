"""What the link between nodes costs: the same task directly and through it, over several cables.

`python -m tests.performance.benchmark_peers [--repeat N] [--tasks ss_lr] [--cables 0:0 10:100]`
prints a table in Markdown, of medians of runs in turn. Directly means SecretFlow's own connections
through the same proxy, without encryption.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Iterator

import numpy as np
import pandas as pd

from secretflow_task.broker.celery_tasks import Outcome
from secretflow_task.config.settings import Settings
from secretflow_task.contract.job_spec import JobSpec
from secretflow_task.contract.messages import Status, StatusEvent
from secretflow_task.node.assembly import lone_node
from secretflow_task.node.assignment import Assignment
from secretflow_task.node.job.ending import Ending
from secretflow_task.node.link.peer.certificates import make_certificate
from secretflow_task.node.ports import Ports, leased_ports
from secretflow_task.node.runner import Runner
from secretflow_task.utils import log

PARTIES = ("alice", "bob")
PORTS = range(28000, 30000)
PROXY = Path(__file__).with_name("slow_proxy.py")
CABLES = ("0:0", "0:100", "10:100", "25:100")  # one way ms, Mbit/s


@dataclass
class Cable:
    """A running proxy, and what it has carried."""

    process: subprocess.Popen[str]
    carried: int = 0


@contextmanager
def cable(delay_ms: float, mbit: float, ways: list[str]) -> Iterator[Cable]:
    """A proxy for these ways, as `slow_proxy` takes them."""
    command = [sys.executable, str(PROXY), str(delay_ms), str(mbit), *ways]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stdout.readline() == "ready\n"
        found = Cable(process)
        try:
            yield found
        finally:
            process.terminate()
            found.carried = sum(map(int, process.stdout.readline().split()))


class DirectRunner(Runner):
    """Runs both parties, whose jobs reach each other through a cable."""

    def __init__(self, runner: Runner, delay_ms: float, mbit: float) -> None:
        super().__init__(**vars(runner))
        self._kind = (delay_ms, mbit)
        self.carried = 0

    def _run_parties(
        self, assignment: Assignment, epoch: int, stack: ExitStack
    ) -> dict[str, Ending]:
        self._proxies = ExitStack()
        self._views: dict[str, Ports] | None = None
        with self._proxies:
            ended = super()._run_parties(assignment, epoch, stack)
        self.carried = self._cable.carried
        return ended

    def _spec(self, assignment: Assignment, party: str, ports: Ports) -> JobSpec:
        if self._views is None:
            self._views = self._laid(ports)
        view = self._views[party]
        lines = [
            {name: f"127.0.0.1:{port}" for name, port in line.items()}
            for line in (view.fed, view.spu)
        ]
        return replace(
            super()._spec(assignment, party, ports), fed_addresses=lines[0], spu_addresses=lines[1]
        )

    def _laid(self, ports: Ports) -> dict[str, Ports]:
        """Each party's view of the ports: the other's begin a cable."""
        ends = self._proxies.enter_context(leased_ports(4, PORTS))
        fed = dict(zip(PARTIES, ends[:2]))
        spu = dict(zip(PARTIES, ends[2:]))
        ways = [
            f"b:{fed['alice']}=127.0.0.1:{ports.fed['alice']}",
            f"a:{fed['bob']}=127.0.0.1:{ports.fed['bob']}",
        ]
        ways += [
            f"b:{spu['alice']}=127.0.0.1:{ports.spu['alice']}",
            f"a:{spu['bob']}=127.0.0.1:{ports.spu['bob']}",
        ]
        self._cable = self._proxies.enter_context(cable(*self._kind, ways))
        own = {"alice": "bob", "bob": "alice"}
        return {
            party: Ports(
                {party: ports.fed[party], other: fed[other]},
                {party: ports.spu[party], other: spu[other]},
            )
            for party, other in own.items()
        }


class Bench:
    """Data, settings, and the two ways to run a request."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._count = 0

    def settings(self, name: str, **changes: Any) -> Settings:
        """A node's."""
        values: dict[str, Any] = {
            "data_root": self.root / "data",
            "state_dir": self.root / name / "state",
            "work_dir": self.root / name / "work",
            "port_range": f"{PORTS.start}-{PORTS.stop - 1}",
            "unsafe_protocols": ("SEMI2K",),
        }
        return Settings(**values | changes)

    def directly(self, params: dict[str, Any], delay_ms: float, mbit: float) -> tuple[float, int]:
        """Seconds of the task, and bytes on the cable."""
        events: list[StatusEvent] = []
        settings = self.settings("both", parties=PARTIES)
        with lone_node(settings, events.append) as node:
            node._runner = runner = DirectRunner(node._runner, delay_ms, mbit)
            self._count += 1
            _succeed(node.execute(f"direct-{self._count}", params))
        return seconds(events), runner.carried

    def linked(self, params: dict[str, Any], delay_ms: float, mbit: float) -> tuple[float, int]:
        """The same, between two nodes in processes of their own."""
        self._count += 1
        with ExitStack() as stack:
            ends = dict(
                zip(
                    ("alice", "bob", "to-alice", "to-bob"),
                    stack.enter_context(leased_ports(4, PORTS)),
                )
            )
            ways = [
                f"b:{ends['to-alice']}=127.0.0.1:{ends['alice']}",
                f"a:{ends['to-bob']}=127.0.0.1:{ends['bob']}",
            ]
            made = {
                party: make_certificate(party, self.root / f"certs-{self._count}")
                for party in PARTIES
            }
            with cable(delay_ms, mbit, ways) as laid:
                runs = [self._node(party, ends, made, params) for party in PARTIES]
                took = [float(_last_line(run)) for run in runs]
        return max(took), laid.carried

    def _node(
        self, party: str, ends: dict[str, int], made: dict[str, Any], params: dict[str, Any]
    ) -> subprocess.Popen[str]:
        other = "bob" if party == "alice" else "alice"
        identity, fingerprint = made[other]
        book = self.root / f"{party}.yaml"
        book.write_text(
            f"{other}: {{host: 127.0.0.1, port: {ends[f'to-{other}']}, "
            f"certificate: {identity.certificate},"
            f" fingerprints: [{fingerprint}]}}\n",
            encoding="utf-8",
        )
        own = made[party][0]
        settings = {
            "parties": [party],
            "peer_listen": f"127.0.0.1:{ends[party]}",
            "peers_file": str(book),
            "peer_certificate": str(own.certificate),
            "peer_key": str(own.key),
        }
        values = repr((str(self.root), party, settings, f"linked-{self._count}", params))
        program = f"from tests.performance.benchmark_peers import one_node; one_node(*{values})"
        return subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)


def one_node(
    root: str, name: str, settings: dict[str, Any], execution_id: str, params: dict[str, Any]
) -> None:
    """One party's node, in a process of its own, which runs one request and prints its seconds."""
    events: list[StatusEvent] = []
    log.configure("ERROR")
    with lone_node(Bench(Path(root)).settings(name, **settings), events.append) as node:
        _succeed(node.execute(execution_id, params))
    print(seconds(events))


def _last_line(run: subprocess.Popen[str]) -> str:
    output, _ = run.communicate(timeout=3600)
    return output.splitlines()[-1]


def _succeed(outcome: Outcome) -> None:
    if outcome.status is not Status.SUCCESS:
        raise SystemExit(f"{outcome.failure and outcome.failure.to_dict()}")


def seconds(events: list[StatusEvent]) -> float:
    """The longest of the parties' times, from the go to the result."""
    timings = [event.data["result"]["timings"] for event in events if event.status.terminal]
    return max(found["task_execution"] for found in timings)


def write_tables(root: Path, rows: int, train_rows: int) -> None:
    """``psi.csv`` of so many rows, and ``train.csv`` of so many rows and 20 columns in all."""
    dice = np.random.default_rng(5)
    keys = np.char.zfill(np.arange(2 * rows).astype(str), 9)
    features = dice.normal(size=(train_rows, 20))
    label = (features @ dice.normal(size=20) > 0).astype(int)
    for number, party in enumerate(PARTIES):
        (root / party).mkdir(parents=True)
        own = dice.permutation(keys[number * rows // 2 : number * rows // 2 + rows])
        pd.DataFrame({"uid": own, "x": range(rows)}).to_csv(root / party / "psi.csv", index=False)
        columns = {f"{party}_{column}": features[:, 10 * number + column] for column in range(10)}
        table = pd.DataFrame(columns | ({"y": label} if party == "alice" else {})).round(5)
        table.to_csv(root / party / "train.csv", index=False)


def requests() -> dict[str, dict[str, Any]]:
    """The two tasks."""
    psi = {
        "task_type": "psi",
        "keys": {party: ["uid"] for party in PARTIES},
        "input_paths": {party: "psi.csv" for party in PARTIES},
        "output_paths": {party: "out/psi.csv" for party in PARTIES},
        "receiver": "alice",
    }
    train = {
        "task_type": "ss_lr",
        "train_data": {party: "train.csv" for party in PARTIES},
        "label": "y",
        "model_output": {party: "out/model" for party in PARTIES},
        "params": {"epochs": 1, "batch_size": 4096},
    }
    tasks = {"psi": psi, "ss_lr": train}
    return {
        name: {"task_config": task, "spu_config": {"protocol": "SEMI2K"}}
        for name, task in tasks.items()
    }


def main() -> None:
    """Run everything and print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--train-rows", type=int, default=100_000)
    parser.add_argument("--repeat", type=int, default=1, help="runs of each, in turn")
    parser.add_argument("--tasks", nargs="+", choices=requests(), default=list(requests()))
    parser.add_argument(
        "--cables", nargs="+", default=CABLES, help="one way ms:Mbit/s, 0 for no limit"
    )
    asked = parser.parse_args()
    log.configure("ERROR")
    print(
        "| task | one way | limit | direct (s) | linked (s) | ratio | direct (MB) | linked (MB) |"
    )
    print("|---|---|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory(prefix="sfworker-bench-") as folder:
        bench = Bench(Path(folder))
        write_tables(bench.root / "data", asked.rows, asked.train_rows)
        for name in asked.tasks:
            for cable_text in asked.cables:
                delay_ms, mbit = map(float, cable_text.split(":"))
                print(_row(bench, name, delay_ms, mbit, asked.repeat), flush=True)


def _row(bench: Bench, name: str, delay_ms: float, mbit: float, repeat: int) -> str:
    params = requests()[name]
    runs = [
        (bench.directly(params, delay_ms, mbit), bench.linked(params, delay_ms, mbit))
        for _ in range(repeat)
    ]
    (direct, direct_bytes), (linked, linked_bytes) = (
        [statistics.median(run[0] for run in way), statistics.median(run[1] for run in way)]
        for way in zip(*runs)
    )
    limit = f"{mbit:g} Mbit/s" if mbit else "none"
    times = f"{direct:.1f} | {linked:.1f} | {linked / direct:.2f}"
    sizes = f"{direct_bytes / 1e6:.0f} | {linked_bytes / 1e6:.0f}"
    return f"| `{name}` | {delay_ms:g} ms | {limit} | {times} | {sizes} |"


if __name__ == "__main__":
    started = time.monotonic()
    main()
    print(f"\n{time.monotonic() - started:.0f} s in all")
