"""A real Redis of the oldest supported version, both forms of the outbox, and both databases."""

from __future__ import annotations

from pathlib import Path
from typing import Iterator

import pytest
from redis import Redis

from secretflow_task.broker.embedded_redis import embedded_redis
from secretflow_task.client import Client
from secretflow_task.config.settings import Settings
from secretflow_task.node.store.event_store import EventStore
from secretflow_task.testing import MemoryOutbox
from tests.bench.redis import RedisServer
from tests.contract.postgresql import PostgresServer, programs, running_postgresql

AnyOutbox = EventStore | MemoryOutbox


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis for all contract tests."""
    server = RedisServer(tmp_path_factory.mktemp("redis"), appendonly="yes")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def redis(redis_server: RedisServer) -> Iterator[Redis]:
    """A client of an empty Redis."""
    with redis_server.client() as client:
        client.flushall()
        yield client


@pytest.fixture
def raw(redis: Redis, redis_server: RedisServer) -> Iterator[Redis]:
    """A client of an empty Redis that does not decode, as the listener's."""
    redis.ping()
    with Redis(unix_socket_path=str(redis_server.socket), socket_timeout=5) as client:
        yield client


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """The address of an embedded Redis for the tests of a module."""
    with embedded_redis() as address:
        yield address


@pytest.fixture
def client(redis: Redis, url: str) -> Iterator[Client]:
    """A client of the embedded Redis, which the module's own ``redis`` has emptied."""
    del redis
    with Client(Settings(redis_url=url)) as client:  # type: ignore[arg-type]  # read by pydantic
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
