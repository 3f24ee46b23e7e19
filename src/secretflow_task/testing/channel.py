"""A job's channel to its peers without peers."""

from __future__ import annotations

from typing import Any, Mapping

from secretflow_task.testing.copies import as_json

Facts = Mapping[str, Mapping[str, Any]]


class MemoryChannel:
    """A `Channel` to peers that have answered already.

    Attributes:
        offered: the own facts of every round so far.
    """

    def __init__(self, party: str, *rounds: Facts) -> None:
        """``rounds``: the peers' facts, ``{party: facts}``, for each call of `agree`."""
        self._party = party
        self._rounds = list(rounds)
        self.offered: list[dict[str, Any]] = []

    def agree(self, facts: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """The peers' facts of this round with the own ones, as JSON carries them."""
        self.offered.append(as_json(facts))
        peers = self._rounds.pop(0) if self._rounds else {}
        return dict(sorted(as_json({**peers, self._party: facts}).items()))

    def stage_ended(self, stage: str, seconds: float) -> None:
        """There is no node to tell."""
