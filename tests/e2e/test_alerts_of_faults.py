"""Faults, caused for real: the alert of each comes to a webhook, and is called off."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Iterator

import pytest

from tests.bench.disks import disk, fill
from tests.bench.waiting import wait_for
from tests.e2e.alerting import Alerting, needs_programs
from tests.e2e.conftest import psi_params, training_params
from tests.e2e.nodes import RunningNode
from tests.faults.field import Field, check_events
from tests.faults.report import Report

pytestmark = [pytest.mark.matrix, pytest.mark.engine, needs_programs]

NO_FILE = {"input_paths": {"alice": "none.csv", "bob": "in.csv"}}


@dataclass(frozen=True)
class Scene:
    """A node with one slot, its Redis, and what watches it."""

    field: Field
    node: RunningNode
    alerting: Alerting


@pytest.fixture(scope="module", name="scene")
def _scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    root, watch = tmp_path_factory.mktemp("node"), tmp_path_factory.mktemp("watch")
    with disk(root / "data"):
        field = Field(root, Report(), keeps_data=True)
        with field.redis.running(), field.node(SFWORKER_CONCURRENCY="1") as node:
            with Alerting(watch, node.metrics_port) as alerting:
                yield Scene(field, node, alerting)


def test_a_node_that_hangs(scene: Scene) -> None:
    scene.node.process.suspend()
    fired = scene.alerting.hears("SfworkerNodeDown", "firing", severity="critical")
    scene.node.process.resume()
    scene.alerting.hears("SfworkerNodeDown", "resolved", since=fired)


def test_a_disk_that_is_full(scene: Scene) -> None:
    filler = fill(scene.field.root / "data")
    fired = scene.alerting.hears("SfworkerDiskFull", "firing", folder="data")
    filler.unlink()
    scene.alerting.hears("SfworkerDiskFull", "resolved", since=fired, folder="data")


def test_requests_that_fail(scene: Scene) -> None:
    for number in range(6):
        scene.node.send(f"bad-{number}", psi_params(**NO_FILE))
    fired = scene.alerting.hears("SfworkerFailureRate", "firing")
    scene.alerting.hears("SfworkerFailureRate", "resolved", since=fired)


def test_jobs_that_die(scene: Scene) -> None:
    for number in range(3):
        scene.node.send(f"killed-{number}", training_params(epochs=2000))
        wait_for(scene.field.jobs)
        scene.field.jobs()[0].kill()
        assert (
            scene.field.ended(f"killed-{number}")["alice"][-1].data["error_code"]
            == "JobProcessDied"
        )
    fired = scene.alerting.hears("SfworkerFaults", "firing")
    scene.alerting.hears("SfworkerFaults", "resolved", since=fired)


def test_a_queue_that_grows(scene: Scene) -> None:
    scene.node.send("long", training_params(epochs=10_000))
    wait_for(scene.field.jobs)
    for number in range(12):
        scene.node.send(f"first-{number}", psi_params())
    sent, before = 0, len(scene.alerting.notices)
    while not any(name == "SfworkerQueueGrowing" for name, *_ in scene.alerting.notices[before:]):
        assert sent < 120, "the alert does not come"
        scene.node.send(f"more-{sent}", psi_params())
        sent += 1
        time.sleep(1.0)
    fired = len(scene.alerting.notices)
    with scene.field.redis.client() as redis, scene.field.client() as client:
        redis.delete("secretflow_queue")
        client.cancel("long")
    scene.alerting.hears("SfworkerQueueGrowing", "resolved", since=fired)


def test_a_redis_that_stores_nothing(scene: Scene) -> None:
    """It answers, so that only the age of the waiting events tells."""
    scene.node.send("unheard", training_params(epochs=2000))
    wait_for(scene.field.jobs)
    with scene.field.redis.client() as redis:
        redis.config_set("maxmemory", 1)
        fired = scene.alerting.hears("SfworkerStatusDelayed", "firing", severity="critical")
        redis.config_set("maxmemory", 0)
    scene.alerting.hears("SfworkerStatusDelayed", "resolved", since=fired)
    with scene.field.client() as client:
        client.cancel("unheard")
    for events in scene.field.ended("unheard").values():
        check_events(events)
