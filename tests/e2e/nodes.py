"""A running node, its Redis and its processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from secretflow_task.client import Client
from secretflow_task.config.settings import Settings
from secretflow_task.contract.messages import StatusEvent
from secretflow_task.contract.requests import TaskRequest
from secretflow_task.node.ports import leased_ports
from tests.bench.waiting import PATIENCE_SECONDS, wait_for

METRICS_PORTS = range(31000, 31200)
PARTIES = ("alice", "bob")
START = (Path(sys.executable).with_name("sfworker"), "start")


@dataclass(frozen=True)
class RunningNode:
    """`sfworker start` in a process of its own."""

    process: psutil.Process
    settings: Settings
    environment: dict[str, str]
    root: Path

    def descendants(self) -> list[psutil.Process]:
        """The template and the jobs."""
        return list(self.process.children(recursive=True))

    def jobs(self) -> list[psutil.Process]:
        """The job processes: children of the template."""
        return [
            child for child in self.descendants() if _parent(child) not in (None, self.process.pid)
        ]

    def send(self, execution_id: str, params: dict[str, Any]) -> None:
        """Send a request."""
        with Client(self.settings) as client:
            client.submit(TaskRequest(execution_id, execution_id, params))

    def events(
        self, execution_id: str, parties: tuple[str, ...] = PARTIES
    ) -> dict[str, list[StatusEvent]]:
        """All events of an execution by party, when each of ``parties`` has its terminal one."""
        found: dict[str, list[StatusEvent]] = {}
        with Client(self.settings) as client:
            for event in client.events(execution_id, timeout_seconds=90):
                if event is not None:
                    found.setdefault(event.party, []).append(event)
                elif all(party in found and found[party][-1].status.terminal for party in parties):
                    return found
        raise AssertionError("unreachable: the iteration ends with a TimeoutError")

    @property
    def metrics_port(self) -> int:
        """The port of its metrics."""
        return int(self.environment["SFWORKER_METRICS_LISTEN"].rpartition(":")[2])

    def execute(self, execution_id: str, params: dict[str, Any]) -> dict[str, list[StatusEvent]]:
        """Send a request and wait for its end."""
        self.send(execution_id, params)
        return self.events(execution_id)

    def stop(self) -> int:
        """End the node as an operator would; returns its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return int(self.process.wait(PATIENCE_SECONDS))


@contextmanager
def running_node(
    root: Path, redis_url: str, command: Sequence[str | Path] = START, **settings: str
) -> Iterator[RunningNode]:
    """Start a node on ``redis_url`` with its data in ``root``; kill what is left at the end.

    Args:
        command: what starts it; `tests.bench.stand_in` has one that needs no engine.
    """
    environment = {
        "SFWORKER_REDIS_URL": redis_url,
        "SFWORKER_PARTIES": "alice,bob",
        "SFWORKER_DATA_ROOT": str(root / "data"),
        "SFWORKER_STATE_DIR": str(root / "state"),
        "SFWORKER_WORK_DIR": str(root / "work"),
        "SFWORKER_NAME": "node-of-the-test",
        "SFWORKER_DRAIN_SECONDS": "0.5",
    } | settings
    with ExitStack() as stack:
        (port,) = stack.enter_context(leased_ports(1, METRICS_PORTS))
        environment.setdefault("SFWORKER_METRICS_LISTEN", f"127.0.0.1:{port}")
        log = stack.enter_context((root / "node.log").open("ab"))
        begin = log.tell()
        with subprocess.Popen(
            command, env=os.environ | environment, stdout=log, stderr=log
        ) as popen:
            node = RunningNode(
                psutil.Process(popen.pid),
                Settings(redis_url=redis_url),  # type: ignore[arg-type]  # pydantic reads the text
                environment,
                root,
            )
            try:
                wait_for(lambda: b"takes requests" in (root / "node.log").read_bytes()[begin:])
                yield node
            finally:
                popen.terminate()


def _parent(process: psutil.Process) -> int | None:
    """None when it has ended meanwhile."""
    try:
        return int(process.ppid())
    except psutil.NoSuchProcess:
        return None


def template_of(node: RunningNode) -> psutil.Process:
    """The process from which jobs are forked: the child that runs multiprocessing's forkserver."""
    (template,) = (
        child
        for child in node.process.children()
        if "multiprocessing.forkserver" in " ".join(child.cmdline())
    )
    return template


def is_alive(process: psutil.Process) -> bool:
    """Whether a process runs; one that only waits to be reaped does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def jobs_below(work: str) -> list[psutil.Process]:
    """Every running process whose folder is below a node's work folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.cwd().startswith(work) and is_alive(process):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found
