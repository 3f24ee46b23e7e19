"""How the nodes of one execution agree, heartbeat and settle; here the form for parties inside one node."""

from __future__ import annotations

import os
import threading
from typing import Any, Mapping, Protocol

from secretflow_task.errors import WorkerError

Facts = dict[str, dict[str, Any]]


class PeerLink(Protocol):
    """One party's end of the link between the parties of an execution.

    Rounds of `offer` and `agreed` come first, any number; then each party says `finish` and, when all have,
    `settle`; or one says `fail`. `failed` and `succeeded` are final and the same at every party.
    """

    def offer(self, facts: Mapping[str, Any]) -> None:
        """Say that the own party is prepared for its next round."""

    def agreed(self) -> Facts | None:
        """Every party's facts of the own current round, when all have offered theirs."""

    def fail(self, error: WorkerError) -> None:
        """End the execution in failure for all; the first failure is the one that counts."""

    def finish(self) -> None:
        """Say that the own party has its result ready."""

    @property
    def finished(self) -> bool:
        """Whether every party has finished, so that outputs may be moved to their places."""

    def settle(self) -> None:
        """Say that the own outputs are in their places; they stay there unless the execution fails."""

    @property
    def failed(self) -> WorkerError | None:
        """The failure in which the execution ended."""

    @property
    def succeeded(self) -> bool:
        """Whether every party has settled."""

    def fileno(self) -> int:
        """A file that becomes readable when something has changed at a peer."""

    def clear(self) -> None:
        """Make `fileno` wait for the next change."""

    def close(self) -> None:
        """Give back what the link holds."""


class LocalExecution:
    """The shared state of an execution whose parties are all in this node."""

    def __init__(self, parties: list[str]) -> None:
        self.mutex = threading.Lock()
        self.rounds: list[Facts] = []
        self.finished: set[str] = set()
        self.settled: set[str] = set()
        self.failure: WorkerError | None = None
        self.links = {party: LocalLink(self, party) for party in parties}

    def wake(self) -> None:
        """Tell every party that something changed."""
        for link in self.links.values():
            link.wake()

    def close(self) -> None:
        """Give back what the links hold."""
        for link in self.links.values():
            link.close()


class LocalLink:
    """`PeerLink` inside one node."""

    def __init__(self, execution: LocalExecution, party: str) -> None:
        self._execution = execution
        self._party = party
        self._round = -1
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def offer(self, facts: Mapping[str, Any]) -> None:
        """Say that the own party is prepared for its next round."""
        execution = self._execution
        with execution.mutex:
            self._round += 1
            if self._round == len(execution.rounds):
                execution.rounds.append({})
            execution.rounds[self._round][self._party] = dict(facts)
        execution.wake()

    def agreed(self) -> Facts | None:
        """Every party's facts of the own current round, when all have offered theirs."""
        with self._execution.mutex:
            facts = self._execution.rounds[self._round] if self._round >= 0 else {}
            return dict(facts) if len(facts) == len(self._execution.links) else None

    def fail(self, error: WorkerError) -> None:
        """End the execution in failure for all, unless it has ended already."""
        with self._execution.mutex:
            if self._execution.failure is None and not self._all_settled():
                self._execution.failure = error
        self._execution.wake()

    def finish(self) -> None:
        """Say that the own party has its result ready."""
        with self._execution.mutex:
            self._execution.finished.add(self._party)
        self._execution.wake()

    @property
    def finished(self) -> bool:
        """Whether every party has finished."""
        with self._execution.mutex:
            return len(self._execution.finished) == len(self._execution.links)

    def settle(self) -> None:
        """Say that the own outputs are in their places."""
        with self._execution.mutex:
            self._execution.settled.add(self._party)
        self._execution.wake()

    @property
    def failed(self) -> WorkerError | None:
        """The failure in which the execution ended."""
        with self._execution.mutex:
            return self._execution.failure

    @property
    def succeeded(self) -> bool:
        """Whether every party has settled."""
        with self._execution.mutex:
            return self._execution.failure is None and self._all_settled()

    def fileno(self) -> int:
        """A file that becomes readable when something has changed at a peer."""
        return self._event

    def wake(self) -> None:
        """Make `fileno` readable."""
        with self._execution.mutex:
            if self._event >= 0:
                os.eventfd_write(self._event, 1)

    def clear(self) -> None:
        """Make `fileno` wait for the next change."""
        try:
            os.eventfd_read(self._event)
        except BlockingIOError:
            pass

    def close(self) -> None:
        """Give back the file."""
        with self._execution.mutex:
            event, self._event = self._event, -1
        os.close(event)

    def _all_settled(self) -> bool:
        return len(self._execution.settled) == len(self._execution.links)
