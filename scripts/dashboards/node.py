"""One node: its processes, its Redis, its outbox, its peers and its disks."""

from __future__ import annotations

from scripts.dashboards.panels import Json, lines, per_hour, stat, steps, variable
from scripts.dashboards.panels import dashboard as whole

_NODE = 'instance="$instance"'


def dashboard() -> Json:
    """The dashboard of a node, chosen at its head."""
    return whole(
        "node",
        "one node",
        [*_numbers(), *_work(), *_status(), *_resources()],
        variable("instance", "sfworker_build_info"),
    )


def _numbers() -> list[Json]:
    well = steps((1, "green"), base="red")
    return [
        stat("Up", f'up{{job="sfworker", {_NODE}}}', thresholds=well),
        stat("Running for", f"time() - sfworker_start_time_seconds{{{_NODE}}}", "s"),
        stat("Redis", f"sfworker_redis_up{{{_NODE}}}", thresholds=well),
        stat("Executions running", f"sfworker_executions_running{{{_NODE}}}"),
        stat(
            "Template restarts",
            f"sfworker_template_restarts_total{{{_NODE}}}",
            thresholds=steps((1, "orange")),
        ),
        stat("Version", f"sfworker_build_info{{{_NODE}}}", legend="{{version}}", text="name"),
    ]


def _work() -> list[Json]:
    return [
        lines(
            "Executions",
            {
                "running": f"sfworker_executions_running{{{_NODE}}}",
                "slots": f"sfworker_executions_limit{{{_NODE}}}",
            },
        ),
        lines("Requests waiting", {"{{queue}}": f"sfworker_queue_length{{{_NODE}}}"}),
        lines(
            "Executions per hour",
            per_hour(_NODE),
        ),
        lines(
            "Failures since its start that no request mends",
            {"failures": f"instance:sfworker_executions_faults:sum{{{_NODE}}}"},
        ),
        lines(
            "Losses of peers in half an hour",
            {"{{peer}}": f"increase(sfworker_peer_losses_total{{{_NODE}}}[30m])"},
            thresholds=steps((3, "red")),
        ),
        lines(
            "Restarts of the template in half an hour",
            {"restarts": f"increase(sfworker_template_restarts_total{{{_NODE}}}[30m])"},
            thresholds=steps((3, "red")),
        ),
    ]


def _status() -> list[Json]:
    def rate(metric: str) -> str:
        return f"sum(rate({metric}{{{_NODE}}}[$__rate_interval]))"

    return [
        lines(
            "Events per second",
            {
                "stored": rate("sfworker_events_stored_total"),
                "published": rate("sfworker_events_published_total"),
                "dropped progress": rate("sfworker_events_dropped_total"),
                "failed attempts": rate("sfworker_publish_failures_total"),
            },
        ),
        lines("Events that wait", {"events": f"sfworker_outbox_events{{{_NODE}}}"}),
        lines(
            "Age of the oldest event that waits",
            {"age": f"sfworker_outbox_oldest_seconds{{{_NODE}}}"},
            "s",
            thresholds=steps((60, "red")),
        ),
    ]


def _resources() -> list[Json]:
    return [
        lines(
            "Memory",
            {
                "jobs": f"sfworker_job_memory_bytes{{{_NODE}}}",
                "node process": f"process_resident_memory_bytes{{{_NODE}}}",
                "there is": f"sfworker_memory_size_bytes{{{_NODE}}}",
            },
            "bytes",
        ),
        lines(
            "Cores in use",
            {
                "jobs": f"instance:sfworker_job_cpu_seconds:rate5m{{{_NODE}}}",
                "node process": f"rate(process_cpu_seconds_total{{{_NODE}}}[5m])",
            },
        ),
        lines(
            "Disk free",
            {"{{folder}}": f"sfworker_disk_free_bytes{{{_NODE}}}"},
            "bytes",
        ),
        lines(
            "Open files of the node process",
            {
                "open": f"process_open_fds{{{_NODE}}}",
                "limit": f"process_max_fds{{{_NODE}}}",
            },
            width=12,
        ),
        lines(
            "Duration of a scrape",
            {"duration": f'scrape_duration_seconds{{job="sfworker", {_NODE}}}'},
            "s",
            width=12,
        ),
    ]
