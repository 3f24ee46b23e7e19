"""Every metric of a node: what it is called, what it means, and by what it is told apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

_MINUTE, _HOUR = 60.0, 3600.0
_GIB = 2.0**30


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


# Counted when something happens, by `Metrics`.
BUILD_INFO = Metric(
    "sfworker_build_info",
    "gauge",
    "1, with the versions of the worker, of SecretFlow and of Python.",
    ("version", "secretflow", "python"),
)
START_TIME_SECONDS = Metric(
    "sfworker_start_time_seconds", "gauge", "When the node was started, in seconds since 1970."
)
EXECUTIONS = Metric(
    "sfworker_executions_total",
    "counter",
    "Executions that have ended, with the kind and code of a failure; refused requests count too.",
    ("task_type", "outcome", "error_type", "code"),
)
EXECUTION_SECONDS = Metric(
    "sfworker_execution_seconds",
    "histogram",
    "Time from taking a request to its terminal event.",
    ("task_type", "outcome"),
    (1, 3, 10, 30, _MINUTE, 5 * _MINUTE, 15 * _MINUTE, 30 * _MINUTE, _HOUR),
)
STAGE_SECONDS = Metric(
    "sfworker_stage_seconds",
    "histogram",
    "Time in each stage that an execution has completed, at the slowest of the parties here.",
    ("task_type", "stage"),
    (0.1, 1, 10, _MINUTE, 5 * _MINUTE, 30 * _MINUTE),
)
QUEUE_WAIT_SECONDS = Metric(
    "sfworker_queue_wait_seconds",
    "histogram",
    "Time from sending a request to taking it, of requests that say when they were sent.",
    ("task_type",),
    (1, 10, _MINUTE, 5 * _MINUTE, 30 * _MINUTE, 2 * _HOUR),
)
JOB_PEAK_MEMORY_BYTES = Metric(
    "sfworker_job_peak_memory_bytes",
    "histogram",
    "Largest proportional set size of job processes: "
    "of all over 10 s, and of a sample of shorter ones.",
    ("task_type",),
    (_GIB / 4, _GIB / 2, _GIB, 2 * _GIB, 4 * _GIB, 8 * _GIB, 16 * _GIB, 32 * _GIB),
)
JOB_CPU_SECONDS = Metric(
    "sfworker_job_cpu_seconds_total", "counter", "CPU time of job processes.", ("task_type",)
)
EVENTS_STORED = Metric(
    "sfworker_events_stored_total",
    "counter",
    "Status events that the node has stored to be sent, one per hosted party.",
    ("status",),
)
EVENTS_PUBLISHED = Metric(
    "sfworker_events_published_total",
    "counter",
    "Status events that the node has put on the stream; a repetition that changes nothing is none.",
    ("status",),
)
RESULTS_DROPPED = Metric(
    "sfworker_results_dropped_total",
    "counter",
    "Results for Celery's result backend that Redis did not take; the status events tell the end.",
)
CONSUMER_RESTARTS = Metric(
    "sfworker_consumer_restarts_total",
    "counter",
    "New consumers that the node's watchdog asked for, since nothing was taken.",
)
ENTRIES_REJECTED = Metric(
    "sfworker_entries_rejected_total",
    "counter",
    "Entries of the queues that were no request and went into the quarantine, by the reason.",
    ("reason",),
)
COMMANDS_IGNORED = Metric(
    "sfworker_commands_ignored_total",
    "counter",
    "Commands of Celery's remote control that the node does not obey.",
)
PEER_LOSSES = Metric(
    "sfworker_peer_losses_total",
    "counter",
    "Executions that ended since the way to another party's node or process broke.",
    ("peer",),
)
OBSERVED = (
    BUILD_INFO,
    START_TIME_SECONDS,
    EXECUTIONS,
    EXECUTION_SECONDS,
    STAGE_SECONDS,
    QUEUE_WAIT_SECONDS,
    JOB_PEAK_MEMORY_BYTES,
    JOB_CPU_SECONDS,
    EVENTS_STORED,
    EVENTS_PUBLISHED,
    RESULTS_DROPPED,
    CONSUMER_RESTARTS,
    ENTRIES_REJECTED,
    COMMANDS_IGNORED,
    PEER_LOSSES,
)

# Read at each scrape, by `NodeCollector`.
EXECUTIONS_RUNNING = Metric("sfworker_executions_running", "gauge", "Executions that run now.")
EXECUTIONS_LIMIT = Metric(
    "sfworker_executions_limit",
    "gauge",
    "Executions that may run at once: SFWORKER_CONCURRENCY.",
)
QUEUE_LENGTH = Metric(
    "sfworker_queue_length",
    "gauge",
    "Requests that wait in Redis; absent when it is away.",
    ("queue",),
)
QUEUE_OLDEST_SECONDS = Metric(
    "sfworker_queue_oldest_seconds",
    "gauge",
    "How long the request that is taken next has waited, 0 if none waits; "
    "absent where its sender does not say when it was sent, or Redis is away.",
    ("queue",),
)
REDIS_UP = Metric("sfworker_redis_up", "gauge", "1 if Redis answers, else 0.")
JOB_MEMORY_BYTES = Metric(
    "sfworker_job_memory_bytes",
    "gauge",
    "Proportional set size of all job processes; each is weighed at least every 10 s.",
)
MEMORY_SIZE_BYTES = Metric(
    "sfworker_memory_size_bytes",
    "gauge",
    "Memory of the machine, or the container's limit if less.",
)
TEMPLATE_RESTARTS = Metric(
    "sfworker_template_restarts_total", "counter", "Templates that had died and were replaced."
)
TEMPLATE_READY = Metric(
    "sfworker_template_ready",
    "gauge",
    "1 if jobs can be started; 0 while there is no template for them.",
)
OUTBOX_EVENTS = Metric(
    "sfworker_outbox_events", "gauge", "Status events that wait to be sent to Redis."
)
OUTBOX_OLDEST_SECONDS = Metric(
    "sfworker_outbox_oldest_seconds",
    "gauge",
    "Age of the oldest event that waits; 0 if none waits.",
)
EVENTS_DROPPED = Metric(
    "sfworker_events_dropped_total",
    "counter",
    "Progress that was dropped, since too many events waited.",
)
PUBLISH_FAILURES = Metric(
    "sfworker_publish_failures_total", "counter", "Attempts to send events that failed."
)
LISTENER_LAG_SECONDS = Metric(
    "sfworker_listener_lag_seconds",
    "gauge",
    "Age of the oldest status event that a database, by its listeners' group, has not got; "
    "absent without listeners or Redis.",
    ("group",),
)
DISK_FREE_BYTES = Metric(
    "sfworker_disk_free_bytes",
    "gauge",
    "Free space of the disk that holds a folder of the node.",
    ("folder",),
)
DISK_SIZE_BYTES = Metric(
    "sfworker_disk_size_bytes",
    "gauge",
    "Size of the disk that holds a folder of the node.",
    ("folder",),
)
PROBLEM = Metric(
    "sfworker_problem",
    "gauge",
    "1 while there is a problem that keeps the node from its work, else 0; `/readyz` has its text.",
    ("problem",),
)
SAMPLED = (
    EXECUTIONS_RUNNING,
    EXECUTIONS_LIMIT,
    QUEUE_LENGTH,
    QUEUE_OLDEST_SECONDS,
    REDIS_UP,
    JOB_MEMORY_BYTES,
    MEMORY_SIZE_BYTES,
    TEMPLATE_RESTARTS,
    TEMPLATE_READY,
    OUTBOX_EVENTS,
    OUTBOX_OLDEST_SECONDS,
    EVENTS_DROPPED,
    PUBLISH_FAILURES,
    LISTENER_LAG_SECONDS,
    DISK_FREE_BYTES,
    DISK_SIZE_BYTES,
    PROBLEM,
)
