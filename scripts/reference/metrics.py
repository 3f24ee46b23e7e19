"""The reference of all metrics, from where they are declared."""

from __future__ import annotations

from typing import Iterator

from prometheus_client import CollectorRegistry, ProcessCollector

from secretflow_task.contract.messages import Status
from secretflow_task.node.health import PROBLEMS
from secretflow_task.node.job.usage import STAGES
from secretflow_task.node.metrics.catalogue import OBSERVED, SAMPLED, Metric

_HEAD = """\
# All metrics

`make reference` writes this page from the declarations of the metrics; a test compares them.

A node with `SFWORKER_METRICS_LISTEN` (such as `127.0.0.1:9464`) answers there:

| path | says |
|---|---|
| `/metrics` | the metrics below, for Prometheus |
| `/healthz` | 200 while the process lives and its threads run, else 503 |
| `/readyz` | 200 while the node can take requests and do its work; 503 with problems as below |

Both checks answer with JSON, `{"ok": ..., "reasons": [...]}`; that of `/readyz` also has
`problems`, each with `code`, `message` and `hint`. An answer waits for Redis, and for a file system
that hangs, for a second at most. Nothing here names an execution, a path or anything of the data.
There is no password, so let only those reach the port who may read the metrics.

`sfworker_queue_wait_seconds` needs requests that say when they were sent, as those of
`sfworker submit` do. Another Celery client sends the header `sfworker_sent_at`, in seconds
since 1970:
`app.send_task(..., headers={"sfworker_sent_at": time.time()})`.

Celery's own events are on, so Flower and celery-exporter see the node, too. They hold no
arguments, results or tracebacks.

## Metrics
"""
_PROBLEMS_HEAD = (
    "## Problems",
    "",
    "What keeps a node from its work. `/readyz`, `sfworker doctor` and `sfworker_problem` show it.",
    "",
)


def metrics() -> list[Metric]:
    """Every metric of a node, in the order of their names."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    standard = [
        Metric(family.samples[0].name, family.type, family.documentation)  # type: ignore[arg-type]
        for family in registry.collect()
    ]
    return sorted((*OBSERVED, *SAMPLED, *standard), key=lambda metric: metric.name)


def page() -> str:
    """The reference of all metrics as Markdown."""
    return "\n".join(
        [_HEAD, *_metrics(), "", "## Labels", "", *_labels(), "", *_PROBLEMS_HEAD, *_problems(), ""]
    )


def _metrics() -> Iterator[str]:
    yield "| metric | type | labels | meaning |"
    yield "|---|---|---|---|"
    for metric in metrics():
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        yield f"| `{metric.name}` | {metric.kind} | {labels} | {metric.meaning} |"


def _labels() -> Iterator[str]:
    yield "| label | values |"
    yield "|---|---|"
    yield "| `task_type` | the [task types](requests.md), or `other` for any other name |"
    yield "| `outcome` | `success`, `failure` |"
    yield "| `error_type` | the kind of a failure, such as `DataError`; empty for a success |"
    yield "| `code` | the error code of a failure, such as `MissingFile`; empty for a success |"
    yield f"| `stage` | {', '.join(f'`{stage}`' for stage in STAGES)} |"
    yield f"| `status` | {', '.join(f'`{status.value}`' for status in Status)} |"
    yield "| `queue` | the queues of `SFWORKER_QUEUES` |"
    yield "| `peer` | the parties of the address book, `SFWORKER_PEERS_FILE` |"
    yield "| `folder` | `state`, `work`, `data` |"
    yield "| `problem` | the codes of the problems below |"


def _problems() -> Iterator[str]:
    yield "| code | what it says | what to do |"
    yield "|---|---|---|"
    for problem in PROBLEMS:
        yield f"| `{problem.code}` | {problem.message} | {problem.hint} |"
