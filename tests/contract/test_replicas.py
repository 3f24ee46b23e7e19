"""Whoever sends or cancels hears whether that would outlive the server."""

from __future__ import annotations

from pathlib import Path

from secretflow_task.client import Client
from secretflow_task.config.settings import Settings
from secretflow_task.contract.requests import TaskRequest
from secretflow_task.utils.network import free_ports
from tests.bench.redis import RedisServer
from tests.bench.stand_in import PSI
from tests.bench.waiting import wait_for


def test_a_client_waits_for_a_replica_where_there_is_one(tmp_path: Path) -> None:
    ports = free_ports(2)
    master, replica = (RedisServer(tmp_path, port) for port in ports)
    with master.running(), replica.running(), master.client() as redis, replica.client() as other:
        with Client(Settings(redis_url=master.url)) as client:  # type: ignore[arg-type]

            def outlives() -> bool | None:
                client.submit(TaskRequest("it", "it", PSI))
                sent = client.replicated
                client.cancel("it")
                assert client.replicated is sent
                return sent

            assert outlives() is None
            other.slaveof("127.0.0.1", ports[0])
            wait_for(lambda: redis.wait(1, 100) == 1)
            assert outlives() is True
            assert replica.process is not None
            replica.process.suspend()
            assert outlives() is False
            replica.process.resume()
            wait_for(lambda: redis.wait(1, 100) == 1)
            assert outlives() is True
