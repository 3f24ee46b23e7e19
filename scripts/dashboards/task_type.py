"""One task type on all nodes: how often, how long, where the time goes, what it needs."""

from __future__ import annotations

from scripts.dashboards.panels import (
    ENDED,
    Json,
    lines,
    per_hour,
    stat,
    steps,
    succeeded,
    variable,
)
from scripts.dashboards.panels import (
    dashboard as whole,
)

_TASK = 'task_type="$task_type"'


def dashboard() -> Json:
    """The dashboard of a task type, chosen at its head."""
    return whole(
        "task_type",
        "one task type",
        [*_numbers(), *_outcomes(), *_time(), *_needs()],
        variable("task_type", "sfworker_executions_total"),
    )


def _quantile(share: float, metric: str, window: str = "1h") -> str:
    return f"histogram_quantile({share}, sum by (le) (rate({metric}_bucket{{{_TASK}}}[{window}])))"


def _numbers() -> list[Json]:
    return [
        stat("Ended, last hour", f"sum(increase({ENDED}{{{_TASK}}}[1h]))", width=6),
        stat(
            "Success, last hour",
            succeeded(_TASK),
            "percentunit",
            most=1,
            thresholds=steps((0.5, "orange"), (0.9, "green"), base="red"),
            width=6,
        ),
        stat(
            "Median, last hour",
            f"task_type:sfworker_execution_seconds:p50_rate1h{{{_TASK}}}",
            "s",
            width=6,
        ),
        stat(
            "90th percentile, last hour",
            f"task_type:sfworker_execution_seconds:p90_rate1h{{{_TASK}}}",
            "s",
            thresholds=steps((1800, "red")),
            width=6,
        ),
    ]


def _outcomes() -> list[Json]:
    return [
        lines(
            "Executions per hour",
            per_hour(_TASK),
            width=12,
        ),
        lines(
            "Failures by error code",
            {
                "{{code}}": "sum by (code) "
                f'(sfworker_executions_total{{{_TASK}, outcome="failure"}})'
            },
            description="Since the nodes were started.",
            width=12,
        ),
    ]


def _time() -> list[Json]:
    duration = "task_type:sfworker_execution_seconds"
    stage = "sfworker_stage_seconds"
    return [
        lines(
            "Duration",
            {name: f"{duration}:{name}_rate1h{{{_TASK}}}" for name in ("p50", "p90", "p99")},
            "s",
        ),
        lines(
            "Mean duration of each stage",
            {
                "{{stage}}": f"sum by (stage) (rate({stage}_sum{{{_TASK}}}[1h]))"
                f" / sum by (stage) (rate({stage}_count{{{_TASK}}}[1h]))"
            },
            "s",
        ),
        lines(
            "Wait in the queue",
            {
                "p50": _quantile(0.5, "sfworker_queue_wait_seconds"),
                "p90": _quantile(0.9, "sfworker_queue_wait_seconds"),
            },
            "s",
            description="Of requests that say when they were sent.",
        ),
    ]


def _needs() -> list[Json]:
    memory = "sfworker_job_peak_memory_bytes"
    return [
        lines(
            "Peak memory of a job process",
            {"p50": _quantile(0.5, memory), "p90": _quantile(0.9, memory)},
            "bytes",
            width=12,
        ),
        lines(
            "CPU time of an execution",
            {
                "mean": f"sum(rate(sfworker_job_cpu_seconds_total{{{_TASK}}}[1h]))"
                f" / sum(rate({ENDED}{{{_TASK}}}[1h]))"
            },
            "s",
            description="Of all job processes of a node.",
            width=12,
        ),
    ]
