"""The store of executions and events: no gap in numbers, order, nothing after a terminal event."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secretflow_task.contract.messages import Status, StatusEvent
from secretflow_task.node.store.event_store import EventStore
from secretflow_task.testing import MemoryOutbox
from tests.contract.conftest import AnyOutbox
from tests.contract.events import event, request

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["claim", "append", "append", "append", "send", "rewind", "give up"]),
        st.sampled_from(["e-1", "e-2"]),
        st.sampled_from(["alice", "bob"]),
        st.sampled_from([Status.RUNNING, Status.RUNNING, Status.SUCCESS, Status.FAILURE]),
    ),
    max_size=25,
)


def waiting(outbox: AnyOutbox, limit: int = 10) -> list[StatusEvent]:
    """The events that Redis does not have."""
    return [unsent.event for unsent in outbox.unsent(limit)]


def test_an_execution_is_taken_once_per_party(outbox: AnyOutbox) -> None:
    assert outbox.claim(request(), "alice")
    assert not outbox.claim(request(), "alice")
    assert outbox.claim(request(), "bob")
    assert outbox.claim(request("e-2"), "alice")


def test_the_status_is_that_of_the_last_event(outbox: AnyOutbox) -> None:
    assert outbox.status("e-1", "alice") is None
    outbox.claim(request(), "alice")
    assert outbox.status("e-1", "alice") is Status.RUNNING
    outbox.append(event())
    assert outbox.status("e-1", "alice") is Status.RUNNING
    outbox.append(event(Status.SUCCESS))
    assert outbox.status("e-1", "alice") is Status.SUCCESS
    assert outbox.status("e-1", "bob") is None


def test_unfinished_is_what_was_taken_and_has_no_terminal_event(outbox: AnyOutbox) -> None:
    for execution_id, party in (("e-2", "alice"), ("e-1", "bob"), ("e-1", "alice")):
        outbox.claim(request(execution_id, task_id="t", subtask_id="s"), party)
    outbox.append(event(party="bob"))
    outbox.append(event(Status.FAILURE))
    left = outbox.unfinished()
    assert [(item.request.execution_id, item.party, item.request.task_type) for item in left] == [
        ("e-2", "alice", "psi"),
        ("e-1", "bob", "psi"),
    ]
    assert {
        (item.request.task_request_id, item.request.task_id, item.request.subtask_id)
        for item in left
    } == {("r-1", "t", "s")}
    assert all(item.request.params == request().params for item in left)


def test_events_are_numbered_per_execution_and_party_and_come_out_in_order(
    outbox: AnyOutbox,
) -> None:
    for party in ("alice", "bob"):
        outbox.claim(request(), party)
    kept = [
        outbox.append(event(party=party, step=step))
        for step, party in enumerate(["alice", "bob", "alice", "bob", "bob"])
    ]
    assert [item.seq for item in kept if item] == [1, 1, 2, 2, 3]
    assert waiting(outbox) == kept
    assert waiting(outbox, 2) == kept[:2]
    numbers = [unsent.number for unsent in outbox.unsent(10)]
    assert numbers == sorted(set(numbers))


def test_an_event_keeps_everything_but_its_number(outbox: AnyOutbox) -> None:
    outbox.claim(request(), "alice")
    given_event = event(Status.SUCCESS, result={"größe": [1.5, None, True], "name": "张伟"})
    kept = outbox.append(given_event)
    assert kept is not None
    assert {**vars(kept), "seq": 0} == vars(given_event)
    assert waiting(outbox, 1) == [kept]


def test_nothing_is_kept_of_an_execution_that_was_not_taken(outbox: AnyOutbox) -> None:
    outbox.claim(request(), "alice")
    assert outbox.append(event(party="bob")) is None
    assert outbox.append(event(execution_id="e-2")) is None
    assert outbox.unsent(10) == []


@pytest.mark.parametrize("terminal", [Status.SUCCESS, Status.FAILURE])
def test_nothing_follows_a_terminal_event(terminal: Status, outbox: AnyOutbox) -> None:
    outbox.claim(request(), "alice")
    kept = outbox.append(event(terminal))
    for status in Status:
        assert outbox.append(event(status)) is None
    assert not outbox.claim(request(), "alice")
    assert waiting(outbox) == [kept]
    assert outbox.status("e-1", "alice") is terminal


def test_what_was_sent_is_forgotten_and_the_rest_keeps_its_order(outbox: AnyOutbox) -> None:
    outbox.claim(request(), "alice")
    kept = [outbox.append(event(step=step)) for step in range(5)]
    numbers = [unsent.number for unsent in outbox.unsent(10)]
    outbox.mark_sent(numbers[1:3])
    assert waiting(outbox) == [kept[0], *kept[3:]]
    outbox.mark_sent(numbers)
    outbox.mark_sent(numbers)
    assert outbox.unsent(10) == []
    following = outbox.append(event())
    assert following is not None and following.seq == 6
    assert outbox.unsent(10)[0].number > numbers[-1]


def test_threads_share_it(outbox: AnyOutbox) -> None:
    parties = [f"p{number}" for number in range(4)]

    def work(party: str) -> None:
        assert outbox.claim(request(), party)
        for step in range(25):
            outbox.append(event(party=party, step=step))
        outbox.append(event(Status.SUCCESS, party=party))

    with ThreadPoolExecutor(8) as threads:
        claimed = list(threads.map(lambda _: outbox.claim(request("race"), "alice"), range(8)))
        list(threads.map(work, parties))
    assert sorted(claimed) == [False] * 7 + [True]
    events = waiting(outbox, 1000)
    for party in parties:
        assert [item.seq for item in events if item.party == party] == list(range(1, 27))


def play(outbox: AnyOutbox, steps: list[Any]) -> list[Any]:
    """Do the steps and return all that could be seen."""
    seen: list[Any] = []
    for action, execution_id, party, status in steps:
        if action == "claim":
            seen.append(outbox.claim(request(execution_id), party))
        elif action == "rewind":
            seen.append(outbox.rewind())
        elif action == "give up":
            outbox.give_up(execution_id, party, 1)
        elif action == "append":
            kept = outbox.append(event(status, party, execution_id))
            seen.append(kept and (kept.execution_id, kept.party, kept.seq, kept.status))
        else:
            sent = outbox.unsent(2)
            outbox.mark_sent([unsent.number for unsent in sent])
            seen.append([(unsent.number, unsent.epoch, unsent.event.seq) for unsent in sent])
        seen.append(outbox.status(execution_id, party))
        seen.append([(item.request, item.party) for item in outbox.unfinished()])
    return seen


@settings(max_examples=40, deadline=None, database=None)
@given(STEPS)
def test_the_twin_does_what_the_real_one_does(
    tmp_path_factory: pytest.TempPathFactory, steps: list[Any]
) -> None:
    folder: Path = tmp_path_factory.mktemp("store")
    with EventStore(folder) as store:
        seen = play(store, steps)
    assert play(MemoryOutbox(), steps) == seen
    numbers: dict[tuple[str, str], int] = {}
    ended = set()
    for kept in (item for item in seen if isinstance(item, tuple)):
        key, seq, status = kept[:2], kept[2], kept[3]
        assert key not in ended and seq == numbers.get(key, 0) + 1
        numbers[key] = seq
        ended |= {key} if status.terminal else set()
