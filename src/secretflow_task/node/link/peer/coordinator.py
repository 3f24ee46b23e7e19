"""The node that decides how an execution between nodes ends, and the seats of the other nodes there."""

from __future__ import annotations

import re
import secrets
import threading
import time
from typing import Any, Callable, Mapping

from secretflow_task.contract.errors import PeerRefused, PeerUnreachable, WorkerError
from secretflow_task.contract.messages import PARTY_NAME
from secretflow_task.node.link.local import LocalSettlement
from secretflow_task.node.link.peer.agenda import Agenda
from secretflow_task.node.link.peer.wire import Garbled, Message
from secretflow_task.node.link.protocol import PeerLink

_STATUSES = frozenset({"SUCCESS", "FAILURE", "RUNNING", "UNKNOWN"})
_LONGEST_TEXT = 4000
_TOKEN = re.compile("[0-9a-f]{32}")


class Seat:
    """The parties of another node: says for them what they say, and tells them what all must know."""

    done = False  # the member closes the conversation, when it has heard the end

    def __init__(self, settlement: LocalSettlement, parties: tuple[str, ...]) -> None:
        self.parties = parties
        self.all_are_here = False
        self._settlement = settlement
        self._links = {party: settlement.links[party] for party in parties}
        self._waiting: set[str] = set()
        self._told: set[str] = set()
        self._rounds = 0

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
        if message["kind"] == "fail":
            self._settlement.fail(read_error(message["error"]))
            return
        party, link = message["party"], self._links[message["party"]]
        if message["kind"] == "offer":
            if party in self._waiting and link.agreed() is None:
                raise Garbled("a party offers once a round")
            self._waiting.add(party)
            link.offer(dict(message["facts"]))
        elif message["kind"] == "finish":
            link.finish()
        elif message["kind"] == "settle" and link.finished:
            link.settle()
        else:
            raise Garbled("no such message")

    def take(self) -> list[Message]:
        """What the node has not been told yet."""
        settlement = self._settlement
        with settlement.mutex:
            rounds = [dict(facts) for facts in settlement.rounds[self._rounds :]]
            finished = len(settlement.finished) == len(settlement.links)
            failure, succeeded = settlement.failure, settlement.succeeded
        complete = [facts for facts in rounds if len(facts) == len(settlement.links)]
        self._rounds += len(complete)
        messages: list[Message] = self._once("joined", self.all_are_here)
        messages += [{"kind": "agreed", "facts": facts} for facts in complete]
        messages += self._once("finished", finished)
        messages += self._once("failed", failure is not None, error=failure and failure.to_dict())
        return messages + self._once("succeeded", succeeded)

    def _once(self, kind: str, now: bool, **fields: Any) -> list[Message]:
        if not now or kind in self._told:
            return []
        self._told.add(kind)
        return [{"kind": kind, **fields}]

    def lost(self, error: WorkerError) -> None:
        """The node cannot be reached; it need not be, once all its parties have voted."""
        with self._settlement.mutex:
            needed = not self._settlement.settled.issuperset(self.parties)
        if needed:
            self._settlement.fail(error)


class Coordinator:
    """An execution that this node coordinates: `LocalSettlement`, with seats for the other nodes.

    Args:
        decide: writes the success down, before anybody is told.
        is_new: whether a nonce did not come before.
        was_refused: whether somebody was turned away lately who may have been the node of a party.
    """

    def __init__(
        self,
        agenda: Agenda,
        decide: Callable[[], None],
        is_new: Callable[[str], bool],
        was_refused: Callable[[str], bool],
        *,
        join_seconds: float,
        clock_limit_seconds: float,
    ) -> None:
        self.agenda = agenda
        self.session = secrets.token_hex(16)
        self._shared = LocalSettlement(list(agenda.parties), decide)
        self._is_new = is_new
        self._was_refused = was_refused
        self._join_seconds = join_seconds
        self._clock_limit_seconds = clock_limit_seconds
        self._seats: list[Seat] = []
        self._changed = threading.Condition()
        self._shared.watchers.append(self._notify)

    @property
    def links(self) -> Mapping[str, PeerLink]:
        """The link of each hosted party."""
        return {party: self._shared.links[party] for party in self.agenda.hosted}

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def seat(self, join: Message) -> Seat:
        """Give the parties of a node their seat.

        Raises:
            WorkerError: the node cannot take part; if it is who it says, the execution fails so for all.
            Garbled: it is no proper join.
        """
        try:
            parties = tuple(sorted(set(map(str, join["from"]))))
            difference = self.agenda.difference(join, self._clock_limit_seconds)
            nonce, refusal = join["nonce"], (
                read_error(join["refuses"]) if "refuses" in join else None
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise Garbled from error
        if not parties or not set(parties) <= set(self.agenda.strangers):
            raise PeerRefused("These parties have no seat here.")
        if not is_token(nonce) or not self._is_new(nonce):
            raise PeerRefused("The same join came before.")
        for reason in filter(None, (difference, refusal)):
            self._shared.fail(reason)
        with self._shared.mutex:
            failure = self._shared.failure
        if failure:
            raise failure
        return self._taken(parties)

    def _taken(self, parties: tuple[str, ...]) -> Seat:
        with self._changed:
            taken = {party for seat in self._seats for party in seat.parties}
            if taken & set(parties):
                raise PeerRefused("These parties have a seat already.")
            self._seats.append(Seat(self._shared, parties))
            self._changed.notify_all()
            return self._seats[-1]

    def join(self) -> None:
        """Wait until every party's node has its seat."""
        deadline = time.monotonic() + self._join_seconds
        with self._changed:
            while (missing := self._missing()) and self.failure is None:
                if (
                    not self._changed.wait(deadline - time.monotonic())
                    and time.monotonic() >= deadline
                ):
                    break
        if missing:
            self._shared.fail(self._absence(missing[0]))
        if self.failure:
            raise self.failure
        for seat in self._seats:
            seat.all_are_here = True
        self._shared.wake()

    @property
    def failure(self) -> WorkerError | None:
        """In what the execution has failed."""
        with self._shared.mutex:
            return self._shared.failure

    def _missing(self) -> list[str]:
        taken = {party for seat in self._seats for party in seat.parties}
        return [party for party in self.agenda.strangers if party not in taken]

    def _absence(self, party: str) -> WorkerError:
        if self._was_refused(party):
            message = f"A connection was refused that may have been that of {party}; nobody else came for it."
            return PeerRefused(message, party=party)
        return PeerUnreachable(
            f"The node of {party} did not join within {self._join_seconds:g} s.",
            hint=f"Was the request sent to {party} too? `sfworker doctor --peer {party}` tries the way.",
            party=party,
        )

    def outcome(self) -> dict[str, Any]:
        """How the execution stands, for a node that asks."""
        with self._shared.mutex:
            if self._shared.succeeded:
                return {"kind": "outcome", "status": "SUCCESS"}
            failure = self._shared.failure
        return outcome_of(failure)

    def close(self) -> None:
        """Give back what the links hold."""
        self._shared.close()


def outcome_of(failure: WorkerError | None) -> dict[str, Any]:
    """The answer to a node that asks about an execution that has not succeeded."""
    if failure is None:
        return {"kind": "outcome", "status": "RUNNING"}
    return {"kind": "outcome", "status": "FAILURE", "error": failure.to_dict()}


def read_error(fields: Any) -> WorkerError:
    """An error from a peer: texts of a sensible length, nothing else.

    Raises:
        ValueError, TypeError, AttributeError: it is none.
    """
    known = {key: fields.get(key) for key in ("code", "message", "hint", "party", "step")}
    if not all(value is None or (isinstance(value, str) and value) for value in known.values()):
        raise ValueError("an error consists of texts")
    if known["party"] and not re.fullmatch(PARTY_NAME, known["party"]):
        raise ValueError("no party has such a name")
    return WorkerError.from_dict(
        {key: value and value[:_LONGEST_TEXT] for key, value in known.items()}
    )


def checked_outcome(answer: Message) -> Message | None:
    """A node's answer to how an execution ended, if it is one."""
    try:
        if answer["kind"] != "outcome" or answer["status"] not in _STATUSES:
            return None
        if answer["status"] == "FAILURE":
            read_error(answer["error"])
    except (KeyError, ValueError, TypeError, AttributeError):
        return None
    return answer


def is_token(value: object) -> bool:
    """Whether something is what `secrets.token_hex` makes of 16 bytes."""
    return isinstance(value, str) and _TOKEN.fullmatch(value) is not None
