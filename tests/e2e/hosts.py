"""Two or three organisations on one machine: each a network namespace, node, Redis and files."""

from __future__ import annotations

import ctypes
import itertools
import os
import shutil
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Iterator, Mapping

import psutil
import pytest
from redis import Redis, RedisError

from secretflow_task.client import Client
from secretflow_task.config.settings import Settings
from secretflow_task.contract.messages import StatusEvent
from secretflow_task.contract.requests import TaskRequest
from secretflow_task.node.link.peer.certificates import Identity, make_certificate
from tests.bench.redis import redis_command
from tests.bench.waiting import wait_for
from tests.e2e.conftest import write_tables
from tests.e2e.nodes import RunningNode

PORT = 9443
_CLONE_NEWNET = 0x40000000


def ip(*arguments: str) -> None:
    """Run iproute2's ip."""
    subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=20)


def need_namespaces() -> None:
    """Skip the test where network namespaces cannot be made."""
    if shutil.which("ip") is None:
        pytest.skip("iproute2 is not installed")
    name = f"sfw-try-{os.getpid()}"
    try:
        ip("netns", "add", name)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no network namespaces here: {error.stderr.decode().strip()}")
    ip("netns", "delete", name)


@dataclass
class Host:
    """One organisation's machine."""

    party: str
    namespace: str
    address: str
    redis_url: str
    root: Path
    identity: Identity
    fingerprint: str
    node: RunningNode | None = None
    settings: dict[str, str] = field(default_factory=dict)

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Let the sockets that this thread makes in the block be those of the host."""
        own = os.open(
            f"/proc/self/task/{threading.get_native_id()}/ns/net", os.O_RDONLY | os.O_CLOEXEC
        )
        its = os.open(f"/run/netns/{self.namespace}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _setns(its)
            yield
        finally:
            _setns(own)
            os.close(own)
            os.close(its)

    def command(self, *command: str | Path) -> list[str]:
        """The command line that runs ``command`` on the host."""
        return ["ip", "netns", "exec", self.namespace, *map(str, command)]

    @property
    def environment(self) -> dict[str, str]:
        """The settings of the host's node."""
        return {
            "SFWORKER_REDIS_URL": self.redis_url,
            "SFWORKER_PARTIES": self.party,
            "SFWORKER_NAME": f"node-of-{self.party}",
            "SFWORKER_DATA_ROOT": str(self.root / "data"),
            "SFWORKER_STATE_DIR": str(self.root / "state"),
            "SFWORKER_WORK_DIR": str(self.root / "work"),
            "SFWORKER_DRAIN_SECONDS": "0.5",
            "SFWORKER_PEER_LISTEN": f"0.0.0.0:{PORT}",
            "SFWORKER_PEERS_FILE": str(self.root / "parties.yaml"),
            "SFWORKER_PEER_CERTIFICATE": str(self.identity.certificate),
            "SFWORKER_PEER_KEY": str(self.identity.key),
        } | self.settings

    @property
    def _client_settings(self) -> Settings:
        # Pydantic reads the text.
        return Settings(redis_url=self.redis_url)  # type: ignore[arg-type]

    @contextmanager
    def redis(self) -> Iterator[None]:
        """Run the host's Redis."""
        command = redis_command(
            port=6379, bind=self.redis_url[8:-7], dir=self.root, appendonly="no"
        )
        with subprocess.Popen(self.command(*command), stdout=subprocess.DEVNULL) as server:
            try:
                wait_for(self._redis_answers)
                yield
            finally:
                server.terminate()

    def _redis_answers(self) -> bool:
        try:
            with self.inside(), Redis.from_url(self.redis_url) as client:
                return bool(client.ping())
        except RedisError:
            return False

    @contextmanager
    def running(self, **settings: str) -> Iterator[RunningNode]:
        """Run the host's node, which finds its state again when it runs a second time."""
        with self.started(**settings) as node:
            wait_for(lambda: self.is_ready)
            yield node

    @contextmanager
    def started(self, **settings: str) -> Iterator[RunningNode]:
        """As `running`, without waiting for it."""
        environment = self.environment | settings
        with (self.root / "node.log").open("ab") as log:
            self._log_begins = log.tell()
            command = self.command(Path(sys.executable).with_name("sfworker"), "start")
            with subprocess.Popen(
                command, env=os.environ | environment, stdout=log, stderr=log
            ) as popen:
                process = psutil.Process(popen.pid)
                self.node = RunningNode(process, self._client_settings, environment, self.root)
                try:
                    yield self.node
                finally:
                    popen.send_signal(18)  # it may be stopped
                    popen.terminate()
                    _wait_or_kill(popen)

    @property
    def is_ready(self) -> bool:
        """Whether the node takes requests."""
        assert self.node and self.node.process.is_running(), self.log()
        return "takes requests" in self.log()

    def log(self) -> str:
        """What the node has said since it was started last."""
        return (self.root / "node.log").read_bytes()[self._log_begins :].decode()

    def send(self, execution_id: str, params: Mapping[str, Any]) -> None:
        """Send a request to the host's node."""
        with self.inside(), Client(self._client_settings) as client:
            client.submit(TaskRequest(execution_id, execution_id, params))

    def cancel(self, execution_id: str) -> bool:
        """Cancel an execution at the host's node."""
        with self.inside(), Client(self._client_settings) as client:
            return client.cancel(execution_id)

    def events(self, execution_id: str, seconds: float = 90.0) -> list[StatusEvent]:
        """All events of an execution at this host, when the terminal one is there."""
        found: list[StatusEvent] = []
        with self.inside(), Client(self._client_settings) as client:
            for event in client.events(execution_id, timeout_seconds=seconds):
                if event is not None:
                    found.append(event)
                elif found and found[-1].status.terminal:
                    break
        return found

    def so_far(self, execution_id: str) -> list[StatusEvent]:
        """The events of an execution that are there now."""
        found: list[StatusEvent] = []
        with self.inside(), Client(self._client_settings) as client:
            for event in client.events(execution_id, timeout_seconds=20):
                if event is None:
                    break
                found.append(event)
        return found

    def link(self, state: str) -> None:
        """Set the host's network ``up`` or ``down``."""
        ip("-n", self.namespace, "link", "set", "eth0", state)


def _wait_or_kill(popen: subprocess.Popen[bytes]) -> None:
    try:
        popen.wait(45)
    except subprocess.TimeoutExpired:
        popen.kill()
        raise


def _setns(handle: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(handle, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


class Switch:
    """A network of namespaces, which are gone when ``stack`` is closed."""

    def __init__(self, name: str, stack: ExitStack) -> None:
        self._name = f"{name}-switch"
        self._stack = stack
        self._namespace(self._name)
        ip("-n", self._name, "link", "add", "br0", "type", "bridge")
        ip("-n", self._name, "link", "set", "br0", "up")

    def plug(self, namespace: str, port: str, address: str) -> None:
        """Make a namespace that is reached at an address, by a cable to a port of this name."""
        port = f"to-{port}"[:15]
        self._namespace(namespace)
        ends = ("eth0", "netns", namespace, "type", "veth", "peer", port)
        ip("link", "add", *ends, "netns", self._name)
        ip("-n", self._name, "link", "set", port, "master", "br0", "up")
        ip("-n", namespace, "address", "add", f"{address}/16", "dev", "eth0")
        ip("-n", namespace, "link", "set", "eth0", "up")
        ip("-n", namespace, "link", "set", "lo", "up")

    def _namespace(self, name: str) -> None:
        ip("netns", "add", name)
        self._stack.callback(ip, "netns", "delete", name)


class Network:
    """Hosts on one switch, each with an address of its own."""

    _count = itertools.count(1)

    def __init__(self, root: Path, *parties: str) -> None:
        # Its own at every host of every network: kombu keeps the connections of a process by their
        # URL.
        network = next(self._count)
        self._name = f"sfw{os.getpid()}-{time.monotonic_ns() % 10**6}"
        self.hosts: dict[str, Host] = {}
        for number, party in enumerate(parties, 1):
            own = root / party
            identity, fingerprint = make_certificate(party, own / "certs")
            namespace, address = f"{self._name}-{party}", f"10.77.0.{number}"
            redis_url = f"redis://127.1.{network}.{number}:6379/0"
            self.hosts[party] = Host(
                party, namespace, address, redis_url, own, identity, fingerprint
            )

    @contextmanager
    def up(self) -> Iterator[dict[str, Host]]:
        """Make the namespaces, the cables and the Redis of each host."""
        need_namespaces()
        with ExitStack() as stack:
            switch = Switch(self._name, stack)
            for host in self.hosts.values():
                switch.plug(host.namespace, host.party, host.address)
                self.introduce(host)
                stack.enter_context(host.redis())
            yield self.hosts

    def introduce(self, host: Host) -> None:
        """Write the address book of a host, and its party's table."""
        lines = [
            f"{other.party}: {{host: {other.address}, port: {PORT},"
            f" certificate: {other.identity.certificate}, fingerprints: [{other.fingerprint}]}}\n"
            for other in self.hosts.values()
            if other is not host
        ]
        (host.root / "parties.yaml").write_text("".join(lines), encoding="utf-8")
        write_tables(host.root / "all")
        if not (host.root / "data").exists():
            source = host.root / "all" / host.party
            (host.root / "data").mkdir(parents=True)
            if source.exists():
                shutil.copytree(source, host.root / "data" / host.party)
        shutil.rmtree(host.root / "all")


@contextmanager
def running_nodes(hosts: Mapping[str, Host], **settings: str) -> Iterator[None]:
    """Run the nodes of all hosts, which load their engines side by side."""
    with ExitStack() as stack:
        for host in hosts.values():
            stack.enter_context(host.started(**settings))
        for host in hosts.values():
            wait_for(lambda host=host: host.is_ready)  # type: ignore[misc]
        yield


def execute(
    hosts: Mapping[str, Host], execution_id: str, params: Mapping[str, Any], seconds: float = 90.0
) -> dict[str, list[StatusEvent]]:
    """Send each host the request, and wait for the end at each."""
    for host in hosts.values():
        host.send(execution_id, params)
    return {party: host.events(execution_id, seconds) for party, host in hosts.items()}
