"""The parties of an execution agree, fail and succeed together."""

from __future__ import annotations

import select
import threading
from contextlib import closing
from typing import Iterator

import pytest

from secretflow_task.errors import PeerLost, TaskTimeout
from secretflow_task.node.peer_link import LocalExecution, LocalLink

Links = dict[str, LocalLink]


@pytest.fixture
def links() -> Iterator[Links]:
    """The ends of three parties."""
    with closing(LocalExecution(["alice", "bob", "carol"])) as execution:
        yield execution.links


def changed(link: LocalLink) -> bool:
    """Whether the link has something new."""
    return bool(select.select([link], [], [], 0)[0])


def test_facts_are_agreed_when_all_have_offered(links: Links) -> None:
    assert links["alice"].agreed() is None
    for party in ("alice", "bob"):
        links[party].offer({"rows": len(party)})
        assert all(link.agreed() is None for link in links.values())
    links["carol"].offer({})
    expected = {"alice": {"rows": 5}, "bob": {"rows": 3}, "carol": {}}
    assert [link.agreed() for link in links.values()] == [expected] * 3


def test_rounds_do_not_mix(links: Links) -> None:
    for link in links.values():
        link.offer({"round": 0})
    links["alice"].offer({"round": 1})
    links["alice"].offer({"round": 2})
    assert links["alice"].agreed() is None
    assert links["bob"].agreed() == {party: {"round": 0} for party in links}
    for number in (1, 2):
        for party in ("bob", "carol"):
            links[party].offer({"round": number})
    assert links["bob"].agreed() == links["alice"].agreed() == {party: {"round": 2} for party in links}


def test_what_is_agreed_is_everyones_own_copy(links: Links) -> None:
    facts = {"rows": 1}
    for link in links.values():
        link.offer(facts)
    facts["rows"] = 2
    agreed = links["alice"].agreed()
    assert agreed is not None
    agreed.clear()
    assert links["bob"].agreed() == {party: {"rows": 1} for party in links}


def test_the_first_failure_is_everyones(links: Links) -> None:
    first = PeerLost(party="bob")
    links["bob"].fail(first)
    links["alice"].fail(TaskTimeout(party="alice"))
    assert [link.failed for link in links.values()] == [first] * 3
    for link in links.values():
        link.finish()
        link.settle()
    assert not any(link.succeeded for link in links.values())


def test_outputs_are_moved_when_all_have_finished(links: Links) -> None:
    for link in links.values():
        assert not any(link.finished for link in links.values())
        link.finish()
        link.finish()
    assert all(link.finished and not link.succeeded for link in links.values())


def test_success_is_when_all_have_settled_and_nothing_changes_it(links: Links) -> None:
    for link in links.values():
        link.finish()
    for link in links.values():
        assert not link.succeeded
        link.settle()
        link.settle()
    assert all(link.succeeded for link in links.values())
    links["alice"].fail(PeerLost())
    assert all(link.succeeded and link.failed is None for link in links.values())


def test_a_failure_after_some_have_settled_counts(links: Links) -> None:
    for link in links.values():
        link.finish()
    links["alice"].settle()
    links["bob"].settle()
    links["carol"].fail(PeerLost(party="carol"))
    assert all(link.failed and not link.succeeded for link in links.values())


def test_every_change_wakes_every_party(links: Links) -> None:
    for change in (
        lambda: links["alice"].offer({}),
        lambda: links["bob"].finish(),
        lambda: links["bob"].settle(),
        lambda: links["carol"].fail(PeerLost()),
    ):
        assert not any(changed(link) for link in links.values())
        change()
        assert all(changed(link) for link in links.values())
        for link in links.values():
            link.clear()


def test_clearing_twice_is_no_error_and_loses_nothing(links: Links) -> None:
    links["alice"].clear()
    links["bob"].finish()
    links["bob"].finish()
    links["alice"].clear()
    links["alice"].clear()
    assert not changed(links["alice"]) and changed(links["carol"])


def test_a_change_after_one_party_has_left_reaches_the_others() -> None:
    execution = LocalExecution(["alice", "bob"])
    execution.links["alice"].close()
    execution.links["bob"].fail(PeerLost())
    assert changed(execution.links["bob"])
    execution.links["bob"].close()


@pytest.mark.parametrize("attempt", range(20))
def test_failing_and_settling_at_once_has_one_outcome_for_all(attempt: int) -> None:
    with closing(LocalExecution(["alice", "bob"])) as execution:
        alice, bob = execution.links["alice"], execution.links["bob"]
        alice.settle()
        start = threading.Barrier(2)
        seen: list[tuple[bool, bool]] = []

        def act(link: LocalLink, fail: bool) -> None:
            start.wait()
            link.fail(PeerLost()) if fail else link.settle()
            seen.append((link.failed is not None, link.succeeded))

        threads = [
            threading.Thread(target=act, args=arguments) for arguments in ((alice, True), (bob, False))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        final = {(link.failed is not None, link.succeeded) for link in (alice, bob)}
        assert final in ({(True, False)}, {(False, True)})
