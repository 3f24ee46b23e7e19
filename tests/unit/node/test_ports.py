"""A port is leased to one holder at a time, whichever process or thread asks."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
from contextlib import ExitStack
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from secretflow_task.contract.errors import PortUnavailable
from secretflow_task.node.ports import leased_ports
from tests.bench.waiting import PATIENCE_SECONDS

# No other test leases from these: here the leases are kept in a folder of each test.
PORTS = range(30900, 30908)


@pytest.fixture
def free() -> list[int]:
    """The ports of the range that nobody listens on just now."""
    found = []
    for port in PORTS:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if probe.connect_ex(("127.0.0.1", port)):
                found.append(port)
    assert len(found) > 4
    return found


def test_leases_are_distinct_ports_of_the_range(tmp_path: Path, free: list[int]) -> None:
    with leased_ports(len(free), PORTS, tmp_path) as ports:
        assert sorted(ports) == free


def test_no_port_is_leased_twice_at_once(tmp_path: Path, free: list[int]) -> None:
    with leased_ports(2, PORTS, tmp_path) as first, leased_ports(2, PORTS, tmp_path) as second:
        assert len({*first, *second}) == 4
        with pytest.raises(PortUnavailable), leased_ports(len(free) - 3, PORTS, tmp_path):
            pytest.fail("more ports than there are")


def test_leases_end_with_the_block_also_after_an_error(tmp_path: Path, free: list[int]) -> None:
    for _ in range(3):
        with pytest.raises(KeyError), leased_ports(len(free), PORTS, tmp_path):
            raise KeyError
    with pytest.raises(PortUnavailable), leased_ports(len(free) + 1, PORTS, tmp_path):
        pytest.fail("more ports than there are")
    with leased_ports(len(free), PORTS, tmp_path) as ports:
        assert len(ports) == len(free)


def test_a_port_on_which_someone_listens_is_passed_over(tmp_path: Path, free: list[int]) -> None:
    for host in ("127.0.0.1", "0.0.0.0"):
        with socket.socket() as server:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.bind((host, free[0]))
            server.listen()
            with leased_ports(len(free) - 1, PORTS, tmp_path) as ports:
                assert sorted(ports) == free[1:]


def test_a_leased_port_can_be_bound(tmp_path: Path, free: list[int]) -> None:
    with leased_ports(2, PORTS, tmp_path) as ports, ExitStack() as stack:
        for port in ports:
            server = stack.enter_context(socket.socket())
            server.bind(("127.0.0.1", port))
            server.listen()


def hold(folder: Path, count: int, pipe: Connection) -> None:
    """Lease ports until killed."""
    with leased_ports(count, PORTS, folder):
        pipe.send(None)
        signal.pause()


def test_the_leases_of_a_dead_process_end_with_it(tmp_path: Path, free: list[int]) -> None:
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(
        target=hold, args=(tmp_path, len(free), theirs), daemon=True
    )
    process.start()
    assert ours.poll(PATIENCE_SECONDS)
    with pytest.raises(PortUnavailable), leased_ports(1, PORTS, tmp_path):
        pytest.fail("all are leased")
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join(PATIENCE_SECONDS)
    with leased_ports(len(free), PORTS, tmp_path) as ports:
        assert sorted(ports) == free


def test_no_lease_is_inherited_by_a_program_that_is_started(tmp_path: Path) -> None:
    with leased_ports(2, PORTS, tmp_path):
        held = [fd for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}")]
        ours = [
            int(fd) for fd in held if os.readlink(f"/proc/self/fd/{fd}").startswith(str(tmp_path))
        ]
        assert len(ours) >= 2 and not any(os.get_inheritable(fd) for fd in ours)


def test_none_may_be_asked_for(tmp_path: Path) -> None:
    with leased_ports(0, PORTS, tmp_path) as ports:
        assert ports == []
