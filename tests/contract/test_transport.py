"""What a node takes from a queue is lost at no moment, and nothing that it holds does harm."""

from __future__ import annotations

import json
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from typing import Any, Iterator

import pytest
from kombu import Connection, Consumer, Exchange, Queue
from redis import Redis, ResponseError

from secretflow_task.broker import transport
from secretflow_task.broker.celery_app import create_app, redeliver
from secretflow_task.broker.commands import OBEYED
from secretflow_task.broker.entry import is_too_deep, read_entry
from secretflow_task.broker.transport import Gate
from secretflow_task.config.settings import Settings
from tests.bench.entries import QUEUE, message, nested
from tests.bench.redis import RedisServer

NODE = "n1"
LIMIT_BYTES = 100_000
UNACKED = f"sfworker:unacked:{NODE}"


@pytest.fixture
def settings(redis_server: RedisServer, redis: Redis) -> Settings:
    """Settings of a node on an empty Redis."""
    del redis
    return Settings(redis_url=redis_server.url)  # type: ignore[arg-type]


class Taker:
    """A node that takes entries and acknowledges none."""

    def __init__(self, connection: Connection) -> None:
        self.taken: list[Any] = []
        self._connection = connection
        queue = Queue(QUEUE, Exchange(QUEUE), routing_key=QUEUE)
        channel = connection.channel()
        channel.basic_qos(0, 2, False)
        self._consumer = Consumer(
            channel, [queue], on_message=self.taken.append, auto_declare=False
        )
        self._consumer.consume()

    def take(self, count: int) -> None:
        """Wait until so many messages were taken."""
        while len(self.taken) < count:
            self._connection.drain_events(timeout=30)

    def die(self) -> None:
        """Be killed: nothing is put back."""
        qos = self._consumer.channel.qos
        qos._delivered.clear()
        qos._dirty.clear()


@contextmanager
def taker(settings: Settings) -> Iterator[Taker]:
    """A node of the settings."""
    gate = Gate(LIMIT_BYTES, OBEYED)
    with create_app(settings, NODE, gate=gate) as app, app.connection_for_read() as connection:
        yield Taker(connection)


def put(redis: Redis, name: str, queue: str = QUEUE) -> None:
    """Put a request into the queue."""
    redis.lpush(queue, json.dumps(message([name, {}])))


def names(taken: list[Any]) -> list[str]:
    """The ids of the requests of messages, in order."""
    return [taken_message.payload[0][0] for taken_message in taken]


def test_what_was_taken_by_a_node_that_died_comes_again_as_it_was(
    settings: Settings, redis: Redis
) -> None:
    put(redis, "one")
    put(redis, "urgent", f"{QUEUE}\x06\x163")
    with taker(settings) as node:
        node.take(2)
        assert names(node.taken) == ["one", "urgent"]
        assert redis.hlen(UNACKED) == redis.zcard(f"sfworker:unacked_index:{NODE}") == 2
        node.die()
    redeliver(settings, NODE)
    assert redis.hlen(UNACKED) == 0
    with taker(settings) as node:
        node.take(2)
        assert sorted(names(node.taken)) == ["one", "urgent"]
        assert [taken.delivery_info["redelivered"] for taken in node.taken] == [True, True]


def test_a_node_that_leaves_while_it_waits_takes_nothing_with_it(
    settings: Settings, redis: Redis
) -> None:
    with taker(settings) as node:
        with pytest.raises(TimeoutError):
            node._connection.drain_events(timeout=0.2)  # Redis was asked, and has not answered
    for number in range(3):
        put(redis, f"r-{number}")
    redis.ping()
    assert redis.llen(QUEUE) == 3
    with taker(settings) as node:
        node.take(2)
        assert names(node.taken) == ["r-0", "r-1"]


def test_no_more_is_taken_than_there_are_slots(settings: Settings, redis: Redis) -> None:
    for number in range(5):
        put(redis, f"r-{number}")
    with taker(settings) as node:
        node.take(2)
        with pytest.raises(TimeoutError):
            node._connection.drain_events(timeout=1.5)
        assert redis.llen(QUEUE) == 3
        node.taken[0].ack()
        node.take(3)
        assert names(node.taken) == ["r-0", "r-1", "r-2"]
        node.taken[1].reject(requeue=True)
        assert redis.llen(QUEUE) == 3


@pytest.mark.parametrize(
    "record",
    [
        b"",
        b"\xff",
        b"[]",
        b"[null]",
        b"[{}, {}, {}]",
        b'[hello,"","q"]',
        b'[{"headers": [], "properties": {"delivery_info": {}}},"","q"]',
        b'[{"headers": {}, "properties": {"priority": 1e999, "delivery_info": {}}},"","q"]',
        b'[{"headers": {}, "properties": {"delivery_info": 1}},"","q"]',
        b'[{"headers": {}, "properties": {"delivery_info": {}}},5,"q"]',
        b'[{"headers": {"__type__": "uuid", "__value__": 1}, "properties": {}},"","q"]',
        nested(3000).encode(),
    ],
)
def test_a_record_that_cannot_go_back_goes_into_the_quarantine_and_holds_up_no_other(
    record: bytes, settings: Settings, redis: Redis
) -> None:
    put(redis, "good")
    with taker(settings) as node:
        node.take(1)
        node.die()
    redis.hset(UNACKED, "broken", record)  # type: ignore[arg-type]
    redis.zadd(f"sfworker:unacked_index:{NODE}", {"broken": 1})
    redeliver(settings, NODE)
    assert (redis.hlen(UNACKED), redis.llen(QUEUE)) == (0, 1)
    kept = [key for key in redis.keys("*.rejected")]
    assert len(kept) == 1 and redis.xlen(kept[0]) == 1


def test_a_refusal_that_was_not_told_is_told_by_the_next_node(
    settings: Settings, redis: Redis
) -> None:
    broken = message(["mine", {}], body=b"{")
    large = json.dumps(message(["large", {"x": "y" * LIMIT_BYTES}]))
    redis.lpush(QUEUE, json.dumps(broken), large)
    with taker(settings) as node:
        node.take(2)
        node.die()
    redeliver(settings, NODE)
    with taker(settings) as node:
        node.take(2)
    told = {taken.headers["sfworker_rejected"].code: taken.headers["id"] for taken in node.taken}
    assert set(told) == {"MalformedMessage", "RequestTooLarge"}
    assert told["MalformedMessage"] == broken["headers"]["id"]
    assert ["large"] in [taken.payload[0] for taken in node.taken]
    assert redis.xlen(f"{QUEUE}.rejected") == 2


def test_a_queue_that_is_no_list_is_left_alone_until_it_is_one(
    settings: Settings, redis: Redis
) -> None:
    redis.set(QUEUE, "text")
    with taker(settings) as node:
        with pytest.raises(TimeoutError):
            node._connection.drain_events(timeout=1.2)
        redis.delete(QUEUE)
        put(redis, "good")
        node.take(1)


def test_a_quarantine_that_is_no_stream_holds_up_nothing(settings: Settings, redis: Redis) -> None:
    redis.set(f"{QUEUE}.rejected", "text")
    redis.lpush(QUEUE, "hello", "x" * (LIMIT_BYTES + 1))
    put(redis, "good")
    with taker(settings) as node:
        node.take(1)
        assert names(node.taken) == ["good"]
    assert redis.get(f"{QUEUE}.rejected") == "text"


def test_no_more_requests_than_a_node_has_room_for_wait_for_their_start(
    settings: Settings, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "_MOST_HELD", 1)
    soon = (datetime.now(timezone.utc) + timedelta(hours=1)).isoformat()
    for number in range(2):
        redis.lpush(QUEUE, json.dumps(message([f"r-{number}", {}], headers={"eta": soon})))
    with taker(settings) as node:
        node.take(2)
    first, second = (taken.headers for taken in node.taken)
    assert datetime.fromisoformat(first["eta"]) == datetime.fromisoformat(soon)
    assert first["sfworker_rejected"] is None and second["eta"] is None
    assert "wait for their start" in second["sfworker_rejected"].message


def test_a_user_who_may_not_wait_is_told_and_goes_on_when_he_may(
    redis_server: RedisServer, redis: Redis
) -> None:
    rights = ["on", ">secret", "~*", "&*", "+@all"]
    redis.execute_command("ACL", "SETUSER", "node", *rights, "-blmove")
    url = redis_server.url.replace("unix://", "unix://node:secret@")
    settings = Settings(redis_url=url)  # type: ignore[arg-type]
    put(redis, "good")
    try:
        with taker(settings) as node:
            node.take(1)  # it does not hear that it may not wait, and looks all the same
            calls = redis.info("commandstats")["cmdstat_blmove"]["rejected_calls"]
            with pytest.raises(TimeoutError):
                node._connection.drain_events(timeout=1.5)
            more = redis.info("commandstats")["cmdstat_blmove"]["rejected_calls"] - calls
            assert more < 200
        redis.execute_command("ACL", "SETUSER", "node", "+blmove", "-client")
        with taker(settings) as node:
            with pytest.raises(ResponseError, match="NOPERM|permission"):
                node.take(1)
        redis.execute_command("ACL", "SETUSER", "node", "+client")
        put(redis, "next")
        with taker(settings) as node:
            node.take(2)
    finally:
        redis.execute_command("ACL", "DELUSER", "node")


def test_what_is_counted_is_what_the_json_holds_and_not_its_texts() -> None:
    assert not is_too_deep(json.dumps(["[" * 1000, '"[\\', "\\\\", '\\"[[[', ","] * 99).encode())
    assert is_too_deep(nested(65).encode()) and not is_too_deep(nested(64).encode())
    assert is_too_deep(b'{"a":' * 65)
    assert is_too_deep(json.dumps(list(range(250_001))).encode())
    assert not is_too_deep(json.dumps({str(number): number for number in range(200_000)}).encode())


def test_only_what_celery_knows_goes_on() -> None:
    odd = {"shadow": "x", "root_id": 5, "parent_id": "p", "timelimit": "x", "stamps": [1]}
    callback = {"task": "t", "args": [], "kwargs": {}, "options": {}}
    embed = {"callbacks": [callback], "errbacks": [5], "chain": "x", "chord": {"a": 1}}
    body = json.dumps([["r", {}], {}, embed]).encode()
    entry = message([], body=body, headers=odd, properties={"reply_to": {"a": 1}})
    delivery = read_entry(json.dumps(entry).encode(), LIMIT_BYTES)
    assert delivery.headers == {"parent_id": "p"}
    assert set(delivery.properties) == {"correlation_id"}
    assert delivery.embedded == {"callbacks": [callback]}
