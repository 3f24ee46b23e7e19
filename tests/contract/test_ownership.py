"""Nodes on one Redis: one of them runs an execution, and what a dead one had is settled by another."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from redis import Redis

from secretflow_task.messages import Status
from secretflow_task.node import ownership
from secretflow_task.node.ownership import RedisOwnership, Verdict
from secretflow_task.testing import MemoryOutbox
from secretflow_task.utils.status_notifier import Publisher, cancel_key
from tests.contract.conftest import RedisServer
from tests.contract.events import event, request

PARTIES = ["alice", "bob"]


class Nodes:
    """Nodes by name, with what each was told."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self.cancelled: list[tuple[str, str]] = []
        self.inherited: list[tuple[str, str]] = []
        self.running: dict[str, list[str]] = {}

    def node(self, name: str) -> RedisOwnership:
        """A node that has renewed its lease."""
        owner = RedisOwnership(
            self._redis,
            name,
            running=lambda: self.running.get(name, []),
            cancel=lambda execution_id: self.cancelled.append((name, execution_id)),
            inherit=lambda node_id: self.inherited.append((name, node_id)),
        )
        owner.renew()
        return owner

    def dies(self, name: str) -> None:
        """The lease of a node runs out."""
        self._redis.delete(f"sfworker:node:{name}")
        self._redis.zadd("sfworker:nodes", {name: 1})


@pytest.fixture
def nodes(redis: Redis) -> Nodes:
    """No node yet."""
    return Nodes(redis)


def verdict(owner: RedisOwnership, execution_id: str = "e-1") -> Verdict:
    """What a node is told about a delivery."""
    return owner.claim(execution_id, PARTIES).verdict


def test_of_nodes_that_get_a_request_at_once_one_runs_it(nodes: Nodes) -> None:
    owners = [nodes.node(f"n{number}") for number in range(4)]
    with ThreadPoolExecutor(8) as threads:
        verdicts = list(threads.map(verdict, owners * 2))
    assert sorted(item.value for item in verdicts) == ["drop"] * 7 + ["run"]


def test_a_delivery_under_a_live_lease_is_dropped_also_at_the_owner(nodes: Nodes) -> None:
    first, second = nodes.node("n1"), nodes.node("n2")
    assert [verdict(first), verdict(second), verdict(first)] == [Verdict.RUN, Verdict.DROP, Verdict.DROP]
    assert verdict(second, "e-2") is Verdict.RUN


def test_what_a_dead_node_had_is_lost_and_settled_once(nodes: Nodes, redis: Redis) -> None:
    first, second, third = (nodes.node(name) for name in ("n1", "n2", "n3"))
    outbox = MemoryOutbox()
    outbox.claim(request(), "alice")
    assert verdict(first) is Verdict.RUN
    for _ in range(3):
        outbox.append(event())
    Publisher(outbox, redis, maxlen=1000).send_batch()
    nodes.dies("n1")
    claim = second.claim("e-1", PARTIES)
    assert (claim.verdict, claim.epoch, claim.seqs) == (Verdict.LOST, 2, {"alice": 3, "bob": 0})
    assert verdict(third) is Verdict.DROP
    nodes.dies("n2")
    assert third.claim("e-1", PARTIES).epoch == 3


def test_what_has_ended_is_dropped_also_when_its_node_is_gone(nodes: Nodes, redis: Redis) -> None:
    first, second = nodes.node("n1"), nodes.node("n2")
    assert verdict(first) is Verdict.RUN
    outbox = MemoryOutbox()
    for party in PARTIES:
        outbox.claim(request(), party)
        outbox.append(event(Status.SUCCESS, party))
    Publisher(outbox, redis, maxlen=1000).send_batch()
    nodes.dies("n1")
    assert verdict(second) is Verdict.DROP


def test_a_request_that_was_cancelled_before_it_came_up_is_not_run(nodes: Nodes, redis: Redis) -> None:
    redis.set(cancel_key("e-1"), "1")
    first, second = nodes.node("n1"), nodes.node("n2")
    assert [verdict(first), verdict(second)] == [Verdict.CANCELLED, Verdict.DROP]


def test_a_running_execution_hears_of_its_cancel_key(nodes: Nodes, redis: Redis) -> None:
    nodes.running["n1"] = ["e-1", "e-2"]
    redis.set(cancel_key("e-2"), "1")
    nodes.node("n1")
    assert nodes.cancelled == [("n1", "e-2")]


def test_one_node_inherits_from_a_dead_one(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ownership, "LEASE_SECONDS", 0)
    monkeypatch.setattr(ownership, "_RENEW", ownership._RENEW.replace("'EX', ARGV[2]", "'EX', 15"))
    owners = [nodes.node(name) for name in ("n1", "n2", "n3")]
    nodes.dies("n1")
    for owner in owners[1:] * 2:
        owner.renew()
    assert nodes.inherited == [("n2", "n1")]


def test_after_a_silence_of_redis_no_node_is_taken_for_dead(nodes: Nodes) -> None:
    first, second = nodes.node("n1"), nodes.node("n2")
    nodes.dies("n1")
    second.renew()  # all leases ran out while nobody could renew his
    assert nodes.inherited == []
    first.renew()
    assert verdict(first) is Verdict.RUN and verdict(second) is Verdict.DROP


def test_while_redis_is_away_a_request_is_run(redis_server: RedisServer, redis: Any) -> None:
    del redis
    owner = Nodes(redis_server.client()).node("n1")
    redis_server.stop()
    try:
        assert verdict(owner) is Verdict.RUN
    finally:
        redis_server.start()
