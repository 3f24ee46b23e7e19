"""Reporting never fails a job; the publisher sends the outbox (on Redis: `tests/contract`)."""

from __future__ import annotations

import threading
from typing import Any, Iterator, Mapping

import pytest
import redis
from structlog.testing import capture_logs

from secretflow_task.contract.messages import Status, StatusEvent
from secretflow_task.contract.requests import TaskRequest
from secretflow_task.engine.status import _publish_status, bind_status_sink
from secretflow_task.node import lua
from secretflow_task.node.publisher import Publisher
from secretflow_task.testing import MemoryOutbox
from tests.bench.waiting import PATIENCE_SECONDS

REQUEST = TaskRequest("e-1", "r-1", {"task_config": {"task_type": "psi"}})


@pytest.fixture(autouse=True)
def _unbound() -> Iterator[None]:
    yield
    bind_status_sink(None)


def test_a_status_goes_to_the_sink_that_is_bound() -> None:
    seen: list[tuple[str, Mapping[str, Any]]] = []
    bind_status_sink(lambda status, data: seen.append((status, data)))
    _publish_status("r-1", "RUNNING", {"progress": 0.1})
    bind_status_sink(None)
    _publish_status("r-1", "RUNNING", {"progress": 0.2})
    assert seen == [("RUNNING", {"progress": 0.1})]


@pytest.mark.parametrize(
    "error", [BrokenPipeError("x"), ValueError("x"), TypeError("not serializable")]
)
def test_a_status_that_cannot_be_reported_is_logged_and_fails_nothing(error: Exception) -> None:
    def sink(status: str, data: Mapping[str, Any]) -> None:
        raise error

    bind_status_sink(sink)
    with capture_logs() as records:
        _publish_status("r-1", "RUNNING", {})
    assert [
        (record["action"], record["task_request_id"], record["problem"]) for record in records
    ] == [("status_not_reported", "r-1", type(error).__name__)]


class FailingScript:
    """A Redis whose script fails as it is told, then works."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.calls: list[tuple[list[str], list[Any]]] = []
        self.mark = ""
        self.done = threading.Event()

    def register_script(self, script: str) -> Any:
        """The client's call; the script itself runs on a real Redis in the contract tests."""
        assert script == lua.script("publish")
        return self

    def set(self, _key: str, mark: str) -> None:
        """Note the mark of the node."""
        self.mark = mark

    def numbers(self) -> list[int]:
        """The numbers of the events, in the order of their sending."""
        return [arguments[7] for _, arguments in self.calls]

    def __call__(self, keys: list[str], arguments: list[Any]) -> list[str]:
        if self.errors:
            raise self.errors.pop(0)
        self.calls.append((keys, arguments))
        self.done.set()
        return ["sent"]


def outbox_with(count: int) -> MemoryOutbox:
    """An outbox with so many events of one execution."""
    outbox = MemoryOutbox()
    outbox.claim(REQUEST, "alice")
    for number in range(count):
        outbox.append(
            StatusEvent("e-1", "r-1", "alice", Status.RUNNING, {"number": number}, "n", "t")
        )
    return outbox


def test_a_batch_is_sent_in_order_with_the_keys_of_its_execution() -> None:
    outbox, script = outbox_with(3), FailingScript()
    events = [unsent.event for unsent in outbox.unsent(10)]
    publisher = Publisher(outbox, script, maxlen=5000, also_list=True)
    assert publisher.send_batch(2) == 2
    assert publisher.send_batch(2) == 1
    assert publisher.send_batch(2) == 0
    names = ["task_status_stream", "task_status_events", "task_status_queue"]
    own = [f"sfworker:mark:{outbox.node_id}", f"sfworker:taken:{outbox.node_id}"]
    size = ["sfworker:stream:open", "sfworker:stream:marks"]
    marks = [script.mark, *(event.event_id for event in events)]
    assert [keys for keys, _ in script.calls] == [
        [*names, *own, *size, "sfworker:execution:e-1:alice"]
    ] * 3
    assert [arguments for _, arguments in script.calls] == [
        [604800, 5000, 2**25, 1, outbox.node_id, old, new, event.seq, event.to_json(), 1, 0, 1]
        for event, old, new in zip(events, marks, marks[1:])
    ]
    assert outbox.unsent(10) == []


def test_an_event_that_is_not_sent_stays_with_all_after_it() -> None:
    outbox, script = outbox_with(3), FailingScript()
    publisher = Publisher(outbox, script, maxlen=5000)
    assert publisher.send_batch(1) == 1
    script.errors = [redis.ConnectionError("away")]
    with pytest.raises(redis.ConnectionError):
        publisher.send_batch()
    assert [unsent.event.seq for unsent in outbox.unsent(10)] == [2, 3]
    assert publisher.send_batch() == 2
    assert script.numbers() == [1, 2, 3]


@pytest.mark.parametrize("error", [redis.ConnectionError("x"), RuntimeError("x")])
def test_the_thread_goes_on_after_any_error(error: Exception) -> None:
    outbox, script = outbox_with(2), FailingScript(error)
    with capture_logs() as records, Publisher(outbox, script, maxlen=5000) as publisher:
        publisher.wake()
        assert script.done.wait(PATIENCE_SECONDS)
    assert script.numbers() == [1, 2]
    assert [(record["action"], record.get("problem")) for record in records] == [
        ("outbox_waits", type(error).__name__),
        ("outbox_goes_on", None),
    ]


def test_close_sends_what_is_left() -> None:
    outbox, script = outbox_with(250), FailingScript()
    with Publisher(outbox, script, maxlen=5000):
        pass
    assert script.numbers() == list(range(1, 251))


def test_close_leaves_in_the_outbox_what_cannot_be_sent() -> None:
    outbox = outbox_with(2)
    with Publisher(outbox, FailingScript(*[OSError("away")] * 100), maxlen=5000):
        pass
    assert len(outbox.unsent(10)) == 2
