"""Refused connections are counted, logged without flooding the log, and remembered by address."""

from __future__ import annotations

import pytest

from secretflow_task.node.link.peer import refusals
from secretflow_task.node.link.peer.refusals import Refusals
from tests.unit.node.link.peer.parties import Clock


@pytest.fixture
def clock() -> Clock:
    """What is taken for the time."""
    return Clock()


@pytest.fixture
def refused(clock: Clock) -> Refusals:
    """Nothing was refused; bob's node has two addresses."""
    found = Refusals(60.0, clock)
    found.expect("bob", {"192.0.2.1", "192.0.2.2"})
    return found


def test_every_refusal_is_counted(refused: Refusals) -> None:
    for _ in range(3):
        refused.note("192.0.2.1", "no proper TLS", may_be_a_join=False)
    assert refused.count == 3


def test_a_refused_join_concerns_who_has_the_address(refused: Refusals, clock: Clock) -> None:
    assert not refused.may_concern("bob")
    refused.note("192.0.2.2", "no proper TLS", may_be_a_join=True)
    assert refused.may_concern("bob") and not refused.may_concern("carol")
    clock.now += 61.0
    assert not refused.may_concern("bob")


def test_what_was_not_a_join_concerns_nobody(refused: Refusals) -> None:
    refused.note("192.0.2.1", "no such channel", may_be_a_join=False)
    refused.note("192.0.2.9", "no proper TLS", may_be_a_join=True)
    assert not refused.may_concern("bob")


def test_of_many_addresses_the_latest_are_remembered(
    refused: Refusals, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refusals, "_KEPT", 2)
    for last in ("1", "7", "8"):
        clock.now += 1.0
        refused.note(f"192.0.2.{last}", "no proper TLS", may_be_a_join=True)
    assert refused._last.keys() == {"192.0.2.7", "192.0.2.8"} and refused.count == 3


def test_at_most_one_is_logged_a_second(
    refused: Refusals, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    for seconds in (0.0, 0.4, 0.4, 0.4):
        clock.now += seconds
        refused.note("192.0.2.1", "no proper TLS", may_be_a_join=True)
    assert capsys.readouterr().out.count("peer_refused") == 2
