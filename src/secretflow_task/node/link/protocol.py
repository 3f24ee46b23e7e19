"""What a link is: how the parties of one execution agree and settle.

Its forms: ``local`` for the parties of one node, ``peer/`` between nodes, ``fixed`` for fixed
addresses.
"""

from __future__ import annotations

from typing import Any, Mapping, Protocol

from secretflow_task.contract.errors import WorkerError

Facts = dict[str, dict[str, Any]]


class PeerLink(Protocol):
    """One party's end of the link between the parties of an execution.

    Rounds of `offer` and `agreed` come first, any number; then each party says `finish` and, when
    all have, `settle`; or one says `fail`. `failed` and `succeeded` are final and the same at every
    party. Between nodes they follow only when the coordinating node has heard and answered.
    """

    def offer(self, facts: Mapping[str, Any]) -> None:
        """Say that the own party is prepared for its next round."""

    def agreed(self) -> Facts | None:
        """Every party's facts of the own current round, when all have offered theirs."""

    def fail(self, error: WorkerError) -> None:
        """End the execution in failure for all; the first failure is the one that counts.

        A party that has settled cannot: it only asks for it.
        """

    def finish(self) -> None:
        """Say that the own party has its result ready."""

    @property
    def finished(self) -> bool:
        """Whether every party has finished, so that outputs may be moved to their places."""

    def settle(self) -> None:
        """Say that the own outputs are in place; they stay there unless the execution fails."""

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


class Settlement(Protocol):
    """The links of the parties that this node hosts in one execution."""

    @property
    def links(self) -> Mapping[str, PeerLink]:
        """The link of each hosted party."""

    def join(self) -> None:
        """Wait until every party's node takes part.

        Raises:
            WorkerError: a node did not come, or differs in something; the execution has failed.
        """

    def close(self) -> None:
        """Give back what the links hold."""


class Unsettled(Exception):
    """The node ends before it has heard how an execution ended that it has voted for."""
