"""A Redis that others watch: a master, its replica, and a Sentinel that promotes it."""

from __future__ import annotations

import subprocess
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Iterator

import psutil
from redis import Redis, RedisError

from secretflow_task.utils.network import free_ports
from tests.bench.redis import RedisServer, redis_command
from tests.bench.waiting import wait_for

MASTER_NAME = "sfworker-master"
_CONFIGURATION = """\
port {port}
bind 127.0.0.1
dir {folder}
sentinel monitor {name} 127.0.0.1 {master} 1
sentinel down-after-milliseconds {name} 1000
sentinel failover-timeout {name} 5000
"""


class WatchedRedis:
    """The three; a context manager.

    Attributes:
        url: as an operator writes it; the first Sentinel that it names is away.
    """

    def __init__(self, folder: Path) -> None:
        ports = free_ports(4)
        self._folder = folder
        self._sentinel_port = ports[2]
        self.servers: list[RedisServer] = []
        for number, port in enumerate(ports[:2]):
            own = folder / f"redis-{number}"
            own.mkdir(parents=True)
            self.servers.append(RedisServer(own, port))
        self.url = (
            f"sentinel://127.0.0.1:{ports[3]}/0;sentinel://127.0.0.1:{ports[2]}/0"
            f"?master_name={MASTER_NAME}"
        )
        self._stack = ExitStack()

    def __enter__(self) -> WatchedRedis:
        for server in self.servers:
            server.start()
            self._stack.callback(_end, server)
        with self.servers[1].client() as replica:
            replica.slaveof("127.0.0.1", self.servers[0].port)
        wait_for(self.replicates)
        self._stack.callback(self._start_sentinel().kill)
        wait_for(lambda: self.known_replicas() == 1)
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.__exit__(None, None, None)

    def replicates(self) -> bool:
        """Whether the replica has what the master has."""
        with self.servers[0].client() as master:
            return int(master.execute_command("WAIT", 1, 100)) == 1

    def known_replicas(self) -> int:
        """How many the Sentinel could promote."""
        with self._sentinel() as sentinel:
            try:
                return len(sentinel.sentinel_slaves(MASTER_NAME))
            except RedisError:
                return 0

    def master_port(self) -> int:
        """Where the Sentinel says that the master is."""
        with self._sentinel() as sentinel:
            return int(sentinel.sentinel_get_master_addr_by_name(MASTER_NAME)[1])

    def kill_the_master(self) -> None:
        """End it without a farewell; a moment later the replica is the master."""
        self.servers[0].kill()

    @contextmanager
    def replica_left_behind(self) -> Iterator[None]:
        """Let the replica not hear of what the block does."""
        master, replica = self.servers
        assert replica.process is not None
        replica.process.suspend()
        try:
            with master.client() as redis:
                redis.client_kill_filter(_type="slave")
            yield
        finally:
            replica.process.resume()

    def is_promoted(self) -> bool:
        """Whether the replica has become the master."""
        return self.master_port() == self.servers[1].port

    def _sentinel(self) -> Redis:
        return Redis(port=self._sentinel_port, decode_responses=True)

    def _start_sentinel(self) -> psutil.Popen:
        file = self._folder / "sentinel.conf"
        file.write_text(
            _CONFIGURATION.format(
                port=self._sentinel_port,
                folder=self._folder,
                name=MASTER_NAME,
                master=self.servers[0].port,
            ),
            encoding="utf-8",
        )
        program = redis_command()[0]
        return psutil.Popen([program, str(file), "--sentinel"], stdout=subprocess.DEVNULL)


def _end(server: RedisServer) -> None:
    if server.process is not None and server.process.is_running():
        server.kill()
