"""Three ways to do a work: through the worker, in a warm pair of SecretFlow processes, or cold."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Callable, Iterator, Mapping, Protocol, Sequence

import psutil
from redis import Redis

from secretflow_task.broker.embedded_redis import embedded_redis
from secretflow_task.broker.keys import STREAM
from secretflow_task.cli.demo import node_process
from secretflow_task.client import Client
from secretflow_task.config.settings import Settings
from secretflow_task.contract.messages import Status, StatusEvent
from secretflow_task.contract.requests import TaskRequest
from secretflow_task.node.job.psi_traces import remove_traces
from secretflow_task.node.ports import leased_ports
from tests.performance.works import PARTIES

CONCURRENCY = 8
_REPOSITORY = Path(__file__).parents[2]
_TIMEOUT_SECONDS = 1800
_LOOK_SECONDS = 0.1
_PORTS = range(18_000, 20_000)  # the node's begin at 20000
_ENDED_EARLY = "A process of plain SecretFlow ended early; its log is {}."


class Side(Protocol):
    """One way to do a work."""

    def run(self, task_config: Mapping[str, Any]) -> float:
        """Do it; returns the seconds."""

    def processes(self) -> list[psutil.Process]:
        """The processes that take memory for it."""


@dataclass
class Execution:
    """What a submitter saw of one execution.

    Attributes:
        delays: seconds from each event to its arrival.
        first: seconds from the request to the arrival of the first event.
        ended: the terminal event of every party.
    """

    started: float
    delays: list[float] = field(default_factory=list)
    first: float = 0.0
    seconds: float = 0.0
    ended: dict[str, StatusEvent] = field(default_factory=dict)

    def see(self, event: StatusEvent) -> None:
        """Take in one event."""
        now = time.time()
        self.first = self.first or now - self.started
        self.delays.append(now - datetime.fromisoformat(event.timestamp).timestamp())
        if event.status.terminal:
            assert event.status is Status.SUCCESS, event
            self.ended[event.party] = event
            self.seconds = now - self.started

    def timing(self, stage: str) -> float:
        """The longest time of the parties in a stage of the result's timings."""
        found = [event.data["result"]["timings"].get(stage, 0.0) for event in self.ended.values()]
        return float(max(found))


class Worker:
    """A node that hosts both parties, with a Redis of its own, and a client."""

    def __init__(self, client: Client, redis: Redis, node: psutil.Process) -> None:
        self._client = client
        self._redis = redis
        self._node = node
        self._count = 0
        self.last: Execution

    @classmethod
    @contextmanager
    def started(cls, root: Path) -> Iterator[Worker]:
        """Start it on the tables below ``root``."""
        with embedded_redis() as url, ExitStack() as stack:
            environment = {
                "SFWORKER_REDIS_URL": url,
                "SFWORKER_DATA_ROOT": str(root),
                "SFWORKER_STATE_DIR": str(root / "state"),
                "SFWORKER_WORK_DIR": str(root / "work"),
                "SFWORKER_PARTIES": ",".join(PARTIES),
                "SFWORKER_CONCURRENCY": str(CONCURRENCY),
                "SFWORKER_DRAIN_SECONDS": "0",  # a run that is stopped waits for nothing
            }
            node = stack.enter_context(node_process(environment, root / "node.log"))
            client = stack.enter_context(Client(Settings(redis_url=url)))  # type: ignore[arg-type]
            redis = stack.enter_context(Redis.from_url(url))
            yield cls(client, redis, psutil.Process(node.pid))

    def run(self, task_config: Mapping[str, Any]) -> float:
        """Seconds from the send to SUCCESS at both parties."""
        (self.last,) = self.run_all([task_config])
        return self.last.seconds

    def run_all(self, task_configs: Sequence[Mapping[str, Any]]) -> list[Execution]:
        """Send all, and wait for all."""
        since, executions = self._client.position(), {}
        for task_config in task_configs:
            self._count += 1
            params = {
                "sf_init_config": {"parties": list(PARTIES)},
                "task_config": dict(task_config),
            }
            request = TaskRequest(f"bench-{self._count}", f"bench-{self._count}", params)
            executions[request.execution_id] = Execution(time.time())
            self._client.submit(request)
        waiting = set(executions)
        for event in self._events(since):
            execution = executions[event.execution_id]
            execution.see(event)
            if len(execution.ended) == len(PARTIES):
                waiting.discard(event.execution_id)
            if not waiting:
                break
        return list(executions.values())

    def _events(self, since: str) -> Iterator[StatusEvent]:
        """All events of the node as they come: nobody else uses its Redis."""
        while True:
            answer: Any = self._redis.xread({STREAM: since}, block=1000 * _TIMEOUT_SECONDS)
            if not answer:
                raise TimeoutError("no event came")
            for since, fields in answer[0][1]:
                yield StatusEvent.from_json(fields[b"event"])

    def processes(self) -> list[psutil.Process]:
        """The node, the template and the jobs."""
        return [self._node, *self._node.children(recursive=True)]


class Warm:
    """A pair of processes in one session of SecretFlow, which do one work after another."""

    def __init__(self, pair: Pair) -> None:
        self._pair = pair

    @classmethod
    @contextmanager
    def started(cls, root: Path) -> Iterator[Warm]:
        """Start it on the tables below ``root``."""
        with Pair.started(root) as pair:
            yield cls(pair)

    def run(self, task_config: Mapping[str, Any]) -> float:
        """Seconds from the order to the answer of both."""
        self._pair.expect("ready")
        started = time.monotonic()
        self._pair.order(task_config)
        self._pair.expect("done")
        return time.monotonic() - started

    def processes(self) -> list[psutil.Process]:
        """Both."""
        return [psutil.Process(process.pid) for process in self._pair.running]


class Cold:
    """Two scripts that start, do one work and end."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._pair: Pair | None = None

    def run(self, task_config: Mapping[str, Any]) -> float:
        """Seconds from the start of the interpreters to their end."""
        started = time.monotonic()
        with Pair.started(self._root) as self._pair:
            self._pair.order(task_config)
            self._pair.expect("ready")
            self._pair.expect("done")
        return time.monotonic() - started

    def processes(self) -> list[psutil.Process]:
        """Both, while they run."""
        return [psutil.Process(process.pid) for process in self._pair.running] if self._pair else []


class Pair:
    """Two running processes of `tests.performance.party`."""

    def __init__(self, processes: Sequence[subprocess.Popen[str]], log: Path) -> None:
        self._processes = processes
        self._log = log

    @classmethod
    @contextmanager
    def started(cls, root: Path) -> Iterator[Pair]:
        """Start both; at the end they leave their session together."""
        log = root / "direct.log"
        with ExitStack() as stack:
            ports = ",".join(map(str, stack.enter_context(leased_ports(4, _PORTS))))
            file = stack.enter_context(log.open("ab"))
            command = [sys.executable, "-m", "tests.performance.party"]
            options: dict[str, Any] = {
                "stdin": subprocess.PIPE,
                "stdout": subprocess.PIPE,
                "stderr": file,
            }
            options |= {
                "text": True,
                "cwd": root,
                "env": os.environ | {"PYTHONPATH": str(_REPOSITORY)},
            }
            commands = [[*command, party, ports, str(root)] for party in PARTIES]
            pair = cls([subprocess.Popen(command, **options) for command in commands], log)
            try:
                yield pair
                pair._leave()
            finally:
                for process in pair.running:
                    process.kill()
                remove_traces(log)

    @property
    def running(self) -> list[subprocess.Popen[str]]:
        """Those that have not ended."""
        return [process for process in self._processes if process.poll() is None]

    def order(self, task_config: Mapping[str, Any]) -> None:
        """Tell both what to do."""
        for process in self._processes:
            assert process.stdin
            print(json.dumps(task_config), file=process.stdin, flush=True)

    def expect(self, word: str) -> None:
        """Wait until both say it."""
        for process in self._processes:
            assert process.stdout
            if process.stdout.readline() != f"{word}\n":
                raise SystemExit(_ENDED_EARLY.format(self._log))

    def _leave(self) -> None:
        for process in self._processes:
            assert process.stdin
            process.stdin.close()
        if any(process.wait(_TIMEOUT_SECONDS) for process in self._processes):
            raise SystemExit(_ENDED_EARLY.format(self._log))


def peak_megabytes(side: Side, work: Callable[[], Any]) -> float:
    """The most memory that the processes of a side hold together while they do a work."""
    ended, peak = threading.Event(), 0.0

    def watch() -> None:
        nonlocal peak
        while True:
            peak = max(peak, sum(map(_megabytes, side.processes())))
            if ended.wait(_LOOK_SECONDS):
                return

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        work()
    finally:
        ended.set()
        watcher.join()
    return peak


def _megabytes(process: psutil.Process) -> float:
    """Its proportional set size, in which shared pages count once; 0 for one that has ended."""
    try:
        return float(process.memory_full_info().pss) / 1e6
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0.0
