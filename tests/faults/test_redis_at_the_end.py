"""Redis fails at a random moment, or exactly when executions end: nothing is lost, no slot either.

The jobs are stand-ins, so that many moments cost little.
"""

from __future__ import annotations

import random
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Callable, ContextManager, Iterator

import pytest
from redis import Redis

from secretflow_task.contract.messages import Status
from secretflow_task.utils.network import free_ports
from tests.bench import stand_in
from tests.bench.redis import RedisServer
from tests.bench.waiting import wait_for
from tests.contract.scraping import scrape
from tests.contract.test_node_and_redis import blocking, cut_off, forbidding, full, read_only
from tests.e2e.nodes import PARTIES, RunningNode, running_node
from tests.faults.report import Report

pytestmark = pytest.mark.faults

SLOTS = 2
_LONGEST_SECONDS = 20.0
_GROWTH_BYTES = 30_000_000
FAULTS: dict[str, Callable[[Redis], ContextManager[None]]] = {
    "Redis out of memory, at the end": full,
    "Redis read-only, at the end": read_only,
    "Redis answers no write, at the end": blocking,
    "Redis user without rights, at the end": forbidding,
    "connections cut, at the end": cut_off,
}


@contextmanager
def node_on(root: Path, url: str) -> Iterator[RunningNode]:
    """A node with two slots."""
    with running_node(root, url, stand_in.COMMAND, SFWORKER_CONCURRENCY=str(SLOTS)) as node:
        yield node


def running(node: RunningNode) -> float:
    """How many executions run."""
    return scrape(node.metrics_port)["executions_running", ""]


@pytest.mark.parametrize("fault", FAULTS)
def test_executions_end_while_redis_fails(
    fault: str, tmp_path: Path, moments: int, dice: random.Random, report: Report
) -> None:
    server = RedisServer(tmp_path, free_ports(1)[0])
    weights = []
    with server.running(), server.client() as redis, node_on(tmp_path, server.url) as node:
        for moment in range(max(1, moments)):
            ids = [f"{moment}-{number}" for number in range(SLOTS)]
            with stand_in.held(tmp_path / "data"):
                for execution_id in ids:
                    node.send(execution_id, stand_in.PSI)
                wait_for(lambda: running(node) == SLOTS)
                strike = FAULTS[fault](redis)
                if moment % 2:  # else exactly when they end
                    strike.__enter__()
            if not moment % 2:
                strike.__enter__()
            struck = time.time()
            wait_for(lambda: running(node) == 0)
            time.sleep(dice.uniform(0.0, _LONGEST_SECONDS) if moments > 1 else 0.0)
            strike.__exit__(None, None, None)
            for execution_id in [*ids, *serve_more(node, moment)]:
                for events in node.events(execution_id).values():
                    ends = [event.status for event in events if event.status.terminal]
                    assert ends == [Status.SUCCESS]
            weights.append(node.process.memory_info().rss)
            ends = len(PARTIES) * (len(ids) + SLOTS + 1)
            seconds = time.time() - struck
            report.add(fault, executions=ends, terminal=ends, seconds=seconds, leftovers=[])
        assert node.process.is_running()
    assert weights[-1] < weights[0] + _GROWTH_BYTES


def serve_more(node: RunningNode, moment: int) -> list[str]:
    """Send one request more than the node has slots."""
    ids = [f"{moment}-next-{number}" for number in range(SLOTS + 1)]
    for execution_id in ids:
        node.send(execution_id, stand_in.PSI)
    return ids
