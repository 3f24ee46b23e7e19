"""The node that decides how an execution between nodes ends."""

from __future__ import annotations

import threading
import time
from typing import Any, Callable, Mapping

from secretflow_task.contract.errors import PeerRefused, PeerUnreachable, WorkerError
from secretflow_task.node.link.local import LocalSettlement
from secretflow_task.node.link.peer.agenda import Agenda
from secretflow_task.node.link.peer.outcome import outcome_of, read_error
from secretflow_task.node.link.peer.seat import Seat
from secretflow_task.node.link.peer.tokens import is_token, new_token
from secretflow_task.node.link.peer.wire import Garbled, Message
from secretflow_task.node.link.protocol import PeerLink


class Coordinator:
    """An execution that this node coordinates: `LocalSettlement`, with seats for the other nodes.

    Args:
        decide: writes the success down, before anybody is told.
        is_new: whether a nonce did not come before.
        was_refused: whether somebody was turned away lately who may have been the node of a party.

    Attributes:
        session: what the execution is called among those who take part.
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
        self.session = new_token()
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
            WorkerError: the node cannot take part; if it is a party of the execution, that fails.
            Garbled: it is not a proper join.
        """
        try:
            parties = tuple(sorted(set(map(str, join["from"]))))
            difference = self.agenda.difference(join, self._clock_limit_seconds)
            nonce = join["nonce"]
            refusal = None
            if "refuses" in join:
                refusal = read_error(join["refuses"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise Garbled from error
        if not parties or not set(parties) <= set(self.agenda.strangers):
            raise PeerRefused("These parties have no seat here.")
        if not is_token(nonce) or not self._is_new(nonce):
            raise PeerRefused("The same join came before.")
        if difference:
            self._shared.fail(difference)
        if refusal:
            self._shared.fail(refusal)
        failure = self.failure
        if failure:
            raise failure
        return self._take_seat(parties)

    def _take_seat(self, parties: tuple[str, ...]) -> Seat:
        with self._changed:
            if not self._taken().isdisjoint(parties):
                raise PeerRefused("These parties have a seat already.")
            seat = Seat(self._shared, parties)
            self._seats.append(seat)
            self._changed.notify_all()
        return seat

    def join(self) -> None:
        """Wait until every party's node has its seat; raises `WorkerError` if it fails."""
        absent = self._wait_for_seats()
        if absent:
            self._shared.fail(self._absence(absent[0]))
        failure = self.failure
        if failure:
            raise failure
        for seat in self._seats:
            seat.all_are_here = True
        self._shared.wake()

    def _wait_for_seats(self) -> list[str]:
        """Who has no seat when all have come, the execution has failed, or the time is over."""
        deadline = time.monotonic() + self._join_seconds
        with self._changed:
            while True:
                taken = self._taken()
                absent = [party for party in self.agenda.strangers if party not in taken]
                left = deadline - time.monotonic()
                if not absent or self.failure or left <= 0:
                    return absent
                self._changed.wait(left)

    def _taken(self) -> set[str]:
        return {party for seat in self._seats for party in seat.parties}

    @property
    def failure(self) -> WorkerError | None:
        """In what the execution has failed."""
        with self._shared.mutex:
            return self._shared.failure

    def _absence(self, party: str) -> WorkerError:
        if self._was_refused(party):
            message = (
                f"A connection was refused that may have been that of {party};"
                " nobody else came for it."
            )
            return PeerRefused(message, party=party)
        hint = (
            f"Was the request sent to {party} too? `sfworker doctor --peer {party}` tries the way."
        )
        message = f"The node of {party} did not join within {self._join_seconds:g} s."
        return PeerUnreachable(message, hint=hint, party=party)

    def outcome(self) -> dict[str, Any]:
        """How the execution stands, for a node that asks."""
        with self._shared.mutex:
            succeeded = self._shared.succeeded
            failure = self._shared.failure
        if succeeded:
            return {"kind": "outcome", "status": "SUCCESS"}
        return outcome_of(failure)

    def close(self) -> None:
        """Give back what the links hold."""
        self._shared.close()
