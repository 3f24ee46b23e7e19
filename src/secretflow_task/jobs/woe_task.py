"""Weight of evidence and information value: features and label stay at their owners.

SecretFlow's ``VertWoeBinning`` shows the label's party how many rows every bin of the others has.
Here the positive rows are counted on secret shares and shown to the feature's owner, who needs
nothing else; the label's party gets one number per feature.
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
from secretflow_task.contract.tasks.woe import WoeConfig
from secretflow_task.data_loader.table import Table
from secretflow_task.jobs.cells import exact_numbers
from secretflow_task.jobs.columns import (
    agree_on_features,
    find_label_party,
    own_features,
    reveal_to,
)
from secretflow_task.jobs.stats_task import reported, row_chunks
from secretflow_task.jobs.woe import Bins, category_bins, merged, numeric_bins, woe_and_iv

if TYPE_CHECKING:
    from secretflow_task.engine.devices import Devices
    from secretflow_task.engine.run import Run
    from secretflow_task.jobs.columns import Array


_MOST_BINS = 1000  # of a column
# With as many bins as rows, counts of positives would be equations for every label.
_ROWS_PER_BIN = 5


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

        parts = []
        for bins in self.bins.values():
            number = np.arange(len(bins.names))
            parts.append(bins.index[rows, None] == number)
        return np.hstack(parts).astype(np.int32)

    def label_of(self, rows: slice) -> Array:
        """The own label, for the party that holds it."""
        assert self.label is not None
        return self.label[rows]

    def own_counts(self) -> Array | None:
        """Positive rows of all own bins if the own party holds the label too, else None."""
        import numpy as np

        if self.label is None or self.table.party != self.label_party or not self.bins:
            return None
        counts = []
        for bins in self.bins.values():
            counts.append(np.bincount(bins.index, self.label, len(bins.names)))
        return np.hstack(counts)

    def split(self, counts: Array) -> dict[str, Array]:
        """Counts of all own bins, parted by column."""
        import numpy as np

        widths = [len(bins.names) for bins in self.bins.values()]
        ends = np.cumsum(widths)
        parts = np.split(counts, ends[:-1])
        return dict(zip(self.bins, parts))


def prepare_woe(run: Run, config: WoeConfig) -> WoeInput:
    """Bin the own columns, and read the label where the own party may be the one that holds it."""
    table = run.read(config.input_data, "input_data")
    own = own_features(table, config.columns, config.ids, config.label)
    bins = {name: bins_of(table, name, config) for name in own}
    has_label = config.label in table.columns
    label = None
    if has_label and config.label_party in (None, run.party):
        label = own_label(table, config)
    width = sum(len(own_bins.names) for own_bins in bins.values())
    names, facts = agree_on_features(
        run, own, config.columns, rows=table.rows, has_label=has_label, bins=width
    )
    label_party = find_label_party(config.label, config.label_party, facts)
    widths = {party: facts[party]["bins"] for party in names if names[party]}
    check_widths(widths, label_party, table.rows)
    return WoeInput(table, names, bins, widths, label_party, label)


def check_widths(widths: dict[str, int], label_party: str, rows: int) -> None:
    """Raise `TooFewRows` where a party would count enough bins to solve for the labels."""
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
    if len(bins.names) > _MOST_BINS:
        problem = table.about(name, f"has more than {_MOST_BINS} categories")
        raise TooManyCategories(problem, party=table.party)
    if len(bins.names) < 2:
        problem = table.about(name, "cannot be binned: all but a few cells are equal")
        raise ConstantColumn(problem, party=table.party)
    if bins.rows.min() < config.min_bin_rows:
        raise TooFewRows(
            table.about(name, "has a category, or missing cells, in fewer than min_bin_rows rows"),
            party=table.party,
            hint="Their labels could be inferred: "
            "merge categories, fill cells, or lower min_bin_rows.",
        )
    return bins


def _any_bins(table: Table, name: str, config: WoeConfig) -> Bins:
    import numpy as np

    if name not in table.select([name]).numeric_columns():
        return category_bins(table.categories(name))
    values = table.numbers([name], missing=True).ravel()
    if np.isnan(values).all():
        raise MissingValues(
            f"{table.party}: column {name!r} has only empty cells.", party=table.party
        )
    return numeric_bins(values, config.method, config.n_bins, config.min_bin_rows)


def own_label(table: Table, config: WoeConfig) -> Array:
    """1 where the label is positive, else 0, int32 of shape (rows,).

    Raises:
        BadLabel: without ``positive_value`` it is not 0 and 1; with it, no row or every row is
            positive.
    """
    import numpy as np

    if isinstance(config.positive_value, str):
        positive = _is_text(table, config.label, config.positive_value)
    else:
        positive = _is_number(table, config.label, config.positive_value)
    if positive.all() or not positive.any():
        raise BadLabel(
            f"{table.party}: label {config.label!r} is positive in no row or in all.",
            party=table.party,
            hint="Both kinds are needed; check positive_value.",
        )
    return positive.astype(np.int32)


def _is_text(table: Table, label: str, positive_value: str) -> Array:
    import numpy as np

    cells = table.categories(label)
    if None in cells:
        problem = f"{table.party}: label {label!r} has empty cells."
        raise MissingValues(problem, party=table.party)
    return np.array([cell == positive_value for cell in cells])


def _is_number(table: Table, label: str, positive_value: float | None) -> Array:
    import numpy as np

    table.numbers([label])  # refuses what is missing
    values = exact_numbers(table, label)
    if positive_value is not None:
        return np.asarray(values == positive_value)
    if not np.isin(values, (0.0, 1.0)).all():
        raise BadLabel(
            f"{table.party}: label {label!r} is not 0 and 1.",
            party=table.party,
            hint="Give positive_value, the label that counts as positive.",
        )
    return np.asarray(values == 1)


@TaskDispatcher.register_task("woe_iv", prepare=prepare_woe)
def execute_woe_iv(devices: Devices[WoeInput], task_config: WoeConfig) -> dict[str, Any]:
    """Weigh columns by a party's label: WOE per bin to a column's owner, IV to the label party."""
    run, config = devices.run, task_config
    own = devices.inputs
    row_values = {}
    figures = {}
    for name, positives in own.split(_positives(devices, own)).items():
        row_values[name], figures[name] = _weighed(own.bins[name], positives, config)
    content: dict[str, Any] = {"woe": figures}
    own_values = {name: column_figures["iv"] for name, column_figures in figures.items()}
    values = _gathered(devices, own, own_values)
    if run.party == own.label_party:
        content["iv"] = values
    content["rows"] = own.table.rows
    result = reported(run, config, content)
    if config.output_data is not None:
        weighed = own.table.with_columns(row_values)
        path = run.write(weighed, config.output_data[run.party], "output_data")
        result["output_data"] = {run.party: path}
    result["columns_used"] = own.names[run.party]
    return result


def _positives(devices: Devices, own: WoeInput) -> Array:
    """Positive rows of every own bin; whole numbers are exact on shares."""
    import numpy as np

    own_counts = np.zeros(0, dtype=np.int64)
    for done, party in enumerate(own.widths):
        devices.run.progress(0.05 + 0.9 * done / len(own.widths), "counting")
        if party == own.label_party:
            counts = own.own_counts()
        else:
            counts = reveal_to(devices, party, _shared_counts(devices, own, party))
        if counts is not None:
            own_counts = counts
    return np.asarray(own_counts, dtype=np.int64)


def _shared_counts(devices: Devices, own: WoeInput, party: str) -> Any:
    """Positive rows of every bin of a party, as shares."""
    spu = devices["spu"]
    counts = None
    for _, rows in row_chunks(own.table.rows, own.widths[party]):
        inside = devices[party](own.indicators)(rows).to(spu)
        label = devices[own.label_party](own.label_of)(rows).to(spu)
        part = spu(lambda a, b: a @ b)(label, inside)
        if counts is None:
            counts = part
        else:
            counts = spu(lambda a, b: a + b)(counts, part)
    return counts


def _weighed(bins: Bins, positives: Array, config: WoeConfig) -> tuple[Array, dict[str, Any]]:
    """The WOE of every row, and the figures of a column that its owner is shown."""
    if config.method == "chimerge" and len(bins.points):
        bins, positives = merged(bins, positives, config.n_bins)
    woe, iv = woe_and_iv(bins.rows, positives)
    rows = zip(bins.names, bins.rows.tolist(), positives.tolist(), woe.tolist(), iv.tolist())
    keys = ("bin", "rows", "positives", "woe", "iv")
    figures = {
        "split_points": bins.points.tolist(),
        "bins": [dict(zip(keys, values)) for values in rows],
        "iv": float(iv.sum()),
    }
    return woe[bins.index], figures


def _gathered(devices: Devices, own: WoeInput, values: dict[str, float]) -> dict[str, float]:
    """The information values of all columns at the label's party; the others get none."""
    gathered: dict[str, float] = {}
    for party in own.widths:
        part = reveal_to(devices, own.label_party, devices[party](lambda: values)())
        if part is not None:
            gathered.update(part)
    return gathered
