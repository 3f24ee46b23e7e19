"""Categories as numbers: an encoder of one column is fitted and applied at its owner."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Collection

from secretflow_task.contract.errors import (
    ConstantColumn,
    DuplicateColumn,
    TooManyCategories,
    UnseenCategory,
)
from secretflow_task.contract.tasks.transformation import (
    EncoderConfig,
    LabelEncoderConfig,
    OnehotEncoderConfig,
)
from secretflow_task.data_loader.table import Table
from secretflow_task.jobs.cells import UNSEEN, Cell, cells, empty_column, raw_cells
from secretflow_task.jobs.transformation import Fitted

if TYPE_CHECKING:
    import pyarrow as pa

    from secretflow_task.jobs.columns import Array

_MOST_OUTPUTS = 1000  # columns that one column becomes
_RARE = "_infrequent_sklearn"


def text_columns(_config: EncoderConfig, table: Table, left_out: Collection[str]) -> list[str]:
    """Columns of text, which are encoded where the request names no columns."""
    return table.text_columns(left_out)


def fit_labels(table: Table, name: str, _config: LabelEncoderConfig) -> Fitted:
    """The sorted categories."""
    categories = list(cells(table, name).counts())
    if not categories:
        raise empty_column(table, name)
    return {"categories": categories, "category_count": len(categories)}


def encode_labels(table: Table, name: str, fitted: Fitted) -> dict[str, pa.Array]:
    """The place of each cell's category; empty cells stay empty, as in `OrdinalEncoder`."""
    import pyarrow as pa

    count = len(fitted["categories"])
    codes = raw_cells(table, name).positions([*fitted["categories"], None])
    if (codes == UNSEEN).any():
        raise _unseen(table, name)
    return {name: pa.array(codes, mask=codes == count)}


def fit_onehot(table: Table, name: str, config: OnehotEncoderConfig) -> Fitted:
    """The categories, the names of the columns and each category's column, by scikit-learn.

    A missing cell is a category, the last one; ``unknown`` is the column of new categories, None
    for no column, or ``error``.
    """
    found = cells(table, name)
    if not found.counts():
        raise empty_column(table, name)
    encoder = _onehot(config)
    encoder.fit(_as_objects(found.values)[found.rows].reshape(-1, 1))
    # Without the name `x` of the column they start with `_`.
    suffixes = [str(output)[1:] for output in encoder.get_feature_names_out(["x"])]
    _check_outputs(table, name, suffixes)
    known = encoder.categories_[0]
    encoded = encoder.transform(known.reshape(-1, 1)).tocoo()
    column_of = dict(zip(encoded.row.tolist(), encoded.col.tolist()))
    known = known.tolist()
    unknown: int | str | None = None
    if config.handle_unknown == "error":
        unknown = "error"
    elif config.handle_unknown == "infrequent_if_exist":
        if _RARE in suffixes and _RARE[1:] not in known:
            unknown = suffixes.index(_RARE)
    return {
        "categories": [None if _is_nan(value) else value for value in known],
        "outputs": [column_of.get(index) for index in range(len(known))],
        "output_columns": [name + suffix for suffix in suffixes],
        "unknown": unknown,
    }


def encode_onehot(table: Table, name: str, fitted: Fitted) -> dict[str, Array]:
    """One column of 0 and 1 for each category."""
    import numpy as np

    places = raw_cells(table, name).positions(fitted["categories"])
    if fitted["unknown"] == "error" and (places == UNSEEN).any():
        raise _unseen(table, name)
    unknown = fitted["unknown"]
    if unknown == "error":
        unknown = None
    # `UNSEEN` is -1: the last entry is the column of what is unknown.
    column_of = np.array([-1 if at is None else at for at in [*fitted["outputs"], unknown]])
    column = column_of[places]
    encoded = {}
    for index, output in enumerate(fitted["output_columns"]):
        encoded[output] = (column == index).astype(np.int8)
    return encoded


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _unseen(table: Table, name: str) -> UnseenCategory:
    return UnseenCategory(
        table.about(name, "holds a category that the encoder was not fitted on"),
        party=table.party,
    )


def _check_outputs(table: Table, name: str, outputs: list[str]) -> None:
    if len(outputs) > _MOST_OUTPUTS:
        problem = table.about(name, f"would become more than {_MOST_OUTPUTS} columns")
        raise TooManyCategories(problem, party=table.party)
    if not outputs:
        problem = table.about(name, "has one category, which `drop` removes")
        raise ConstantColumn(problem, party=table.party)
    if len(set(outputs)) < len(outputs):
        problem = table.about(name, "would become two columns with the same name")
        raise DuplicateColumn(problem, party=table.party)


def _onehot(config: OnehotEncoderConfig) -> Any:
    from sklearn.preprocessing import OneHotEncoder

    return OneHotEncoder(**config.options())


def _as_objects(values: list[Cell]) -> Array:
    """The values as scikit-learn takes categories of any kind; NaN for what is missing."""
    import numpy as np

    array = np.empty(len(values), dtype=object)
    array[:] = [np.nan if value is None else value for value in values]
    return array
