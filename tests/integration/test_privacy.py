"""What a party's process receives, logs, writes and reports: nothing that its contract does not list."""

from __future__ import annotations

import re
import pytest

from tests.data.tables import overlapping
from tests.integration.bench import Execution, Workspace
from tests.integration.test_psi import psi

pytestmark = pytest.mark.engine


def everything_of(workspace: Workspace, execution: Execution, party: str) -> str:
    """All that a party's process wrote and received, its events and its outputs."""
    parts = [workspace.bench.log_of(execution, party)]
    parts += [event.to_json() for event in execution.events[party]]
    return "\n".join(parts)


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
