"""A web application as the README shows one: it sends with Celery, and reads the stream."""

from __future__ import annotations

import json
from typing import Any

from celery import Celery
from redis import Redis

from secretflow_task.broker.celery_app import TASK_NAME
from secretflow_task.broker.keys import STREAM
from tests.bench.entries import QUEUE
from tests.bench.redis import RedisServer
from tests.bench.stand_in import PSI
from tests.bench.waiting import wait_for

PARTIES = ("alice", "bob")
REJECTED = f"{QUEUE}.rejected"


def assert_succeeded(told: dict[str, list[dict[str, Any]]]) -> None:
    """Each party has one terminal event, a SUCCESS, as the last."""
    for events in told.values():
        statuses = [event["status"] for event in events]
        assert statuses == ["RUNNING"] * (len(events) - 1) + ["SUCCESS"]


class WebApplication:
    """It has no result backend."""

    def __init__(self, server: RedisServer) -> None:
        self.app = Celery(broker=server.url, set_as_current=False)
        self.redis: Redis = Redis.from_url(
            server.url, decode_responses=True, encoding_errors="replace"
        )
        self._position = "0"
        self._told: dict[str, dict[str, list[dict[str, Any]]]] = {}

    def send(self, arguments: list[Any], **options: Any) -> str:
        """Send a request; returns the Celery id."""
        sent = self.app.send_task(TASK_NAME, args=arguments, queue=QUEUE, **options)
        return str(sent.id)

    def put(self, entry: bytes | str | dict[str, Any], queue: str = QUEUE) -> None:
        """Put an entry into the queue, past Celery."""
        if isinstance(entry, dict):
            entry = json.dumps(entry)
        self.redis.lpush(queue, entry)

    def succeeds(self, task_request_id: str) -> None:
        """Send a good request, and see that it succeeds."""
        self.send([task_request_id, PSI])
        assert_succeeded(self.ends(task_request_id))

    def rejected(self) -> list[dict[str, str]]:
        """What lies in the quarantine, the newest first."""
        return [dict(fields) for _, fields in self.redis.xrevrange(REJECTED)]

    def ends(self, task_request_id: str) -> dict[str, list[dict[str, Any]]]:
        """All events of a request by party, when each party has its terminal one."""
        wait_for(lambda: self._ended(task_request_id) >= set(PARTIES))
        return self._told[task_request_id]

    def _ended(self, task_request_id: str) -> set[str]:
        for position, fields in self.redis.xrange(STREAM, min=f"({self._position}"):
            event = json.loads(fields["event"])
            told = self._told.setdefault(event["task_request_id"], {})
            told.setdefault(event["party"], []).append(event)
            self._position = position
        told = self._told.get(task_request_id, {})
        return {party for party, events in told.items() if events[-1]["status"] != "RUNNING"}

    def close(self) -> None:
        """Leave Redis."""
        self.app.close()
        self.redis.close()
