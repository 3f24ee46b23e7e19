"""What the metrics cost: the CPU time of a scrape, and of counting and measuring one job.

`python -m tests.performance.benchmark_metrics [--rounds N]` prints a table in Markdown. The job
that is weighed is a child of this process, which has loaded SecretFlow, as a job is of the
template.
"""

from __future__ import annotations

import argparse
import os
import signal
import tempfile
import time
import urllib.request
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Callable, Iterable, Iterator

import numpy as np
import secretflow  # noqa: F401  # what a job has from its template
from redis import Redis

from secretflow_task.broker.celery_app import create_app
from secretflow_task.broker.embedded_redis import embedded_redis
from secretflow_task.config.settings import Settings
from secretflow_task.contract.errors import MissingFile
from secretflow_task.contract.messages import Status, StatusEvent
from secretflow_task.contract.task_dispatcher import TaskDispatcher
from secretflow_task.node.assembly import lone_node
from secretflow_task.node.job.ending import Ending
from secretflow_task.node.job.usage import STAGES, Usage
from secretflow_task.node.metrics.counters import Metrics
from secretflow_task.node.metrics.server import Monitor
from secretflow_task.node.publisher import Publisher
from secretflow_task.testing import ScriptedTemplate
from secretflow_task.utils import log

_JOB_FLOATS = (0, 10_000_000)
_EVENTS = 6


def cpu_ms(
    work: Callable[[], object], rounds: int, prepare: Callable[[], object] = lambda: None
) -> float:
    """CPU milliseconds of one call: the median of several, each after its preparation."""
    found = []
    for _ in range(rounds):
        prepare()
        before = time.process_time()
        work()
        found.append(1000 * (time.process_time() - before))
    return float(np.median(found))


@contextmanager
def job(floats: int) -> Iterator[int]:
    """A child process with so many numbers of its own; yields its process id."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        own = np.ones(floats)
        os.write(writer, b"1")
        signal.pause()
        os._exit(int(own[0]))
    os.read(reader, 1)
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def count(metrics: Metrics, task_type: str, usage: Usage) -> None:
    """Everything that is counted for an execution with one job."""
    metrics.taken(task_type, time.time())
    event = StatusEvent("e", "r", "alice", Status.RUNNING, {}, "node", "task", task_type=task_type)
    with metrics.watching(usage):
        for _ in range(_EVENTS):
            metrics.stored(event)
            metrics.published(event)
    metrics.ended(task_type, [Ending(None, {}, usage)], 1.0)


def send_celery_events(app: object, rounds: int) -> float:
    """CPU milliseconds for the events of Celery of one task."""
    with app.events.default_dispatcher() as dispatcher:  # type: ignore[attr-defined]

        def send() -> None:
            dispatcher.send("task-received", uuid="u", name="n", args="(...)", kwargs="{}")
            dispatcher.send("task-started", uuid="u")
            dispatcher.send("task-succeeded", uuid="u", result="r", runtime=1.0)

        return cpu_ms(send, rounds)


def run_every_way(metrics: Metrics, task_types: Iterable[str], usage: Usage) -> None:
    """What is counted for a success with all stages and for a failure of each type."""
    for task_type in task_types:
        count(metrics, task_type, usage)
        metrics.ended(task_type, [Ending.of(MissingFile())], 1.0)


def scrapes(settings: Settings, rounds: int) -> Iterator[tuple[str, float]]:
    """Scrapes of a node that has run every task type, by types that ran since the last one.

    The client, which is in this process, costs what a request costs that is answered with next to
    nothing.
    """
    metrics, usage, template = (
        Metrics(),
        Usage(os.getpid()),
        ScriptedTemplate(lambda spec, side: None),
    )
    usage.weigh()
    usage.stages = dict.fromkeys(STAGES, 1.0)
    task_types = TaskDispatcher.list_supported_tasks()
    with (
        Redis.from_url(settings.redis_url.get_secret_value()) as redis,
        Monitor(settings, metrics) as monitor,
        lone_node(
            settings,
            lambda event: None,
            template=template,  # type: ignore[arg-type]
            metrics=metrics,
        ) as node,  # its twin
    ):

        def ask(path: str) -> bytes:
            with urllib.request.urlopen(f"http://127.0.0.1:{monitor.port}{path}") as answer:
                return bytes(answer.read())

        nothing = cpu_ms(lambda: ask("/healthz"), rounds)
        monitor.watch(node, Publisher(node.store, redis, maxlen=1000), lambda: False)
        run_every_way(metrics, task_types, usage)
        yield "the first scrape", cpu_ms(lambda: ask("/metrics"), 1) - nothing
        lines = ask("/metrics").count(b"\n")
        for changed in (0, len(task_types)):
            run = partial(run_every_way, metrics, task_types[:changed], usage)
            found = cpu_ms(lambda: ask("/metrics"), rounds, run) - nothing
            yield f"a scrape of {lines} lines; task types that ran since the last: {changed}", found
        monitor.close()


def rows(rounds: int) -> Iterator[tuple[str, float]]:
    """What was measured, and its CPU milliseconds."""
    for floats in _JOB_FLOATS:
        with job(floats) as pid:
            usage = Usage(pid)
            usage.weigh()
            yield f"weigh a job of {usage.memory_bytes / 2**20:.0f} MiB", cpu_ms(
                usage.weigh, rounds
            )
            yield "read its CPU time", cpu_ms(usage.look, rounds)
    metrics = Metrics()
    yield f"count an execution with {_EVENTS} events", cpu_ms(
        lambda: count(metrics, "psi", usage), rounds
    )
    with tempfile.TemporaryDirectory() as folder, embedded_redis() as url:
        root = Path(folder)
        settings = Settings(
            redis_url=url,  # type: ignore[arg-type]  # pydantic reads the text
            metrics_listen="127.0.0.1:0",
            state_dir=root / "state",
            work_dir=root / "work",
            data_root=root,
        )
        with create_app(settings) as app:
            yield "send the events of Celery for a task", send_celery_events(app, rounds)
        yield from scrapes(settings, rounds)


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    rounds = parser.parse_args().rounds
    log.configure("WARNING")
    print("| what | CPU ms |\n|---|---|")
    for what, milliseconds in rows(rounds):
        print(f"| {what} | {milliseconds:.2f} |")


if __name__ == "__main__":
    main()
