"""All nodes at a glance: does it run, does it succeed, does it keep up, does anything fill."""

from __future__ import annotations

from scripts.dashboards.panels import Json, lines, per_hour, stat, steps, succeeded
from scripts.dashboards.panels import dashboard as whole


def dashboard() -> Json:
    """The dashboard to look at first."""
    return whole("overview", "overview", [*_numbers(), *_executions(), *_resources()])


def _numbers() -> list[Json]:
    return [
        stat("Nodes up", 'sum(up{job="sfworker"})', thresholds=steps((1, "green"), base="red")),
        stat(
            "Alerts firing",
            'count(ALERTS{alertname=~"Sfworker.*", alertstate="firing"}) or vector(0)',
            thresholds=steps((1, "red")),
        ),
        stat(
            "Success, last hour",
            succeeded(),
            "percentunit",
            most=1,
            thresholds=steps((0.5, "orange"), (0.9, "green"), base="red"),
            description="Nothing is shown when nothing has ended.",
        ),
        stat(
            "Slots in use",
            "sum(sfworker_executions_running) / sum(sfworker_executions_limit)",
            "percentunit",
            most=1,
            thresholds=steps((1, "orange")),
        ),
        stat(
            "Requests waiting",
            "sum(max by (queue) (sfworker_queue_length))",
            thresholds=steps((10, "orange")),
        ),
        stat(
            "Oldest unsent status",
            "max(sfworker_outbox_oldest_seconds)",
            "s",
            thresholds=steps((10, "orange"), (60, "red")),
        ),
    ]


def _executions() -> list[Json]:
    return [
        lines(
            "Executions per hour",
            per_hour(),
        ),
        lines(
            "Failure ratio by node",
            {"{{instance}}": "instance:sfworker_executions_failure:ratio_rate1h"},
            "percentunit",
            most=1,
            thresholds=steps((0.5, "red")),
        ),
        lines(
            "Failures by error code",
            {"{{code}}": 'sum by (code) (sfworker_executions_total{outcome="failure"})'},
            description="Since the nodes were started. See SfworkerFaults in the runbook.",
        ),
        lines(
            "Duration, median",
            {"{{task_type}}": "task_type:sfworker_execution_seconds:p50_rate1h >= 0"},
            "s",
        ),
        lines(
            "Duration, 90th percentile",
            {"{{task_type}}": "task_type:sfworker_execution_seconds:p90_rate1h >= 0"},
            "s",
            thresholds=steps((1800, "red")),
        ),
        lines("Requests waiting", {"{{queue}}": "max by (queue) (sfworker_queue_length)"}),
        lines(
            "Statuses delivered",
            {"{{instance}}": "instance:sfworker_events_published:ratio_rate5m"},
            "percentunit",
            most=1,
        ),
    ]


def _resources() -> list[Json]:
    return [
        lines(
            "Slots in use",
            {"{{instance}}": "instance:sfworker_executions_running:ratio"},
            "percentunit",
            most=1,
        ),
        lines(
            "Memory of jobs",
            {"{{instance}}": "instance:sfworker_job_memory:ratio"},
            "percentunit",
            most=1,
            thresholds=steps((0.85, "red")),
            description="Share of the machine's or container's memory.",
        ),
        lines("Cores used by jobs", {"{{instance}}": "instance:sfworker_job_cpu_seconds:rate5m"}),
        lines(
            "Disk free",
            {"{{instance}} {{folder}}": "instance_folder:sfworker_disk_free:ratio"},
            "percentunit",
            most=1,
            thresholds=steps((0.05, "green"), base="red"),
        ),
        lines(
            "Nodes by version, and SecretFlow's",
            {"{{version}}, {{secretflow}}": "count by (version, secretflow) (sfworker_build_info)"},
            description="Nodes of different versions refuse each other.",
        ),
    ]
