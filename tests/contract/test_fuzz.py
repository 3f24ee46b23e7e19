"""Whatever lies in the queue, the node goes on, and every good request among it succeeds."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from secretflow_task.broker.keys import MOST_REJECTED
from secretflow_task.utils.network import free_ports
from tests.bench.entries import QUEUE, Fuzzer
from tests.bench.redis import RedisServer
from tests.bench.stand_in import COMMAND, PSI
from tests.bench.waiting import wait_for
from tests.bench.web_application import REJECTED, WebApplication, assert_succeeded
from tests.contract.scraping import reasons, scrape
from tests.e2e.nodes import is_alive, running_node

LISTS = [QUEUE, *(f"{QUEUE}\x06\x16{priority}" for priority in (3, 6, 9))]
GROWTH_BYTES = 150_000_000  # of a node's memory; Python gives back little of what it once had


def until_empty(web: WebApplication) -> None:
    """Wait until all lists of the queue are, as long as they become shorter."""
    while left := sum(map(web.redis.llen, LISTS)):
        wait_for(lambda before=left: sum(map(web.redis.llen, LISTS)) < before)


@pytest.mark.parametrize(
    ("entries", "seed"), [(200, 1), pytest.param(10_000, 2, marks=pytest.mark.faults)]
)
def test_a_node_survives_random_entries_and_runs_the_good_ones_among_them(
    entries: int, seed: int, tmp_path: Path
) -> None:
    dice, fuzzer = random.Random(seed), Fuzzer(seed)
    good = [f"good-{number}" for number in range(20)]
    (tmp_path / "data").mkdir()
    with RedisServer(tmp_path, free_ports(1)[0]).running() as server:
        with running_node(tmp_path, server.url, COMMAND, SFWORKER_CONCURRENCY="8") as node:
            web = WebApplication(server)
            before = node.process.memory_info().rss
            with web.redis.pipeline(transaction=False) as pipeline:
                for number in range(entries):
                    pipeline.lpush(dice.choice(LISTS), fuzzer.entry())
                    if number % (entries // len(good)) == 0:
                        pipeline.execute()
                        web.send([good[number * len(good) // entries], PSI])
                pipeline.execute()
            for task_request_id in good:
                assert_succeeded(web.ends(task_request_id))
            until_empty(web)
            wait_for(lambda: not web.redis.keys("sfworker:unacked:*"))
            assert is_alive(node.process) and reasons(node.metrics_port, "/readyz") == []
            assert node.process.memory_info().rss - before < GROWTH_BYTES
            counted = scrape(node.metrics_port)
            rejected = sum(
                value for (name, _), value in counted.items() if name == "entries_rejected_total"
            )
            assert rejected > entries / 4
            assert web.redis.xlen(REJECTED) == min(rejected, MOST_REJECTED)
            web.close()
    assert "Traceback" not in (tmp_path / "node.log").read_text(encoding="utf-8")
