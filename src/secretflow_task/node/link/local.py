"""What the parties of an execution share at the node that decides how it ends.

A node that hosts all parties needs no more. Between nodes the coordinator in ``peer/`` keeps the
same `LocalSettlement`, in which the other nodes have seats.
"""

from __future__ import annotations

import threading
from typing import Any, Callable, Mapping

from secretflow_task.contract.errors import WorkerError
from secretflow_task.node.link.protocol import Facts
from secretflow_task.node.link.signal import SignalledLink
from secretflow_task.utils.log import get_logger

log = get_logger()


class LocalSettlement:
    """The shared state of an execution, at the node that decides how it ends.

    Args:
        decide: called once when all parties have settled, before anyone hears of the success; if it
            raises `WorkerError`, that is the end.

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
            all_have_voted = len(self.settled) == len(self.links)
            decides = all_have_voted and self.failure is None and not self._deciding
            if decides:
                self._deciding = True
        if decides:
            self._conclude()
        self.wake()

    def _conclude(self) -> None:
        try:
            self._decide()
        except Exception as error:  # pylint: disable=broad-exception-caught
            log.exception("The success could not be stored.", action="decision_failed")
            # It must end in any case.
            failure = error if isinstance(error, WorkerError) else WorkerError()
            with self.mutex:
                self.failure = failure
        else:
            with self.mutex:
                self.succeeded = True

    @property
    def offered(self) -> bool:
        """Whether a party is prepared for its first round."""
        with self.mutex:
            return bool(self.rounds)

    @property
    def all_finished(self) -> bool:
        """Whether every party has its result ready."""
        with self.mutex:
            return len(self.finished) == len(self.links)

    def close(self) -> None:
        """Give back what the links hold."""
        for link in self.links.values():
            link.close()


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
        if self._round < 0:
            return None
        with self._settlement.mutex:
            facts = dict(self._settlement.rounds[self._round])
        if len(facts) < len(self._settlement.links):
            return None
        return facts

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
        return self._settlement.all_finished

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
