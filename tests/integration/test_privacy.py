"""What a party's process receives, logs, writes and reports: nothing that its contract does not list."""

from __future__ import annotations

import re
import pytest

from tests.data.tables import overlapping, two_halves
from tests.integration.bench import Bench, Execution, Workspace
from tests.integration.test_psi import psi
from tests.integration.test_ss_lr import predicting, training

pytestmark = pytest.mark.engine


@pytest.mark.parametrize("receiver, other", [("alice", "bob"), ("bob", "alice")])
@pytest.mark.parametrize("protocol", ["RR22", "ECDH", "KKRT"])
def test_without_broadcast_the_other_party_never_gets_the_count(
    workspace: Workspace, protocol: str, receiver: str, other: str
) -> None:
    first, second = overlapping(200, 137)
    request = psi(workspace, {"alice": first, "bob": second}, protocol=protocol, receiver=receiver)
    request |= {"broadcast_result": False, "output_paths": {receiver: workspace.text("out.csv")}}
    execution = workspace.run(request)
    assert execution.results[receiver]["intersection_count"] == 137
    assert set(execution.results[other]) == {
        "psi_protocol", "original_count", "columns_used", "protocol", "field", "protocol_note", "timings"
    }  # fmt: skip
    log = workspace.bench.log_of(execution, other)
    assert "RECEIVED" in log  # the listener was there
    without_times = re.sub(
        r"\d\d:\d\d:\d\d\.\d+|\[\d+\.\d+\]|\"timestamp\": \"[^\"]*\"|/tmp/\S+|[.\d]+ s", "", log
    )
    assert not re.search(r"\b137\b", without_times)
    assert "Join stat" not in log
    assert not workspace.exists(other, "out.csv")


@pytest.mark.parametrize("protocol", ["RR22", "ECDH", "KKRT"])
def test_a_party_without_result_does_not_learn_that_the_key_sets_are_equal(
    workspace: Workspace, protocol: str
) -> None:
    first, second = overlapping(50, 50)
    request = psi(workspace, {"alice": first, "bob": second}, protocol=protocol)
    execution = workspace.run(request | {"broadcast_result": False})
    assert execution.results["alice"]["intersection_count"] == 50
    for party in ("alice", "bob"):
        assert "share the same set" not in workspace.bench.log_of(execution, party)


def received(workspace: Workspace, execution: Execution, party: str) -> set[str]:
    """The kinds of messages that a party's process got from its peers: the start of each one's text."""
    log = workspace.bench.log_of(execution, party)
    return {
        re.split(r"[ (\[]|<class|['\"]|0x", found, maxsplit=1)[0]
        for found in re.findall(r"RECEIVED (\S+)", log)
    }


def test_in_training_and_prediction_only_shares_and_shapes_travel(bench: Bench) -> None:
    workspace = bench.workspace("shares")
    tables = two_halves(40)
    request = training(workspace, tables, epochs=2, batch_size=40, report_metrics=True)
    executions = [workspace.run(request), workspace.run(predicting(workspace, request["train_data"]))]
    shapes = {
        "None",
        "0",
        "1",
        "SPUIOInfo",
        "SPUValueMeta",
        "ShapeDtypeStruct",
        "<spu.libspu.Executable",
        "b",
        "",
    }
    for execution in executions:
        for party, others in (("alice", "bob"), ("bob", "alice")):
            assert received(workspace, execution, party) <= shapes
            log = workspace.bench.log_of(execution, party)
            cells = [cell for cells in tables[others].values() for cell in cells if isinstance(cell, float)]
            assert not [cell for cell in cells if f"{cell:.6f}" in log or repr(cell) in log]


def test_a_scaler_sends_nothing_but_that_it_is_done(workspace: Workspace) -> None:
    request = {
        "task_type": "standard_scaler",
        "input_data": workspace.write("in.csv", {"alice": {"a": ["1", "2"]}, "bob": {"b": ["3", "5"]}}),
        "output_data": workspace.paths("out.csv"),
        "columns": ["a", "b"],
    }
    execution = workspace.run(request)
    for party in ("alice", "bob"):
        assert received(workspace, execution, party) <= {"None"}


def test_the_events_of_a_failure_hold_no_cell_of_the_table(workspace: Workspace) -> None:
    tables = {"alice": {"a": ["1", "secret-4711", "3"]}, "bob": {"b": ["1", "2", "3"]}}
    request = {
        "task_type": "standard_scaler",
        "input_data": workspace.write("in.csv", tables),
        "output_data": workspace.paths("out.csv"),
        "columns": ["a", "b"],
    }
    execution = workspace.fail(request, "BadColumnType", "alice")
    assert "secret-4711" in workspace.bench.log_of(execution, "alice")  # its owner may see what is wrong
    assert "secret-4711" not in workspace.bench.log_of(execution, "bob")
    assert "secret-4711" not in "".join(
        event.to_json() for events in execution.events.values() for event in events
    )
