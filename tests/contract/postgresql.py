"""A PostgreSQL of our own in a temporary folder, on a socket, that can go away and come back."""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import contextmanager
from glob import glob
from pathlib import Path
from typing import Any, Iterator

import psycopg


def programs() -> Path | None:
    """The folder of the server's programs, which Debian keeps off the PATH."""
    found = [
        *map(shutil.which, ["postgres"]),
        *sorted(glob("/usr/lib/postgresql/*/bin/postgres"), reverse=True),
    ]
    folders = [Path(path).resolve().parent for path in found if path]
    return next((folder for folder in folders if (folder / "initdb").exists()), None)


class PostgresServer:
    """A server with superuser ``postgres``. It does not sync: only its process dies here."""

    def __init__(self, folder: Path, binaries: Path) -> None:
        self.folder = folder
        self._binaries = binaries
        self._process: subprocess.Popen[bytes] | None = None
        self._numbers = itertools.count()
        # PostgreSQL refuses to run as root.
        self._user: dict[str, Any] = {}
        if os.geteuid() == 0:
            names = {entry.pw_name for entry in pwd.getpwall()}
            user = pwd.getpwnam("postgres" if "postgres" in names else "nobody")
            self._user = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
            os.chown(folder, user.pw_uid, user.pw_gid)
        command = [
            binaries / "initdb",
            "-D",
            folder / "data",
            "-A",
            "trust",
            "-U",
            "postgres",
            "--no-sync",
        ]
        subprocess.run(command, check=True, capture_output=True, cwd=folder, **self._user)

    def url(self, name: str = "postgres") -> str:
        """The address of a database."""
        return f"postgresql:///{name}?host={self.folder}&user=postgres"

    def new_database(self, encoding: str = "UTF8") -> str:
        """Make an empty database; returns its address."""
        name = f"test_{next(self._numbers)}"
        options = f"TEMPLATE template0 ENCODING '{encoding}' LOCALE 'C'"
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} {options}".encode())
        return self.url(name)

    def start(self) -> None:
        """Start it and wait until it answers."""
        options = {"listen_addresses": "", "fsync": "off", "max_connections": "30"}
        command: list[Any] = [
            self._binaries / "postgres",
            "-D",
            self.folder / "data",
            "-k",
            self.folder,
        ]
        command += [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, cwd=self.folder, **self._user
            )
        deadline = time.monotonic() + 30
        while True:
            try:
                psycopg.connect(self.url()).close()
                return
            except psycopg.OperationalError:
                assert time.monotonic() < deadline, (self.folder / "log").read_text()
                time.sleep(0.05)

    def crash(self) -> None:
        """End it without a farewell; at its next start it recovers."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(30)
            self._process = None


@contextmanager
def running_postgresql(binaries: Path) -> Iterator[PostgresServer]:
    """A server in a folder of its own, which is gone afterwards."""
    with tempfile.TemporaryDirectory(
        prefix="sfworker-pg-"
    ) as folder:  # short: a socket's path is limited
        server = PostgresServer(Path(folder), binaries)
        server.start()
        try:
            yield server
        finally:
            server.crash()
