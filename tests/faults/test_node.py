"""Whatever happens to a node, what it had taken ends once, and what it had not is run."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import pytest

from tests.bench.waiting import wait_for
from tests.e2e.conftest import psi_params, training_params
from tests.e2e.nodes import RunningNode, template_of
from tests.faults.field import Field
from tests.faults.report import Report

pytestmark = [pytest.mark.faults, pytest.mark.engine]

EITHER = {"", "NodeLost"}
WITHIN_SECONDS = 30.0


def reach(state: str, field: Field, node: RunningNode, dice: random.Random) -> dict[str, set[str]]:
    """Send requests, wait until the last is in a state; returns them with possible codes."""
    if state == "queued":
        node.send("before", training_params(epochs=200))
        wait_for(field.jobs)
        node.send("it", psi_params())
        time.sleep(dice.uniform(0.0, 1.0))
        return {"before": EITHER, "it": {""}}
    node.send("it", training_params(epochs=200 if state == "running" else 1))
    wait_for(field.jobs)
    if state == "running":
        time.sleep(dice.uniform(1.0, 3.0))
    elif state == "settling":
        wait_for(lambda: not field.jobs())
    return {"it": EITHER}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("state", ["queued", "prepared", "running", "settling"])
def test_a_node_that_ends_in_any_state_and_starts_again(
    state: str,
    number: signal.Signals,
    tmp_path: Path,
    moments: int,
    dice: random.Random,
    report: Report,
) -> None:
    for moment in range(max(1, moments // 7)):
        field = Field(tmp_path / str(moment), report)
        with field.redis.running():
            with field.node(SFWORKER_CONCURRENCY="1", SFWORKER_DRAIN_SECONDS="1") as node:
                executions = reach(state, field, node, dice)
                struck = time.time()
                node.process.send_signal(number)
                node.process.wait(60)
            with field.node() as node:
                field.settle(
                    f"{number.name} of a node, {state}", struck, executions, within=WITHIN_SECONDS
                )
                field.serves(node, "next")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_template_that_is_killed_or_stopped(
    number: signal.Signals, tmp_path: Path, moments: int, dice: random.Random, report: Report
) -> None:
    field = Field(tmp_path, report)
    with field.redis.running(), field.node() as node:
        for moment in range(max(1, moments // 2)):
            name = f"it-{moment}"
            node.send(name, training_params(epochs=200))
            wait_for(lambda: len(field.jobs()) == 2)
            time.sleep(dice.uniform(0.0, 2.0))
            struck = time.time()
            template_of(node).send_signal(number)
            codes = {name: {"JobProcessDied"}}
            field.settle(f"{number.name} of a template", struck, codes, within=WITHIN_SECONDS)
            field.serves(node, f"next-{moment}")


@pytest.mark.parametrize("reconnected", [False, True])
def test_of_two_nodes_on_one_queue_one_is_killed(
    reconnected: bool, tmp_path: Path, moments: int, dice: random.Random, report: Report
) -> None:
    fault = "SIGKILL of one of two nodes" + ", which had to reconnect" * reconnected
    for moment in range(max(1, moments // 7)):
        field = Field(tmp_path / str(moment), report)
        with field.redis.running(), field.node("one", SFWORKER_CONCURRENCY="1") as first:
            first.send("it", training_params(epochs=500))
            wait_for(field.jobs)
            work = str(field.root / "work-two")
            with field.node("two", SFWORKER_CONCURRENCY="1", SFWORKER_WORK_DIR=work) as second:
                if reconnected:  # Celery delivers again, and then knows no more of what runs
                    with field.redis.client() as client:
                        client.client_kill_filter(_type="normal", skipme=True)
                time.sleep(
                    16 + dice.uniform(0.0, 5.0)
                )  # the second must have been in touch for a while
                struck = time.time()
                first.process.kill()
                first.process.wait(10)
                second.send("other", psi_params())
                field.ended("it", 40.0)
                with field.node("one"):  # which cleans up what it left
                    codes = {"it": {"NodeLost"}, "other": {""}}
                    field.settle(fault, struck, codes, within=WITHIN_SECONDS)
