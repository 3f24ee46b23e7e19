"""Requests through Celery and events through Redis, with a node in its own process."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest
from celery import Celery

from secretflow_task.broker.celery_app import TASK_NAME
from secretflow_task.broker.embedded_redis import embedded_redis
from secretflow_task.contract.messages import Status, StatusEvent
from tests.bench.waiting import wait_for
from tests.e2e.conftest import psi_params, training_params, write_tables
from tests.e2e.nodes import RunningNode, is_alive, running_node

pytestmark = pytest.mark.engine
PSI_STAGES = [
    ("accepted", 0.0),
    ("cluster_init", 0.1),
    ("device_creation", 0.3),
    ("task_execution", 0.5),
    ("intersection", 0.55),
    ("alignment", 0.9),
    ("SUCCESS", 1.0),
]


def stages(events: list[StatusEvent]) -> list[tuple[str, float]]:
    """What the events report, in their order."""
    return [(event.data["stage"], event.data["progress"]) for event in events]


def assert_ended_once(events: list[StatusEvent], status: Status) -> None:
    """The events are numbered from 1, all RUNNING but the last, which is terminal."""
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert [event.status for event in events] == [Status.RUNNING] * (len(events) - 1) + [status]
    progress = [event.data["progress"] for event in events]
    assert progress == sorted(progress)


def test_both_argument_forms_run_and_report_every_stage_once(
    node: RunningNode, app: Celery
) -> None:
    first = app.send_task(TASK_NAME, args=["form-1", psi_params()])
    second = app.send_task(
        TASK_NAME,
        args=[psi_params() | {"execution_id": "form-2", "task_id": "t", "subtask_id": "s"}],
    )
    assert first.get(timeout=60) == {"execution_id": "form-1", "status": "SUCCESS"}
    assert second.get(timeout=60) == {"execution_id": "form-2", "status": "SUCCESS"}
    for execution_id, ids in (("form-1", (None, None)), ("form-2", ("t", "s"))):
        for party, events in node.events(execution_id).items():
            assert stages(events) == PSI_STAGES
            assert_ended_once(events, Status.SUCCESS)
            assert {(event.task_id, event.subtask_id) for event in events} == {ids}
            assert {event.worker_container for event in events} == {"node-of-the-test"}
            assert {event.task_name for event in events} == {TASK_NAME}
            assert events[-1].data["result"]["intersection_count"] == 300
            assert list(events[-1].data["result"]["output_paths"]) == [party]


def test_a_request_delivered_twice_runs_once(node: RunningNode, app: Celery) -> None:
    results = [app.send_task(TASK_NAME, args=["twice", psi_params()]) for _ in range(3)]
    assert [result.get(timeout=60)["execution_id"] for result in results] == ["twice"] * 3
    for events in node.events("twice").values():
        assert stages(events) == PSI_STAGES


def test_a_failure_says_why_and_nothing_else(node: RunningNode, app: Celery) -> None:
    result = app.send_task(
        TASK_NAME, args=["no-file", psi_params(input_paths={"alice": "in.csv", "bob": "gone.csv"})]
    )
    wait_for(result.ready)
    assert str(result.result) == "MissingFile: bob: the file of input_paths does not exist."
    assert str(node.root) not in str(result.traceback)
    for events in node.events("no-file").values():
        assert_ended_once(events, Status.FAILURE)
        data = events[-1].data
        assert (data["error_code"], data["error_type"], data["failed_party"]) == (
            "MissingFile",
            "DataError",
            "bob",
        )
        assert data["hint"]


@pytest.mark.parametrize(
    ("params", "code", "words"),
    [
        ({"task_config": {"task_type": "pis"}}, "UnknownTaskType", "did you mean 'psi'?"),
        (psi_params(reciever="alice"), "InvalidTaskConfig", "did you mean 'receiver'?"),
        (psi_params() | {"spu_config": {"protocol": "SEMI3K"}}, "UnsupportedProtocol", "SEMI3K"),
        (
            psi_params(input_paths={"alice": "in.csv", "bob": "/etc/passwd.csv"}),
            "PathNotAllowed",
            "bob",
        ),
        ({"task_config": "psi"}, "InvalidTaskConfig", "task_config"),
        ({}, "InvalidTaskConfig", "'task_config' is missing"),
    ],
)
def test_a_wrong_request_fails_at_once_at_every_party(
    node: RunningNode, params: dict[str, object], code: str, words: str
) -> None:
    execution_id = f"wrong-{abs(hash(json.dumps(params, sort_keys=True)))}"
    for events in node.execute(execution_id, params).values():
        assert [(event.status, event.seq) for event in events] == [(Status.FAILURE, 1)]
        assert events[0].data["error_code"] == code
        assert words in events[0].data["error"]
        assert "/etc" not in events[0].data["error"]
    assert_ended_once(node.execute(f"{execution_id}-next", psi_params())["bob"], Status.SUCCESS)


def test_the_node_never_loads_the_engine_and_the_jobs_are_forked_from_the_template(
    node: RunningNode,
) -> None:
    node.send("look", training_params(epochs=20))
    wait_for(lambda: len(node.jobs()) == 2)
    engine = re.compile(r"libspu|xla_extension|libpsi|/hnp?\.so")
    maps = {process.pid: Path(f"/proc/{process.pid}/maps").read_text() for process in node.jobs()}
    assert all(engine.search(text) for text in maps.values())
    assert not engine.search(Path(f"/proc/{node.process.pid}/maps").read_text())
    assert len({process.ppid() for process in node.jobs()}) == 1
    assert_ended_once(node.events("look")["alice"], Status.SUCCESS)
    wait_for(lambda: not node.jobs())


def test_a_killed_job_fails_both_parties_and_the_next_request_succeeds(node: RunningNode) -> None:
    node.send("kill", training_params(epochs=200, model="never"))
    wait_for(lambda: len(node.jobs()) == 2)
    time.sleep(1.0)
    node.jobs()[0].kill()
    for events in node.events("kill").values():
        assert_ended_once(events, Status.FAILURE)
        assert events[-1].data["error_code"] == "JobProcessDied"
        assert "SIGKILL" in events[-1].data["error"]
    assert node.jobs() == []
    assert list((node.root / "work").glob("*/*")) == []
    assert not list((node.root / "data").rglob("never")) and not list(
        (node.root / "data").rglob(".sfworker-*")
    )
    assert_ended_once(node.execute("after-kill", psi_params())["alice"], Status.SUCCESS)


def test_a_stopped_node_leaves_no_process_and_what_it_had_not_settled_fails_at_its_next_start(
    tmp_path: Path,
) -> None:
    write_tables(tmp_path / "data")
    with embedded_redis() as url:
        with running_node(tmp_path, url) as node:
            family = node.descendants()
            node.send("left", training_params(epochs=500))
            wait_for(lambda: len(node.jobs()) == 2)
            family += node.jobs()
            node.process.kill()
            wait_for(lambda: not any(map(is_alive, family)))
        with running_node(tmp_path, url) as node:
            for events in node.events("left").values():
                assert_ended_once(events, Status.FAILURE)
                assert events[-1].data["error_code"] == "NodeLost"
            assert list((tmp_path / "work").glob("*/*")) == []
            family = node.descendants()
            assert node.stop() == 0
            wait_for(lambda: not any(map(is_alive, family)))
