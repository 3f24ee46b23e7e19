"""Users who have the rights that the page on Redis lists, and no others, and what each does."""

from __future__ import annotations

import re
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator

import pytest
from redis import Redis

from secretflow_task.cli import doctor_redis
from secretflow_task.client import Client
from secretflow_task.config.settings import Settings
from secretflow_task.contract.messages import Status
from secretflow_task.contract.requests import TaskRequest
from tests.bench import stand_in
from tests.bench.redis import RedisServer
from tests.bench.waiting import PATIENCE_SECONDS, wait_for
from tests.contract.listening import ListenerProcess
from tests.e2e.nodes import RunningNode, running_node

PAGES = ("redis.md", "redis.zh-CN.md")
DOCS = Path(__file__).parents[2] / "docs" / "ops_guide"
OPTIONAL = ("info", "client")  # redis-py names its version by the second, and needs no answer
USERS = ("node", "client", "listener", "operator")


def rights(page: str = PAGES[0]) -> dict[str, list[str]]:
    """``{user: what ACL SETUSER gets}``, as the page says it."""
    text = (DOCS / page).read_text(encoding="utf-8")
    lines = re.findall(r"^ACL SETUSER (\w+) (.*)$", text, re.MULTILINE)
    return {name: words.replace("PASSWORD", "pw").split() for name, words in lines}


def test_both_pages_list_the_same_rights() -> None:
    assert rights(PAGES[0]) == rights(PAGES[1])
    assert tuple(rights()) == USERS


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis whose users are those of the page."""
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    with server.running(), server.client() as redis:
        for name, words in rights().items():
            redis.execute_command("ACL", "SETUSER", name, *words)
        yield server


def url_of(server: RedisServer, user: str) -> str:
    """How a user comes in."""
    return f"unix://{user}:pw@{server.socket}"


def settings_of(server: RedisServer, user: str) -> Settings:
    """Those of a user."""
    return Settings(redis_url=url_of(server, user))  # type: ignore[arg-type]


@contextmanager
def nothing_refused(server: RedisServer) -> Iterator[None]:
    """Nobody is refused a right that he asked for in the block."""
    with server.client() as redis:
        redis.acl_log_reset()
        yield
        refused = {(entry["username"], entry["object"]) for entry in redis.acl_log()}
        assert {(user, what) for user, what in refused if what not in OPTIONAL} == set()


@pytest.fixture(scope="module")
def node(server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    """A node with its own rights."""
    root = tmp_path_factory.mktemp("node")
    with running_node(root, url_of(server, "node"), stand_in.COMMAND) as node:
        yield node


def test_a_client_sends_follows_and_cancels_and_a_node_runs(
    server: RedisServer, node: RunningNode
) -> None:
    with nothing_refused(server), Client(settings_of(server, "client")) as client:
        client.submit(TaskRequest("first", "first", stand_in.PSI))
        ended = client.result("first", ("alice", "bob"), PATIENCE_SECONDS)
        assert {event.status for event in ended.values()} == {Status.SUCCESS}
        client.submit(TaskRequest("endless", "endless", stand_in.ENDLESS))
        next(event for event in client.events("endless") if event)
        client.cancel("endless")
        ended = client.result("endless", ("alice", "bob"), PATIENCE_SECONDS)
        assert {event.data["error_code"] for event in ended.values()} == {"TaskCancelled"}
    assert node.process.is_running()


def test_a_listener_writes_what_comes(
    server: RedisServer, node: RunningNode, tmp_path: Path
) -> None:
    database = f"sqlite:///{tmp_path}/status.sqlite"
    with nothing_refused(server):
        with ListenerProcess(tmp_path, url_of(server, "listener"), database):
            node.execute("heard", stand_in.PSI)
            with server.client() as redis:
                wait_for(lambda: all_written(redis))


def all_written(redis: Redis) -> bool:
    """Whether a group has read and written all."""
    groups = redis.xinfo_groups("task_status_stream")
    newest = redis.xinfo_stream("task_status_stream")["last-generated-id"]
    return any(group["last-delivered-id"] == newest and not group["pending"] for group in groups)


@pytest.mark.parametrize("command", ["doctor", "queue"])
def test_an_operators_commands_are_refused_nothing(
    command: str, server: RedisServer, node: RunningNode, tmp_path: Path
) -> None:
    with nothing_refused(server):
        said = subprocess.run(
            [Path(sys.executable).with_name("sfworker"), command],
            env=node.environment
            | {"SFWORKER_REDIS_URL": url_of(server, "operator")}
            | {"SFWORKER_STATE_DIR": str(tmp_path), "COLUMNS": "200"},
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
    assert "a right is missing" not in said.stdout and "Traceback" not in said.stderr


def test_without_info_the_doctor_says_what_it_does_not_see_and_that_all_is_well(
    server: RedisServer,
) -> None:
    settings = settings_of(server, "node")
    for check in (doctor_redis.server, doctor_redis.memory):
        finding = check(settings)
        assert (finding.mend, "+info" in finding.state) == ("", True)
    assert doctor_redis.rights(settings).mend == ""


def test_the_doctor_names_the_right_that_is_missing(server: RedisServer) -> None:
    with server.client() as redis:
        words = [word for word in rights()["node"] if "celery-task-meta" not in word]
        redis.execute_command("ACL", "SETUSER", "no_results", *words)
        redis.execute_command("ACL", "SETUSER", "nothing", "on", ">pw")
    finding = doctor_redis.rights(settings_of(server, "no_results"))
    assert "~celery-task-meta-*" in finding.state and finding.mend
    finding = doctor_redis.server(settings_of(server, "nothing"))
    assert "ping" in finding.state and "rights" in finding.mend


def test_the_doctor_knows_a_wrong_password_a_full_redis_and_a_replica(
    server: RedisServer,
) -> None:
    settings = settings_of(server, "node")
    wrong = Settings(redis_url=url_of(server, "node").replace("pw", "no"))  # type: ignore[arg-type]
    assert "password" in doctor_redis.server(wrong).state
    with server.client() as redis:
        redis.config_set("maxmemory", 1)
        assert "maxmemory" in doctor_redis.server(settings).state
        redis.config_set("maxmemory", 0)
        redis.slaveof("127.0.0.1", 1)
        finding = doctor_redis.server(settings)
        redis.slaveof()
    assert "replica" in finding.state and "master" in finding.mend
