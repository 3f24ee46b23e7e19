"""A whole node but for SecretFlow, on a Redis that refuses, blocks or drops what it is told."""

from __future__ import annotations

import signal
import time
from contextlib import contextmanager
from typing import Callable, Iterator

import pytest
from redis import Redis

from secretflow_task.contract.messages import Status
from secretflow_task.utils.network import free_ports
from tests.bench import stand_in
from tests.bench.redis import RedisServer
from tests.bench.waiting import wait_for
from tests.contract.scraping import reasons, scrape
from tests.e2e.nodes import RunningNode, running_node

SLOTS = 2
Fault = Callable[[Redis], object]


@contextmanager
def full(redis: Redis) -> Iterator[None]:
    """Nothing can be stored."""
    redis.config_set("maxmemory", 1)
    yield
    redis.config_set("maxmemory", 0)


@contextmanager
def read_only(redis: Redis) -> Iterator[None]:
    """A replica, as after a failover."""
    redis.slaveof("127.0.0.1", 1)
    yield
    redis.slaveof()


@contextmanager
def blocking(redis: Redis) -> Iterator[None]:
    """Writing waits for ever."""
    redis.execute_command("CLIENT", "PAUSE", 600_000, "WRITE")
    yield
    redis.execute_command("CLIENT", "UNPAUSE")


@contextmanager
def forbidding(redis: Redis) -> Iterator[None]:
    """The user may write nothing."""
    redis.execute_command("ACL", "SETUSER", "default", "-@write")
    yield
    redis.execute_command("ACL", "SETUSER", "default", "+@all")


@contextmanager
def cut_off(redis: Redis) -> Iterator[None]:
    """All connections are cut, at every moment."""
    redis.client_kill_filter(_type="normal", skipme=True)
    redis.client_kill_filter(_type="pubsub", skipme=True)
    yield
    redis.client_kill_filter(_type="normal", skipme=True)


FAULTS: dict[str, Fault] = {
    "full": full,
    "read-only": read_only,
    "blocking": blocking,
    "forbidding": forbidding,
    "cut off": cut_off,
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis of these tests."""
    server = RedisServer(tmp_path_factory.mktemp("redis"), free_ports(1)[0])
    with server.running():
        yield server


@pytest.fixture(scope="module")
def node(server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    """A node with two slots."""
    root = tmp_path_factory.mktemp("node")
    slots = str(SLOTS)
    with running_node(root, server.url, stand_in.COMMAND, SFWORKER_CONCURRENCY=slots) as node:
        yield node
        assert node.process.is_running()


def value(node: RunningNode, name: str) -> float:
    """A series of the node without labels."""
    return scrape(node.metrics_port)[name, ""]


def log_of(node: RunningNode) -> str:
    """All that it logged."""
    return (node.root / "node.log").read_text(encoding="utf-8")


def succeeds(node: RunningNode, execution_id: str) -> None:
    """A request runs, and each party has one terminal event of it."""
    for events in node.execute(execution_id, stand_in.PSI).values():
        assert [event.status for event in events if event.status.terminal] == [Status.SUCCESS]


@pytest.mark.parametrize("name", FAULTS)
def test_as_many_executions_as_there_are_slots_end_while_redis_takes_nothing(
    name: str, node: RunningNode, server: RedisServer
) -> None:
    fault = FAULTS[name]
    ids = [f"{name}-{number}".replace(" ", "-") for number in range(SLOTS)]
    with server.client() as redis:
        with stand_in.held(node.root / "data"):
            for execution_id in ids:
                node.send(execution_id, stand_in.PSI)
            wait_for(lambda: value(node, "executions_running") == SLOTS)
            strike = fault(redis)
            strike.__enter__()  # type: ignore[attr-defined]
        wait_for(lambda: value(node, "executions_running") == 0)
        strike.__exit__(None, None, None)  # type: ignore[attr-defined]
    for execution_id in ids:
        for events in node.events(execution_id).values():
            assert events[-1].status is Status.SUCCESS
    for number in range(SLOTS + 1):
        succeeds(node, f"{ids[0]}-next-{number}")
    with server.client() as redis:
        unacknowledged = redis.keys("sfworker:unacked:*")
        wait_for(lambda: not any(redis.hlen(key) for key in unacknowledged))


def test_a_user_without_the_right_to_celerys_results_runs_as_many_requests_as_it_likes(
    node: RunningNode, server: RedisServer
) -> None:
    dropped, begin = value(node, "results_dropped_total"), len(log_of(node))
    with server.client() as redis:
        keys = ("sfworker:*", "task_status_*", "_kombu.binding.*", "secretflow_queue*")
        patterns = [f"~{key}" for key in keys]
        redis.execute_command("ACL", "SETUSER", "default", "resetkeys", *patterns)
        for number in range(2 * SLOTS + 1):
            succeeds(node, f"no-result-{number}")
        wait_for(lambda: value(node, "results_dropped_total") == dropped + 2 * SLOTS + 1)
        redis.execute_command("ACL", "SETUSER", "default", "allkeys")
    assert log_of(node)[begin:].count("action=results_wait problem=NoPermissionError") == 1


def test_a_node_whose_consumer_has_gone_deaf_says_so_mends_itself_and_takes_what_waited(
    node: RunningNode,
) -> None:
    def is_named() -> bool:
        return scrape(node.metrics_port)["problem", "NothingTaken"] == 1

    assert not is_named()
    restarts = value(node, "consumer_restarts_total")
    node.process.send_signal(signal.SIGUSR1)
    time.sleep(1.0)  # a call that Redis had been asked before is answered
    for number in range(SLOTS + 2):
        node.send(f"deaf-{number}", stand_in.PSI)
    wait_for(is_named)
    for number in range(SLOTS + 2):
        for events in node.events(f"deaf-{number}").values():
            assert events[-1].status is Status.SUCCESS
    wait_for(lambda: not is_named())
    assert value(node, "consumer_restarts_total") == restarts + 1
    assert reasons(node.metrics_port, "/readyz") == []
