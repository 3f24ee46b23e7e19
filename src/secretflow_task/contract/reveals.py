"""What a task lets a party learn about the others' data, as values for a policy and an audit."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any, Iterable, Mapping, Sequence


class Role(str, Enum):
    """Who learns something."""

    PARTY = "party"
    LABEL_PARTY = "label_party"
    RECEIVER = "receiver"
    OWNERS = "owners"
    OTHERS = "others"
    EVERYONE = "everyone"


class Fineness(str, Enum):
    """How fine it is, from a name to a value for every row."""

    NAMES = "names"
    COUNT = "count"
    COLUMN = "column"
    MODEL = "model"
    BIN = "bin"
    ROW = "row"


_UNKNOWN = {
    Role.LABEL_PARTY: "label party",
    Role.RECEIVER: "label party",  # the default receiver
    Role.OWNERS: "owner of a column",
}


@dataclass(frozen=True)
class Reveal:
    """One thing that a task lets somebody learn.

    Attributes:
        role: who learns it.
        what: what is learned, as a person would say it.
        fineness: how fine it is.
        columns: of which columns, where the request names them.
        party: whom the role means where the request says so; for `OTHERS` the party that is left
            out.
    """

    role: Role
    what: str
    fineness: Fineness
    columns: tuple[str, ...] = ()
    party: str | None = None

    def learners(
        self,
        parties: Sequence[str],
        label_party: str | None = None,
        receiver: str | None = None,
        owners: Sequence[str] | None = None,
    ) -> list[str] | None:
        """The parties that learn it; None where only `prepare` finds out, and it is not told here.

        Args:
            parties: all parties of the execution.
            label_party: who holds the label; also the receiver where there is no other.
            owners: the parties that have columns.
        """
        if self.role is Role.EVERYONE:
            return list(parties)
        if self.role is Role.OTHERS:
            return [party for party in parties if party != self.party]
        if self.role is Role.OWNERS:
            return None if owners is None else list(owners)
        found = self.party
        if found is None and self.role is Role.RECEIVER:
            found = receiver or label_party
        if found is None and self.role is Role.LABEL_PARTY:
            found = label_party
        return None if found is None else [found]

    def to_dict(self) -> dict[str, Any]:
        """The value as JSON holds it."""
        fields = asdict(self)
        return fields | {"role": self.role.value, "fineness": self.fineness.value}

    @staticmethod
    def from_dict(fields: Mapping[str, Any]) -> Reveal:
        """Read back `to_dict`; raises `ValueError` for an unknown role or fineness."""
        return Reveal(
            Role(fields["role"]),
            fields["what"],
            Fineness(fields["fineness"]),
            tuple(fields["columns"]),
            fields["party"],
        )


def shown(reveals: Iterable[Reveal], parties: Sequence[str]) -> list[tuple[str, str]]:
    """``(who, what they learn)`` for people, each once.

    A role stands for the party where only `prepare` finds out who it is.
    """
    lines: dict[tuple[str, str], None] = {}
    for reveal in reveals:
        learners = reveal.learners(parties)
        if learners is None:
            learners = [_UNKNOWN[reveal.role]]
        columns = f" ({', '.join(reveal.columns)})" if reveal.columns else ""
        for party in learners:
            lines[party, f"{reveal.what}{columns}"] = None
    return list(lines)
