"""Whatever happens between two nodes, both end alike, leave nothing and run the next request."""

from __future__ import annotations

import itertools
import random
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any, Callable, Iterator

import psutil
import pytest

from secretflow_task.contract.messages import Status, StatusEvent
from tests.bench.waiting import wait_for
from tests.e2e.conftest import psi_params
from tests.e2e.hosts import PORT, Host, Network
from tests.e2e.nodes import jobs_below
from tests.e2e.tables_apart import train_and_evaluate, write_split
from tests.faults.field import check_events
from tests.faults.report import Report

pytestmark = [pytest.mark.faults, pytest.mark.engine]

PROXY = Path(__file__).parents[1] / "performance" / "slow_proxy.py"
PROXY_PORT = 9444
LOST_SECONDS = 6.0
LIMIT_SECONDS = LOST_SECONDS + 10.0  # from the cut: the loss is certain after six of them
JOIN_SECONDS = 25
SETTLE_SECONDS = 20
SETTINGS = {
    "SFWORKER_UNSAFE_PROTOCOLS": "SEMI2K",
    "SFWORKER_JOIN_SECONDS": str(JOIN_SECONDS),
    "SFWORKER_SETTLE_SECONDS": str(SETTLE_SECONDS),
}


class PeerField:
    """Alice's and bob's machines, which can be hurt; bob's is the one that is."""

    _count = itertools.count(1)

    def __init__(self, hosts: dict[str, Host], report: Report) -> None:
        self.alice, self.bob = hosts["alice"], hosts["bob"]
        self.hosts = hosts
        self.report = report
        self._nodes = {party: ExitStack() for party in hosts}

    def start(self, *hosts: Host) -> None:
        """Start nodes, side by side."""
        for host in hosts:
            self._nodes[host.party].enter_context(host.started(**SETTINGS))
        for host in hosts:
            wait_for(lambda host=host: host.is_ready, 90)  # type: ignore[misc]

    def restart(self, host: Host) -> None:
        """Start a node again that was killed."""
        assert host.node
        host.node.process.wait(10)
        self._nodes[host.party].close()
        self.start(host)

    def stop(self) -> None:
        """End both."""
        for stack in self._nodes.values():
            stack.close()

    def name(self) -> str:
        """A new execution's."""
        return f"e-{next(self._count)}"

    def jobs(self, host: Host) -> list[psutil.Process]:
        """The running jobs of a host."""
        return jobs_below(str(host.root / "work"))

    def ends(self, execution_id: str, seconds: float = 90.0) -> dict[str, StatusEvent]:
        """Both terminal events."""
        found = {}
        for party, host in self.hosts.items():
            events = host.events(execution_id, seconds)
            time.sleep(0.3)  # for what should not come after the end
            events = host.events(execution_id)
            check_events(events)
            found[party] = events[-1]
        return found

    def settle(
        self,
        fault: str,
        execution_id: str,
        struck: float,
        allowed: set[str],
        limit: float = LIMIT_SECONDS,
    ) -> None:
        """Both have ended alike, in time, and nothing is left; the code of a success is empty."""
        ends = self.ends(execution_id)
        codes = {event.data.get("error_code", "") for event in ends.values()}
        assert len(codes) == 1 and codes <= allowed, {
            party: end.data for party, end in ends.items()
        }
        ended = max(datetime.fromisoformat(end.timestamp).timestamp() for end in ends.values())
        self.note(fault, ends, ended - struck, limit)

    def note(
        self,
        fault: str,
        ends: dict[str, StatusEvent],
        seconds: float,
        limit: float,
        parties: int = 2,
    ) -> None:
        """Note an end at so many parties, once nothing is left and the next request has run."""
        left, seconds = self.leftovers(), max(0.0, seconds)
        self.report.add(
            fault, executions=parties, terminal=len(ends), seconds=seconds, leftovers=left
        )
        assert seconds < limit and not left, (seconds, left)
        self.serves()

    def leftovers(self) -> list[str]:
        """Jobs, files and listening ports that should be gone."""
        deadline = time.monotonic() + 8
        while (left := self._leftovers()) and time.monotonic() < deadline:
            time.sleep(0.2)
        return left

    def _leftovers(self) -> list[str]:
        found = []
        for host in self.hosts.values():
            found += [f"process {job.pid}" for job in self.jobs(host)]
            found += [str(path) for path in host.root.glob("work/*/*")]
            found += [str(path) for path in host.root.glob("data/**/.sfworker-*")]
            listed = subprocess.run(
                host.command("ss", "-Hltn"), capture_output=True, text=True, check=True, timeout=10
            )
            ports = {int(line.split()[3].rpartition(":")[2]) for line in listed.stdout.splitlines()}
            found += [f"port {port} of {host.party}" for port in ports - {PORT, PROXY_PORT, 6379}]
        return found

    def serves(self) -> None:
        """The next request succeeds at both."""
        name = self.name()
        for host in self.hosts.values():
            host.send(name, psi_params())
        for end in self.ends(name).values():
            assert end.status is Status.SUCCESS, end.data


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Host]]:
    """The machines without nodes; bob's proxy makes the way to alice half a second long."""
    with Network(tmp_path_factory.mktemp("peers"), "alice", "bob").up() as hosts:
        write_split(hosts)
        target = f"{hosts['alice'].address}:{PORT}"
        command = hosts["bob"].command(
            sys.executable, PROXY, "250", "0", f"a:{PROXY_PORT}={target}"
        )
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as proxy:
            yield hosts
            proxy.kill()


@pytest.fixture
def field(
    network: dict[str, Host], report: Report, request: pytest.FixtureRequest
) -> Iterator[PeerField]:
    """Running nodes; where a test is about settling, by the long way."""
    book = network["bob"].root / "parties.yaml"
    short = book.read_text(encoding="utf-8")
    if "settling" in request.node.name:
        long = short.replace(
            f"host: {network['alice'].address}, port: {PORT}",
            f"host: 127.0.0.1, port: {PROXY_PORT}",
        )
        book.write_text(long, encoding="utf-8")
    found = PeerField(network, report)
    try:
        found.start(found.alice, found.bob)
        yield found
    finally:
        found.bob.link("up")
        found.stop()
        book.write_text(short, encoding="utf-8")


def training(epochs: int) -> dict[str, Any]:
    """A request that takes about as many thirds of a second."""
    params = train_and_evaluate("ss_lr", ["alice", "bob"], epochs=epochs, batch_size=128)
    return params | {"spu_config": {"protocol": "SEMI2K"}}


def reach(state: str, field: PeerField, dice: random.Random) -> str:
    """Bring an execution to a state, at a random moment of it; returns its id."""
    name = field.name()
    if state == "joining":
        field.alice.send(name, psi_params())
        time.sleep(dice.uniform(0.2, 1.5))
        return name
    for host in field.hosts.values():
        host.send(name, training(25) if state == "running" else psi_params())
    wait_for(lambda: all(field.jobs(host) for host in field.hosts.values()))
    if state == "running":
        time.sleep(dice.uniform(0.5, 3.0))
    else:
        wait_for(
            lambda: "alignment" in {event.data.get("stage") for event in field.bob.so_far(name)}
        )
        time.sleep(dice.uniform(0.0, 2.0))  # half a second for each message of the settlement
    return name


def in_each(moments: int) -> range:
    """How many moments of each cell are tried."""
    return range(max(1, moments // 7))


@pytest.mark.parametrize("seconds", [1, 10])
@pytest.mark.parametrize("state", ["joining", "running", "settling"])
def test_a_cut_that_heals(
    state: str, seconds: int, field: PeerField, moments: int, dice: random.Random
) -> None:
    survives = (
        {""}
        if state == "joining" or seconds == 1
        else {"PeerLost"} if state == "running" else {"", "PeerLost"}
    )
    for _ in in_each(moments):
        name = reach(state, field, dice)
        struck = time.time()
        field.bob.link("down")
        if state == "joining":
            field.bob.send(name, psi_params())
        time.sleep(seconds)
        field.bob.link("up")
        field.settle(f"link down for {seconds} s, {state}", name, struck, survives, 60.0)


@pytest.mark.parametrize("state", ["joining", "running", "settling"])
def test_a_cut_that_does_not_heal(
    state: str, field: PeerField, moments: int, dice: random.Random
) -> None:
    for _ in in_each(moments):
        name = reach(state, field, dice)
        struck = time.time()
        field.bob.link("down")
        if state == "joining":
            field.bob.send(name, psi_params())
        ends = field.ends(name)
        seconds = (
            max(datetime.fromisoformat(end.timestamp).timestamp() for end in ends.values()) - struck
        )
        codes = {party: end.data.get("error_code", "") for party, end in ends.items()}
        if state == "settling":
            assert codes["bob"] in ("", "PeerLost", "SettlementUnknown") and codes["alice"] in (
                "",
                "PeerLost",
            )
        else:
            expected = "PeerUnreachable" if state == "joining" else "PeerLost"
            assert codes == {"alice": expected, "bob": expected}
        field.bob.link("up")
        limit = {
            "joining": JOIN_SECONDS + 15.0,
            "running": LIMIT_SECONDS,
            "settling": SETTLE_SECONDS + 20.0,
        }
        field.note(f"link down for good, {state}", ends, seconds, limit[state])


@pytest.mark.parametrize("victim", ["alice", "bob"])
@pytest.mark.parametrize("state", ["joining", "running", "settling"])
def test_a_node_that_is_killed(
    state: str, victim: str, field: PeerField, moments: int, dice: random.Random
) -> None:
    for _ in in_each(moments):
        name = reach(state, field, dice)
        host = field.hosts[victim]
        survivor = next(other for other in field.hosts.values() if other is not host)
        struck = time.time()
        assert host.node
        host.node.process.kill()
        if state == "running":
            end = survivor.events(name, 30)[-1]
            assert (end.data["error_code"], end.data["failed_party"]) == ("PeerLost", victim)
            assert datetime.fromisoformat(end.timestamp).timestamp() - struck < 10
        field.restart(host)
        if state == "joining":
            field.bob.send(name, psi_params())
        allowed = {
            "joining": {"", "NodeLost", "PeerLost"},
            "running": {"PeerLost"},
            "settling": {"", "PeerLost", "NodeLost"},
        }
        field.settle(f"SIGKILL of a node, {state}", name, struck, allowed[state], 60.0)


def signalled(number: int) -> Callable[[PeerField], None]:
    """Send bob's job a signal."""
    return lambda field: [job.send_signal(number) for job in field.jobs(field.bob)] and None


def stop_the_node(field: PeerField) -> None:
    """Stop bob's node for 20 s."""
    assert field.bob.node
    process = field.bob.node.process
    process.send_signal(signal.SIGSTOP)
    threading.Timer(20.0, process.send_signal, [signal.SIGCONT]).start()


@pytest.mark.parametrize(
    ("fault", "strike", "codes", "limit"),
    [
        ("SIGKILL of a job, running", signalled(signal.SIGKILL), {"JobProcessDied"}, 10.0),
        ("SIGSTOP of a job, running", signalled(signal.SIGSTOP), {"JobProcessDied"}, 10.0),
        ("SIGSTOP of a node for 20 s, running", stop_the_node, {"PeerLost"}, 30.0),
    ],
)
def test_a_process_of_the_peer_that_dies_or_stops(
    fault: str,
    strike: Callable[[PeerField], None],
    codes: set[str],
    limit: float,
    field: PeerField,
    moments: int,
    dice: random.Random,
) -> None:
    for _ in in_each(moments):
        name = reach("running", field, dice)
        struck = time.time()
        strike(field)
        ends = field.ends(name)
        assert {end.data["failed_party"] for end in ends.values()} == {"bob"}
        field.settle(fault, name, struck, codes, limit)


def test_a_peer_that_never_comes(field: PeerField, moments: int) -> None:
    for _ in in_each(moments):
        for host in field.hosts.values():
            name, struck = field.name(), time.time()
            host.send(name, psi_params())
            end = host.events(name, JOIN_SECONDS + 20)[-1]
            assert end.data["error_code"] == "PeerUnreachable"
            seconds = datetime.fromisoformat(end.timestamp).timestamp() - struck
            limit = JOIN_SECONDS + 10.0
            field.note(
                "the peer never comes, joining", {host.party: end}, seconds, limit, parties=1
            )


def test_a_peer_that_comes_20_seconds_late(field: PeerField, moments: int) -> None:
    for _ in in_each(moments):
        name = field.name()
        field.bob.send(name, psi_params())
        time.sleep(20)
        struck = time.time()
        field.alice.send(name, psi_params())
        field.settle("the peer comes 20 s late, joining", name, struck, {""}, 10.0)
