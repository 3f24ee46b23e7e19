"""Of the nodes on one Redis one runs an execution, and another settles what a dead one had."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Mapping

import pytest
from redis import Redis, RedisError
from redis import TimeoutError as RedisTimeoutError

from secretflow_task.broker.celery_tasks import NodeStopping
from secretflow_task.broker.keys import cancel_key
from secretflow_task.broker.nodes import living_nodes
from secretflow_task.contract.messages import Status
from secretflow_task.contract.requests import TaskRequest
from secretflow_task.node import lua, ownership
from secretflow_task.node.ownership import Lease, RedisOwnership, Verdict
from secretflow_task.node.publisher import Publisher
from secretflow_task.testing import MemoryOutbox
from tests.bench.redis import RedisServer
from tests.bench.waiting import PATIENCE_SECONDS
from tests.contract.events import event, request

PARTIES = ["alice", "bob"]


@dataclass
class Holder:
    """A node, as its lease sees it; notes what it was told."""

    name: str
    nodes: Nodes

    def running(self) -> Mapping[str, tuple[TaskRequest, list[str]]]:
        """What the test says."""
        return {key: (request(key), PARTIES) for key in self.nodes.running.get(self.name, [])}

    def cancel(self, execution_id: str) -> None:
        """Note it."""
        self.nodes.cancelled.append((self.name, execution_id))

    def settle_lost(self, lost: TaskRequest, parties: list[str]) -> None:
        """Note it."""
        self.nodes.settled.append((self.name, lost.execution_id, parties))

    def describe(self) -> dict[str, Any]:
        """Its name, and how much it runs."""
        return {"name": self.name, "running": len(self.nodes.running.get(self.name, []))}


class LeasedOwnership(RedisOwnership):
    """The ownership of a node, together with its lease."""

    def __init__(self, redis: Redis, name: str, nodes: Nodes) -> None:
        super().__init__(redis, name)
        self.lease = Lease(self, Holder(name, nodes), partial(nodes.inherit, name))


class Nodes:
    """Nodes by name, with what each was told."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self.cancelled: list[tuple[str, str]] = []
        self.inherited: list[tuple[str, str]] = []
        self.settled: list[tuple[str, str, list[str]]] = []
        self.running: dict[str, list[str]] = {}

    def node(self, name: str) -> LeasedOwnership:
        """A node that has renewed its lease."""
        owner = LeasedOwnership(self._redis, name, self)
        owner.lease.renew()
        return owner

    def inherit(self, name: str, dead: str) -> None:
        """Note what a survivor is called with."""
        self.inherited.append((name, dead))

    def dies(self, name: str) -> None:
        """The lease of a node runs out."""
        self._redis.delete(f"sfworker:node:{name}")
        self._redis.zadd("sfworker:nodes", {name: 1})


@pytest.fixture
def nodes(redis: Redis) -> Nodes:
    """No node yet."""
    return Nodes(redis)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that is just in touch with Redis may take another for dead."""
    monkeypatch.setattr(ownership, "LEASE_SECONDS", 0)
    script = lua.script
    monkeypatch.setattr(
        lua, "script", lambda name: script(name).replace("'EX', ARGV[2]", "'EX', 15")
    )


def store_of(name: str) -> MemoryOutbox:
    """The outbox of a node."""
    outbox = MemoryOutbox()
    outbox.node_id = name
    return outbox


def verdict(owner: RedisOwnership, execution_id: str = "e-1") -> Verdict:
    """What a node is told about a delivery."""
    return owner.claim(request(execution_id), PARTIES).verdict


def test_of_nodes_that_get_a_request_at_once_one_runs_it(nodes: Nodes) -> None:
    owners = [nodes.node(f"n{number}") for number in range(4)]
    with ThreadPoolExecutor(8) as threads:
        verdicts = list(threads.map(verdict, owners * 2))
    assert sorted(item.value for item in verdicts) == ["drop"] * 6 + ["own", "run"]


def test_a_delivery_under_a_live_lease_is_dropped_and_the_owner_knows_its_own(nodes: Nodes) -> None:
    first, second = nodes.node("n1"), nodes.node("n2")
    assert [verdict(first), verdict(second), verdict(first)] == [
        Verdict.RUN,
        Verdict.DROP,
        Verdict.OWN,
    ]
    assert verdict(second, "e-2") is Verdict.RUN


@pytest.mark.usefixtures("impatient")
def test_what_a_dead_node_had_is_lost_and_settled_once(nodes: Nodes, redis: Redis) -> None:
    first, second, third = (nodes.node(name) for name in ("n1", "n2", "n3"))
    outbox = store_of("n1")
    outbox.claim(request(), "alice")
    assert verdict(first) is Verdict.RUN
    for _ in range(3):
        outbox.append(event())
    Publisher(outbox, redis, maxlen=1000).send_batch()
    nodes.dies("n1")
    claim = second.claim(request(), PARTIES)
    assert (claim.verdict, claim.epoch, claim.seqs) == (Verdict.LOST, 2, {"alice": 3, "bob": 0})
    assert verdict(third) is Verdict.DROP
    nodes.dies("n2")
    assert third.claim(request(), PARTIES).epoch == 3


def test_what_has_ended_is_dropped_also_when_its_node_is_gone(nodes: Nodes, redis: Redis) -> None:
    first, second = nodes.node("n1"), nodes.node("n2")
    assert verdict(first) is Verdict.RUN
    outbox = store_of("n1")
    for party in PARTIES:
        outbox.claim(request(), party)
        outbox.append(event(Status.SUCCESS, party))
    Publisher(outbox, redis, maxlen=1000).send_batch()
    nodes.dies("n1")
    assert verdict(second) is Verdict.DROP


@pytest.mark.usefixtures("impatient")
def test_one_party_that_has_ended_does_not_hold_up_the_end_of_the_other(
    nodes: Nodes, redis: Redis
) -> None:
    first, second = nodes.node("n1"), nodes.node("n2")
    assert verdict(first) is Verdict.RUN
    outbox = store_of("n1")
    outbox.claim(request(), "alice")
    outbox.append(event(Status.FAILURE))
    Publisher(outbox, redis, maxlen=1000).send_batch()
    assert verdict(second) is Verdict.DROP
    nodes.dies("n1")
    assert second.claim(request(), PARTIES).verdict is Verdict.LOST


def test_a_request_that_was_cancelled_before_it_came_up_is_not_run(
    nodes: Nodes, redis: Redis
) -> None:
    redis.set(cancel_key("e-1"), "1")
    first, second = nodes.node("n1"), nodes.node("n2")
    assert [verdict(first), verdict(second)] == [Verdict.CANCELLED, Verdict.DROP]


def test_a_running_execution_hears_of_its_cancel_key(nodes: Nodes, redis: Redis) -> None:
    nodes.running["n1"] = ["e-1", "e-2"]
    redis.set(cancel_key("e-2"), "1")
    nodes.node("n1")
    assert nodes.cancelled == [("n1", "e-2")]


@pytest.mark.usefixtures("impatient")
def test_one_node_inherits_from_a_dead_one(nodes: Nodes) -> None:
    owners = [nodes.node(name) for name in ("n1", "n2", "n3")]
    nodes.dies("n1")
    for owner in owners[1:] * 2:
        owner.lease.renew()
    assert nodes.inherited == [("n2", "n1")]


@pytest.mark.usefixtures("impatient")
def test_what_a_dead_node_had_taken_is_settled_also_when_celery_has_forgotten_it(
    nodes: Nodes, redis: Redis
) -> None:
    owners = [nodes.node(name) for name in ("n1", "n2", "n3")]
    for execution_id in ("e-1", "e-2", "e-3"):
        assert verdict(owners[0], execution_id) is Verdict.RUN
    outbox = store_of("n1")
    outbox.claim(request("e-2"), *PARTIES)
    outbox.append_all([event(Status.SUCCESS, party, execution_id="e-2") for party in PARTIES])
    Publisher(outbox, redis, maxlen=1000).send_batch()
    nodes.dies("n1")
    for owner in owners[1:] * 2:
        owner.lease.renew()
    assert sorted(nodes.settled) == [("n2", "e-1", PARTIES), ("n2", "e-3", PARTIES)]
    assert not redis.exists("sfworker:taken:n1")


@pytest.mark.usefixtures("impatient")
def test_what_runs_is_written_down_again_for_a_redis_that_came_back_empty(
    nodes: Nodes, redis: Redis
) -> None:
    first, second = nodes.node("n1"), nodes.node("n2")
    nodes.running["n1"] = ["e-1"]
    assert verdict(first) is Verdict.RUN
    redis.flushall()
    first.lease.renew()
    nodes.dies("n1")
    second.lease.renew()
    assert nodes.settled == [("n2", "e-1", PARTIES)]


@pytest.mark.usefixtures("impatient")
def test_what_another_took_over_belongs_to_it(nodes: Nodes, redis: Redis) -> None:
    first, second = nodes.node("n1"), nodes.node("n2")
    assert verdict(first) is Verdict.RUN
    nodes.dies("n1")
    assert verdict(second) is Verdict.LOST
    assert redis.hlen("sfworker:taken:n2") == 2
    assert second.holds("e-1", PARTIES, 2) and not second.holds("e-1", PARTIES, 1)
    assert not first.holds("e-1", PARTIES, 1)


def test_after_a_silence_of_redis_no_node_is_taken_for_dead(nodes: Nodes) -> None:
    first, second = nodes.node("n1"), nodes.node("n2")
    nodes.dies("n1")
    assert verdict(first) is Verdict.RUN
    second.lease.renew()  # all leases ran out while nobody could renew his
    assert nodes.inherited == []
    with ThreadPoolExecutor(1) as thread:
        claim = thread.submit(verdict, second)
        time.sleep(0.7)
        assert not claim.done()
        first.lease.renew()
        assert claim.result(PATIENCE_SECONDS) is Verdict.DROP


def test_a_claim_that_waits_ends_with_its_node(nodes: Nodes, redis: Redis) -> None:
    owner = nodes.node("n1")
    redis.config_set("maxmemory", 1)
    try:
        with ThreadPoolExecutor(1) as thread:
            claim = thread.submit(verdict, owner)
            time.sleep(0.2)
            owner.stop()
            with pytest.raises(NodeStopping):
                claim.result(PATIENCE_SECONDS)
    finally:
        redis.config_set("maxmemory", 0)


def test_what_could_not_be_begun_is_given_back(nodes: Nodes, redis: Redis) -> None:
    first, second = nodes.node("n1"), nodes.node("n2")
    assert verdict(first) is Verdict.RUN
    first.release(request(), PARTIES)
    assert not redis.exists("sfworker:taken:n1") and verdict(second) is Verdict.RUN
    first.release(request(), PARTIES)
    assert verdict(first) is Verdict.DROP


@pytest.mark.usefixtures("impatient")
def test_what_nobody_has_had_is_not_taken_as_lost(nodes: Nodes, redis: Redis) -> None:
    assert nodes.node("n1").claim(request(), PARTIES, only_lost=True).verdict is Verdict.DROP
    assert not redis.keys("sfworker:execution:*")


@pytest.mark.usefixtures("impatient")
def test_what_has_ended_is_not_written_down_again(nodes: Nodes, redis: Redis) -> None:
    first = nodes.node("n1")
    nodes.running["n1"] = ["e-1"]  # until its last party is done
    assert verdict(first) is Verdict.RUN
    outbox = store_of("n1")
    outbox.claim(request(), *PARTIES)
    outbox.append_all([event(Status.SUCCESS, party) for party in PARTIES])
    Publisher(outbox, redis, maxlen=1000).send_batch()
    first.lease.renew()
    assert not redis.exists("sfworker:taken:n1")


@pytest.mark.usefixtures("impatient")
def test_a_node_that_fails_to_inherit_tries_again(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes.node("n1")
    second = nodes.node("n2")
    nodes.dies("n1")

    def fail(_node_id: str) -> None:
        raise RedisError("away")

    with monkeypatch.context() as patch:
        patch.setattr(second.lease, "_inherit", fail)
        with pytest.raises(RedisError):
            second.lease.renew()
    second.lease.renew()
    assert nodes.inherited == [("n2", "n1")]


def test_nodes_say_how_they_are_while_they_live(nodes: Nodes, redis: Redis) -> None:
    nodes.running["n1"] = ["e-1"]
    for name in ("n1", "n2", "n3"):
        nodes.node(name)
    nodes.dies("n3")
    expected = [{"name": "n1", "running": 1}, {"name": "n2", "running": 0}]
    assert sorted(living_nodes(redis), key=lambda node: str(node["name"])) == expected


def test_a_claim_whose_answer_was_lost_is_the_same_claim_when_it_comes_again(
    nodes: Nodes, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = nodes.node("n1")
    script, lost = owner._claim_script, [True]

    def lossy(keys: list[str], values: list[Any]) -> Any:
        answer = script(keys, values)
        if lost:
            lost.pop()
            raise RedisTimeoutError("the answer did not come")
        return answer

    monkeypatch.setattr(owner, "_claim_script", lossy)
    assert verdict(owner) is Verdict.RUN
    lost.append(True)
    redis.set(cancel_key("e-2"), "1")
    assert verdict(owner, "e-2") is Verdict.CANCELLED
    assert verdict(owner) is Verdict.OWN


def test_an_id_that_has_ended_is_not_lost_for_a_further_party(nodes: Nodes, redis: Redis) -> None:
    first = nodes.node("n1")
    assert verdict(first) is Verdict.RUN
    outbox = store_of("n1")
    outbox.claim(request(), *PARTIES)
    outbox.append_all([event(Status.SUCCESS, party) for party in PARTIES])
    Publisher(outbox, redis, maxlen=1000).send_batch()
    assert first.claim(request(), [*PARTIES, "carol"]).verdict is Verdict.DROP


def test_a_node_that_ends_with_something_open_is_inherited_from(nodes: Nodes, redis: Redis) -> None:
    owner = nodes.node("n1")
    with owner.lease:
        assert verdict(owner) is Verdict.RUN
    assert redis.zscore("sfworker:nodes", "n1") and not redis.exists("sfworker:node:n1")


def test_a_node_that_ends_in_peace_is_not_inherited_from(nodes: Nodes, redis: Redis) -> None:
    with nodes.node("n1").lease:
        assert redis.zscore("sfworker:nodes", "n1")
    assert not redis.zscore("sfworker:nodes", "n1") and not redis.exists("sfworker:node:n1")


def test_a_redis_that_takes_no_writes_is_asked_again(nodes: Nodes, redis: Redis) -> None:
    owner = nodes.node("n1")
    redis.config_set("maxmemory", 1)
    with ThreadPoolExecutor(1) as thread:
        claim = thread.submit(verdict, owner)
        time.sleep(0.7)
        assert not claim.done()
        redis.config_set("maxmemory", 0)
        assert claim.result(PATIENCE_SECONDS) is Verdict.RUN


def test_while_redis_is_away_a_request_is_run(redis_server: RedisServer, redis: Any) -> None:
    del redis
    owner = Nodes(redis_server.client()).node("n1")
    redis_server.stop()
    try:
        assert verdict(owner) is Verdict.RUN
        assert owner.holds("e-1", PARTIES, 1) is None
    finally:
        redis_server.start()
