"""A node inside the test process, its parties' folders, and the laws that hold after every run."""

from __future__ import annotations

import csv
import itertools
import json
import re
import threading
import time
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ContextManager, Iterable, Iterator, Mapping, Sequence

import psutil

from scripts.reference import events as reference
from secretflow_task.broker.celery_tasks import Outcome
from secretflow_task.config.settings import Settings
from secretflow_task.contract.messages import ACCEPTED, Status, StatusEvent
from secretflow_task.node.assembly import lone_node
from secretflow_task.node.job.template import Template
from secretflow_task.node.node import Node

Columns = Mapping[str, Sequence[Any]]
_STARTED = [("cluster_init", 0.1), ("device_creation", 0.3), ("task_execution", 0.5)]
_OTHER_STAGES = {"SUCCESS", "waiting", "flood"}  # the end, and what probes report


def read_csv(path: Path) -> dict[str, list[str]]:
    """The columns of a CSV as the text that stands in the file."""
    with path.open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    return {name: [row[index] for row in rows] for index, name in enumerate(header)}


def write_csv(path: Path, columns: Columns) -> None:
    """Write columns as CSV: text as it is, floats so that they read back as the same number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    quoted = any("\r" in str(cell) for cells in columns.values() for cell in cells)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(
            file, lineterminator="\n", quoting=csv.QUOTE_ALL if quoted else csv.QUOTE_MINIMAL
        )
        writer.writerow(columns)
        writer.writerows(zip(*columns.values()))


@dataclass
class Execution:
    """One finished execution as its submitter saw it."""

    id: str
    outcome: Outcome
    events: dict[str, list[StatusEvent]]
    seconds: float

    @property
    def succeeded(self) -> bool:
        """Whether it ended in SUCCESS."""
        return self.outcome.status is Status.SUCCESS

    @property
    def results(self) -> dict[str, dict[str, Any]]:
        """``data.result`` of the SUCCESS event of each party."""
        return {party: dict(events[-1].data["result"]) for party, events in self.events.items()}

    @property
    def failures(self) -> dict[str, dict[str, Any]]:
        """``data`` of the FAILURE event of each party."""
        return {party: dict(events[-1].data) for party, events in self.events.items()}

    @property
    def code(self) -> str:
        """The error code, which all parties must have got."""
        codes = {failure["error_code"] for failure in self.failures.values()}
        assert len(codes) == 1, codes
        return codes.pop()

    def stages(self, party: str) -> list[tuple[str, float]]:
        """``(stage, progress)`` of every event of a party that has them, once it has a job."""
        return [
            (event.data["stage"], event.data["progress"])
            for event in self.events[party]
            if event.data.get("stage", ACCEPTED) != ACCEPTED
        ]


@dataclass
class Bench:
    """A running node that hosts all parties of a test, on folders of its own."""

    root: Path
    events: dict[str, list[StatusEvent]]
    checked: bool = True
    _numbers: Iterable[int] = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        self.node: Node  # when it runs
        self.mutex = threading.Lock()
        self.running = 0

    def workspace(self, name: str) -> Workspace:
        """A folder per party for one test."""
        return Workspace(self, f"{name}{next(self._numbers)}")  # type: ignore[call-overload]

    def execute(self, params: Mapping[str, Any], execution_id: str | None = None) -> Execution:
        """Run a request to its end and check what must hold after any execution."""
        execution_id = execution_id or f"test-{time.time_ns()}"
        started = time.monotonic()
        with self.mutex:
            self.running += 1
        outcome = self.node.execute(execution_id, params)
        seconds = time.monotonic() - started
        events: dict[str, list[StatusEvent]] = defaultdict(list)
        with self.mutex:
            self.running -= 1
            alone = self.running == 0
            for event in self.events.pop(execution_id, []):
                events[event.party].append(event)
        execution = Execution(execution_id, outcome, dict(events), seconds)
        check_events(execution)
        if self.checked:
            self.check_nothing_left(execution, alone)
        return execution

    def check_nothing_left(self, execution: Execution, alone: bool) -> None:
        """No process, port, temporary file or staging folder of the execution is left."""
        settings = self.node.settings
        jobs = [
            process.pid
            for process in self.job_processes()
            if execution.id in stdout_of(process.pid)
        ]
        assert not jobs
        assert not [
            port for port, pid in listening(settings.ports) if self.is_job(pid) and pid in jobs
        ]
        assert not list(settings.work_dir.glob(f"*/{execution.id}.*"))
        if alone:  # else it could be another execution's
            assert not list(settings.data_root.rglob(".sfworker-*"))
        for log in (settings.state_dir / "logs").glob(f"{execution.id}.*.log"):
            traces = re.findall(r"/tmp/psi_[A-Za-z0-9_-]+\.trace", log.read_text(errors="replace"))
            assert not [trace for trace in traces if Path(trace).exists()]

    def job_processes(self) -> list[psutil.Process]:
        """Every running job process of this node, wherever it stands in the process tree."""
        return [process for process in psutil.process_iter() if self.is_job(process.pid)]

    def is_job(self, pid: int | None) -> bool:
        """Whether a process writes to a job log of this node."""
        return stdout_of(pid).startswith(str(self.node.settings.state_dir)) if pid else False

    def log_of(self, execution: Execution, party: str) -> str:
        """What the job process of a party wrote; nothing if it was ended before it wrote."""
        path = self.node.settings.state_dir / "logs" / f"{execution.id}.{party}.log"
        return path.read_text(errors="replace") if path.exists() else ""


@dataclass
class Workspace:
    """The folder that one test has below every party's data root."""

    bench: Bench
    name: str

    def path(self, party: str, name: str) -> Path:
        """Absolute path of a party's file."""
        return self.bench.node.settings.data_root / party / self.name / name

    def text(self, name: str) -> str:
        """The path of a file as a request names it."""
        return f"{self.name}/{name}"

    def paths(self, name: str, parties: Iterable[str] = ("alice", "bob")) -> dict[str, str]:
        """``{party: path}`` as a request names it."""
        return {party: self.text(name) for party in parties}

    def write(self, name: str, tables: Mapping[str, Columns]) -> dict[str, str]:
        """Write a table per party; returns ``{party: path}`` as a request names it."""
        for party, columns in tables.items():
            write_csv(self.path(party, name), columns)
        return self.paths(name, tables)

    def read(self, party: str, name: str) -> dict[str, list[str]]:
        """The columns of a party's CSV as text."""
        return read_csv(self.path(party, name))

    def exists(self, party: str, name: str) -> bool:
        """Whether a party has a file or folder."""
        return self.path(party, name).exists()

    def run(
        self, task_config: Mapping[str, Any], execution_id: str | None = None, **params: Any
    ) -> Execution:
        """Run a task to SUCCESS."""
        execution = self.bench.execute({"task_config": task_config, **params}, execution_id)
        assert execution.succeeded, execution.failures
        return execution

    def fail(
        self, task_config: Mapping[str, Any], code: str, party: str | None = None, **params: Any
    ) -> Execution:
        """Run a task to FAILURE with this code, which began at this party."""
        execution = self.bench.execute({"task_config": task_config, **params})
        assert not execution.succeeded
        assert execution.code == code, execution.failures
        assert {failure["failed_party"] for failure in execution.failures.values()} == {party}
        for failure in execution.failures.values():
            check_sentence(failure["error"])
            check_sentence(failure["hint"])
            assert str(self.bench.root) not in json.dumps(failure)
        return execution


def start_bench(root: Path, **settings: Any) -> tuple[ContextManager[Node], Bench]:
    """A node on folders below ``root``, not yet entered, and the bench on it."""
    events: dict[str, list[StatusEvent]] = defaultdict(list)
    preload = settings.pop("preload", None)
    for party in ("alice", "bob", "carol"):
        (root / "data" / party).mkdir(parents=True)
    given = {
        "parties": "alice,bob,carol",
        "data_root": root / "data",
        "state_dir": root / "state",
        "work_dir": root / "work",
        **settings,
    }
    bench = Bench(root, events)

    def collect(event: StatusEvent) -> None:
        with bench.mutex:
            events[event.execution_id].append(event)

    timeout = given.get("template_timeout_seconds", 180.0)
    template = Template(timeout, preload) if preload else None

    @contextmanager
    def started() -> Iterator[Node]:
        with lone_node(Settings(**given), collect, template=template) as node:
            bench.node = node
            yield node

    return started(), bench


def check_events(execution: Execution) -> None:
    """Numbered 1, 2, 3 ..., one terminal event, the last; stages in order, progress never falls.

    All that they hold is in the reference, and the end tells the seconds of every stage.
    """
    for party, events in execution.events.items():
        assert [event.seq for event in events] == list(range(1, len(events) + 1))
        assert [event.status.terminal for event in events] == [False] * (len(events) - 1) + [True]
        assert events[-1].status is execution.outcome.status
        assert len({event.event_id for event in events}) == len(events)
        assert all(set(event.data) <= set(reference.DATA[event.status]) for event in events)
        assert {stage for stage, _ in execution.stages(party)} <= {
            *reference.STAGES,
            *_OTHER_STAGES,
        }
        end = events[-1].data
        assert all(seconds >= 0 for seconds in end.get("result", end)["timings"].values())
        assert {(event.execution_id, event.party) for event in events} == {(execution.id, party)}
        was_taken = len(events) > 1  # else it was refused
        assert (events[0].data.get("stage") == ACCEPTED) is was_taken
        progress = [event.data["progress"] for event in events]
        assert progress == sorted(progress)
        stages = execution.stages(party)
        assert stages[:3] == _STARTED[: len(stages)]
        if execution.succeeded:
            assert stages[:3] == _STARTED
            assert {stage for stage, _ in _STARTED} | {"prepare"} <= set(end["result"]["timings"])
            assert stages[-1] == ("SUCCESS", 1.0)
            assert all(0.5 <= share < 1.0 for _, share in stages[3:-1])


def check_sentence(text: str) -> None:
    """A helpful text is a sentence of several words and not that of a foreign exception."""
    assert text.endswith((".", "?")) and len(text.split()) > 3, text
    assert "Traceback" not in text and "Error(" not in text


def stdout_of(pid: int) -> str:
    """Where a process writes; empty for one that has ended."""
    try:
        return str(Path(f"/proc/{pid}/fd/1").readlink())
    except OSError:
        return ""


def listening(ports: range) -> list[tuple[int, int | None]]:
    """``(port, process id)`` of every listener in a range."""
    return [
        (connection.laddr.port, connection.pid)
        for connection in psutil.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port in ports
    ]
