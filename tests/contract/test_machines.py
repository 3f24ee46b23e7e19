"""Whatever happens in any order, an execution ends once; a failure shrinks to a short trace."""

from __future__ import annotations

from typing import Any, Iterator

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from redis import Redis

from secretflow_task.broker.keys import STREAM, cancel_key
from secretflow_task.contract.messages import Status, StatusEvent
from secretflow_task.contract.requests import TaskRequest
from secretflow_task.node.ownership import Lease, RedisOwnership, Verdict
from secretflow_task.node.publisher import Publisher, Unsent
from secretflow_task.testing import MemoryOutbox
from tests.bench.redis import RedisServer
from tests.contract.events import event, request

EXECUTIONS = ["e-1"]
PARTIES = ["alice", "bob"]
NODES = st.sampled_from(["n1", "n2"])
STEPS = settings(max_examples=300, stateful_step_count=30, deadline=None, database=None)


class LiveNode:
    """A node process: its lease, its store, and what it thinks that it runs."""

    def __init__(self, redis: Redis, name: str, outbox: MemoryOutbox) -> None:
        self.outbox = outbox
        outbox.node_id = name
        self.runs: set[str] = set()
        self.ownership = RedisOwnership(redis, name)
        self.lease = Lease(self.ownership, self, lambda node_id: None)
        self.publisher = Publisher(outbox, redis, maxlen=1000, on_stale=self.give_up)
        self.lease.renew()

    def running(self) -> dict[str, tuple[TaskRequest, list[str]]]:
        """What it tells its lease."""
        return {key: (request(key), PARTIES) for key in self.runs}

    def cancel(self, execution_id: str) -> None:
        """End what runs."""
        self.fail(execution_id)

    def settle_lost(self, lost: TaskRequest, parties: list[str]) -> None:
        """End for a dead node what it had taken."""
        self.settle(lost.execution_id, parties)

    def describe(self) -> dict[str, str]:
        """Nothing that matters here."""
        return {}

    def deliver(self, execution_id: str) -> Verdict:
        """Do what a node does with a delivered request."""
        verdict = self._claim(execution_id, PARTIES)
        if verdict is Verdict.RUN:
            self.runs.add(execution_id)
        elif verdict is not Verdict.DROP:
            self.fail(execution_id)
        return verdict

    def _claim(self, execution_id: str, parties: list[str], only_lost: bool = False) -> Verdict:
        claim = self.ownership.claim(request(execution_id), parties, only_lost)
        verdict = claim.verdict
        if verdict is Verdict.OWN:
            unknown = not any(self.outbox.knows(execution_id, party) for party in parties)
            verdict = Verdict.LOST if unknown else Verdict.DROP
        if verdict is not Verdict.DROP:
            lost = verdict is Verdict.LOST
            taken = self.outbox.claim(
                request(execution_id), *parties, epoch=claim.epoch, seqs=claim.seqs, again=lost
            )
            verdict = verdict if taken else Verdict.DROP
        return verdict

    def settle(self, execution_id: str, parties: list[str]) -> None:
        """End for a dead node what it had taken, as it was never to be seen half ended."""
        if self._claim(execution_id, parties, only_lost=True) is Verdict.LOST:
            assert parties == PARTIES
            self.fail(execution_id)

    def end(self, execution_id: str, status: Status) -> None:
        """Say at all parties how an execution ended."""
        self.runs.discard(execution_id)
        self.outbox.append_all(
            [event(status, party, execution_id=execution_id) for party in PARTIES]
        )

    def fail(self, execution_id: str) -> None:
        """End what runs, or what was lost."""
        self.end(execution_id, Status.FAILURE)

    def give_up(self, stale: Unsent) -> None:
        """Another node has it."""
        self.runs.discard(stale.event.execution_id)
        self.outbox.give_up(stale.event.execution_id, stale.event.party, stale.epoch)

    def settle_what_was_left(self) -> None:
        """What a start does with what the process before it ran."""
        for execution_id, epoch in {
            (left.request.execution_id, left.epoch) for left in self.outbox.unfinished()
        }:
            if self.ownership.holds(execution_id, PARTIES, epoch):
                self.fail(execution_id)
            else:
                for party in PARTIES:
                    self.outbox.give_up(execution_id, party, epoch)


class Cluster(RuleBasedStateMachine):
    """Nodes that get requests, work, die, come back and lose their Redis, all at any moment."""

    redis: Redis

    def __init__(self) -> None:
        super().__init__()
        self.redis.flushall()
        self.alive: dict[str, LiveNode] = {}
        self.stores: dict[str, MemoryOutbox] = {}
        self.ran: dict[str, int] = dict.fromkeys(EXECUTIONS, 0)

    @initialize()
    def start_both(self) -> None:
        """Both nodes begin alive."""
        self.start("n1")
        self.start("n2")

    @rule(name=NODES)
    def start(self, name: str) -> None:
        """Start a node, again with the store that it had."""
        if name not in self.alive:
            store = self.stores.setdefault(name, MemoryOutbox())
            self.alive[name] = LiveNode(self.redis, name, store)
            self.alive[name].settle_what_was_left()

    @rule(name=NODES)
    def kill(self, name: str) -> None:
        """Kill a node, and let its lease run out."""
        if self.alive.pop(name, None):
            self.redis.delete(f"sfworker:node:{name}")
            self.redis.zadd("sfworker:nodes", {name: 1})

    @rule(name=NODES, execution_id=st.sampled_from(EXECUTIONS))
    def deliver(self, name: str, execution_id: str) -> None:
        """Deliver a request to a node, as Celery may do more than once."""
        if name not in self.alive:
            return
        owner = self.redis.hget(f"sfworker:execution:{execution_id}:alice", "node")
        owner_lives = owner is not None and bool(self.redis.exists(f"sfworker:node:{owner}"))
        verdict = self.alive[name].deliver(execution_id)
        self.ran[execution_id] += verdict is Verdict.RUN
        assert not (owner_lives and verdict is Verdict.LOST)

    @rule(
        name=NODES,
        execution_id=st.sampled_from(EXECUTIONS),
        progress=st.integers(0, 2),
        ends=st.booleans(),
    )
    def work(self, name: str, execution_id: str, progress: int, ends: bool) -> None:
        """A running execution reports, and may succeed."""
        node = self.alive.get(name)
        if node and execution_id in node.runs:
            for party in PARTIES[:progress]:
                node.outbox.append(event(party=party, execution_id=execution_id))
            if ends:
                node.end(execution_id, Status.SUCCESS)

    @rule(name=NODES)
    def publish(self, name: str) -> None:
        """A node sends what it can."""
        if name in self.alive:
            while self.alive[name].publisher.send_batch():
                pass

    @rule(name=NODES)
    def stall(self, name: str) -> None:
        """A node that is alive fails to renew its lease for long."""
        if name in self.alive:
            self.redis.delete(f"sfworker:node:{name}")

    @rule(name=NODES)
    def renew(self, name: str) -> None:
        """A node renews its lease."""
        if name in self.alive:
            self.alive[name].lease.renew()

    @rule(execution_id=st.sampled_from(EXECUTIONS))
    def cancel(self, execution_id: str) -> None:
        """Somebody cancels."""
        self.redis.set(cancel_key(execution_id), "1")

    def teardown(self) -> None:
        """In the end nothing runs, all that is left is sent, and all that was taken has ended."""
        for name in ("n1", "n2"):
            self.kill(name)
            self.start(name)
        for name in ("n1", "n2") * 2:
            self.renew(name)
            self.publish(name)
        for execution_id in EXECUTIONS:
            events = self.seen(execution_id)
            taken = self.redis.keys(f"sfworker:execution:{execution_id}:*")
            assert len({events[party][-1].status for party in PARTIES if party in events}) == bool(
                taken
            )
            assert not taken or all(events[party][-1].status.terminal for party in PARTIES)

    def seen(self, execution_id: str) -> dict[str, list[StatusEvent]]:
        """What a web application sees of an execution, by party."""
        entries: Any = self.redis.xrange(STREAM)
        found = [StatusEvent.from_json(fields["event"]) for _, fields in entries]
        return {
            party: events
            for party in PARTIES
            if (events := [e for e in found if (e.execution_id, e.party) == (execution_id, party)])
        }

    @invariant()
    def every_execution_ends_once_in_order_and_at_all_parties_alike(self) -> None:
        """At any moment."""
        for execution_id in EXECUTIONS:
            seen = self.seen(execution_id)
            for events in seen.values():
                assert [item.seq for item in events] == list(range(1, len(events) + 1))
                assert not any(item.status.terminal for item in events[:-1])
            ended = [events[-1].status for events in seen.values() if events[-1].status.terminal]
            assert not ended or ended in ([ended[0]] * len(PARTIES),)

    @invariant()
    def no_execution_is_run_twice(self) -> None:
        """Not even when its node is gone."""
        assert max(self.ran.values()) <= 1


@pytest.fixture
def cluster(redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Cluster]]:
    """The machine on a real Redis; a node soon calls another dead."""
    monkeypatch.setattr(RedisOwnership, "knows_the_dead", lambda self: True)
    with redis_server.client() as client:
        yield type("Cluster", (Cluster,), {"redis": client})


def test_nodes_on_one_redis_end_every_execution_once(cluster: type[Cluster]) -> None:
    run_state_machine_as_test(cluster, settings=STEPS)
