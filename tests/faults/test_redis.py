"""Whatever happens to Redis, jobs finish, events arrive in order, and new work is taken."""

from __future__ import annotations

import random
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Callable, Iterator

import psutil
import pytest

from tests.bench.redis import RedisServer
from tests.bench.waiting import wait_for
from tests.e2e.conftest import psi_params, training_params
from tests.faults.field import Field
from tests.faults.report import Report

pytestmark = [pytest.mark.faults, pytest.mark.engine]


def process_of(server: RedisServer) -> psutil.Popen:
    """Its process."""
    assert server.process is not None
    return server.process


@contextmanager
def killed(server: RedisServer) -> Iterator[None]:
    """Gone for some seconds; with its data or without, as it was started."""
    server.kill()
    time.sleep(2.0)
    yield
    server.start()


@contextmanager
def paused(server: RedisServer) -> Iterator[None]:
    """Not answering for 30 s."""
    process_of(server).suspend()
    time.sleep(30.0)
    yield
    process_of(server).resume()


@contextmanager
def full(server: RedisServer) -> Iterator[None]:
    """Refusing to store anything."""
    with server.client() as client:
        client.config_set("maxmemory", 1)
        yield
        client.config_set("maxmemory", 0)


@contextmanager
def locked(server: RedisServer) -> Iterator[None]:
    """Asking for a password that the node does not have."""
    with server.client() as client:
        client.config_set("requirepass", "secret")
        client.client_kill_filter(_type="normal", skipme=True)
        client.client_kill_filter(_type="pubsub", skipme=True)
        yield
        client.config_set("requirepass", "")


FAULTS: dict[str, tuple[Callable[..., object], bool]] = {
    "Redis killed, back empty": (killed, False),
    "Redis killed, back with its data": (killed, True),
    "Redis paused for 30 s": (paused, False),
    "Redis out of memory": (full, False),
    "Redis asks for a password": (locked, False),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_job_outlives_what_happens_to_redis(
    fault: str, tmp_path: Path, moments: int, dice: random.Random, report: Report
) -> None:
    happens, keeps_data = FAULTS[fault]
    for moment in range(max(1, moments // 7)):
        field = Field(tmp_path / str(moment), report, keeps_data)
        with field.redis.running(), field.node() as node:
            node.send("it", training_params(epochs=60))
            wait_for(field.jobs)
            time.sleep(dice.uniform(0.0, 2.0))
            struck = time.time()
            with happens(field.redis):  # type: ignore[attr-defined]
                wait_for(lambda: not field.jobs(), 60)  # it ends although Redis is away
            field.settle(fault, struck, {"it": {""}})
            field.serves(node, "next")


def test_a_node_that_is_started_before_its_redis_takes_work_when_it_comes(
    tmp_path: Path, report: Report
) -> None:
    field = Field(tmp_path, report)
    with field.node() as node:
        struck = time.time()
        time.sleep(3.0)
        with field.redis.running():
            node.send("it", psi_params())
            field.settle("Redis away at the start", struck, {"it": {""}})
