"""A real node as Prometheus, Flower and celery-exporter see it."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import Any, Iterator

import pytest
from celery import Celery

from secretflow_task.broker.celery_app import SENT_AT, TASK_NAME
from secretflow_task.node.job.usage import STAGES
from tests.bench.waiting import wait_for
from tests.contract.scraping import reasons, scrape
from tests.e2e.conftest import psi_params
from tests.e2e.nodes import RunningNode

pytestmark = pytest.mark.engine
MARKER = "marker-4711"


def test_a_success_and_a_failure_are_measured(node: RunningNode, app: Celery) -> None:
    before = scrape(node.metrics_port)
    sent = {SENT_AT: time.time() - 3}
    good = app.send_task(TASK_NAME, args=["measured", psi_params()], headers=sent)
    assert good.get(timeout=60)["status"] == "SUCCESS"
    wrong = app.send_task(TASK_NAME, args=["measured-wrong", psi_params(receiver="carol")])
    wait_for(wrong.ready)
    wait_for(lambda: scrape(node.metrics_port)["outbox_events", ""] == 0)
    after = scrape(node.metrics_port)
    new = {key: number - before.get(key, 0) for key, number in after.items()}
    assert new["executions_total", "  success psi"] == 1
    assert new["executions_total", "InvalidTaskConfig RequestError failure psi"] == 1
    assert (
        new["execution_seconds_count", "success psi"]
        == new["execution_seconds_count", "failure psi"]
        == 1
    )
    stages = {stage: new["stage_seconds_sum", f"{stage} psi"] for stage in STAGES}
    assert [new["stage_seconds_count", f"{stage} psi"] for stage in STAGES] == [1] * len(STAGES)
    assert min(stages.values()) > 0
    assert sum(stages.values()) <= 2 * new["execution_seconds_sum", "success psi"]
    assert new["queue_wait_seconds_count", "psi"] == 1 and new["queue_wait_seconds_sum", "psi"] >= 3
    assert new["job_cpu_seconds_total", "psi"] > 0
    assert new["events_published_total", "SUCCESS"] == new["events_stored_total", "SUCCESS"] == 2
    assert after["redis_up", ""] == 1 and after["queue_length", "secretflow_queue"] == 0
    assert reasons(node.metrics_port, "/healthz") == reasons(node.metrics_port, "/readyz") == []


@contextmanager
def captured_events(app: Celery) -> Iterator[list[dict[str, Any]]]:
    """Every event that Celery's worker sends while the block runs."""
    events: list[dict[str, Any]] = []
    with app.connection() as connection:
        receiver = app.events.Receiver(connection, handlers={"*": events.append})
        thread = threading.Thread(target=receiver.capture, kwargs={"limit": None})
        thread.start()
        try:
            wait_for(lambda: events)  # a heartbeat: it listens
            yield events
        finally:
            receiver.should_stop = True
            thread.join()


def test_celery_events_tell_what_happens_and_nothing_of_the_requests(
    node: RunningNode, app: Celery
) -> None:
    requests = {
        "SUCCESS": psi_params(output_paths={"alice": f"{MARKER}.csv", "bob": f"{MARKER}.csv"}),
        "no file": psi_params(input_paths={"alice": f"{MARKER}.csv", "bob": "in.csv"}),
        "refused": psi_params(**{MARKER: MARKER}),
    }
    with captured_events(app) as events:
        # As a foreign client sends them: Celery adds the text of the arguments.
        results = {
            how: app.send_task(TASK_NAME, args=[f"{MARKER}-{how.replace(' ', '-')}", params])
            for how, params in requests.items()
        }
        wait_for(
            lambda: sum(event["type"] in ("task-succeeded", "task-failed") for event in events) == 3
        )
    assert MARKER not in repr(events)
    state = app.events.State()
    for event in events:
        state.event(dict(event))
    ended = {how: state.tasks[result.id] for how, result in results.items()}
    assert {how: task.state for how, task in ended.items()} == {
        "SUCCESS": "SUCCESS",
        "no file": "FAILURE",
        "refused": "FAILURE",
    }
    assert {task.name for task in ended.values()} == {TASK_NAME}
    assert {task.exception for task in ended.values()} == {None, "ExecutionFailed()"}
    assert {(task.args, task.kwargs, task.result, task.traceback) for task in ended.values()} == {
        (None, None, None, None)
    }
