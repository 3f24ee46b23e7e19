"""Connections that were refused: counted, logged, and remembered by their address."""

from __future__ import annotations

import time
from typing import Callable

from secretflow_task.contract.errors import PeerRefused
from secretflow_task.utils.log import get_logger

log = get_logger()

_LOGGED_SECONDS = 1.0  # at most one record in this time
_KEPT = 1000  # addresses


class Refusals:
    """What this node has turned away.

    Args:
        kept_seconds: how long an address is remembered.

    Attributes:
        count: of all connections that were refused.
    """

    def __init__(self, kept_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.count = 0
        self._kept_seconds = kept_seconds
        self._clock = clock
        self._last: dict[str, float] = {}
        self._addresses: dict[str, set[str]] = {}
        self._next_log = clock()

    def note(self, address: str, problem: str, may_be_a_join: bool) -> None:
        """Count a refusal, and log it unless there are too many."""
        self.count += 1
        now = self._clock()
        if may_be_a_join:
            self._last[address] = now
        if len(self._last) > _KEPT:
            oldest = min(self._last, key=self._last.__getitem__)
            del self._last[oldest]
        if now >= self._next_log:
            self._next_log = now + _LOGGED_SECONDS
            log.warning(
                "A connection of a peer was refused.",
                action="peer_refused",
                code=PeerRefused.__name__,
                address=address,
                problem=problem,
                refused=self.count,
            )

    def expect(self, party: str, addresses: set[str]) -> None:
        """Note from which addresses the node of a party may come."""
        self._addresses[party] = addresses

    def may_concern(self, party: str) -> bool:
        """Whether what was refused lately may have been a join of a party's node."""
        since = self._clock() - self._kept_seconds
        for address in self._addresses.get(party, ()):
            # In one step: the hub's thread may forget an address at any time.
            if self._last.get(address, since) > since:
                return True
        return False
