"""What a node answers to a measurement, and how much of it at most."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from secretflow_task.node.link.peer import probe
from secretflow_task.node.link.peer.agenda import versions
from secretflow_task.node.link.peer.wire import WireClosed
from tests.unit.node.link.peer.parties import frame, heard, wired


def answers(count: int, *questions: dict[str, Any], problem: str | None = None) -> list[Any]:
    """What a node answers to these questions."""

    async def call_back() -> str | None:
        return problem

    async def scenario() -> list[Any]:
        async with wired() as (wire, peer):
            answering = asyncio.create_task(probe.answer(wire, call_back))
            for question in questions:
                peer.send(frame(question))
            found = [await heard(peer) for _ in range(count)]
            peer.close()
            with pytest.raises(WireClosed):
                await answering
            return found

    return asyncio.run(scenario())


def test_a_ping_is_answered_with_the_time_and_the_versions() -> None:
    before = time.time()
    (pong,) = answers(1, {"kind": "ping"})
    assert before <= pong.pop("clock") <= time.time()
    assert pong == {"kind": "pong", "versions": versions()}


@pytest.mark.parametrize("problem", [None, "The node of alice cannot be reached."])
def test_the_way_back_is_tried(problem: str | None) -> None:
    (called,) = answers(1, {"kind": "call"}, problem=problem)
    assert called == {"kind": "called", "problem": problem}


def test_data_is_sent_in_a_sensible_amount(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_PIECE", "xyz")
    monkeypatch.setattr(probe, "_MOST_PIECES", 3)
    asked = [{"kind": "fetch", "pieces": pieces} for pieces in (1, 10**9)]
    found = answers(5, *asked, {"kind": "ping"})
    assert [answer["kind"] for answer in found] == ["data"] * 4 + ["pong"]


def test_data_that_is_pushed_needs_no_answer() -> None:
    (pong,) = answers(1, {"kind": "data", "body": "x" * 100}, {"kind": "ping"})
    assert pong["kind"] == "pong"


def test_a_peer_that_falls_silent_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_ANSWER_SECONDS", 0.01)

    async def call_back() -> str | None:
        return None

    async def scenario() -> None:
        async with wired() as (wire, _peer):
            with pytest.raises(asyncio.TimeoutError):
                await probe.answer(wire, call_back)

    asyncio.run(scenario())
