"""The shell of a reader of the guides; its `docker` hands `docker compose` to our own projects."""

from __future__ import annotations

import argparse
import subprocess
import sys
import threading
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import Mapping

from tests.e2e.containers import PATH, Project

_DOCKER = """
import os, sys
from multiprocessing.connection import Client
with Client("{socket}") as connection:
    connection.send((os.getcwd(), sys.argv[1:]))
    code, said = connection.recv()
sys.stdout.write(said)
sys.exit(code)
"""
# What the guides use.
_VERBS: dict[str, list[str]] = {
    "up": ["--detach", "--build", "--wait"],
    "stop": [],
    "down": ["--volumes"],
    "exec": ["-T"],
    "run": ["--rm", "--no-deps"],
    "logs": [],
}


class Docker:
    """A program `docker` for the shell blocks of a guide, which hands `docker compose` to projects.

    Args:
        projects: by the folder in which a block is run.
    """

    def __init__(self, folder: Path, projects: Mapping[Path, Project]) -> None:
        self._programs = folder / "bin"
        self._programs.mkdir()
        self._socket = str(folder / "docker.sock")
        self._projects = projects
        self._closing = False
        program = self._programs / "docker"
        program.write_text(
            f"#!{sys.executable}\n{_DOCKER.format(socket=self._socket)}", encoding="utf-8"
        )
        program.chmod(0o755)

    def __enter__(self) -> Docker:
        self._listener = Listener(self._socket)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        # A thread that waits on a closed socket would take the connections of the next one with its
        # number.
        self._closing = True
        Client(self._socket).close()
        self._thread.join()
        self._listener.close()

    def shell(self, script: str, folder: Path) -> str:
        """Run a block in a folder, and return what it printed; every line must succeed."""
        done = subprocess.run(
            ["bash", "-euc", script],
            cwd=folder,
            env={"PATH": f"{self._programs}:{PATH}", "HOME": str(folder)},
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )
        assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}"
        return done.stdout

    def _serve(self) -> None:
        while True:
            connection = self._listener.accept()
            if self._closing:
                return connection.close()
            threading.Thread(target=self._answer, args=[connection], daemon=True).start()

    def _answer(self, connection: Connection) -> None:
        with connection:
            folder, words = connection.recv()
            try:
                answer = self._run(Path(folder), words)
            except Exception as error:  # `shell` says it, and fails
                answer = (125, f"{type(error).__name__}: {error}\n")
            connection.send(answer)

    def _run(self, folder: Path, words: list[str]) -> tuple[int, str]:
        """The exit code of a command, and what it prints."""
        if words[0] == "build":  # docker/verify.sh does that
            assert (folder / words[words.index("--file") + 1]).is_file()
            return 0, ""
        assert words[0] == "compose", words
        return compose(self._projects[folder], _parsed(words[1:]))


def _parsed(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(exit_on_error=False)
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb, flags in _VERBS.items():
        sub = verbs.add_parser(verb)
        for flag in flags:
            sub.add_argument(flag, action="store_true")
        if verb == "run":
            sub.add_argument("--entrypoint")
        sub.add_argument("--volume" if verb == "run" else "--tail", action="append", default=[])
        sub.add_argument("words", nargs=argparse.REMAINDER)
    return parser.parse_args(words)


def compose(project: Project, asked: argparse.Namespace) -> tuple[int, str]:
    """What `docker compose` does; the exit code, and what it prints."""
    if asked.verb == "exec":
        done = project.execute(*asked.words)
        return done.returncode, done.stdout + done.stderr
    if asked.verb == "run":
        return project.run(*asked.words, volumes=asked.volume, entrypoint=asked.entrypoint)
    if asked.verb == "logs":
        (name,) = asked.words
        return 0, "\n".join(project.running[name].said().splitlines()[-int(asked.tail[0]) :])
    if asked.verb == "down":
        project.down(asked.volumes)
    else:
        {"up": project.up, "stop": project.stop}[asked.verb](*asked.words)
    return 0, ""
