"""Whatever happens in whatever order, an execution ends once; a failure shrinks to a short trace."""

from __future__ import annotations

from typing import Any, Iterator

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from redis import Redis

from secretflow_task.messages import Status, StatusEvent
from secretflow_task.node.ownership import RedisOwnership, Verdict
from secretflow_task.testing import MemoryOutbox
from secretflow_task.utils.status_notifier import STREAM, Publisher, cancel_key
from tests.contract.conftest import RedisServer
from tests.contract.events import event, request

EXECUTIONS = ["e-1"]
NODES = st.sampled_from(["n1", "n2"])
STEPS = settings(max_examples=300, stateful_step_count=30, deadline=None, database=None)


class LiveNode:
    """A node process: its lease, its store, and what it thinks that it runs."""

    def __init__(self, redis: Redis, name: str, outbox: MemoryOutbox) -> None:
        self.outbox = outbox
        outbox.node_id = name
        self.running: set[str] = set()
        self.lease = RedisOwnership(
            redis,
            name,
            running=lambda: {key: (request(key), ["alice"]) for key in self.running},
            cancel=self.cancel,
            inherit=lambda node_id: None,
            settle=lambda lost, parties: self.settle(lost.execution_id),
        )
        self.publisher = Publisher(outbox, redis, maxlen=1000, on_stale=self.give_up)
        self.lease.renew()

    def deliver(self, execution_id: str) -> Verdict:
        """Do what a node does with a delivered request."""
        claim = self.lease.claim(request(execution_id), ["alice"])
        if claim.verdict is Verdict.DROP:
            return claim.verdict
        if not self.outbox.claim(request(execution_id), "alice", epoch=claim.epoch, seqs=claim.seqs):
            return Verdict.DROP
        if claim.verdict is Verdict.RUN:
            self.running.add(execution_id)
        else:
            self.outbox.append(event(Status.FAILURE, execution_id=execution_id))
        return claim.verdict

    def settle(self, execution_id: str) -> None:
        """End for a dead node what it had taken."""
        assert self.deliver(execution_id) is not Verdict.RUN

    def cancel(self, execution_id: str) -> None:
        """End what runs."""
        self.running.discard(execution_id)
        self.outbox.append(event(Status.FAILURE, execution_id=execution_id))

    def give_up(self, stale: StatusEvent) -> None:
        """Another node has it."""
        self.running.discard(stale.execution_id)
        self.outbox.give_up(stale.execution_id, "alice")

    def settle_what_was_left(self) -> None:
        """What a start does with what the process before it ran."""
        for left in self.outbox.unfinished():
            self.outbox.append(event(Status.FAILURE, execution_id=left.request.execution_id))


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
        if node and execution_id in node.running:
            for status in [Status.RUNNING] * progress + [Status.SUCCESS] * ends:
                node.outbox.append(event(status, execution_id=execution_id))
            node.running -= {execution_id} if ends else set()

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
        """In the end all that is left is sent."""
        for name in ("n1", "n2"):
            self.start(name)
            self.publish(name)
        self.every_execution_ends_once_and_in_order()

    @invariant()
    def every_execution_ends_once_and_in_order(self) -> None:
        """What a web application sees."""
        seen: dict[str, list[StatusEvent]] = {}
        entries: Any = self.redis.xrange(STREAM)
        for _, fields in entries:
            found = StatusEvent.from_json(fields["event"])
            seen.setdefault(found.execution_id, []).append(found)
        for events in seen.values():
            assert [item.seq for item in events] == list(range(1, len(events) + 1))
            assert not any(item.status.terminal for item in events[:-1])

    @invariant()
    def no_execution_is_run_twice(self) -> None:
        """Not even when its node is gone."""
        assert max(self.ran.values()) <= 1


@pytest.fixture
def cluster(redis_server: RedisServer) -> Iterator[type[Cluster]]:
    """The machine on a real Redis."""
    with redis_server.client() as client:
        yield type("Cluster", (Cluster,), {"redis": client})


def test_nodes_on_one_redis_end_every_execution_once(cluster: type[Cluster]) -> None:
    run_state_machine_as_test(cluster, settings=STEPS)
