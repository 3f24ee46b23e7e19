"""What the tasks share: who has which columns, agreed before cryptography, and matrices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Callable, Collection, Mapping, Sequence

from secretflow_task.contract.errors import (
    AmbiguousColumn,
    InvalidTaskConfig,
    MissingColumn,
    RowCountMismatch,
    ValueRange,
)
from secretflow_task.contract.task_config import PartyColumns
from secretflow_task.data_loader.table import Table, owners

if TYPE_CHECKING:
    import numpy as np

    from secretflow_task.engine.devices import Devices
    from secretflow_task.engine.run import Run

    Array = np.ndarray[Any, Any]


Facts = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Features:
    """The own table and the features of all parties.

    Attributes:
        names: ``{party: [columns]}``, parties sorted; the order of weights and matrices.
        values: the own features, float64 of shape (rows, own features).
        label_party: who holds the label, where there is one.
    """

    table: Table
    names: dict[str, list[str]]
    values: Array
    label_party: str | None = None

    @property
    def count(self) -> int:
        """The number of features of all parties."""
        return sum(map(len, self.names.values()))


def own_features(
    table: Table,
    wanted: Sequence[str] | None,
    ids: PartyColumns | None,
    label: str | None = None,
    of_kind: Callable[[Table, Collection[str]], list[str]] = Table.numeric_columns,
) -> list[str]:
    """The own features: the columns that are asked for, else all numeric ones but ids and label.

    Args:
        of_kind: ``(table, columns to leave out) -> columns``, where it is not the numeric ones.

    Raises:
        InvalidTaskConfig: nothing tells features from ids.
    """
    left_out = set(own_ids(table.party, ids))
    if label is not None:
        left_out.add(label)
    if wanted is not None:
        return [name for name in wanted if name in table.columns and name not in left_out]
    if ids is None and label is None:
        raise InvalidTaskConfig("Give columns or ids: an id column would be taken for a feature.")
    table.require(own_ids(table.party, ids))
    return of_kind(table, left_out)


def own_ids(party: str, ids: PartyColumns | None) -> list[str]:
    """A party's own id columns."""
    if ids is None:
        return []
    return ids.get(party, [])


def agree_on_features(
    run: Run, own: list[str], wanted: Sequence[str] | None, **facts: Any
) -> tuple[dict[str, list[str]], Facts]:
    """Tell the peers the own features and further facts, and learn who holds which and theirs.

    Raises:
        RowCountMismatch, MissingColumn, AmbiguousColumn: the same at every party.
    """
    answers = run.agree(features=own, **facts)
    check_rows(answers)
    held = {party: answer["features"] for party, answer in answers.items()}
    if wanted is not None:
        names = list(wanted)
    else:
        names = []
        for party in sorted(held):
            names.extend(held[party])
    if not names:
        raise MissingColumn(
            "No party has a column of the kind that the task takes, besides ids and label."
        )
    return owners(names, held), answers


def check_rows(facts: Facts) -> None:
    """Raise `RowCountMismatch` unless all parties that read a table have as many rows."""
    counts = {answer["rows"] for answer in facts.values() if "rows" in answer}
    if len(counts) > 1:
        raise RowCountMismatch()


def find_label_party(label: str, asked: str | None, facts: Facts) -> str:
    """Who holds the label column: the party that is asked for, else the only one that has it.

    Raises:
        MissingColumn, AmbiguousColumn: it cannot be told.
    """
    holders = [party for party, answer in sorted(facts.items()) if answer["has_label"]]
    if asked is not None:
        if asked not in holders:
            raise MissingColumn(f"{asked} has no label column {label!r}.", party=asked)
        return asked
    if not holders:
        raise MissingColumn(f"No party has a label column {label!r}.")
    if len(holders) > 1:
        problem = f"The label {label!r} exists at {' and '.join(holders)}."
        raise AmbiguousColumn(problem, hint="Give label_party.")
    return holders[0]


def check_fits_shares(table: Table, names: Sequence[str], values: Array, field: str) -> None:
    """Raise `ValueRange` for a column that fixed-point numbers cannot hold: they overflow silently.

    The limits leave room for a product with weights of up to 100, in FM64 (18 fraction bits:
    products below 1.3e8) and FM128 (26 fraction bits: below 3.7e22).

    Args:
        values: the columns ``names``, float64 of shape (rows, len(names)).
    """
    import numpy as np

    limit = {"FM64": 1e6, "FM128": 1e15}[field]
    for name, column in zip(names, values.T):
        if np.abs(column).max() > limit:
            raise ValueRange(
                table.about(name, f"holds values beyond {limit:.0e}, too large for {field}"),
                party=table.party,
                hint="Scale the column first, with the same scaler for training and prediction.",
            )


def matrix(devices: Devices, names: Mapping[str, Sequence[str]], own: Array) -> Any:
    """A vertically split matrix of the parties that have columns, each part in its owner's process.

    Args:
        own: the own part, of shape (rows, columns); never sent anywhere.
    """
    from secretflow.data import FedNdarray, PartitionWay

    partitions = {}
    for party in sorted(names):
        if names[party]:
            pyu = devices[party]
            partitions[pyu] = pyu(lambda part=own: part)()
    return FedNdarray(partitions=partitions, partition_way=PartitionWay.VERTICAL)


def reveal_to(devices: Devices, party: str, value: Any) -> Any:
    """Show a device's value to one party and wait until it has it; None at the others."""
    import secretflow as sf

    shown: list[Any] = []
    receiver = devices[party]
    sf.wait(receiver(shown.append)(value.to(receiver)))
    if not shown:
        return None
    return shown[0]
