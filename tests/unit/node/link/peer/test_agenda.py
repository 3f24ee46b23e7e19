"""Nodes take part in one execution when they have the same request, versions and time."""

from __future__ import annotations

from typing import Any

import pytest

from secretflow_task.contract.plan import Plan
from secretflow_task.contract.requests import TaskRequest
from secretflow_task.node.link.peer.agenda import Agenda, versions
from tests.unit.node.link.peer.parties import agenda
from tests.unit.plan_requests import PLAN_REQUESTS

PSI = {"task_config": {"task_type": "psi", **PLAN_REQUESTS["psi"]}}


def of(params: dict[str, Any], *hosted: str) -> Agenda:
    """The agenda of a request."""
    return Agenda.of(Plan.of(TaskRequest("e-1", "r-1", params)), list(hosted))


def test_both_nodes_of_one_request_agree() -> None:
    alice, bob = of(PSI, "alice"), of(PSI, "bob")
    assert (alice.coordinator, alice.strangers, bob.strangers) == ("alice", ("bob",), ("alice",))
    assert alice.difference(bob.join(), 60.0) is None


def test_the_digest_is_of_the_request_and_not_of_who_receives_it() -> None:
    init = {"parties": ["alice", "bob"]}
    digests = {
        of({**PSI, "sf_init_config": {**init, "self_party": party}}, party).digest
        for party in ("alice", "bob")
    }
    assert digests == {of({**PSI, "sf_init_config": init}, "alice").digest}
    assert digests.isdisjoint({of(PSI, "alice").digest})


def test_the_order_of_the_keys_makes_no_difference() -> None:
    config = PSI["task_config"]
    turned = {"task_config": dict(reversed(config.items()))}
    assert of(turned, "alice").digest == of(PSI, "alice").digest


def test_the_request_is_left_as_it_is() -> None:
    init = {"parties": ["alice", "bob"], "self_party": "alice"}
    of({**PSI, "sf_init_config": init}, "alice")
    assert init == {"parties": ["alice", "bob"], "self_party": "alice"}


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"digest": "another"}, "RequestMismatch"),
        ({"protocol": "another"}, "RequestMismatch"),
        ({"parties": ["alice", "bob", "carol"]}, "RequestMismatch"),
        ({"versions": versions() | {"worker": "0.0.1"}}, "VersionMismatch"),
        ({"versions": versions() | {"link": "1"}}, "VersionMismatch"),
        ({"versions": {}}, "VersionMismatch"),
        ({"clock": 1e11}, "ClockSkew"),
        ({"clock": 1.0}, "ClockSkew"),
        ({"clock": float("nan")}, "ClockSkew"),
    ],
    ids=repr,
)
def test_a_difference_is_named_with_both(change: dict[str, Any], code: str) -> None:
    difference = agenda("alice").difference(agenda("bob").join() | change, 1000.0)
    assert difference is not None and difference.code == code
    assert "alice and bob" in difference.message


def test_no_two_joins_are_the_same() -> None:
    bob = agenda("bob")
    assert bob.join()["nonce"] != bob.join()["nonce"]
