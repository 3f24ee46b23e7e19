"""What a node says of itself over HTTP, with a real Redis, whatever happens to either."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Callable, Iterator, Mapping

import pytest
from redis import Redis

from scripts.reference.metrics import metrics as metrics_of_the_reference
from secretflow_task.broker.celery_app import SENT_AT, TASK_NAME, create_app, redeliver
from secretflow_task.broker.keys import GROUP, STREAM
from secretflow_task.cli.doctor import examine
from secretflow_task.config.settings import Settings
from secretflow_task.contract.errors import BadSetting
from secretflow_task.node.assembly import assembled
from secretflow_task.node.health import TEMPLATE_MISSING
from secretflow_task.node.metrics import server as monitor_module
from secretflow_task.node.metrics.counters import Metrics
from secretflow_task.node.metrics.server import Monitor
from secretflow_task.node.node import Node
from secretflow_task.node.ownership import Lease, RedisOwnership
from secretflow_task.node.publisher import Publisher
from secretflow_task.node.running import RunningExecutions
from secretflow_task.node.store.event_store import EventStore
from secretflow_task.testing import ScriptedTemplate
from tests.bench.waiting import wait_for
from tests.contract.scraping import ask, described, reasons, scrape
from tests.unit.node.metrics.test_counters import stay
from tests.unit.node.test_node import PSI, Bench, fail, succeed

REFUSED = {"task_config": {"task_type": "psi"}}


@dataclass
class Rig:
    """A node with scripted jobs, its publisher and its monitor, on a Redis."""

    node: Node
    publisher: Publisher
    monitor: Monitor
    bench: Bench
    redis: Redis
    stopping: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def paused_redis(self) -> Iterator[None]:
        """A Redis that takes connections and answers nothing."""
        server = self.redis.info("server")["process_id"]
        os.kill(server, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(server, signal.SIGCONT)

    def until(self, name: str, condition: Callable[[float], bool], labels: str = "") -> None:
        """Scrape until the value of a series is as it should be."""
        wait_for(lambda: condition(scrape(self.monitor.port).get((name, labels), -1.0)))


def bench_on(url: str, root: Path, **changes: Any) -> Bench:
    """A bench whose node listens on any free port."""
    bench = Bench(root)
    values = (
        bench.settings.model_dump() | {"redis_url": url, "metrics_listen": "127.0.0.1:0"} | changes
    )
    bench.settings = Settings(**values)
    return bench


@contextmanager
def shared_node(bench: Bench, redis: Redis, metrics: Metrics) -> Iterator[Node]:
    """A running node with scripted jobs that shares its requests with others on the same Redis."""
    template: Any = ScriptedTemplate(succeed)
    bench.template = template
    with EventStore(bench.settings.state_dir) as store:
        running = RunningExecutions(store)
        ownership = RedisOwnership(redis, store.node_id)
        with (
            assembled(
                bench.settings,
                store,
                running,
                ownership,
                bench.tell,
                template=template,
                metrics=metrics,
            ) as node,
            Lease(ownership, node, partial(redeliver, bench.settings)),
            node,
        ):
            yield node


@pytest.fixture
def rig(url: str, tmp_path: Path) -> Iterator[Rig]:
    """Everything, as `sfworker start` puts it together, but for Celery."""
    bench, metrics = bench_on(url, tmp_path), Metrics()
    with (
        Redis.from_url(url, socket_timeout=0.5) as redis,
        Monitor(bench.settings, metrics) as monitor,
        shared_node(bench, redis, metrics) as node,
        Publisher(node.store, redis, maxlen=1000, on_sent=metrics.published) as publisher,
    ):
        redis.flushall()
        metrics.know_peers(["carol"])
        rig = Rig(node, publisher, monitor, bench, redis)
        bench.listeners.append(lambda event: publisher.wake())
        monitor.watch(node, publisher, rig.stopping.is_set)
        yield rig
        monitor.close()


def test_what_is_exposed_is_what_the_reference_says(rig: Rig) -> None:
    rig.bench.template._script = stay
    rig.node.execute("r-1", PSI, sent_at=time.time())
    rig.bench.template._script = fail
    rig.node.execute("r-2", PSI)
    rig.node.execute("r-3", REFUSED)
    rig.redis.xgroup_create(STREAM, GROUP, id="0", mkstream=True)
    exposed = described(rig.monitor.port)
    assert exposed == {
        metric.name: (metric.kind, frozenset(metric.labels))
        for metric in metrics_of_the_reference()
    }


def test_every_execution_counts_once_and_every_event_of_it_comes_to_redis(rig: Rig) -> None:
    rig.node.execute("r-1", PSI)
    rig.bench.template._script = fail
    rig.node.execute("r-2", PSI)
    rig.node.execute("r-3", REFUSED)
    rig.until("events_published_total", lambda value: value == 4, "FAILURE")
    found = scrape(rig.monitor.port)
    ended = {labels: count for (name, labels), count in found.items() if name == "executions_total"}
    assert {labels: count for labels, count in ended.items() if count} == {
        "  success psi": 1,
        "AlgorithmError AlgorithmError failure psi": 1,
        "InvalidTaskConfig RequestError failure psi": 1,
    }
    for status, events in {"RUNNING": 6, "SUCCESS": 2, "FAILURE": 4}.items():
        assert found["events_stored_total", status] == events
        assert found["events_published_total", status] == events
    assert found["executions_limit", ""] == 2 and found["executions_running", ""] == 0
    assert found["disk_size_bytes", "state"] >= found["disk_free_bytes", "state"] > 0
    assert reasons(rig.monitor.port, "/readyz") == reasons(rig.monitor.port, "/healthz") == []


def test_a_paused_redis_holds_up_no_answer_and_is_told(rig: Rig) -> None:
    rig.node.execute("r-1", PSI)
    rig.until("outbox_events", lambda value: value == 0)
    with rig.paused_redis():
        found = scrape(rig.monitor.port)
        assert found["redis_up", ""] == 0
        assert ("queue_length", "secretflow_queue") not in found
        assert reasons(rig.monitor.port, "/readyz") == ["Redis does not answer."]
        assert reasons(rig.monitor.port, "/healthz") == []
        rig.node.execute("r-2", REFUSED)
        rig.until("publish_failures_total", lambda value: value >= 1)
        waiting = scrape(rig.monitor.port)
        assert waiting["outbox_events", ""] == 2
        assert waiting["outbox_oldest_seconds", ""] > 0
    rig.until("outbox_events", lambda value: value == 0)
    rig.until("redis_up", lambda value: value == 1)
    assert scrape(rig.monitor.port)["outbox_oldest_seconds", ""] == 0
    assert scrape(rig.monitor.port)["queue_length", "secretflow_queue"] == 0


def test_the_length_of_a_queue_counts_every_priority(rig: Rig) -> None:
    with create_app(rig.bench.settings) as app:
        for priority in (None, 3, 9):
            app.send_task(TASK_NAME, args=["r-1", {}], priority=priority, ignore_result=True)
        rig.until("queue_length", lambda value: value == 3, "secretflow_queue")


def test_a_queue_is_as_old_as_the_request_that_is_taken_next(rig: Rig) -> None:
    rig.until("queue_oldest_seconds", lambda value: value == 0, "secretflow_queue")
    with create_app(rig.bench.settings) as app:
        for age in (1000.0, 0.0):
            headers = {SENT_AT: time.time() - age}
            app.send_task(TASK_NAME, args=["r-1", {}], headers=headers, ignore_result=True)
    rig.until("queue_oldest_seconds", lambda value: value >= 1000, "secretflow_queue")
    rig.redis.rpop("secretflow_queue")
    rig.until("queue_oldest_seconds", lambda value: 0 <= value < 1000, "secretflow_queue")


def test_a_listener_lags_by_the_oldest_event_that_it_has_not_written(rig: Rig) -> None:
    def lag() -> float | None:
        return scrape(rig.monitor.port).get(("listener_lag_seconds", GROUP))

    now, raw = int(rig.redis.time()[0]), Redis.from_url(
        rig.bench.settings.redis_url.get_secret_value()
    )
    assert lag() is None
    for age in (3600, 600):
        rig.redis.xadd(STREAM, {"event": "x"}, id=f"{(now - age) * 1000}-0")
    assert lag() is None
    rig.redis.xgroup_create(STREAM, GROUP, id="0")
    assert 3600 <= (lag() or 0) < 3700
    ((_, entries),) = raw.xreadgroup(GROUP, "one", {STREAM: ">"}, count=1)
    assert 3600 <= (lag() or 0) < 3700  # read, and not written
    rig.redis.xack(STREAM, GROUP, entries[0][0])
    assert 600 <= (lag() or 0) < 700
    ((_, entries),) = raw.xreadgroup(GROUP, "one", {STREAM: ">"}, count=1)
    rig.redis.xack(STREAM, GROUP, entries[0][0])
    assert lag() == 0
    assert scrape(rig.monitor.port)["redis_up", ""] == 1
    raw.close()


def test_a_node_without_a_template_or_that_stops_is_not_ready_and_lives(rig: Rig) -> None:
    assert scrape(rig.monitor.port)["template_ready", ""] == 1
    rig.bench.template.ready = False
    assert scrape(rig.monitor.port)["template_ready", ""] == 0
    rig.stopping.set()
    assert reasons(rig.monitor.port, "/readyz") == [
        "The template has ended; another is started.",
        "The node is stopping.",
    ]
    assert reasons(rig.monitor.port, "/healthz") == []


def test_what_a_node_cannot_do_is_told_wherever_its_operator_looks(
    rig: Rig, capsys: pytest.CaptureFixture[str]
) -> None:
    def doctor_says() -> str:
        examine(rig.bench.settings)
        return capsys.readouterr().out

    wait_for(lambda: "node-1" in doctor_says())
    assert scrape(rig.monitor.port)["problem", "TemplateMissing"] == 0
    rig.bench.template.ready = False
    assert scrape(rig.monitor.port)["problem", "TemplateMissing"] == 1
    status, body = ask(rig.monitor.port, "/readyz")
    assert (status, json.loads(body)["problems"]) == (503, [TEMPLATE_MISSING.to_dict()])
    wait_for(lambda: TEMPLATE_MISSING.code in doctor_says())


def test_a_thread_that_has_ended_is_told(rig: Rig) -> None:
    rig.publisher.close()
    assert reasons(rig.monitor.port, "/healthz") == ["The thread status-publisher has ended."]


def test_before_its_start_a_node_lives_and_is_not_ready(url: str, tmp_path: Path) -> None:
    with Monitor(bench_on(url, tmp_path).settings, Metrics()) as monitor:
        assert reasons(monitor.port, "/readyz") == ["The node is starting."]
        assert reasons(monitor.port, "/healthz") == []
        assert scrape(monitor.port)["executions_total", "  success psi"] == 0
        assert ask(monitor.port, "/")[0] == ask(monitor.port, "/metrics/x")[0] == 404


def test_after_the_end_nobody_answers(url: str, tmp_path: Path) -> None:
    with Monitor(bench_on(url, tmp_path).settings, Metrics()) as monitor:
        port = monitor.port
        monitor.close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=5)


def test_without_an_address_nothing_is_listened_on(url: str, tmp_path: Path) -> None:
    with Monitor(bench_on(url, tmp_path, metrics_listen="").settings, Metrics()) as monitor:
        assert monitor.port == 0


def test_a_port_that_is_taken_is_a_bad_setting(url: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(BadSetting, match=f"SFWORKER_METRICS_LISTEN: {address}"):
            with Monitor(bench_on(url, tmp_path, metrics_listen=address).settings, Metrics()):
                pass


def test_clients_that_say_nothing_do_not_keep_others_from_an_answer(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        monitor_module._Handler, "timeout", 3.0
    )  # for the scrape too, which may be slow
    silent = [socket.create_connection(("127.0.0.1", rig.monitor.port)) for _ in range(6)]
    assert scrape(rig.monitor.port)["redis_up", ""] == 1
    for connection in silent:
        connection.close()


def trickle(connections: list[socket.socket], ended: threading.Event) -> None:
    """Send a byte now and then, more often than the server stops waiting for one."""
    while not ended.wait(0.1):
        for connection in connections:
            with suppress(OSError):
                connection.send(b"G")


def test_clients_that_send_byte_by_byte_do_not_keep_others_from_an_answer(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitor_module._Handler, "timeout", 3.0)
    slow = [socket.create_connection(("127.0.0.1", rig.monitor.port)) for _ in range(6)]
    ended = threading.Event()
    sender = threading.Thread(target=trickle, args=(slow, ended))
    sender.start()
    try:
        assert scrape(rig.monitor.port)["redis_up", ""] == 1
    finally:
        ended.set()
        sender.join()
        for connection in slow:
            connection.close()


def test_clients_that_say_nothing_do_not_hold_up_the_end(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitor_module, "_REQUEST_SECONDS", 0.1)
    monkeypatch.setattr(monitor_module, "_FAREWELL_SECONDS", 0.1)
    monkeypatch.setattr(monitor_module._Handler, "timeout", 3600.0)
    port = rig.monitor.port
    silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(6)]
    rig.monitor.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5)
    for connection in silent:
        connection.close()


def many_requests(count: int) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Requests that differ in their ids, and in what nobody knows."""
    for number in range(count):
        task_type = ("psi", f"unknown-{number}", "")[number % 3]
        yield f"many-{number}", {"task_config": {"task_type": task_type, f"key-{number}": number}}


def test_a_thousand_executions_leave_the_number_of_series(rig: Rig) -> None:
    rig.node.execute("r-1", PSI, sent_at=time.time())
    for execution_id, params in many_requests(3):
        rig.node.execute(f"first-{execution_id}", params, sent_at=time.time())
    before = scrape(rig.monitor.port)
    for execution_id, params in many_requests(1000):
        rig.node.execute(execution_id, params, sent_at=time.time())
    after = scrape(rig.monitor.port)
    assert after.keys() == before.keys()
    assert sum(after[key] - before[key] for key in after if key[0] == "executions_total") == 1000
