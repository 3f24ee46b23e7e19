"""The place of another node at the node that decides how an execution ends."""

from __future__ import annotations

from typing import Callable

from secretflow_task.contract.errors import WorkerError
from secretflow_task.node.link.local import LocalSettlement
from secretflow_task.node.link.peer.outcome import read_error
from secretflow_task.node.link.peer.wire import Garbled, Message


class Seat:
    """The parties of another node: acts on what they say, and tells them what all must know."""

    done = False  # the member closes the conversation, when it has heard the end

    def __init__(self, settlement: LocalSettlement, parties: tuple[str, ...]) -> None:
        self.parties = parties
        self.all_are_here = False
        self._settlement = settlement
        self._links = {party: settlement.links[party] for party in parties}
        self._has_offered: set[str] = set()
        self._told: set[str] = set()
        self._rounds_told = 0

    def watch(self, changed: Callable[[], None]) -> None:
        """Call ``changed``, from any thread, when there may be something to take."""
        self._settlement.watchers.append(changed)

    def receive(self, message: Message) -> None:
        """Do what a party of the node says; raises `Garbled` for what it cannot say now."""
        try:
            self._receive(message)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise Garbled from error

    def _receive(self, message: Message) -> None:
        kind = message["kind"]
        if kind == "fail":
            self._settlement.fail(read_error(message["error"]))
            return
        party = message["party"]
        link = self._links[party]
        if kind == "offer":
            if party in self._has_offered and link.agreed() is None:
                raise Garbled("a party offers once a round")
            self._has_offered.add(party)
            link.offer(dict(message["facts"]))
        elif kind == "finish":
            link.finish()
        elif kind == "settle" and link.finished:
            link.settle()
        else:
            raise Garbled("no such message")

    def take(self) -> list[Message]:
        """What the node has not been told yet."""
        settlement = self._settlement
        with settlement.mutex:
            rounds = [dict(facts) for facts in settlement.rounds[self._rounds_told :]]
            finished = len(settlement.finished) == len(settlement.links)
            failure = settlement.failure
            succeeded = settlement.succeeded
        messages: list[Message] = []
        if self.all_are_here and self._is_news("joined"):
            messages.append({"kind": "joined"})
        for facts in rounds:
            if len(facts) == len(settlement.links):
                self._rounds_told += 1
                messages.append({"kind": "agreed", "facts": facts})
        if finished and self._is_news("finished"):
            messages.append({"kind": "finished"})
        if failure and self._is_news("failed"):
            messages.append({"kind": "failed", "error": failure.to_dict()})
        if succeeded and self._is_news("succeeded"):
            messages.append({"kind": "succeeded"})
        return messages

    def _is_news(self, kind: str) -> bool:
        """Whether the node has not been told; it is now."""
        if kind in self._told:
            return False
        self._told.add(kind)
        return True

    def lost(self, error: WorkerError) -> None:
        """The node cannot be reached; it need not be, once all its parties have voted."""
        with self._settlement.mutex:
            all_have_voted = self._settlement.settled.issuperset(self.parties)
        if not all_have_voted:
            self._settlement.fail(error)
