"""Organisations in their own networks, one open port each, get together what one would alone."""

from __future__ import annotations

import errno
import selectors
import socket
import time
from pathlib import Path
from typing import Any, Iterator

import pytest

from secretflow_task.contract.messages import Status, StatusEvent
from tests.bench.waiting import PATIENCE_SECONDS, wait_for
from tests.e2e.conftest import psi_params
from tests.e2e.hosts import PORT, Host, Network, execute, running_nodes
from tests.e2e.tables_apart import plain_auc, rows_of, train_and_evaluate, write_split
from tests.faults.field import check_events

pytestmark = pytest.mark.engine

SEMI2K = {"spu_config": {"protocol": "SEMI2K"}}


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Host]]:
    """Alice's and bob's machines, with running nodes that allow SEMI2K by name."""
    network = Network(tmp_path_factory.mktemp("hosts"), "alice", "bob")
    with network.up() as machines:
        write_split(machines)
        with running_nodes(machines, SFWORKER_UNSAFE_PROTOCOLS="SEMI2K", SFWORKER_CONCURRENCY="10"):
            yield machines


def succeed(found: dict[str, list[StatusEvent]]) -> dict[str, Any]:
    """Each party has its events in order, and the last says success; returns the results."""
    for events in found.values():
        check_events(events)
        assert events[-1].status is Status.SUCCESS, events[-1].data
    return {party: events[-1].data["result"] for party, events in found.items()}


def test_an_intersection_is_found_and_aligned(hosts: dict[str, Host]) -> None:
    results = succeed(execute(hosts, "psi", psi_params()))
    assert [results[party]["intersection_count"] for party in hosts] == [300, 300]
    keys = {
        party: [row["uid"] for row in rows_of(host.root / "data" / party / "out.csv")]
        for party, host in hosts.items()
    }
    assert keys["alice"] == keys["bob"]
    assert sorted(keys["alice"]) == [f"{number:05d}" for number in range(100, 400)]


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("protocol", "field", "batch_size"),
    [("SEMI2K", "FM128", 128), pytest.param("CHEETAH", "FM64", 400, marks=pytest.mark.matrix)],
)
def test_a_regression_is_as_good_as_on_the_joined_table(
    protocol: str, field: str, batch_size: int, hosts: dict[str, Host]
) -> None:
    sizes = {"epochs": 1, "batch_size": batch_size}
    params = train_and_evaluate("ss_lr", ["alice", "bob"], learning_rate=0.5, **sizes)
    params["spu_config"] = {"protocol": protocol, "field": field}
    results = succeed(execute(hosts, f"lr-{protocol}", params))
    assert {result["protocol"] for result in results.values()} == {protocol}
    evaluated = results["alice"]["steps"]["evaluate"]["auc"]
    assert abs(evaluated - plain_auc(hosts)) < 0.02


def test_a_wrong_input_of_one_is_told_to_both_before_cryptography(hosts: dict[str, Host]) -> None:
    params = psi_params(keys={"alice": ["uid"], "bob": ["idd"]})
    found = execute(hosts, "wrong", params)
    for party, events in found.items():
        accepted, waiting, failed = events
        assert (accepted.data["stage"], waiting.data["stage"]) == ("accepted", "waiting_for_peer")
        assert waiting.data["waiting_for"] == [other for other in sorted(found) if other != party]
        assert (failed.data["error_code"], failed.data["failed_party"]) == (
            "MissingColumn",
            "bob",
        )


def test_a_cancel_at_one_ends_both(hosts: dict[str, Host]) -> None:
    params = train_and_evaluate("ss_lr", ["alice", "bob"], epochs=500) | SEMI2K
    for host in hosts.values():
        host.send("cancelled", params)
    wait_for(lambda: all(host.node and host.node.jobs() for host in hosts.values()))
    assert hosts["bob"].cancel("cancelled")
    codes = {
        party: host.events("cancelled")[-1].data["error_code"] for party, host in hosts.items()
    }
    assert codes == {"alice": "TaskCancelled", "bob": "TaskCancelled"}


def open_ports(source: Host, target: Host) -> list[int]:
    """The ports of ``target`` that take connections from ``source``, of all that there are."""
    found: list[int] = []
    with source.inside():
        for first in range(1, 65536, 1000):
            found += _open_among(target.address, range(first, min(first + 1000, 65536)))
    return found


def _open_among(address: str, ports: range) -> list[int]:
    found: list[int] = []
    with selectors.DefaultSelector() as selector:
        for port in ports:
            probe = socket.socket()
            probe.setblocking(False)
            if probe.connect_ex((address, port)) in (0, errno.EINPROGRESS):
                selector.register(probe, selectors.EVENT_WRITE, port)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while selector.get_map() and time.monotonic() < deadline:
            for key, _ in selector.select(1.0):
                probe = key.fileobj  # type: ignore[assignment]
                if probe.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0:
                    found.append(key.data)
                selector.unregister(probe)
                probe.close()
        assert not selector.get_map(), "a port did not answer"
    return found


def test_one_port_of_each_host_is_open_to_the_other_while_a_job_runs(
    hosts: dict[str, Host],
) -> None:
    params = train_and_evaluate("ss_lr", ["alice", "bob"], epochs=500) | SEMI2K
    for host in hosts.values():
        host.send("scanned", params)
    wait_for(lambda: all("training" in _stages(host, "scanned") for host in hosts.values()))
    assert open_ports(hosts["alice"], hosts["bob"]) == [PORT]
    assert open_ports(hosts["bob"], hosts["alice"]) == [PORT]
    hosts["alice"].cancel("scanned")
    for host in hosts.values():
        assert host.events("scanned")[-1].data["error_code"] == "TaskCancelled"


def _stages(host: Host, execution_id: str) -> set[str]:
    return {event.data["stage"] for event in host.so_far(execution_id)}


def test_ten_executions_at_once_keep_to_themselves(hosts: dict[str, Host], tmp_path: Path) -> None:
    names = [f"many-{number}" for number in range(10)]
    for number, name in enumerate(names):
        for party, host in hosts.items():
            folder = host.root / "data" / party / name
            folder.mkdir()
            # Of 200 rows each, as many are common as the execution's number says.
            first = 0 if party == "alice" else 200 - 10 * number - 5
            lines = [f"{row:05d},{name}" for row in range(first, first + 200)]
            (folder / "in.csv").write_text(
                "\n".join(["uid,whose", *lines]) + "\n", encoding="utf-8"
            )
    for name in names:
        paths = {party: f"{name}/in.csv" for party in hosts}
        outputs = {party: f"{name}/out.csv" for party in hosts}
        for host in hosts.values():
            host.send(name, psi_params(input_paths=paths, output_paths=outputs))
    for number, name in enumerate(names):
        results = succeed({party: host.events(name) for party, host in hosts.items()})
        assert {result["intersection_count"] for result in results.values()} == {10 * number + 5}
        for party, host in hosts.items():
            rows = rows_of(host.root / "data" / party / name / "out.csv")
            assert len(rows) == 10 * number + 5 and {row["whose"] for row in rows} == {name}


def with_fixed_addresses(
    hosts: dict[str, Host], params: dict[str, Any], first_port: int
) -> dict[str, Any]:
    """The same request for a network that is protected otherwise: each job listens on two ports."""
    parties = {
        party: {"address": f"{host.address}:{first_port}", "listen_addr": f"0.0.0.0:{first_port}"}
        for party, host in hosts.items()
    }
    nodes = [
        {"party": party, "address": f"{host.address}:{first_port + 1}"}
        for party, host in hosts.items()
    ]
    return params | {"sf_init_config": {"parties": parties}, "spu_config": {"nodes": nodes}}


def test_fixed_addresses_need_no_link_between_the_nodes(hosts: dict[str, Host]) -> None:
    params = psi_params(output_paths={party: "fixed.csv" for party in hosts})
    results = succeed(execute(hosts, "fixed", with_fixed_addresses(hosts, params, 9500)))
    assert [results[party]["intersection_count"] for party in hosts] == [300, 300]
    keys = [
        [row["uid"] for row in rows_of(host.root / "data" / party / "fixed.csv")]
        for party, host in hosts.items()
    ]
    assert keys[0] == keys[1]


def test_with_fixed_addresses_the_end_of_a_peers_job_is_seen_at_its_port(
    hosts: dict[str, Host],
) -> None:
    params = train_and_evaluate("ss_lr", ["alice", "bob"], epochs=500)
    fixed = with_fixed_addresses(hosts, params, 9510)
    fixed["spu_config"] |= {"protocol": "SEMI2K"}
    for host in hosts.values():
        host.send("fixed-lost", fixed)
    wait_for(lambda: all("training" in _stages(host, "fixed-lost") for host in hosts.values()))
    assert hosts["bob"].node
    for job in hosts["bob"].node.jobs():
        job.kill()
    struck = time.monotonic()
    codes = {
        party: host.events("fixed-lost")[-1].data["error_code"] for party, host in hosts.items()
    }
    assert codes == {"alice": "PeerLost", "bob": "JobProcessDied"}
    assert time.monotonic() - struck < 60  # the time after which gRPC would have told


@pytest.mark.matrix
@pytest.mark.timeout(600)
@pytest.mark.parametrize("protocol", ["SEMI2K", "CHEETAH"])
@pytest.mark.parametrize("task_type", ["ss_xgb", "sgb"])
def test_trees_learn_between_hosts(task_type: str, protocol: str, hosts: dict[str, Host]) -> None:
    params = train_and_evaluate(task_type, ["alice", "bob"], num_boost_round=2, max_depth=2)
    params["spu_config"] = {"protocol": protocol, "field": "FM64"}
    results = succeed(execute(hosts, f"{task_type}-{protocol}", params, 400))
    assert results["alice"]["steps"]["evaluate"]["auc"] > 0.75


@pytest.mark.matrix
@pytest.mark.timeout(600)
def test_three_hosts_train_with_the_default_protocol(tmp_path: Path) -> None:
    with Network(tmp_path, "alice", "bob", "carol").up() as machines:
        write_split(machines)
        with running_nodes(machines):
            parties = sorted(machines)
            params = train_and_evaluate(
                "ss_lr", parties, epochs=2, learning_rate=0.5, batch_size=128
            )
            results = succeed(execute(machines, "three", params, 300))
            assert {result["protocol"] for result in results.values()} == {"ABY3"}
            auc = results["alice"]["steps"]["evaluate"]["auc"]
            assert abs(auc - plain_auc(machines)) < 0.02
            assert open_ports(machines["alice"], machines["carol"]) == [PORT]
