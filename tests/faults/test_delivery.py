"""Requests that come several times, in great numbers, or are cancelled at any moment."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from secretflow_task.contract.requests import TaskRequest
from tests.bench.waiting import wait_for
from tests.e2e.conftest import psi_params, training_params
from tests.faults.field import Field
from tests.faults.report import Report

pytestmark = [pytest.mark.faults, pytest.mark.engine]

QUEUED, CANCELLED = 500, 50


def own_output(number: int) -> dict[str, object]:
    """An intersection that writes to files of its own."""
    return psi_params(output_paths={party: f"out-{number}.csv" for party in ("alice", "bob")})


def test_a_request_that_is_delivered_five_times(tmp_path: Path, report: Report) -> None:
    field = Field(tmp_path, report)
    with field.redis.running(), field.node() as node:
        struck = time.time()
        for _ in range(5):
            node.send("it", psi_params())
        field.settle("delivered five times", struck, {"it": {""}})


def test_a_request_that_is_cancelled_before_while_and_after_it_runs(
    tmp_path: Path, moments: int, dice: random.Random, report: Report
) -> None:
    field = Field(tmp_path, report)
    with field.redis.running(), field.node() as node, field.client() as client:
        client.cancel("before")
        struck = time.time()
        node.send("before", psi_params())
        field.settle("cancelled before it runs", struck, {"before": {"TaskCancelled"}})
        for moment in range(moments):
            name = f"while-{moment}"
            node.send(name, training_params(epochs=100, model=name))
            wait_for(field.jobs)
            time.sleep(dice.uniform(0.0, 4.0))
            struck = time.time()
            assert client.cancel(name)
            field.settle("cancelled while it runs", struck, {name: {"TaskCancelled"}})
        field.serves(node, "after")
        struck = time.time()
        assert not client.cancel("after")
        field.settle("cancelled after it ran", struck, {"after": {""}})


def test_many_queued_requests_of_which_some_are_cancelled(
    tmp_path: Path, dice: random.Random, report: Report
) -> None:
    field = Field(tmp_path, report)
    names = [f"q-{number}" for number in range(QUEUED)]
    cancelled = set(dice.sample(names[20:], CANCELLED))
    with field.redis.running():
        with field.client() as client:
            for number, name in enumerate(names):
                client.submit(TaskRequest(name, name, own_output(number)))
            for name in cancelled:
                client._redis.set(
                    f"sfworker:cancelled:{name}", "1"
                )  # as `cancel`, without waiting for nodes
        with field.node(SFWORKER_CONCURRENCY="4"):
            struck = time.time()
            codes = {name: {"TaskCancelled"} if name in cancelled else {""} for name in names}
            field.settle(f"{QUEUED} queued, {CANCELLED} cancelled", struck, codes, seconds=900.0)


def test_a_time_limit_of_one_second(tmp_path: Path, report: Report) -> None:
    field = Field(tmp_path, report)
    with field.redis.running(), field.node() as node:
        struck = time.time()
        node.send("it", training_params(epochs=300) | {"timeout_seconds": 1.0})
        field.settle("time limit of 1 s", struck, {"it": {"TaskTimeout"}})
        field.serves(node, "next")
