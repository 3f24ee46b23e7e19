"""What operators tell a node by its door: a whole node but for SecretFlow, on Redis and Celery."""

from __future__ import annotations

import json
import signal
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator

import pytest
from typer.testing import CliRunner, Result

from secretflow_task.broker.celery_app import create_app
from secretflow_task.cli import app
from secretflow_task.cli.doctor import examine
from secretflow_task.contract.messages import Status
from secretflow_task.node.health import NODE_PAUSED, NODE_STOPPING, REDIS_AWAY
from secretflow_task.utils.network import free_ports
from tests.bench import stand_in
from tests.bench.redis import RedisServer
from tests.bench.waiting import PATIENCE_SECONDS, wait_for
from tests.contract.scraping import reasons, scrape
from tests.e2e.nodes import RunningNode, running_node

QUEUE = "secretflow_queue"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis of these tests."""
    server = RedisServer(tmp_path_factory.mktemp("redis"), free_ports(1)[0])
    with server.running():
        yield server


@contextmanager
def node_of(root: Path, server: RedisServer) -> Iterator[RunningNode]:
    """A node that is told to end within half a second when it gets SIGTERM."""
    (root / "data").mkdir(exist_ok=True)
    with running_node(root, server.url, stand_in.COMMAND) as node:
        yield node


def tell(node: RunningNode, *words: str) -> Result:
    """`sfworker node`, in this process, with the settings of the node."""
    return CliRunner().invoke(app, ["node", *words], env=node.environment)


def said(node: RunningNode, *words: str) -> str:
    """What a command prints that is carried out."""
    result = tell(node, *words)
    assert result.exit_code == 0, result.output
    return result.output


def doctor(node: RunningNode) -> str:
    """What `sfworker doctor` prints on the machine of the node."""
    return CliRunner().invoke(app, ["doctor"], env=node.environment | {"COLUMNS": "200"}).output


def ended(node: RunningNode, execution_id: str) -> set[tuple[str, Any]]:
    """How an execution ended: the status and code of each party, once."""
    last = [events[-1] for events in node.events(execution_id).values()]
    return {(event.status.value, event.data.get("error_code")) for event in last}


SUCCESS = {(Status.SUCCESS.value, None)}


def is_running(node: RunningNode) -> bool:
    """Whether one execution runs."""
    return scrape(node.metrics_port)["executions_running", ""] == 1


def answers(node: RunningNode) -> bool:
    """Whether Celery's event loop is connected and turns."""
    with create_app(node.settings) as celery, celery.connection_for_write() as connection:
        told = celery.control.broadcast(
            "ping", reply=True, limit=1, timeout=5, connection=connection
        )
    return bool(told)


def log_of(node: RunningNode) -> str:
    """Its log."""
    return (node.root / "node.log").read_text()


def test_a_paused_node_takes_nothing_until_it_is_resumed_also_after_a_new_connection_and_start(
    tmp_path: Path, server: RedisServer, capsys: pytest.CaptureFixture[str]
) -> None:
    with server.client() as redis, node_of(tmp_path, server) as node:
        with stand_in.held(tmp_path / "data"):
            node.send("running", stand_in.PSI)
            wait_for(lambda: is_running(node))
            assert "1 execution goes on to the end" in said(node, "pause")
            node.send("waiting", stand_in.PSI)
        assert ended(node, "running") == SUCCESS
        assert reasons(node.metrics_port, "/readyz") == [NODE_PAUSED.message]
        assert scrape(node.metrics_port)["problem", "NodePaused"] == 1
        assert tell(node, "health").exit_code == 4
        assert NODE_PAUSED.code in tell(node, "health").output

        assert redis.client_kill_filter(_type="normal", skipme=True) > 0
        wait_for(lambda: answers(node) and answers(node))
        wait_for(lambda: redis.llen(QUEUE) == 1)

        wait_for(lambda: NODE_PAUSED.code in diagnosis(node, capsys))
        assert node.stop() == 0

    with server.client() as redis, node_of(tmp_path, server) as node:
        assert "node_starts_paused" in log_of(node)
        wait_for(lambda: answers(node))
        wait_for(lambda: redis.llen(QUEUE) == 1)
        assert reasons(node.metrics_port, "/readyz") == [NODE_PAUSED.message]
        assert "takes requests again" in said(node, "resume")
        assert ended(node, "waiting") == SUCCESS
        assert reasons(node.metrics_port, "/readyz") == []
        assert "0 running" in said(node, "health")
        assert json.loads(said(node, "health", "--json"))["problems"] == []
        assert scrape(node.metrics_port)["problem", "NodePaused"] == 0


def diagnosis(node: RunningNode, capsys: pytest.CaptureFixture[str]) -> str:
    """What `sfworker doctor` prints."""
    examine(node.settings)
    return capsys.readouterr().out


def test_a_drained_node_ends_with_what_it_runs_and_starts_again_as_usual(
    tmp_path: Path, server: RedisServer
) -> None:
    with server.client() as redis, node_of(tmp_path, server) as node:
        with stand_in.held(tmp_path / "data"):
            node.send("long", stand_in.PSI)
            wait_for(lambda: is_running(node))
            assert "1 execution goes on, then it ends" in said(node, "drain")
            wait_for(lambda: NODE_STOPPING.message in reasons(node.metrics_port, "/readyz"))
            node.send("left", stand_in.PSI)
            time.sleep(1.0)  # longer than a node that gets SIGTERM here would wait
            assert is_running(node)
        assert node.process.wait(PATIENCE_SECONDS) == 0
        assert ended(node, "long") == SUCCESS
        assert redis.llen(QUEUE) == 1
        result = tell(node, "pause")
        assert result.exit_code == 4 and "NodeUnreachable" in result.output

    with node_of(tmp_path, server) as node:
        assert ended(node, "left") == SUCCESS
        node.send("endless", stand_in.ENDLESS)
        wait_for(lambda: is_running(node))
        said(node, "drain", "--seconds", "0.2")
        assert node.process.wait(PATIENCE_SECONDS) == 0
        assert ended(node, "endless") == {(Status.FAILURE.value, "NodeLost")}


@pytest.fixture(scope="module")
def node(server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    """A node that each test leaves as it was."""
    with node_of(tmp_path_factory.mktemp("node"), server) as node:
        yield node


def test_pausing_and_resuming_in_any_order_and_while_redis_is_away_ends_as_was_said_last(
    node: RunningNode, server: RedisServer
) -> None:
    for command in ("resume", "pause", "pause", "resume", "pause"):
        said(node, command)
    server.kill()
    assert REDIS_AWAY.code in doctor(node)
    said(node, "resume")
    server.start()
    node.send("later", stand_in.PSI)
    assert ended(node, "later") == SUCCESS


def test_a_node_is_renewed_and_reloaded_by_its_door_as_by_sighup(node: RunningNode) -> None:
    assert "no link" in said(node, "reload")
    assert "new template" in said(node, "renew")
    assert log_of(node).count("template_renewed") == 1
    node.process.send_signal(signal.SIGHUP)
    wait_for(lambda: log_of(node).count("template_renewed") == 2)
    assert scrape(node.metrics_port)["template_restarts_total", ""] == 0


def test_a_pause_that_cannot_be_written_down_holds_all_the_same_and_is_told(
    node: RunningNode, server: RedisServer
) -> None:
    state, moved = node.root / "state", node.root / "moved"
    state.rename(moved)
    node.environment["SFWORKER_STATE_DIR"] = str(moved)
    result = tell(node, "pause")
    assert result.exit_code == 0 and "PauseNotKept" in result.output
    with server.client() as redis:
        node.send("waiting", stand_in.PSI)
        wait_for(lambda: answers(node))
        assert redis.llen(QUEUE) == 1
    moved.rename(state)
    node.environment["SFWORKER_STATE_DIR"] = str(state)
    assert "PauseNotKept" not in said(node, "pause")
    said(node, "resume")
    assert ended(node, "waiting") == SUCCESS


@pytest.mark.parametrize("words", [["drain", "--seconds", "-1"], ["drain", "--seconds", "nan"]])
def test_a_node_is_not_drained_within_a_time_that_is_none(
    node: RunningNode, words: list[str]
) -> None:
    assert tell(node, *words).exit_code in (2, 3)
    assert reasons(node.metrics_port, "/readyz") == []


def test_a_node_without_a_door_is_known_to_the_doctor(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    environment = {"SFWORKER_STATE_DIR": str(tmp_path), "COLUMNS": "200"}
    environment["SFWORKER_REDIS_URL"] = "redis://127.0.0.1:1/0"
    assert "others may write" in CliRunner().invoke(app, ["doctor"], env=environment).output
    tmp_path.chmod(0o700)
    assert "No node with a door runs" in CliRunner().invoke(app, ["doctor"], env=environment).output
