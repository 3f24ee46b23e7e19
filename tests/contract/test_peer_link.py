"""The parties of an execution agree, fail and succeed together, in one node and between nodes."""

from __future__ import annotations

import itertools
import select
import threading
import time
from contextlib import ExitStack, closing
from typing import Callable, Iterator

import pytest

from secretflow_task.contract.errors import OutputNotWritable, PeerLost, TaskTimeout
from secretflow_task.node.link.local import LocalSettlement
from secretflow_task.node.link.protocol import PeerLink
from secretflow_task.testing import MemorySettlement
from tests.bench.peers import Hubs
from tests.bench.waiting import comes_true

Links = dict[str, PeerLink]
PARTIES = ["alice", "bob", "carol"]


class Form:
    """One form of the link, with executions of three parties.

    Attributes:
        decided: executions that were written down as successes.
    """

    _count = itertools.count(1)

    def __init__(self, name: str, hubs: Hubs, stack: ExitStack) -> None:
        self._name = name
        self._stack = stack
        self._decided: list[object] = []
        self._hubs = hubs if name == "tls" else None
        hubs.decided.clear()

    def links(self) -> Links:
        """The links of a new execution that all have joined."""
        if self._hubs:
            return self._between_hubs(self._hubs)
        kind = LocalSettlement if self._name == "local" else MemorySettlement
        execution = self._stack.enter_context(
            closing(kind(PARTIES, lambda: self._decided.append(1)))
        )
        execution.join()
        return dict(execution.links)

    def _between_hubs(self, hubs: Hubs) -> Links:
        name = f"e-{next(self._count)}"
        ends = {party: hubs.open(name, party) for party in PARTIES}
        for party, end in ends.items():
            self._stack.enter_context(closing(end))
            end.join()
        return {party: end.links[party] for party, end in ends.items()}

    @property
    def decided(self) -> int:
        """How many successes were written down."""
        return len(self._hubs.decided if self._hubs else self._decided)


@pytest.fixture(scope="module")
def hubs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hubs]:
    """Three nodes' ends of the link."""
    with Hubs(tmp_path_factory.mktemp("hubs"), *PARTIES) as running:
        yield running


@pytest.fixture(params=["local", "memory", "tls"])
def form(request: pytest.FixtureRequest, hubs: Hubs) -> Iterator[Form]:
    """Every form of the link."""
    with ExitStack() as stack:
        yield Form(request.param, hubs, stack)


@pytest.fixture
def links(form: Form) -> Links:
    """The ends of three parties."""
    return form.links()


def changed(link: PeerLink) -> bool:
    """Whether the link has something new."""
    return bool(select.select([link], [], [], 0)[0])


def never(condition: Callable[[], bool]) -> bool:
    """Whether ``condition()`` stays false while a message could have come."""
    time.sleep(0.05)
    return not condition()


def test_facts_are_agreed_when_all_have_offered(links: Links) -> None:
    assert links["alice"].agreed() is None
    for party in ("alice", "bob"):
        links[party].offer({"rows": len(party)})
        assert never(lambda: any(link.agreed() for link in links.values()))
    links["carol"].offer({})
    expected = {"alice": {"rows": 5}, "bob": {"rows": 3}, "carol": {}}
    assert comes_true(lambda: [link.agreed() for link in links.values()] == [expected] * 3)


def test_rounds_do_not_mix(links: Links) -> None:
    for number in range(3):
        for link in links.values():
            link.offer({"round": number})
        expected = {party: {"round": number} for party in links}
        for link in links.values():  # each goes on when it has heard, as a job does
            assert comes_true(lambda link=link: link.agreed() == expected)  # type: ignore[misc]


def test_what_is_agreed_is_everyones_own_copy(links: Links) -> None:
    facts = {"rows": 1}
    for link in links.values():
        link.offer(facts)
    facts["rows"] = 2
    assert comes_true(lambda: links["alice"].agreed() is not None)
    (links["alice"].agreed() or {}).clear()
    expected = {party: {"rows": 1} for party in links}
    assert comes_true(lambda: all(link.agreed() == expected for link in links.values()))


@pytest.mark.parametrize("first", PARTIES)
def test_the_first_failure_is_everyones(first: str, links: Links) -> None:
    links[first].fail(PeerLost(party=first))
    assert comes_true(lambda: all(link.failed for link in links.values()))
    for link in links.values():
        link.fail(TaskTimeout(party="alice"))
        link.finish()
        link.settle()
    assert never(lambda: any(link.succeeded for link in links.values()))
    failures = [link.failed.to_dict() for link in links.values() if link.failed]
    assert failures == [PeerLost(party=first).to_dict()] * 3


def test_outputs_are_moved_when_all_have_finished(links: Links) -> None:
    for link in links.values():
        assert never(lambda: any(link.finished for link in links.values()))
        link.finish()
        link.finish()
    assert comes_true(lambda: all(link.finished for link in links.values()))
    assert not any(link.succeeded for link in links.values())


def settle(links: Links, *parties: str) -> None:
    """Let all finish, and these settle."""
    for link in links.values():
        link.finish()
    assert comes_true(lambda: all(link.finished for link in links.values()))
    for party in parties:
        links[party].settle()
        links[party].settle()


def test_success_is_when_all_have_settled_and_nothing_changes_it(links: Links, form: Form) -> None:
    settle(links, "alice", "bob")
    assert never(lambda: any(link.succeeded for link in links.values())) and not form.decided
    links["carol"].settle()
    assert comes_true(lambda: all(link.succeeded for link in links.values())) and form.decided == 1
    for link in links.values():
        link.fail(PeerLost())
    assert all(link.succeeded and link.failed is None for link in links.values())


@pytest.mark.parametrize("late", PARTIES)
def test_a_failure_after_some_have_settled_counts(late: str, links: Links, form: Form) -> None:
    settle(links, *(party for party in PARTIES if party != late))
    links[late].fail(PeerLost(party=late))
    assert comes_true(lambda: all(link.failed for link in links.values()))
    links[late].settle()
    assert never(lambda: any(link.succeeded for link in links.values())) and form.decided == 0


def test_every_change_wakes_every_party(links: Links) -> None:
    for link in links.values():
        link.offer({})
    assert comes_true(lambda: all(link.agreed() for link in links.values()))
    for change in (
        lambda: [link.offer({}) for link in links.values()],
        lambda: [link.finish() for link in links.values()],
        lambda: [link.settle() for link in links.values()],
    ):
        time.sleep(0.05)
        for link in links.values():
            link.clear()
        change()
        assert comes_true(lambda: all(changed(link) for link in links.values()))


def test_a_failure_wakes_every_party(links: Links) -> None:
    for link in links.values():
        link.clear()
    links["carol"].fail(PeerLost())
    assert comes_true(lambda: all(changed(link) for link in links.values()))


def test_clearing_twice_is_no_error_and_loses_nothing(links: Links) -> None:
    for link in links.values():
        link.clear()
        link.clear()
        link.finish()
    assert comes_true(lambda: all(changed(link) for link in links.values()))


def test_a_change_after_one_party_has_left_reaches_the_others(links: Links) -> None:
    links["alice"].close()
    links["bob"].fail(PeerLost())
    assert comes_true(lambda: changed(links["bob"]) and changed(links["carol"]))


def test_a_success_that_cannot_be_written_down_is_none() -> None:
    def refuse() -> None:
        raise OutputNotWritable()

    for kind in (LocalSettlement, MemorySettlement):
        with closing(kind(PARTIES, refuse)) as execution:
            settle(dict(execution.links), *PARTIES)
            codes = {link.failed and link.failed.code for link in execution.links.values()}
            assert codes == {"OutputNotWritable"}


@pytest.mark.parametrize("attempt", range(10))
def test_failing_and_settling_at_once_has_one_outcome_for_all(attempt: int, form: Form) -> None:
    links = form.links()
    settle(links, "carol")
    start = threading.Barrier(2)
    failing, settling = (
        (links["alice"], links["bob"]) if attempt % 2 else (links["bob"], links["alice"])
    )

    def act(link: PeerLink, fail: bool) -> None:
        start.wait()
        link.fail(PeerLost()) if fail else link.settle()

    failing.settle()
    threads = [
        threading.Thread(target=act, args=arguments)
        for arguments in ((failing, True), (settling, False))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert comes_true(lambda: all(link.failed or link.succeeded for link in links.values()))
    final = {(link.failed is not None, link.succeeded) for link in links.values()}
    assert final in ({(True, False)}, {(False, True)})
