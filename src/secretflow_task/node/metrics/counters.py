"""What a node counts and measures for Prometheus: one registry, fed by what the node stores and settles.

No label holds an id or anything of the parties' data: task types are those of the registry, codes those of
the error tree, peers those of the address book.
"""

from __future__ import annotations

import math
import platform
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from typing import Any, Iterable, Iterator, Literal, Sequence

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from secretflow_task import __version__
from secretflow_task.contract.errors import PeerLost
from secretflow_task.contract.messages import Status, StatusEvent
from secretflow_task.contract.task_dispatcher import TaskDispatcher
from secretflow_task.node.job.ending import Ending
from secretflow_task.node.job.usage import STAGES, Usage

SUCCESS, FAILURE = "success", "failure"
_OTHER = "other"  # the task type of a request that names none of ours
_MINUTE, _HOUR = 60.0, 3600.0
_LONGEST_WAIT_SECONDS = 30 * 24 * _HOUR  # who says more has no clock, or means harm
_GIB = 2.0**30
# Weighing takes more CPU time than all the rest: of many short jobs one in so many seconds is weighed.
_SAMPLE_SECONDS = 10.0


@dataclass(frozen=True)
class Metric:
    """One metric of the reference.

    Attributes:
        buckets: upper bounds of a histogram. Few: each is a line for every combination of labels.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    meaning: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


OBSERVED = (
    Metric(
        "sfworker_build_info",
        "gauge",
        "1, with the versions of the worker, of SecretFlow and of Python.",
        ("version", "secretflow", "python"),
    ),
    Metric(
        "sfworker_start_time_seconds", "gauge", "When the node was started, in seconds since 1970."
    ),
    Metric(
        "sfworker_executions_total",
        "counter",
        "Executions that have ended, with the error code of a failure; refused requests count too.",
        ("task_type", "outcome", "code"),
    ),
    Metric(
        "sfworker_execution_seconds",
        "histogram",
        "Time from taking a request to its terminal event.",
        ("task_type", "outcome"),
        (1, 3, 10, 30, _MINUTE, 5 * _MINUTE, 15 * _MINUTE, 30 * _MINUTE, _HOUR),
    ),
    Metric(
        "sfworker_stage_seconds",
        "histogram",
        "Time in each stage that an execution has completed, at the slowest of the parties here.",
        ("task_type", "stage"),
        (0.1, 1, 10, _MINUTE, 5 * _MINUTE, 30 * _MINUTE),
    ),
    Metric(
        "sfworker_queue_wait_seconds",
        "histogram",
        "Time from sending a request to taking it, of requests that say when they were sent.",
        ("task_type",),
        (1, 10, _MINUTE, 5 * _MINUTE, 30 * _MINUTE, 2 * _HOUR),
    ),
    Metric(
        "sfworker_job_peak_memory_bytes",
        "histogram",
        "Largest proportional set size of job processes: of all over 10 s, and of a sample of shorter ones.",
        ("task_type",),
        (_GIB / 4, _GIB / 2, _GIB, 2 * _GIB, 4 * _GIB, 8 * _GIB, 16 * _GIB, 32 * _GIB),
    ),
    Metric(
        "sfworker_job_cpu_seconds_total", "counter", "CPU time of job processes.", ("task_type",)
    ),
    Metric(
        "sfworker_events_stored_total",
        "counter",
        "Status events that the node has stored to be sent, one per hosted party.",
        ("status",),
    ),
    Metric(
        "sfworker_events_published_total",
        "counter",
        "Status events that the node has put on the stream; a repetition that changes nothing is none.",
        ("status",),
    ),
    Metric(
        "sfworker_peer_losses_total",
        "counter",
        "Executions that ended since the way to another party's node or process broke.",
        ("peer",),
    ),
)
_KINDS = {"counter": Counter, "gauge": Gauge, "histogram": Histogram}


def _make(metric: Metric, registry: CollectorRegistry | None = None) -> Any:
    buckets = {"buckets": metric.buckets} if metric.buckets else {}
    return _KINDS[metric.kind](
        metric.name, metric.meaning, metric.labels, registry=registry, **buckets
    )


class ByTaskType:
    """A metric whose first label is the task type, and its text, made at a change and not at a scrape.

    Almost all lines of a scrape are by task type, and to render them all takes longer than a scrape may.
    The caller lets one thread in at a time, from `labels` to `render`.
    """

    def __init__(self, metric: Metric) -> None:
        self._metric = metric
        self._made: dict[str, Any] = {}
        self._texts: dict[str, bytes] = {}
        self._changed: set[str] = set()

    def labels(self, task_type: str, *others: str) -> Any:
        """The series with these labels, to be changed and then rendered."""
        if task_type not in self._made:
            self._made[task_type] = _make(self._metric)
        self._changed.add(task_type)
        return self._made[task_type].labels(task_type, *others)

    def render(self) -> None:
        """Make the text of what has changed."""
        for task_type in self._changed:
            self._texts[task_type] = generate_latest(self._made[task_type])
        self._changed.clear()

    def text(self) -> bytes:
        """All series in the text format, under one head as it demands; empty when there are none."""
        texts = list(self._texts.values())
        return b"".join([*texts[:1], *(text.split(b"\n", 2)[2] for text in texts[1:])])


class Metrics:
    """Counts what a node tells it, from any thread.

    Attributes:
        registry: what is not by task type; rendered at each scrape.
    """

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a further series for each counter
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._made = {
            metric.name: (
                ByTaskType(metric) if "task_type" in metric.labels else _make(metric, self.registry)
            )
            for metric in OBSERVED
        }
        self._by_task_type = [made for made in self._made.values() if isinstance(made, ByTaskType)]
        self._jobs: set[Usage] = set()
        self._peers: frozenset[str] = frozenset()
        self._mutex = threading.Lock()
        self._next_sample = 0.0
        self._begin()

    def _begin(self) -> None:
        """Let exist from the start what is cheap, so that rates are right from the first event on."""
        self._of(
            "build_info", __version__, _version_of("secretflow"), platform.python_version()
        ).set(1)
        self._of("start_time_seconds").set(time.time())
        for task_type in (*TaskDispatcher.list_supported_tasks(), _OTHER):
            self._of("executions_total", task_type, SUCCESS, "")
            self._of("job_cpu_seconds_total", task_type)
        for status in Status:
            self._of("events_stored_total", status.value)
            self._of("events_published_total", status.value)
        self._render()

    def _render(self) -> None:
        for made in self._by_task_type:
            made.render()

    def _of(self, name: str, *labels: str) -> Any:
        """The series of ``sfworker_<name>`` with these labels."""
        made = self._made[f"sfworker_{name}"]
        return made.labels(*labels) if labels else made

    def know_peers(self, peers: Iterable[str]) -> None:
        """Count the losses of these parties, and of no others."""
        self._peers = frozenset(peers)
        for peer in self._peers:
            self._of("peer_losses_total", peer)

    def taken(self, task_type: str, sent_at: object) -> None:
        """A request was taken; ``sent_at`` is what its sender says, who may say anything."""
        name = _known(task_type)
        waited = _waited_seconds(sent_at)
        with self._mutex:
            for outcome in (SUCCESS, FAILURE):
                self._of("execution_seconds", name, outcome)
            if waited is not None:
                self._of("queue_wait_seconds", name).observe(waited)
            self._render()

    def stored(self, event: StatusEvent) -> None:
        """An event was stored."""
        self._of("events_stored_total", event.status.value).inc()

    def published(self, event: StatusEvent) -> None:
        """An event has come to Redis."""
        self._of("events_published_total", event.status.value).inc()

    def ended(self, task_type: str, endings: Sequence[Ending], seconds: float) -> None:
        """An execution has ended at all its parties here, ``seconds`` after it was taken."""
        name = _known(task_type)
        failed = next((ending for ending in endings if ending.failure), None)
        outcome, code = (FAILURE, str(failed.data["error_code"])) if failed else (SUCCESS, "")
        with self._mutex:
            self._of("executions_total", name, outcome, code).inc()
            self._of("execution_seconds", name, outcome).observe(max(0.0, seconds))
            self._used(name, [ending.usage for ending in endings if ending.usage])
            self._render()
        if failed and isinstance(failed.failure, PeerLost):
            for peer in self._peers.intersection(str(failed.failure.party).split(", ")):
                self._of("peer_losses_total", peer).inc()

    def _used(self, name: str, jobs: list[Usage]) -> None:
        for stage in STAGES:
            if seconds := [job.stages[stage] for job in jobs if stage in job.stages]:
                self._of("stage_seconds", name, stage).observe(max(seconds))
        for job in jobs:
            self._of("job_cpu_seconds_total", name).inc(job.cpu_seconds)
            if job.peak_memory_bytes:
                self._of("job_peak_memory_bytes", name).observe(job.peak_memory_bytes)

    @contextmanager
    def watching(self, job: Usage) -> Iterator[None]:
        """Count the memory of a job while the block runs."""
        with self._mutex:
            self._jobs.add(job)
            job.sampled = time.monotonic() >= self._next_sample
            if job.sampled:
                self._next_sample = time.monotonic() + _SAMPLE_SECONDS
        try:
            yield
        finally:
            with self._mutex:
                self._jobs.discard(job)
                if job.sampled and not job.peak_memory_bytes:  # it left before it was weighed
                    self._next_sample = 0.0

    def job_memory_bytes(self) -> int:
        """Memory of all jobs that run, as it was weighed last."""
        with self._mutex:
            return sum(job.memory_bytes for job in self._jobs)

    def exposition(self) -> bytes:
        """Everything in the text format of Prometheus."""
        others = generate_latest(self.registry)  # outside of the mutex: it waits for Redis
        with self._mutex:
            return b"".join([others, *(made.text() for made in self._by_task_type)])


def _known(task_type: str) -> str:
    return task_type if task_type in TaskDispatcher.TASK_REGISTRY else _OTHER


def _waited_seconds(sent_at: object) -> float | None:
    """Seconds since then; None if it is no time, or none of the last 30 days."""
    if isinstance(sent_at, bool) or not isinstance(sent_at, (int, float)):
        return None
    try:
        waited = time.time() - float(sent_at)
    except OverflowError:  # JSON has integers of any length
        return None
    return max(0.0, waited) if math.isfinite(waited) and waited <= _LONGEST_WAIT_SECONDS else None


def _version_of(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
