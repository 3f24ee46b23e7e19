"""Listeners as existing web applications have them: SUBSCRIBE on the channel, BRPOP on the list."""

from __future__ import annotations

import json
import threading
import time
from typing import Any, Iterator

import pytest

from secretflow_task.contract.messages import Status, StatusEvent
from secretflow_task.node.publisher import Publisher
from secretflow_task.testing import MemoryOutbox
from tests.bench.redis import RedisServer
from tests.bench.waiting import PATIENCE_SECONDS
from tests.contract.events import request
from tests.contract.status_events import execution

EVENTS = [
    event
    for number in range(20)
    for event in execution(
        f"e-{number}", count=6, ends=Status.FAILURE if number % 3 else Status.SUCCESS
    )
]


def by_subscription(redis: Any, ready: threading.Event) -> Iterator[str]:
    """What comes on the channel."""
    with redis.pubsub() as channel:
        channel.subscribe("task_status_events")
        for message in channel.listen():
            if message["type"] == "subscribe":
                ready.set()
            else:
                yield message["data"]


def by_list(redis: Any, ready: threading.Event) -> Iterator[str]:
    """What is taken from the list."""
    ready.set()
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        taken = redis.brpop(["task_status_queue"], timeout=1)
        if taken is not None:
            yield taken[1]


@pytest.mark.parametrize("source", [by_subscription, by_list])
def test_a_web_application_receives_every_state(
    source: Any, redis: Any, redis_server: RedisServer
) -> None:
    """It knows the fields of the plan only, and keeps the last status of each request."""
    statuses: dict[str, list[str]] = {}
    ready = threading.Event()

    def application() -> None:
        with redis_server.client() as own:
            for text in source(own, ready):
                message = json.loads(text)
                statuses.setdefault(message["task_request_id"], []).append(message["status"])
                if sum(map(len, statuses.values())) == len(EVENTS):
                    return

    thread = threading.Thread(target=application)
    thread.start()
    assert ready.wait(PATIENCE_SECONDS)
    outbox = MemoryOutbox()
    with Publisher(outbox, redis, maxlen=1000, also_list=True) as publisher:
        for event in EVENTS:
            report(outbox, event)
            publisher.wake()
        thread.join(PATIENCE_SECONDS)
    assert not thread.is_alive()
    assert statuses == {
        f"request of e-{number}": ["RUNNING"] * 5 + ["FAILURE" if number % 3 else "SUCCESS"]
        for number in range(20)
    }


def report(outbox: MemoryOutbox, event: StatusEvent) -> None:
    """Let the node take the execution, if this is its first event, and store the event."""
    if event.seq == 1:
        outbox.claim(request(event.execution_id), event.party)
    outbox.append(event)
