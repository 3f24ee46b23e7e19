"""What a real node and real jobs write, and the commands of the guide that show it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Mapping

import pytest
from celery import Celery
from kombu import Connection

from scripts.reference import events as reference
from scripts.reference import log_actions
from secretflow_task.contract.messages import Status, StatusEvent
from tests.bench.waiting import wait_for
from tests.e2e.conftest import psi_params, training_params
from tests.e2e.nodes import RunningNode
from tests.e2e.test_cli import sfworker

pytestmark = pytest.mark.engine
GUIDE = Path(__file__).parents[2] / "docs" / "ops_guide" / "logs.md"
STAGES = ["prepare", "cluster_init", "device_creation", "task_execution"]


def records(node: RunningNode, execution_id: str) -> list[dict[str, Any]]:
    """What the node has logged about an execution, once it has logged its end."""
    lines = (node.root / "node.log").read_text().splitlines()
    found = [json.loads(line) for line in lines if f'"{execution_id}"' in line]
    return [record for record in found if record["execution_id"] == execution_id]


def ended(node: RunningNode, execution_id: str) -> list[dict[str, Any]]:
    """As `records`, when the last of them is there."""
    wait_for(
        lambda: "execution_ended" in [record["action"] for record in records(node, execution_id)]
    )
    return records(node, execution_id)


def assert_events_are_as_told(events: Mapping[str, list[StatusEvent]]) -> None:
    """Their data has the keys and the stages of the reference."""
    for event in (event for told in events.values() for event in told):
        assert set(event.data) <= set(reference.DATA[event.status])
        assert event.status is not Status.RUNNING or event.data["stage"] in reference.STAGES


def test_a_node_logs_the_stages_of_a_workflow_and_the_result_tells_the_same(
    node: RunningNode,
) -> None:
    events = node.execute("logged", training_params(epochs=1, model="logged"))
    first, *stages, last = ended(node, "logged")
    assert (first["action"], last["action"], last["status"]) == (
        "execution_started",
        "execution_ended",
        "SUCCESS",
    )
    for party, told in events.items():
        timings = told[-1].data["result"]["timings"]
        assert set(timings) == {*STAGES, "alignment", "psi", "train"}
        assert (
            timings["psi"] + timings["train"]
            <= timings["task_execution"] + 0.01
            <= last["seconds"] + 0.01
        )
        logged: dict[str, float] = {}
        for record in stages:
            if record["party"] == party:
                logged[record["stage"]] = logged.get(record["stage"], 0.0) + record["seconds"]
        assert logged == pytest.approx(timings, abs=0.01)
    assert {record["task_type"] for record in [first, *stages, last]} == {"workflow"}
    assert_events_are_as_told(events)


def test_real_events_and_records_are_as_the_references_say(node: RunningNode) -> None:
    events = node.execute("told", psi_params(input_paths={"alice": "in.csv", "bob": "gone.csv"}))
    known = {record.action: set(record.fields) for record in log_actions.records()}
    common = {
        "timestamp",
        "level",
        "action",
        "message",
        "execution_id",
        "task_request_id",
        "task_type",
    }
    for record in ended(node, "told"):
        assert set(record) - common - {"party"} <= known[record["action"]] and common <= set(record)
    assert_events_are_as_told(events)
    failure = events["bob"][-1].data
    assert set(failure) == set(reference.DATA[Status.FAILURE]) - {"step", "cancelled"}
    assert list(failure["timings"]) == ["prepare"]


def test_the_commands_of_the_guide_show_the_logs(node: RunningNode) -> None:
    node.execute("shown", psi_params())
    ended(node, "shown")
    commands = re.findall(r"^sfworker (logs ID.*)$", GUIDE.read_text(encoding="utf-8"), re.M)
    shown = [
        sfworker(*command.replace("ID", "shown").split(), **node.environment)
        for command in commands
    ]
    assert [(done.returncode, done.stderr) for done in shown] == [(0, "")] * 4
    all_jobs, of_alice, followed, of_node = (done.stdout for done in shown)
    assert sorted(followed.splitlines()) == sorted(all_jobs.splitlines())
    assert {line.partition(" | ")[0] for line in all_jobs.splitlines()} == {"alice", "bob"}
    own = [json.loads(line) for line in of_alice.splitlines() if line.startswith('{"')]
    assert [record["action"] for record in own] == [
        "job_started",
        *["job_stage_ended"] * len([*STAGES, "alignment"]),
        "job_succeeded",
    ]
    assert "PsiReceiver" in of_alice  # what the engine itself says
    assert [json.loads(line)["execution_id"] for line in of_node.splitlines()] == ["shown"] * 12
    typo = sfworker("logs", "shwon", **node.environment)
    assert (typo.returncode, "did you mean 'shown'?" in typo.stderr) == (3, True)


def test_a_message_that_is_no_request_is_logged_without_what_it_holds(
    node: RunningNode, app: Celery
) -> None:
    app.send_task("no.such.task", args=["secret-4711"])
    with Connection(node.environment["SFWORKER_REDIS_URL"]) as connection:
        with connection.SimpleQueue("secretflow_queue") as queue:
            queue.put({"x": "secret-4711"}, serializer="json")
            queue.put(
                {"x": "secret-4711"}, serializer="pickle", headers={"argsrepr": "secret-4711"}
            )
    log = node.root / "node.log"
    wait_for(lambda: log.read_text().count('"entry_rejected"') == 3)
    assert "secret-4711" not in log.read_text()
    assert all(json.loads(line)["action"] for line in log.read_text().splitlines())
