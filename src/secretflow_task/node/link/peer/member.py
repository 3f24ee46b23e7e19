"""An execution that another node coordinates: what is known of it here."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Any, Callable, Mapping

from secretflow_task.contract.errors import (
    PeerLost,
    PeerUnreachable,
    SettlementUnknown,
    WorkerError,
)
from secretflow_task.node.link.peer.agenda import Agenda
from secretflow_task.node.link.peer.outcome import read_error
from secretflow_task.node.link.peer.tokens import is_token
from secretflow_task.node.link.peer.wire import Garbled, Message
from secretflow_task.node.link.protocol import Facts, PeerLink, Unsettled
from secretflow_task.node.link.signal import SignalledLink

_LOOK_SECONDS = 0.5


class Member:
    """The hosted parties' end of an execution whose coordinator is elsewhere.

    While the coordinator can be reached it alone says how the execution ends. When it cannot, the
    parties fail by themselves, unless all of them have voted: then they wait for its decision.

    Args:
        patience_seconds: how long a party that has not voted waits for the answer when it asks for
            the end.
        join_seconds: how long the parties wait at most for the others.

    Attributes:
        session: what the coordinator names the execution by, to those who take part.
    """

    def __init__(
        self,
        agenda: Agenda,
        patience_seconds: float,
        join_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.agenda = agenda
        self._clock = clock
        self._patience_seconds = patience_seconds
        self._join_seconds = join_seconds
        self.session: str | None = None
        self.mutex = threading.Lock()
        self._changed = threading.Condition(self.mutex)
        self._watchers: list[Callable[[], None]] = []
        self._unsent: deque[Message] = deque()
        self._attached = False
        self._joined = False
        self._asked: WorkerError | None = None
        self._asked_at = 0.0
        self._settled: set[str] = set()
        self._abandoned = False
        self.rounds: list[Facts] = []
        self.all_finished = False
        self.failure: WorkerError | None = None
        self.succeeded = False
        self._links = {party: MemberLink(self, party) for party in agenda.hosted}

    @property
    def links(self) -> Mapping[str, PeerLink]:
        """The link of each hosted party."""
        return self._links

    @property
    def done(self) -> bool:
        """Whether the end is known."""
        with self.mutex:
            return self.failure is not None or self.succeeded

    @property
    def uncertain(self) -> bool:
        """Whether only the coordinator can know the end: all parties here have voted."""
        with self.mutex:
            return self._is_uncertain()

    def _is_uncertain(self) -> bool:
        return not self.failure and not self.succeeded and len(self._settled) == len(self._links)

    def watch(self, changed: Callable[[], None]) -> None:
        """Call ``changed``, from any thread, when there may be something to take."""
        self._watchers.append(changed)

    def introduction(self) -> Message:
        """What the coordinator is told first."""
        join = self.agenda.join()
        with self.mutex:
            if self._asked:
                join["refuses"] = self._asked.to_dict()
        return join

    def attach(self, session: str) -> None:
        """The coordinator has let the parties in; raises `ValueError` if that is not a session."""
        if not is_token(session):
            raise ValueError("no session")
        with self.mutex:
            self.session = session
            self._attached = True

    def say(self, kind: str, **fields: Any) -> None:
        """Tell the coordinator something."""
        with self.mutex:
            self._unsent.append({"kind": kind, **fields})
        self._wake()

    def take(self) -> list[Message]:
        """What the coordinator has not been told yet."""
        with self.mutex:
            messages = list(self._unsent)
            self._unsent.clear()
            return messages

    def receive(self, message: Message) -> None:
        """Note what the coordinator says; raises `Garbled` for what it cannot say."""
        try:
            with self.mutex:
                self._receive(message)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise Garbled from error
        self._wake()

    def _receive(self, message: Message) -> None:
        kind = message["kind"]
        if kind == "joined":
            self._joined = True
        elif kind == "agreed":
            agreed: Facts = {}
            for party, facts in message["facts"].items():
                agreed[str(party)] = dict(facts)
            self.rounds.append(agreed)
        elif kind == "finished":
            self.all_finished = True
        elif kind == "failed":
            self.failure = self.failure or read_error(message["error"])
        elif kind == "succeeded" and len(self._settled) == len(self._links):
            self.succeeded = self.failure is None
        else:
            raise Garbled("no such message")

    def learn(self, outcome: Message) -> None:
        """Take the coordinator's answer to how it ended, as `checked_outcome` gives it."""
        status = outcome["status"]
        if status == "FAILURE":
            self.give_up(read_error(outcome["error"]))
        elif status == "UNKNOWN":
            self.give_up(SettlementUnknown())
        elif status == "SUCCESS":
            with self.mutex:
                if self._is_uncertain():
                    self.succeeded = True
            self._wake()

    def fail(self, error: WorkerError) -> None:
        """Ask for the end; without the coordinator it is one, unless the parties have voted."""
        with self.mutex:
            if self._asked is None:
                self._asked = error
                self._asked_at = self._clock()
                self._unsent.append({"kind": "fail", "error": error.to_dict()})
            if not self._attached and not self._is_uncertain() and not self.succeeded:
                self.failure = self.failure or self._asked
        self._wake()

    def settle(self, party: str) -> None:
        """Vote, unless the execution has failed."""
        with self.mutex:
            if self.failure is None and party not in self._settled:
                self._settled.add(party)
                self._unsent.append({"kind": "settle", "party": party})
        self._wake()

    def lost(self, error: WorkerError) -> None:
        """The coordinator cannot be reached any more."""
        with self.mutex:
            self._attached = False
            if not self._is_uncertain() and not self.succeeded:
                self.failure = self.failure or self._asked or error
        self._wake()

    def give_up(self, error: WorkerError) -> None:
        """End in failure, whatever was voted."""
        with self.mutex:
            if not self.succeeded:
                self.failure = self.failure or error
        self._wake()

    def abandon(self) -> None:
        """The node ends: whoever waits for a decision leaves without one."""
        with self.mutex:
            self._abandoned = True
        self._wake()

    def left_alone(self) -> None:
        """Nobody here speaks with the coordinator any more."""
        coordinator = self.agenda.coordinator
        unknown: WorkerError = PeerLost(party=coordinator)
        with self.mutex:
            if self._is_uncertain():
                unknown = SettlementUnknown(party=coordinator)
            stays_open = self._abandoned and self._is_uncertain()
            if not self.succeeded and not stays_open:
                self.failure = self.failure or self._asked or unknown
        self._wake()

    def ended(self) -> WorkerError | None:
        """The failure, if any; raises `Unsettled` when this node will not learn the end."""
        with self.mutex:
            if self._abandoned and self._is_uncertain():
                raise Unsettled
            ignored = self._is_ignored()
            if ignored:
                self.failure = self._asked
            failure = self.failure
        if ignored:
            self._wake()
        return failure

    def _is_ignored(self) -> bool:
        """Whether the parties may end without an answer; without their votes all fail."""
        if self._asked is None or self.failure or self.succeeded or self._is_uncertain():
            return False
        return self._clock() - self._asked_at > self._patience_seconds

    def join(self) -> None:
        """Wait until every party's node takes part."""
        deadline = self._clock() + self._join_seconds
        while True:
            failure = self.ended()
            if failure:
                raise failure
            with self._changed:
                if self._joined:
                    return
                self._changed.wait(_LOOK_SECONDS)
            if self._clock() > deadline:
                self.fail(PeerUnreachable("The other parties did not join in time."))

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()
        for link in self._links.values():
            link.signal.set()
        for watcher in self._watchers:
            watcher()

    def close(self) -> None:
        """Give back what the links hold."""
        for link in self._links.values():
            link.close()


class MemberLink(SignalledLink):
    """`PeerLink` of a party at a node that does not decide."""

    def __init__(self, member: Member, party: str) -> None:
        super().__init__()
        self._member = member
        self._party = party
        self._round = -1

    def offer(self, facts: Mapping[str, Any]) -> None:
        """Say that the own party is prepared for its next round."""
        self._round += 1
        self._member.say("offer", party=self._party, facts=dict(facts))

    def agreed(self) -> Facts | None:
        """Every party's facts of the own current round, when all have offered theirs."""
        if self._round < 0:
            return None
        with self._member.mutex:
            if self._round >= len(self._member.rounds):
                return None
            return dict(self._member.rounds[self._round])

    def fail(self, error: WorkerError) -> None:
        """End the execution in failure for all, or ask for it."""
        self._member.fail(error)

    def finish(self) -> None:
        """Say that the own party has its result ready."""
        self._member.say("finish", party=self._party)

    @property
    def finished(self) -> bool:
        """Whether every party has finished."""
        with self._member.mutex:
            return self._member.all_finished

    def settle(self) -> None:
        """Say that the own outputs are in their places."""
        self._member.settle(self._party)

    @property
    def failed(self) -> WorkerError | None:
        """The failure in which the execution ended."""
        return self._member.ended()

    @property
    def succeeded(self) -> bool:
        """Whether the coordinator has said so."""
        with self._member.mutex:
            return self._member.succeeded
