"""What a node counts and measures for Prometheus: one registry, fed by what the node stores and
settles.

No label holds an id or anything of the parties' data: task types are those of the registry, codes
those of the error tree, peers those of the address book.
"""

from __future__ import annotations

import math
import platform
import threading
import time
from contextlib import contextmanager
from importlib import metadata
from typing import Any, Iterable, Iterator, Sequence

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
from secretflow_task.broker.entry import Reason
from secretflow_task.contract.errors import PeerLost
from secretflow_task.contract.messages import Status, StatusEvent
from secretflow_task.contract.task_dispatcher import TaskDispatcher
from secretflow_task.node.job.ending import Ending
from secretflow_task.node.job.usage import STAGES, Usage
from secretflow_task.node.metrics import catalogue
from secretflow_task.node.metrics.catalogue import Metric

SUCCESS, FAILURE = "success", "failure"
_OTHER = "other"  # the task type of a request that names none of ours
_LONGEST_WAIT_SECONDS = 30 * 24 * 3600.0  # who says more has no clock, or means harm
# Weighing takes more CPU time than all the rest: of many short jobs one in so many seconds is
# weighed.
_SAMPLE_SECONDS = 10.0
_KINDS = {"counter": Counter, "gauge": Gauge, "histogram": Histogram}


def _make(metric: Metric, registry: CollectorRegistry | None = None) -> Any:
    buckets = {"buckets": metric.buckets} if metric.buckets else {}
    return _KINDS[metric.kind](
        metric.name, metric.meaning, metric.labels, registry=registry, **buckets
    )


class ByTaskType:
    """A metric whose first label is the task type, and its text, made at a change and not at a
    scrape.

    Almost all lines of a scrape are by task type, and to render them all takes longer than a scrape
    may. The caller lets one thread in at a time, from `labels` to `render`.
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
        """All series in the text format, under the one head it demands; empty without series."""
        texts = list(self._texts.values())
        return b"".join([*texts[:1], *(text.split(b"\n", 2)[2] for text in texts[1:])])


class Metrics:
    """Counts what a node tells it, from any thread.

    Attributes:
        registry: what is not by task type; rendered at each scrape.
    """

    def __init__(self) -> None:
        # They would be a further series for each counter.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._made = {
            metric: (
                ByTaskType(metric) if "task_type" in metric.labels else _make(metric, self.registry)
            )
            for metric in catalogue.OBSERVED
        }
        self._by_task_type = [made for made in self._made.values() if isinstance(made, ByTaskType)]
        self._jobs: set[Usage] = set()
        self._peers: frozenset[str] = frozenset()
        self._mutex = threading.Lock()
        self._next_sample = 0.0
        self._begin()

    def _begin(self) -> None:
        """Create the cheap series at the start, so that rates are right from the first event."""
        self._of(
            catalogue.BUILD_INFO, __version__, _version_of("secretflow"), platform.python_version()
        ).set(1)
        self._of(catalogue.START_TIME_SECONDS).set(time.time())
        for task_type in (*TaskDispatcher.list_supported_tasks(), _OTHER):
            self._of(catalogue.EXECUTIONS, task_type, SUCCESS, "", "")
            self._of(catalogue.JOB_CPU_SECONDS, task_type)
        for status in Status:
            self._of(catalogue.EVENTS_STORED, status.value)
            self._of(catalogue.EVENTS_PUBLISHED, status.value)
        for reason in Reason:
            self._of(catalogue.ENTRIES_REJECTED, reason.value)
        self._render()

    def _render(self) -> None:
        for made in self._by_task_type:
            made.render()

    def _of(self, metric: Metric, *labels: str) -> Any:
        """The series of a metric with these labels."""
        made = self._made[metric]
        return made.labels(*labels) if labels else made

    def know_peers(self, peers: Iterable[str]) -> None:
        """Count the losses of these parties, and of no others."""
        self._peers = frozenset(peers)
        for peer in self._peers:
            self._of(catalogue.PEER_LOSSES, peer)

    def taken(self, task_type: str, sent_at: object) -> None:
        """A request was taken; ``sent_at`` is what its sender says, who may say anything."""
        name = _known(task_type)
        waited = _waited_seconds(sent_at)
        with self._mutex:
            for outcome in (SUCCESS, FAILURE):
                self._of(catalogue.EXECUTION_SECONDS, name, outcome)
            if waited is not None:
                self._of(catalogue.QUEUE_WAIT_SECONDS, name).observe(waited)
            self._render()

    def stored(self, event: StatusEvent) -> None:
        """An event was stored."""
        self._of(catalogue.EVENTS_STORED, event.status.value).inc()

    def published(self, event: StatusEvent) -> None:
        """An event has come to Redis."""
        self._of(catalogue.EVENTS_PUBLISHED, event.status.value).inc()

    def result_dropped(self) -> None:
        """A result of Celery's was not stored."""
        self._of(catalogue.RESULTS_DROPPED).inc()

    def consumer_restarted(self) -> None:
        """The watchdog has asked for a new consumer."""
        self._of(catalogue.CONSUMER_RESTARTS).inc()

    def entry_rejected(self, reason: str) -> None:
        """An entry of a queue went into the quarantine."""
        self._of(catalogue.ENTRIES_REJECTED, reason).inc()

    def command_ignored(self) -> None:
        """A command of the remote control was not obeyed."""
        self._of(catalogue.COMMANDS_IGNORED).inc()

    def ended(self, task_type: str, endings: Sequence[Ending], seconds: float) -> None:
        """An execution has ended at all its parties here, ``seconds`` after it was taken."""
        name = _known(task_type)
        failed = next((ending for ending in endings if ending.failure), None)
        outcome, error_type, code = SUCCESS, "", ""
        if failed:
            outcome = FAILURE
            error_type, code = str(failed.data["error_type"]), str(failed.data["error_code"])
        with self._mutex:
            self._of(catalogue.EXECUTIONS, name, outcome, error_type, code).inc()
            self._of(catalogue.EXECUTION_SECONDS, name, outcome).observe(max(0.0, seconds))
            self._used(name, [ending.usage for ending in endings if ending.usage])
            self._render()
        if failed and isinstance(failed.failure, PeerLost):
            for peer in self._peers.intersection(str(failed.failure.party).split(", ")):
                self._of(catalogue.PEER_LOSSES, peer).inc()

    def _used(self, name: str, jobs: list[Usage]) -> None:
        for stage in STAGES:
            if seconds := [job.stages[stage] for job in jobs if stage in job.stages]:
                self._of(catalogue.STAGE_SECONDS, name, stage).observe(max(seconds))
        for job in jobs:
            self._of(catalogue.JOB_CPU_SECONDS, name).inc(job.cpu_seconds)
            if job.peak_memory_bytes:
                self._of(catalogue.JOB_PEAK_MEMORY_BYTES, name).observe(job.peak_memory_bytes)

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
