"""What waits in a queue is seen without being taken, and what is cancelled there ends at once."""

from __future__ import annotations

import base64
import json
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Iterator

import pytest
from kombu.transport.redis import PRIORITY_STEPS, Channel
from redis import Redis

from secretflow_task.broker.celery_app import create_app
from secretflow_task.broker.celery_tasks import Outcome
from secretflow_task.broker.keys import cancel_key, queue_keys
from secretflow_task.broker.queue import Waiting, waiting_in
from secretflow_task.cli import app, remote
from secretflow_task.cli.files import read_execution
from secretflow_task.client import Client
from secretflow_task.contract.errors import DuplicateExecution, ResultNotHere
from secretflow_task.contract.messages import Status
from secretflow_task.contract.requests import TaskRequest
from secretflow_task.node.assembly import assembled
from secretflow_task.node.controls import Controls
from secretflow_task.node.door.client import ask
from secretflow_task.node.door.commands import commands_of
from secretflow_task.node.door.server import Door
from secretflow_task.node.kept_results import result_path
from secretflow_task.node.node import Node
from secretflow_task.node.ownership import Lease, RedisOwnership
from secretflow_task.node.publisher import Publisher
from secretflow_task.node.queue_watch import QueueWatch
from secretflow_task.node.running import RunningExecutions
from secretflow_task.node.store.event_store import EventStore
from secretflow_task.testing import ScriptedTemplate
from tests.bench.waiting import wait_for
from tests.unit.node.test_node import PSI, Bench, never

QUEUE = "secretflow_queue"
CANCELLED = [("alice", "TaskCancelled", True), ("bob", "TaskCancelled", True)]


@pytest.fixture(name="redis")
def _redis(url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Redis]:
    monkeypatch.setenv("SFWORKER_REDIS_URL", url)
    with Redis.from_url(url) as client:
        client.flushall()
        yield client


class Nodes:
    """Nodes on one queue that take nothing from it, as busy or paused ones.

    Attributes:
        withdrawn: what they have removed from the queue.
    """

    def __init__(self, root: Path, redis: Redis) -> None:
        self._root = root
        self._redis = redis
        self.withdrawn: list[Waiting] = []

    @contextmanager
    def node(self, name: str) -> Iterator[tuple[Node, QueueWatch]]:
        """One, whose lease and publisher live."""
        bench = Bench(self._root / name)
        template: Any = ScriptedTemplate(never)
        with ExitStack() as stack:
            store = stack.enter_context(EventStore(bench.settings.state_dir))
            ownership = RedisOwnership(self._redis, store.node_id)
            publisher = Publisher(store, self._redis, maxlen=1000)
            parts = assembled(
                bench.settings,
                store,
                RunningExecutions(store),
                ownership,
                lambda event: publisher.wake(),
                template=template,
            )
            node = stack.enter_context(parts)
            stack.enter_context(Lease(ownership, node, lambda node_id: None))
            stack.enter_context(node)
            stack.enter_context(publisher)
            yield node, QueueWatch(self._redis, [QUEUE], node, self._note)

    def _note(self, waiting: Waiting, outcome: Outcome) -> None:
        assert outcome.status is Status.FAILURE
        self.withdrawn.append(waiting)


@pytest.fixture(name="nodes")
def _nodes(tmp_path: Path, redis: Redis) -> Nodes:
    return Nodes(tmp_path, redis)


def send(client: Client, *execution_ids: str) -> None:
    """Send a request for each."""
    for execution_id in execution_ids:
        client.submit(TaskRequest(execution_id, f"r of {execution_id}", PSI))


def ids(client: Client) -> list[str | None]:
    """What waits, in order."""
    return [each.execution_id for each in client.waiting()]


def ends(redis: Redis, execution_id: str) -> list[tuple[str, str, bool]]:
    """Party, code and `cancelled` of all events of an execution."""
    events = [json.loads(fields[b"event"]) for _, fields in redis.xrange("task_status_stream")]
    return sorted(
        (event["party"], event["data"]["error_code"], event["data"]["cancelled"])
        for event in events
        if event["execution_id"] == execution_id
    )


def test_the_lists_of_a_queue_are_those_of_kombu() -> None:
    lists = [f"q{Channel.sep}{step}" if step else "q" for step in PRIORITY_STEPS]
    assert queue_keys("q") == lists


def test_what_waits_is_seen_in_the_order_in_which_it_is_taken(redis: Redis, client: Client) -> None:
    began = time.time()
    send(client, "first", "second", "third")
    redis.lpush(queue_keys(QUEUE)[1], redis.lindex(QUEUE, 0) or b"")  # of a lower priority
    first, second, third, again = client.waiting()
    assert [first.execution_id, second.execution_id, third.execution_id] == [
        "first",
        "second",
        "third",
    ]
    assert (first.place, again.place, again.execution_id) == (1, 4, "third")
    assert first.sent_at is not None and began <= first.sent_at <= time.time()
    assert first.request is not None and first.request.task_type == "psi"
    assert client.place("second") == 2 and client.place("other") is None
    assert redis.llen(QUEUE) == 3


def test_what_is_no_request_or_too_large_is_seen_and_not_looked_at(
    redis: Redis, client: Client
) -> None:
    def envelope(body: bytes, **headers: Any) -> bytes:
        return json.dumps({"body": base64.b64encode(body).decode(), "headers": headers}).encode()

    entries = [
        b"\xff no text",
        b"[" * 100_000,
        b"{}",
        envelope(b"no json", id=5, sfworker_sent_at="yesterday"),
        envelope(json.dumps([["not an id!", PSI], {}, None]).encode(), sfworker_sent_at=10**400),
        envelope(json.dumps([["large", {"x": "x" * 10**6}], {}, None]).encode(), id="celery"),
    ]
    for entry in entries:
        redis.lpush(QUEUE, entry)
    send(client, "good")
    *others, good = client.waiting()
    assert [each.size_bytes for each in others] == [len(entry) for entry in entries]
    assert {(each.request, each.sent_at, each.celery_id) for each in others} == {(None, None, None)}
    assert good.execution_id == "good" and others[-1].text == b""


def test_a_long_queue_costs_who_looks_at_it_no_more_than_a_few_megabytes(
    redis: Redis, client: Client
) -> None:
    request = TaskRequest("e-1", "r-1", {**PSI, "text": "x" * 40_000})
    for _ in range(3):
        client.submit(request)
    for _ in range(6):  # as often as it can be doubled: three times 2^6
        redis.lpush(QUEUE, *redis.lrange(QUEUE, 0, -1))
    waiting = client.waiting()
    assert len(waiting) == 192 and all(each.size_bytes > 40_000 for each in waiting)
    seen = [each for each in waiting if each.text]
    assert 60 < len(seen) < 120 and seen == waiting[: len(seen)]
    assert len(waiting_in(redis, QUEUE, most=5)) == 5


def test_a_request_that_is_cancelled_while_it_waits_is_told_of_and_gone_though_nobody_takes_it(
    nodes: Nodes, redis: Redis, client: Client
) -> None:
    send(client, "first", "second", "third")
    with nodes.node("one") as (node, watch):
        node.on_cancel_elsewhere = watch.wake
        assert watch.look() == 0
        redis.set(cancel_key("second"), 1)
        with watch:
            assert not node.cancel("second")
            wait_for(lambda: ends(redis, "second") == CANCELLED)
            wait_for(lambda: ids(client) == ["first", "third"])
        assert [each.execution_id for each in nodes.withdrawn] == ["second"]
        assert node.execute("r of second", {**PSI, "execution_id": "second"}).repeated
    assert ends(redis, "second") == CANCELLED and ends(redis, "first") == []


def test_what_celery_revokes_while_it_waits_is_told_of_too(
    nodes: Nodes, redis: Redis, client: Client
) -> None:
    send(client, "first", "second")
    redis.set(cancel_key(str(client.waiting()[1].celery_id)), 1)  # as a node's `revoke` does
    with nodes.node("one") as (_, watch):
        assert watch.look() == 1
        wait_for(lambda: ends(redis, "second") == CANCELLED)
    assert ids(client) == ["first"]


def test_of_two_nodes_on_a_queue_one_tells(nodes: Nodes, redis: Redis, client: Client) -> None:
    names = [f"e-{number}" for number in range(8)]
    send(client, *names)
    for name in names[:6]:
        redis.set(cancel_key(name), 1)
    with nodes.node("one") as (_, one), nodes.node("two") as (_, two), one, two:
        one.wake()
        two.wake()
        wait_for(lambda: ids(client) == names[6:])
        wait_for(lambda: all(ends(redis, name) == CANCELLED for name in names[:6]))
        assert one.look() == two.look() == 0
    assert sorted(str(each.execution_id) for each in nodes.withdrawn) == names[:6]


def test_what_a_node_takes_at_the_same_moment_ends_once(
    nodes: Nodes, redis: Redis, client: Client
) -> None:
    send(client, "e-1")
    redis.set(cancel_key("e-1"), 1)
    with nodes.node("one") as (one, _), nodes.node("two") as (_, watch):
        (waiting,) = waiting_in(redis, QUEUE)
        redis.delete(QUEUE)  # it is delivered to the first
        assert one.execute("r of e-1", {**PSI, "execution_id": "e-1"}).failure is not None
        assert watch._end(waiting) is False
        wait_for(lambda: ends(redis, "e-1") == CANCELLED)
    assert nodes.withdrawn == []


def test_a_request_that_nobody_would_understand_can_be_cancelled_too(
    nodes: Nodes, redis: Redis, client: Client
) -> None:
    client.submit(TaskRequest("e-1", "r-1", {"task_config": {"task_type": "pis"}}))
    redis.set(cancel_key("e-1"), 1)
    with nodes.node("one") as (_, watch):
        assert watch.look() == 1
        wait_for(lambda: ends(redis, "e-1") == CANCELLED)


def test_an_operator_without_a_way_to_redis_asks_the_node_by_its_door(
    nodes: Nodes,
    client: Client,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    send(client, "first", "second")
    state_dir = tmp_path / "one" / "state"
    monkeypatch.setenv("SFWORKER_STATE_DIR", str(state_dir))
    monkeypatch.setenv("SFWORKER_REDIS_URL", "redis://127.0.0.1:1/0")
    with ExitStack() as stack:
        node, watch = stack.enter_context(nodes.node("one"))
        controls = Controls(node, create_app(node.settings))
        stack.enter_context(Door(state_dir, commands_of(node, controls, watch)))
        with pytest.raises(SystemExit) as ended:
            app(["queue", "--json"])
        rows = json.loads(capsys.readouterr().out)
        assert ended.value.code in (0, None)
        assert [(row["place"], row["execution_id"]) for row in rows] == [
            (1, "first"),
            (2, "second"),
        ]
        path = result_path(state_dir, "e-1", "alice")
        path.parent.mkdir()
        path.write_text('{"rows": 3}')
        assert ask(state_dir, "result", execution_id="e-1", party="alice") == {
            "text": '{"rows": 3}'
        }
        for strange in ("../state/results/e-1", "e-*", "other"):
            with pytest.raises(ResultNotHere):
                ask(state_dir, "result", execution_id=strange, party="alice")
    with pytest.raises(SystemExit) as ended:
        app(["queue"])
    assert ended.value.code == 4


def test_the_commands_show_the_queue_and_the_own_place_in_it(
    client: Client,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    send(client, "first", "second")
    with pytest.raises(SystemExit):
        app(["queue"])
    printed = capsys.readouterr().out
    assert "first" in printed and "second" in printed and "psi" in printed
    with pytest.raises(SystemExit):
        app(["queue", "--json"])
    rows = json.loads(capsys.readouterr().out)
    assert [(row["place"], row["execution_id"]) for row in rows] == [(1, "first"), (2, "second")]
    assert rows[0]["task_request_id"] == "r of first" and rows[0]["seconds"] >= 0
    with pytest.raises(SystemExit):
        app(["queue", "empty"])
    assert "Nothing waits in empty." in capsys.readouterr().out
    path = tmp_path / "match.yaml"
    path.write_text(json.dumps(PSI))
    with pytest.raises(DuplicateExecution, match="waits in the queue in place 2"):
        remote.submit_and_follow(read_execution(path, "second"), None, True, 1.0, as_json=False)
    monkeypatch.setattr(remote, "_PATIENCE_SECONDS", 0.1)
    with pytest.raises(TimeoutError):
        remote.follow_execution("second", "0", 3.0, as_json=False)
    said = capsys.readouterr().err
    assert said.count("It waits in the queue, in place 2.") == 1
    assert "All nodes are busy" not in said
