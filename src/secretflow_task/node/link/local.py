"""The parties of an execution that one node hosts, and what links have in common."""

from __future__ import annotations

import os
import threading
from typing import Any, Callable, Mapping

from secretflow_task.contract.errors import WorkerError
from secretflow_task.node.link.protocol import Facts
from secretflow_task.utils.log import get_logger

log = get_logger()


class Signal:
    """A file that becomes readable when it is `set`, from any thread, until it is cleared."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def fileno(self) -> int:
        """The file."""
        return self._event

    def set(self) -> None:
        """Make it readable, unless it is closed."""
        with self._mutex:
            if self._event >= 0:
                os.eventfd_write(self._event, 1)

    def clear(self) -> None:
        """Wait for the next `set`."""
        try:
            os.eventfd_read(self._event)
        except BlockingIOError:
            pass

    def close(self) -> None:
        """Give back the file."""
        with self._mutex:
            event, self._event = self._event, -1
        if event >= 0:
            os.close(event)


class LocalSettlement:
    """The shared state of an execution, at the node that decides how it ends.

    Args:
        decide: called once when all parties have settled, before anyone hears of the success; if it raises
            `WorkerError`, that is the end.

    Attributes:
        watchers: called after every change, from any thread.
    """

    def __init__(self, parties: list[str], decide: Callable[[], None] = lambda: None) -> None:
        self.mutex = threading.Lock()
        self.rounds: list[Facts] = []
        self.finished: set[str] = set()
        self.settled: set[str] = set()
        self.failure: WorkerError | None = None
        self.succeeded = False
        self.watchers: list[Callable[[], None]] = []
        self._decide = decide
        self._deciding = False
        self.links = {party: LocalLink(self, party) for party in parties}

    def join(self) -> None:
        """All are here."""

    def wake(self) -> None:
        """Tell every party that something changed."""
        for link in self.links.values():
            link.signal.set()
        for watcher in self.watchers:
            watcher()

    def fail(self, error: WorkerError) -> None:
        """End in failure, unless it has ended or the success is being written down."""
        with self.mutex:
            if self.failure is None and not self._deciding:
                self.failure = error
        self.wake()

    def settle(self, party: str) -> None:
        """Note a party's vote, and decide when it was the last one."""
        with self.mutex:
            self.settled.add(party)
            decides = (
                len(self.settled) == len(self.links) and not self._deciding and self.failure is None
            )
            self._deciding |= decides
        if decides:
            self._conclude()
        self.wake()

    def _conclude(self) -> None:
        try:
            self._decide()
        except (
            Exception
        ) as error:  # pylint: disable=broad-exception-caught  # it must end in any case
            log.exception("The success could not be written down.", action="decision_failed")
            with self.mutex:
                self.failure = error if isinstance(error, WorkerError) else WorkerError()
        else:
            with self.mutex:
                self.succeeded = True

    def close(self) -> None:
        """Give back what the links hold."""
        for link in self.links.values():
            link.close()


class SignalledLink:
    """The part of a `PeerLink` that tells its supervisor of changes: whoever makes one sets `signal`."""

    def __init__(self) -> None:
        self.signal = Signal()

    def fileno(self) -> int:
        """A file that becomes readable when something has changed at a peer."""
        return self.signal.fileno()

    def clear(self) -> None:
        """Make `fileno` wait for the next change."""
        self.signal.clear()

    def close(self) -> None:
        """Give back the file."""
        self.signal.close()


class LocalLink(SignalledLink):
    """`PeerLink` of a party at the node that decides."""

    def __init__(self, settlement: LocalSettlement, party: str) -> None:
        super().__init__()
        self._settlement = settlement
        self._party = party
        self._round = -1

    def offer(self, facts: Mapping[str, Any]) -> None:
        """Say that the own party is prepared for its next round."""
        settlement = self._settlement
        with settlement.mutex:
            self._round += 1
            if self._round == len(settlement.rounds):
                settlement.rounds.append({})
            settlement.rounds[self._round][self._party] = dict(facts)
        settlement.wake()

    def agreed(self) -> Facts | None:
        """Every party's facts of the own current round, when all have offered theirs."""
        with self._settlement.mutex:
            facts = self._settlement.rounds[self._round] if self._round >= 0 else {}
            return dict(facts) if len(facts) == len(self._settlement.links) else None

    def fail(self, error: WorkerError) -> None:
        """End the execution in failure for all, unless it has ended already."""
        self._settlement.fail(error)

    def finish(self) -> None:
        """Say that the own party has its result ready."""
        with self._settlement.mutex:
            self._settlement.finished.add(self._party)
        self._settlement.wake()

    @property
    def finished(self) -> bool:
        """Whether every party has finished."""
        with self._settlement.mutex:
            return len(self._settlement.finished) == len(self._settlement.links)

    def settle(self) -> None:
        """Say that the own outputs are in their places."""
        self._settlement.settle(self._party)

    @property
    def failed(self) -> WorkerError | None:
        """The failure in which the execution ended."""
        with self._settlement.mutex:
            return self._settlement.failure

    @property
    def succeeded(self) -> bool:
        """Whether every party has settled."""
        with self._settlement.mutex:
            return self._settlement.succeeded
