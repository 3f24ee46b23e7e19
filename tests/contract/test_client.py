"""The client and the commands over it, on a real Redis whose nodes are told of in a few words."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any, Iterator

import pytest
import yaml
from redis import Redis

from secretflow_task.cli import remote
from secretflow_task.cli.exits import Exit
from secretflow_task.cli.files import read_execution
from secretflow_task.client import Client
from secretflow_task.contract.errors import DuplicateExecution
from secretflow_task.contract.messages import Status, StatusEvent
from secretflow_task.node.ownership import RedisOwnership
from secretflow_task.node.publisher import Publisher
from secretflow_task.testing import MemoryOutbox
from tests.contract.events import event, request
from tests.unit.plan_requests import PLAN_REQUESTS

PARTIES = ["alice", "bob"]
PSI = {"task_config": {"task_type": "psi", **PLAN_REQUESTS["psi"]}}


@pytest.fixture(name="redis")
def _redis(url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Redis]:
    monkeypatch.setenv("SFWORKER_REDIS_URL", url)
    with Redis.from_url(url, decode_responses=True) as client:
        client.flushall()
        yield client


@pytest.fixture(name="file")
def _file(tmp_path: Path) -> Path:
    path = tmp_path / "match.yaml"
    path.write_text(yaml.safe_dump({"task_request_id": "march", **PSI}))
    return path


def publish(redis: Redis, execution_id: str, party: str, *events: StatusEvent) -> None:
    """Let a node take an execution for a party and tell these events of it."""
    outbox = MemoryOutbox()
    outbox.claim(request(execution_id), party)
    for each in events:
        outbox.append(each)
    Publisher(outbox, redis, maxlen=1000).send_batch()


def say_of_a_node(redis: Redis, queue: str, *parties: str) -> None:
    """Let a node live that takes requests from a queue."""
    described = {"name": queue, "queues": [queue], "parties": list(parties)}
    RedisOwnership(redis, f"node of {queue}").renew(described)


def queued(redis: Redis, queue: str = "secretflow_queue") -> list[list[Any]]:
    """The arguments of the requests in a queue, the oldest first."""
    bodies = [json.loads(entry)["body"] for entry in redis.lrange(queue, 0, -1)]
    return [json.loads(base64.b64decode(body))[0] for body in reversed(bodies)]


def test_what_is_known_of_an_execution_is_its_newest_event_at_each_party(
    redis: Redis, client: Client
) -> None:
    first, second = event(step=1), event(step=2)
    publish(redis, "e-1", "alice", first, second)
    publish(redis, "e-1", "bob", event(Status.SUCCESS, "bob"))
    newest = client.newest("e-1", [*PARTIES, "carol"])
    assert {party: known and known.data for party, known in newest.items()} == {
        "alice": {"step": 2},
        "bob": {},
    }
    redis.xtrim("task_status_stream", maxlen=1, approximate=False)
    assert client.newest("e-1", PARTIES)["alice"] is None
    assert client.newest("e-2", PARTIES) == {}


def test_the_same_execution_can_be_sent_to_two_linked_parties_and_to_each_once(
    redis: Redis, file: Path
) -> None:
    say_of_a_node(redis, "of_alice", "alice")
    say_of_a_node(redis, "of_bob", "bob")
    sent = read_execution(file, "march-1")
    assert remote.submit_and_follow(sent, "of_alice", False, 1.0, as_json=False) is Exit.OK
    publish(redis, "march-1", "alice", event(execution_id="march-1", stage="training", progress=0))
    assert remote.submit_and_follow(sent, "of_bob", False, 1.0, as_json=False) is Exit.OK
    ((first, params),), ((second, same),) = queued(redis, "of_alice"), queued(redis, "of_bob")
    assert (first, second) == ("march", "march") and params == same
    assert params["execution_id"] == "march-1"
    with pytest.raises(DuplicateExecution) as refused:
        remote.submit_and_follow(sent, "of_alice", False, 1.0, as_json=False)
    assert "march-1 was sent before (alice: RUNNING, training)" in refused.value.message
    assert "sfworker watch march-1" in refused.value.hint and len(queued(redis, "of_alice")) == 1


def test_while_a_peer_is_awaited_the_commands_say_for_whom(
    redis: Redis, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(remote, "_PATIENCE_SECONDS", 0.1)
    data = {"stage": "waiting_for_peer", "progress": 0.0, "waiting_for": ["bob", "carol"]}
    publish(redis, "e-1", "alice", event(**data))
    with pytest.raises(TimeoutError):
        remote.follow_execution("e-1", "0", 3.0, as_json=False)
    said = capsys.readouterr().err
    assert said.count("alice waits for bob, carol, whose node has not joined yet.") == 1
    assert "--id e-1" in said and "sfworker doctor --peer bob" in said
    assert "All nodes are busy" not in said and "waiting for bob, carol" in said


@pytest.mark.parametrize("hosts", [["alice", "bob"], [], None])
def test_an_id_that_was_used_is_refused_with_what_became_of_it(
    hosts: list[str] | None, redis: Redis, file: Path
) -> None:
    if hosts is not None:
        say_of_a_node(redis, "secretflow_queue", *hosts)
    failed = event(Status.FAILURE, execution_id="e-1", error_code="MissingFile")
    publish(redis, "e-1", "alice", failed)
    publish(redis, "e-1", "bob", event(Status.SUCCESS, "bob", "e-1"))
    with pytest.raises(DuplicateExecution) as refused:
        remote.submit_and_follow(read_execution(file, "e-1"), None, True, 1.0, as_json=True)
    assert "e-1 was sent before (alice: FAILURE, MissingFile; bob: SUCCESS)" in (
        refused.value.message
    )
    assert queued(redis) == []
