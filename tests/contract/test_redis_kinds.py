"""Redis as people run it: over TLS, on a unix socket, for a user of its own, behind Sentinels."""

from __future__ import annotations

import os
import shutil
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Iterator

import pytest
from celery import Celery
from redis import Redis, RedisError

from secretflow_task.broker.celery_app import TASK_NAME, create_app, redeliver
from secretflow_task.broker.connection import connect
from secretflow_task.client import Client
from secretflow_task.config.settings import Settings
from secretflow_task.contract.messages import Status, StatusEvent
from secretflow_task.utils.network import free_ports
from tests.bench import stand_in
from tests.bench.redis import RedisServer
from tests.bench.sentinel import WatchedRedis
from tests.bench.tls import Authority
from tests.bench.waiting import wait_for
from tests.e2e.nodes import PARTIES, RunningNode, running_node

# Of a cycle of garbage Python may end the socket of TLS before kombu's connection, which closes it.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
SLOTS = 2


@contextmanager
def tls_redis(folder: Path, **options: object) -> Iterator[tuple[RedisServer, Authority]]:
    """A Redis that speaks TLS only, and asks for a client's certificate if it has one."""
    program = shutil.which("redis-check-rdb")  # on Debian the server under another name
    if program is None:
        pytest.skip("no Redis that speaks TLS (Debian: redis-tools)")
    authority = Authority(folder / "tls")
    certificate, key = authority.issue("server", "127.0.0.1", "localhost")
    (folder / "redis-server").symlink_to(program)
    (port,) = free_ports(1)
    tls = {
        "tls-port": port,
        "tls-cert-file": certificate,
        "tls-key-file": key,
        "tls-ca-cert-file": authority.certificate,
        "tls-auth-clients": "optional",
    }
    server = RedisServer(folder, program=folder / "redis-server", **tls | options)
    server.url = f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={authority.certificate}"
    with server.running():
        yield server, authority


def runs_more_than_it_has_slots(node: RunningNode) -> None:
    """All of these end, one after the other, and Celery's result is there too."""
    with closing(create_app(node.settings)) as app:
        for number in range(SLOTS + 1):
            execution_id = f"more-{number}-{os.getpid()}"
            result = app.send_task(TASK_NAME, args=[execution_id, stand_in.PSI])
            for events in node.events(execution_id).values():
                assert terminal(events) == [Status.SUCCESS]
            wait_for(result.ready)
            assert result.result == {"execution_id": execution_id, "status": "SUCCESS"}
        forget(app)


def forget(app: Celery) -> None:
    """Close what waits for results."""
    app.backend.result_consumer.stop()
    app.backend.client.close()


def terminal(events: list[StatusEvent]) -> list[Status]:
    """How they ended: once."""
    return [event.status for event in events if event.status.terminal]


def can_be_cancelled(node: RunningNode) -> None:
    """Remote control reaches the node, and its answer the client."""
    with closing(create_app(node.settings)) as app:
        wait_for(lambda: app.control.ping(timeout=2))
    node.send("endless", stand_in.ENDLESS)
    with Client(node.settings) as client:
        next(event for event in client.events("endless") if event)
        client.cancel("endless")
    for events in node.events("endless").values():
        assert terminal(events) == [Status.FAILURE]


def settings_of(url: str) -> Settings:
    """Those of a client."""
    return Settings(redis_url=url)  # type: ignore[arg-type]


def works(url: str) -> bool:
    """Whether a client's commands, kombu's connection and Celery's backend reach Redis."""
    settings = settings_of(url)
    try:
        with connect(settings) as redis:
            redis.ping()
        redeliver(settings, "nobody")
        with closing(create_app(settings)) as app:
            app.backend.store_result("id", "value", "SUCCESS")
            app.backend.client.close()
    except (RedisError, OSError):
        return False
    return True


def test_a_node_runs_over_tls_for_a_user_of_its_own_with_a_certificate_of_its_own(
    tmp_path: Path,
) -> None:
    with tls_redis(tmp_path) as (server, authority):
        with Redis.from_url(server.url) as redis:
            redis.acl_setuser(
                "node",
                enabled=True,
                passwords=["+p@ss/w"],
                keys="*",
                channels=["*"],
                categories=["+@all"],
            )
            redis.acl_setuser("default", enabled=False, reset=True)
        certificate, key = authority.issue("node")
        url = server.url.replace("//", "//node:p%40ss%2Fw@") + (
            f"&ssl_certfile={certificate}&ssl_keyfile={key}&ssl_cert_reqs=CERT_REQUIRED"
        )
        slots = str(SLOTS)
        with running_node(tmp_path, url, stand_in.COMMAND, SFWORKER_CONCURRENCY=slots) as node:
            runs_more_than_it_has_slots(node)
            can_be_cancelled(node)


def test_every_spelling_of_tls_means_the_same_for_all_connections(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Authority(tmp_path / "other")
    with tls_redis(tmp_path) as (server, authority):
        plain = server.url.partition("?")[0]
        trusted = f"{plain}?ssl_ca_certs={authority.certificate}"
        for spelling in ("CERT_REQUIRED", "required", "CERT_OPTIONAL", "optional"):
            assert works(f"{trusted}&ssl_cert_reqs={spelling}")
            assert not works(f"{plain}?ssl_ca_certs={other.certificate}&ssl_cert_reqs={spelling}")
        for spelling in ("CERT_NONE", "none"):
            assert works(f"{plain}?ssl_cert_reqs={spelling}")
        assert not works(plain)
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.certificate))  # trusted by the system
        assert works(plain)
        elsewhere = plain.replace("127.0.0.1", "127.0.0.2")
        assert not works(plain.replace("rediss", "redis"))
        assert not works(elsewhere)


def test_the_name_in_the_certificate_is_compared_unless_that_is_switched_off(
    tmp_path: Path,
) -> None:
    with tls_redis(tmp_path) as (server, authority):
        certificate, key = authority.issue("another", "redis.example")
        with Redis.from_url(server.url) as redis:
            redis.config_set("tls-cert-file", str(certificate), "tls-key-file", str(key))
        assert not works(server.url)
        assert works(server.url + "&ssl_check_hostname=false")


@pytest.mark.parametrize(
    "form", ["unix://node:pw@{}?db=3", "redis+socket://node:pw@{}?virtual_host=3"]
)
def test_a_node_runs_on_a_unix_socket_in_another_database(form: str, tmp_path: Path) -> None:
    server = RedisServer(tmp_path)
    with server.running(), server.client() as redis:
        redis.acl_setuser(
            "node", enabled=True, passwords=["+pw"], keys="*", channels=["*"], categories=["+@all"]
        )
        url = form.format(server.socket)
        slots = str(SLOTS)
        with running_node(tmp_path, url, stand_in.COMMAND, SFWORKER_CONCURRENCY=slots) as node:
            runs_more_than_it_has_slots(node)
            can_be_cancelled(node)
        assert redis.keys("*") == []


def test_a_node_goes_on_with_the_new_master_and_events_that_the_old_one_took_along_come_again(
    tmp_path: Path,
) -> None:
    with WatchedRedis(tmp_path) as watched, ExitStack() as stack:
        slots = str(SLOTS)
        node = stack.enter_context(
            running_node(tmp_path, watched.url, stand_in.COMMAND, SFWORKER_CONCURRENCY=slots)
        )
        runs_more_than_it_has_slots(node)
        with stand_in.held(tmp_path / "data"):
            for number in range(SLOTS):
                node.send(f"moved-{number}", stand_in.PSI)
            wait_for(lambda: running(watched.servers[0]) == SLOTS)
            wait_for(watched.replicates)
        for number in range(SLOTS):
            node.events(f"moved-{number}")
        wait_for(watched.replicates)
        known = ids_of(watched.servers[0])
        with watched.replica_left_behind():
            node.send("lost", stand_in.PSI)
            node.events("lost")
            taken_along = ids_of(watched.servers[0])
            watched.kill_the_master()
        assert len(taken_along) > len(known)
        wait_for(watched.is_promoted)
        wait_for(lambda: set(taken_along) <= set(ids_of(watched.servers[1])))
        for number in range(SLOTS + 1):
            execution_id = f"after-{number}"
            node.send(execution_id, stand_in.PSI)
            for events in node.events(execution_id).values():
                assert terminal(events) == [Status.SUCCESS]
        for execution_id in ("moved-0", "moved-1", "lost"):
            for events in node.events(execution_id).values():
                assert len({event.event_id for event in events if event.status.terminal}) == 1


def running(server: RedisServer) -> int:
    """How many executions the nodes have said that they take, and not that they have ended."""
    with server.client() as redis:
        return sum(redis.hlen(key) for key in redis.keys("sfworker:taken:*")) // len(PARTIES)


def ids_of(server: RedisServer) -> list[str]:
    """The ids of all events in the stream."""
    with server.client() as redis:
        entries = redis.xrange("task_status_stream")
        return [StatusEvent.from_json(fields["event"]).event_id for _, fields in entries]
