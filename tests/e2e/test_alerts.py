"""Dashboards and alerts show what a node under load exports, and an alert comes to its receiver."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import promql_parser as promql
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from redis import Redis

from secretflow_task.broker.keys import GROUP, STREAM
from secretflow_task.contract.errors import error_classes
from secretflow_task.contract.messages import Status
from secretflow_task.node.link.peer.certificates import make_certificate
from secretflow_task.utils.network import free_ports
from tests.bench.redis import RedisServer
from tests.bench.waiting import wait_for
from tests.contract.monitoring import (
    OF_PROMETHEUS,
    RECORDED,
    ROOT,
    Use,
    labels_of,
    program,
    selectors,
    uses,
)
from tests.contract.scraping import ask
from tests.e2e.alerting import Alerting, needs_programs
from tests.e2e.conftest import psi_params, write_tables
from tests.e2e.nodes import RunningNode, running_node
from tests.faults.field import redis_of

pytestmark = pytest.mark.engine

NO_FILE = {"input_paths": {"alice": "none.csv", "bob": "in.csv"}}
LANGUAGES = pytest.mark.parametrize("language", ["", ".zh-CN"])


@pytest.fixture(scope="module", name="redis")
def _redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_of(tmp_path_factory.mktemp("redis"), keeps_data=True).running() as server:
        yield server


@pytest.fixture(scope="module", name="node")
def _node(redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    """A node whose address book has a peer."""
    root = tmp_path_factory.mktemp("monitored")
    write_tables(root / "data")
    with running_node(root, redis.url, **link_to_carol(root)) as node:
        yield node


@pytest.fixture(scope="module", name="alerting")
def _alerting(node: RunningNode, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Alerting]:
    with Alerting(tmp_path_factory.mktemp("alerting"), node.metrics_port) as alerting:
        yield alerting


def link_to_carol(root: Path) -> dict[str, str]:
    """Settings of a node whose address book has a peer that is not there."""
    identity, fingerprint = make_certificate("carol", root)
    entry = {
        "host": "127.0.0.1",
        "port": free_ports(1)[0],
        "certificate": str(identity.certificate),
    }
    entry |= {"fingerprints": [fingerprint]}
    (root / "parties.yaml").write_text(yaml.safe_dump({"carol": entry}), encoding="utf-8")
    return {
        "SFWORKER_PEER_LISTEN": f"127.0.0.1:{free_ports(1)[0]}",
        "SFWORKER_PEERS_FILE": str(root / "parties.yaml"),
        "SFWORKER_PEER_CERTIFICATE": str(identity.certificate),
        "SFWORKER_PEER_KEY": str(identity.key),
    }


def load(node: RunningNode, name: str) -> None:
    """Let a request fail and others succeed, until one of their jobs is weighed."""
    bad = node.execute(f"{name}-bad", psi_params(**NO_FILE))
    assert bad["alice"][-1].data["error_code"] == "MissingFile"
    for number in range(20):
        good = node.execute(f"{name}-good-{number}", psi_params())
        assert good["alice"][-1].status is Status.SUCCESS
        if "sfworker_job_peak_memory_bytes_bucket" in exported(node):
            return
    raise AssertionError("no job was weighed")


def chosen(use: Use, instance: str) -> str:
    """An expression as Grafana sends it after a reader's choices at the head of a dashboard."""
    choices = {"task_type": "psi", "instance": instance, "__rate_interval": "1m"}
    return re.sub(r"\$(\w+)", lambda found: choices[found[1]], use.expression)


def exported(node: RunningNode) -> dict[str, list[dict[str, str]]]:
    """The labels of each series that a node exports, by metric, and those Prometheus adds."""
    found: dict[str, list[dict[str, str]]] = {}
    for family in text_string_to_metric_families(ask(node.metrics_port, "/metrics")[1]):
        for sample in family.samples:
            found.setdefault(sample.name, []).append(
                sample.labels | {"job": "sfworker", "instance": "it"}
            )
    return found


def test_no_panel_and_no_alert_names_what_a_node_does_not_export(
    node: RunningNode, redis: RedisServer
) -> None:
    load(node, "named")
    with Redis.from_url(redis.url) as client:
        client.xgroup_create(STREAM, GROUP)  # as a listener does
        series = exported(node)
        client.xgroup_destroy(STREAM, GROUP)
    known = OF_PROMETHEUS | {name: set().union(*labels) for name, labels in series.items()}
    for use in uses():
        expression = chosen(use, "it")
        labels = labels_of(promql.parse(expression), known)
        assert use.labels <= labels, f"{use.where} shows {use.labels - labels}"
        if use.where in RECORDED:  # these come first, each after those that it reads
            known |= {use.where: labels}
        for selector in selectors(expression):
            check_values(selector, series.get(str(selector.name), []))


def check_values(selector: promql.VectorSelector, series: list[dict[str, str]]) -> None:
    """A value that a selector asks for is there; a code or a kind of errors could be."""
    for matcher in selector.matchers.matchers if series else ():
        there = {labels.get(matcher.name, "") for labels in series}
        if matcher.name == "code":
            there |= set(error_classes())
        if matcher.name == "error_type":
            there |= {kind("").family for kind in error_classes().values()}
        values = set(matcher.value.split("|"))  # what stands in our patterns
        assert values <= there, f"{selector}: {matcher.name} is never {values - there}"


@needs_programs
def test_every_panel_shows_something(node: RunningNode, alerting: Alerting) -> None:
    load(node, "shown")
    instance = f"127.0.0.1:{node.metrics_port}"
    drawn = [use for use in uses() if ": " in use.where and "ALERTS" not in use.expression]
    assert len(drawn) > 50
    empty = {use: chosen(use, instance) for use in drawn}

    def all_are_drawn() -> bool:
        for use in [use for use, expression in empty.items() if alerting.query(expression)]:
            del empty[use]
        return not empty

    with suppress(AssertionError):
        wait_for(all_are_drawn)
    assert not empty


@needs_programs
def test_an_alert_comes_to_the_webhook_and_is_called_off(
    redis: RedisServer, alerting: Alerting
) -> None:
    redis.kill()
    fired = alerting.hears("SfworkerRedisAway", "firing", severity="critical")
    redis.start()
    alerting.hears("SfworkerRedisAway", "resolved", since=fired)


@needs_programs
@pytest.mark.skipif(program("amtool") is None, reason="amtool is not installed")
@LANGUAGES
def test_the_command_of_the_guide_tries_the_way_to_the_receiver(
    language: str, alerting: Alerting
) -> None:
    text = (ROOT / "docs" / "ops_guide" / f"monitoring{language}.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"^amtool alert add .*$", text, re.M)
    url, trial = f"--alertmanager.url={alerting.alertmanager_url}", f"alertname=Trial{language}"
    changes = {"--alertmanager.url=http://localhost:9093": url, "alertname=Trial": trial}
    words = [changes.get(word, word) for word in command.split()]
    assert {url, trial} <= set(words)
    subprocess.run(words, check=True, capture_output=True)
    alerting.hears(f"Trial{language}", "firing")
