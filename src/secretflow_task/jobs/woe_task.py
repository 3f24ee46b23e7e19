"""Weight of evidence and information value: each feature is binned at its owner, the label stays at its own.

SecretFlow's ``VertWoeBinning`` shows the label's party how many rows every bin of the others has. Here the
positive rows are counted on secret shares and shown to the feature's owner, who needs nothing else; the
label's party gets one number per feature.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from secretflow_task.contract.errors import (
    BadLabel,
    ConstantColumn,
    MissingValues,
    TooFewRows,
    TooManyCategories,
)
from secretflow_task.contract.task_dispatcher import TaskDispatcher
from secretflow_task.data_loader.table import Table
from secretflow_task.jobs.cells import exact_numbers
from secretflow_task.jobs.columns import (
    agree_on_features,
    find_label_party,
    own_features,
    reveal_to,
)
from secretflow_task.jobs.declared.woe import WoeConfig
from secretflow_task.jobs.stats_task import reported, row_chunks
from secretflow_task.jobs.woe import Bins, category_bins, merged, numeric_bins, woe_and_iv

if TYPE_CHECKING:
    from secretflow_task.engine.devices import Devices
    from secretflow_task.engine.run import Run
    from secretflow_task.jobs.columns import Array


_MOST_BINS = 1000  # of a column
_ROWS_PER_BIN = (
    5  # with as many bins as rows, counts of positives would be equations for every label
)


@dataclass(frozen=True)
class WoeInput:
    """The own part of a `woe_iv`.

    Attributes:
        names: ``{party: [columns]}``, parties sorted.
        bins: of the own columns.
        widths: how many bins the columns of each party have.
        label: 1 for positive and 0, int32 of shape (rows,); None at the other parties.
    """

    table: Table
    names: dict[str, list[str]]
    bins: dict[str, Bins]
    widths: dict[str, int]
    label_party: str
    label: Array | None

    def indicators(self, rows: slice) -> Array:
        """1 where a row is in a bin, int32 of shape (rows, bins of all own columns)."""
        import numpy as np

        parts = [
            bins.index[rows, None] == np.arange(len(bins.names)) for bins in self.bins.values()
        ]
        return np.hstack(parts).astype(np.int32)

    def label_of(self, rows: slice) -> Array:
        """The own label, for the party that holds it."""
        assert self.label is not None
        return self.label[rows]

    def own_counts(self) -> Array | None:
        """Positive rows of all own bins, at the party that holds the label too; None at the others."""
        import numpy as np

        if self.label is None or self.table.party != self.label_party or not self.bins:
            return None
        counts = [
            np.bincount(bins.index, self.label, len(bins.names)) for bins in self.bins.values()
        ]
        return np.hstack(counts)

    def split(self, counts: Array) -> dict[str, Array]:
        """Counts of all own bins, parted by column."""
        import numpy as np

        ends = np.cumsum([len(bins.names) for bins in self.bins.values()])
        return dict(zip(self.bins, np.split(counts, ends[:-1])))


def prepare_woe(run: Run, config: WoeConfig) -> WoeInput:
    """Bin the own columns, and read the label where the own party may be the one that holds it."""
    table = run.read(config.input_data, "input_data")
    own = own_features(table, config.columns, config.ids, config.label)
    bins = {name: bins_of(table, name, config) for name in own}
    has_label = config.label in table.columns
    label = (
        own_label(table, config) if has_label and config.label_party in (None, run.party) else None
    )
    width = sum(len(own_bins.names) for own_bins in bins.values())
    names, facts = agree_on_features(
        run, own, config.columns, rows=table.rows, has_label=has_label, bins=width
    )
    label_party = find_label_party(config.label, config.label_party, facts)
    widths = {party: facts[party]["bins"] for party in names if names[party]}
    check_widths(widths, label_party, table.rows)
    return WoeInput(table, names, bins, widths, label_party, label)


def check_widths(widths: dict[str, int], label_party: str, rows: int) -> None:
    """Raise `TooFewRows` where a party would count so many bins that it could solve for the labels."""
    for party, width in widths.items():
        if party != label_party and width > rows / _ROWS_PER_BIN:
            raise TooFewRows(
                f"{party}: {width} bins are too many for {rows} rows: labels could be inferred.",
                party=party,
                hint="Weigh fewer columns in one request, or lower n_bins.",
            )


def bins_of(table: Table, name: str, config: WoeConfig) -> Bins:
    """The bins of an own column.

    Raises:
        ConstantColumn: there is one only.
        TooFewRows: a bin that cannot join another one is small.
    """
    bins = _any_bins(table, name, config)
    about = f"{table.party}: column {name!r} of {table.purpose}"
    if len(bins.names) > _MOST_BINS:
        raise TooManyCategories(
            f"{about} has more than {_MOST_BINS} categories.", party=table.party
        )
    if len(bins.names) < 2:
        raise ConstantColumn(
            f"{about} cannot be parted: all but a few cells are equal.", party=table.party
        )
    if bins.rows.min() < config.min_bin_rows:
        raise TooFewRows(
            f"{about} has a category, or missing cells, in fewer than min_bin_rows rows.",
            party=table.party,
            hint="Their labels could be told: join categories, fill cells, or lower min_bin_rows.",
        )
    return bins


def _any_bins(table: Table, name: str, config: WoeConfig) -> Bins:
    import numpy as np

    if name not in table.select([name]).numeric_columns():
        return category_bins(table.categories(name))
    values = table.numbers([name], missing=True).ravel()
    if np.isnan(values).all():
        raise MissingValues(
            f"{table.party}: column {name!r} has empty cells only.", party=table.party
        )
    return numeric_bins(values, config.method, config.n_bins, config.min_bin_rows)


def own_label(table: Table, config: WoeConfig) -> Array:
    """1 where the label is positive, else 0, int32 of shape (rows,).

    Raises:
        BadLabel: without ``positive_value`` it is not 0 and 1; with it, no row or every row is positive.
    """
    import numpy as np

    if isinstance(config.positive_value, str):
        cells = table.categories(config.label)
        if None in cells:
            raise MissingValues(
                f"{table.party}: label {config.label!r} has empty cells.", party=table.party
            )
        positive = np.array([cell == config.positive_value for cell in cells])
    else:
        table.numbers([config.label])  # refuses what is missing
        values = exact_numbers(table, config.label)
        if config.positive_value is None and not np.isin(values, (0.0, 1.0)).all():
            problem = f"{table.party}: label {config.label!r} is not 0 and 1."
            raise BadLabel(
                problem,
                party=table.party,
                hint="Give positive_value, the label that counts as positive.",
            )
        positive = values == (1 if config.positive_value is None else config.positive_value)
    if positive.all() or not positive.any():
        problem = f"{table.party}: label {config.label!r} is positive in no row or in all."
        raise BadLabel(
            problem, party=table.party, hint="Both kinds are needed; check positive_value."
        )
    return positive.astype(np.int32)


@TaskDispatcher.register_task("woe_iv", prepare=prepare_woe)
def execute_woe_iv(devices: Devices, task_config: WoeConfig) -> dict[str, Any]:
    """Weigh columns by any party's label: WOE per bin to a column's owner, IV to the label's party."""
    run, config = devices.run, task_config
    own: WoeInput = run.inputs
    weighed = {
        name: _weighed(own.bins[name], positives, config)
        for name, positives in own.split(_positives(devices, own)).items()
    }
    content: dict[str, Any] = {"woe": {name: figures for name, (_, figures) in weighed.items()}}
    values = _gathered(
        devices, own, {name: figures["iv"] for name, figures in content["woe"].items()}
    )
    if run.party == own.label_party:
        content["iv"] = values
    result = reported(run, config, {**content, "rows": own.table.rows})
    if config.output_data is not None:
        columns = {name: codes for name, (codes, _) in weighed.items()}
        path = run.write(
            own.table.with_columns(columns), config.output_data[run.party], "output_data"
        )
        result["output_data"] = {run.party: path}
    return {**result, "columns_used": own.names[run.party]}


def _positives(devices: Devices, own: WoeInput) -> Array:
    """Positive rows of every own bin; whole numbers are exact on shares."""
    import numpy as np

    found = np.zeros(0, dtype=np.int64)
    for done, party in enumerate(own.widths):
        devices.run.progress(0.05 + 0.9 * done / len(own.widths), "counting")
        if party == own.label_party:
            counts = own.own_counts()
        else:
            counts = reveal_to(devices, party, _shared_counts(devices, own, party))
        found = found if counts is None else counts
    return np.asarray(found, dtype=np.int64)


def _shared_counts(devices: Devices, own: WoeInput, party: str) -> Any:
    """Positive rows of every bin of a party, as shares."""
    spu, counts = devices["spu"], None
    for _, rows in row_chunks(own.table.rows, own.widths[party]):
        inside = devices[party](own.indicators)(rows).to(spu)
        label = devices[own.label_party](own.label_of)(rows).to(spu)
        part = spu(lambda a, b: a @ b)(label, inside)
        counts = part if counts is None else spu(lambda a, b: a + b)(counts, part)
    return counts


def _weighed(bins: Bins, positives: Array, config: WoeConfig) -> tuple[Array, dict[str, Any]]:
    """The WOE of every row, and the figures of a column that its owner is shown."""
    if config.method == "chimerge" and len(bins.points):
        bins, positives = merged(bins, positives, config.n_bins)
    woe, iv = woe_and_iv(bins.rows, positives)
    rows = zip(bins.names, bins.rows.tolist(), positives.tolist(), woe.tolist(), iv.tolist())
    keys = ("bin", "rows", "positives", "woe", "iv")
    table = [dict(zip(keys, values)) for values in rows]
    return woe[bins.index], {
        "split_points": bins.points.tolist(),
        "bins": table,
        "iv": float(iv.sum()),
    }


def _gathered(devices: Devices, own: WoeInput, values: dict[str, float]) -> dict[str, float]:
    """The information values of all columns at the label's party; the others get none."""
    parts = [
        reveal_to(devices, own.label_party, devices[party](lambda: values)()) or {}
        for party in own.widths
    ]
    return {name: part[name] for part in parts for name in part}
