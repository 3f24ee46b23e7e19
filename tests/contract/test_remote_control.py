"""Of what Celery's remote control can say to a node, it hears cancel, revoke and ping."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from secretflow_task.broker.celery_app import CANCEL_COMMAND
from secretflow_task.utils.network import free_ports
from tests.bench.entries import message, nested
from tests.bench.redis import RedisServer
from tests.bench.stand_in import COMMAND, ENDLESS
from tests.bench.waiting import PATIENCE_SECONDS, wait_for
from tests.bench.web_application import WebApplication
from tests.contract.scraping import scrape
from tests.e2e.nodes import RunningNode, is_alive, running_node

CHANNEL = "/0.celery.pidbox"
NAME = "sfworker@node-of-the-test"
OTHERS: dict[str, dict[str, Any]] = {
    "shutdown": {},
    "add_consumer": {"queue": "secretflow_queue.eve"},
    "cancel_consumer": {"queue": "secretflow_queue"},
    "rate_limit": {"task_name": "tasks.secretflow.execute_task", "rate_limit": "1/h"},
    "time_limit": {"task_name": "tasks.secretflow.execute_task", "hard": 1},
    "pool_shrink": {"n": 9},
    "pool_restart": {},
    "autoscale": {"max": 1, "min": 0},
    "disable_events": {},
    "election": {"id": "1", "topic": "x"},
    "revoke_by_stamped_headers": {"headers": {"a": "b"}},
    "no_such_command": {},
    "active": {},
    "conf": {},
}


def command(method: Any, **fields: Any) -> str:
    """A command as Celery publishes it, with further fields."""
    body = {"method": method, "arguments": {}, "destination": None} | fields
    return json.dumps(message([], body=json.dumps(body).encode()))


HARMLESS = [  # they are obeyed, as far as they can be
    command("ping", arguments=[]),
    command("ping", arguments={"more": 1}),
    command(CANCEL_COMMAND, arguments={"execution_id": ["e"]}),
    command("revoke", arguments={"task_id": [1, None, {"a": []}]}),
]
GARBAGE: list[bytes | str] = [
    *HARMLESS,
    b"",
    b"hello",
    b"\xff\xfe\x00",
    b"[]",
    b"null",
    b"{}",
    nested(5000),
    json.dumps({"body": "e30=", "properties": {}, "headers": {}}),
    json.dumps(message([], body=b"[]")),
    json.dumps(message([], body="!!!")),
    json.dumps(message([], body=nested(900).encode())),
    command(["ping"]),
    command("ping", destination="everybody"),
    command("ping", destination={"a": 1}),
    command("ping", reply_to=5),
    command("ping", reply_to={"exchange": "reply.celery.pidbox"}),
    command("ping", pattern="(a+)+$", matcher="regex"),
    command(CANCEL_COMMAND),
    command("x" * 70_000),
]


def ignored(node: RunningNode) -> float:
    """How many commands were not obeyed."""
    return scrape(node.metrics_port)["commands_ignored_total", ""]


def test_a_node_obeys_cancel_revoke_and_ping_and_nothing_else(tmp_path: Path) -> None:
    with RedisServer(tmp_path, free_ports(1)[0]).running() as server:
        with running_node(tmp_path, server.url, COMMAND) as node:
            web = WebApplication(server)
            wait_for(lambda: web.redis.pubsub_numpat() == 1)
            for name, arguments in OTHERS.items():
                web.app.control.broadcast(name, arguments=arguments)
            wait_for(lambda: ignored(node) == len(OTHERS))
            for garbage in GARBAGE:
                web.redis.publish(CHANNEL, garbage)
            web.succeeds("after-garbage")
            assert web.app.control.ping(timeout=PATIENCE_SECONDS, limit=1) == [
                {NAME: {"ok": "pong"}}
            ]
            assert ignored(node) == len(OTHERS) + len(GARBAGE) - len(HARMLESS)
            web.send(["endless", ENDLESS])
            wait_for(lambda: web.redis.keys("sfworker:taken:*"))
            web.app.control.broadcast(CANCEL_COMMAND, arguments={"execution_id": "endless"})
            web.redis.set("sfworker:cancelled:endless", "1")
            assert web.ends("endless")["bob"][-1]["data"]["error_code"] == "TaskCancelled"
            assert is_alive(node.process)
            web.close()
    log = (tmp_path / "node.log").read_text()
    assert "command=shutdown" in log and "Traceback" not in log


@pytest.mark.parametrize("name", ["active", "reserved", "scheduled", "registered"])
def test_inspect_is_answered_by_who_wants_it(name: str, inspected: WebApplication) -> None:
    answer = getattr(inspected.app.control.inspect(timeout=PATIENCE_SECONDS, limit=1), name)()
    assert list(answer) == [NAME]


@pytest.fixture(name="inspected", scope="module")
def _inspected(tmp_path_factory: pytest.TempPathFactory) -> Any:
    root = tmp_path_factory.mktemp("inspected")
    with RedisServer(root, free_ports(1)[0]).running() as server:
        with running_node(root, server.url, COMMAND, SFWORKER_REMOTE_INSPECT="true") as node:
            web = WebApplication(server)
            wait_for(lambda: web.redis.pubsub_numpat() == 1)
            before = ignored(node)
            web.app.control.broadcast("shutdown")
            wait_for(lambda: ignored(node) == before + 1)
            yield web
            web.close()
