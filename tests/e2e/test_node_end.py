"""Cancelling, stopping and losing: a real node, its Redis and its queue."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from secretflow_task.broker.embedded_redis import embedded_redis
from secretflow_task.client import Client
from secretflow_task.contract.messages import Status
from secretflow_task.utils.network import free_ports
from tests.bench.redis import RedisServer
from tests.bench.waiting import PATIENCE_SECONDS, wait_for
from tests.contract.scraping import reasons, scrape
from tests.e2e.conftest import psi_params, training_params, write_tables
from tests.e2e.nodes import PARTIES, RunningNode, is_alive, running_node, template_of
from tests.e2e.test_alerts import link_to_carol
from tests.e2e.test_celery import assert_ended_once

pytestmark = pytest.mark.engine


def codes(node: RunningNode, execution_id: str) -> dict[str, str]:
    """The error code with which each party's execution ended, once."""
    found = node.events(execution_id)
    for events in found.values():
        assert_ended_once(events, Status.FAILURE)
    return {party: events[-1].data["error_code"] for party, events in found.items()}


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis that a test may end: when it comes back it is empty."""
    with RedisServer(tmp_path_factory.mktemp("redis"), free_ports(1)[0]).running() as server:
        yield server


@pytest.fixture(scope="module")
def lasting(redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    """A node with a link and one slot, for the tests that it must survive."""
    root = tmp_path_factory.mktemp("lasting")
    write_tables(root / "data")
    settings = link_to_carol(root) | {"SFWORKER_CONCURRENCY": "1"}
    with running_node(root, redis.url, **settings) as node:
        yield node


def test_running_queued_and_coming_executions_can_be_cancelled(lasting: RunningNode) -> None:
    node, cancelled = lasting, dict.fromkeys(PARTIES, "TaskCancelled")
    with Client(node.settings) as client:
        node.send("running", training_params(epochs=500))
        wait_for(lambda: len(node.jobs()) == 2)
        node.send("queued", psi_params())
        assert not client.cancel("queued") and not client.cancel("coming")
        assert codes(node, "queued") == cancelled and client.waiting() == []
        assert len(node.jobs()) == 2  # the node is still busy with the other one
        assert client.cancel("running")
        assert codes(node, "running") == cancelled
        node.send("coming", psi_params())
        assert codes(node, "coming") == cancelled
        assert node.jobs() == []
        assert_ended_once(node.execute("next", psi_params())["alice"], Status.SUCCESS)
        assert not client.cancel("next")
        assert client.result("next", PARTIES)["bob"].status is Status.SUCCESS


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_template_that_dies_or_is_stopped_is_replaced_and_ends_only_its_own_jobs(
    number: signal.Signals, lasting: RunningNode
) -> None:
    node, restarts = lasting, template_restarts(lasting)
    node.send(f"orphaned-{number}", training_params(epochs=500))
    wait_for(lambda: len(node.jobs()) == 2)
    first = template_of(node)
    first.send_signal(number)
    assert codes(node, f"orphaned-{number}") == dict.fromkeys(PARTIES, "JobProcessDied")
    assert_ended_once(node.execute(f"next-{number}", psi_params())["alice"], Status.SUCCESS)
    assert template_of(node).pid != first.pid
    wait_for(lambda: template_restarts(node) == restarts + 1)
    assert reasons(node.metrics_port, "/readyz") == []


def test_a_template_is_renewed_on_sighup_and_its_jobs_go_on(lasting: RunningNode) -> None:
    node, restarts = lasting, template_restarts(lasting)
    log = node.root / "node.log"
    before = len(log.read_text())
    node.send("old", training_params(epochs=8))
    wait_for(lambda: len(node.jobs()) == 2)
    first = template_of(node)
    node.process.send_signal(signal.SIGHUP)
    assert_ended_once(node.events("old")["alice"], Status.SUCCESS)
    wait_for(lambda: not is_alive(first))
    assert_ended_once(node.execute("new", psi_params())["alice"], Status.SUCCESS)
    assert template_of(node).pid != first.pid
    assert template_restarts(node) == restarts
    said = log.read_text()[before:]
    assert "template_renewed" in said and "template_replaced" not in said


def test_events_that_redis_missed_arrive_in_order_when_it_is_back(
    redis: RedisServer, lasting: RunningNode
) -> None:
    node = lasting
    node.send("away", training_params(epochs=8))
    wait_for(lambda: len(node.jobs()) == 2)
    redis.kill()
    wait_for(lambda: not node.jobs())
    redis.start()
    for events in node.events("away").values():
        assert_ended_once(events, Status.SUCCESS)  # also what the old Redis took with it
    assert_ended_once(node.execute("back", psi_params())["alice"], Status.SUCCESS)


def template_restarts(node: RunningNode) -> float:
    """How often the node has replaced a template that was gone."""
    return scrape(node.metrics_port)["template_restarts_total", ""]


def test_a_second_node_with_a_link_for_the_same_party_does_not_start(
    lasting: RunningNode, tmp_path: Path
) -> None:
    environment = os.environ | lasting.environment
    environment |= {
        "SFWORKER_PARTIES": "alice",
        "SFWORKER_PEER_LISTEN": f"127.0.0.1:{free_ports(1)[0]}",
        "SFWORKER_STATE_DIR": str(tmp_path / "second"),
        "SFWORKER_WORK_DIR": str(tmp_path / "w"),
        "SFWORKER_METRICS_LISTEN": "",
    }
    command = [Path(sys.executable).with_name("sfworker"), "start"]
    second = subprocess.run(
        command,
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert (
        second.returncode == 3 and "is the node of alice for other organisations" in second.stderr
    )


def test_a_node_that_is_told_to_stop_lets_its_job_end_and_leaves_the_queue_to_the_next(
    tmp_path: Path,
) -> None:
    write_tables(tmp_path / "data")
    with embedded_redis() as url:
        with running_node(
            tmp_path, url, SFWORKER_CONCURRENCY="1", SFWORKER_DRAIN_SECONDS="60"
        ) as node:
            node.send("running", training_params(epochs=20))
            wait_for(lambda: len(node.jobs()) == 2)
            node.send("queued", psi_params())
            assert reasons(node.metrics_port, "/readyz") == []
            for process in (template_of(node), node.process):  # as `kill %1` does
                process.send_signal(signal.SIGTERM)
            wait_for(lambda: reasons(node.metrics_port, "/readyz") == ["The node is stopping."])
            assert reasons(node.metrics_port, "/healthz") == []
            assert node.process.wait(PATIENCE_SECONDS) == 0
            assert_ended_once(node.events("running")["alice"], Status.SUCCESS)
        assert "The node has stopped." in (tmp_path / "node.log").read_text().splitlines()[-1]
        with running_node(tmp_path, url) as node:
            assert_ended_once(node.events("queued")["bob"], Status.SUCCESS)


@pytest.mark.parametrize(
    "signals", [[signal.SIGTERM], [signal.SIGTERM, signal.SIGTERM], [signal.SIGQUIT]]
)
def test_a_node_that_must_stop_ends_its_jobs_and_says_so(
    signals: list[int], tmp_path: Path
) -> None:
    write_tables(tmp_path / "data")
    drain = "0.5" if len(signals) == 1 else "600"
    with embedded_redis() as url, running_node(tmp_path, url, SFWORKER_DRAIN_SECONDS=drain) as node:
        node.send("ended", training_params(epochs=500))
        wait_for(lambda: len(node.jobs()) == 2)
        family = [*node.descendants(), *node.jobs()]
        for number in signals:
            node.process.send_signal(number)
            time.sleep(0.5)  # two at once count as one
        assert node.process.wait(PATIENCE_SECONDS) == 0
        assert codes(node, "ended") == dict.fromkeys(PARTIES, "NodeLost")
        wait_for(lambda: not any(map(is_alive, family)))
    assert list((tmp_path / "work").iterdir()) == []
