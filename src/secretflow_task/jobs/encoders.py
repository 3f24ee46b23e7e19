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
    encoder = _onehot(config).fit(_as_objects(found.values)[found.rows].reshape(-1, 1))
    outputs = [str(output)[1:] for output in encoder.get_feature_names_out(["x"])]
    _check_outputs(table, name, outputs)
    known = encoder.categories_[0]
    filled = encoder.transform(known.reshape(-1, 1)).tocoo()
    place = dict(zip(filled.row.tolist(), filled.col.tolist()))
    rare = outputs.index(_RARE) if _RARE in outputs and _RARE[1:] not in known.tolist() else None
    return {
        "categories": [None if _is_nan(value) else value for value in known.tolist()],
        "outputs": [place.get(index) for index in range(len(known))],
        "output_columns": [name + output for output in outputs],
        "unknown": {"error": "error", "infrequent_if_exist": rare}.get(config.handle_unknown),
    }


def encode_onehot(table: Table, name: str, fitted: Fitted) -> dict[str, Array]:
    """One column of 0 and 1 for each category."""
    import numpy as np

    places = raw_cells(table, name).positions(fitted["categories"])
    if fitted["unknown"] == "error" and (places == UNSEEN).any():
        raise _unseen(table, name)
    # `UNSEEN` is -1: the last entry is the column of what is unknown.
    unknown = None if fitted["unknown"] == "error" else fitted["unknown"]
    outputs = np.array([-1 if place is None else place for place in [*fitted["outputs"], unknown]])
    column = outputs[places]
    return {
        output: (column == index).astype(np.int8)
        for index, output in enumerate(fitted["output_columns"])
    }


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _unseen(table: Table, name: str) -> UnseenCategory:
    return UnseenCategory(
        table.about(name, "holds a category that the encoder was not fitted on"),
        party=table.party,
    )


def _check_outputs(table: Table, name: str, outputs: list[str]) -> None:
    problem = f"would become more than {_MOST_OUTPUTS} columns"
    if len(outputs) > _MOST_OUTPUTS:
        raise TooManyCategories(table.about(name, problem), party=table.party)
    if not outputs:
        raise ConstantColumn(
            table.about(name, "has one category, which `drop` removes"), party=table.party
        )
    if len(set(outputs)) < len(outputs):
        raise DuplicateColumn(
            table.about(name, "would become two columns with the same name"), party=table.party
        )


def _onehot(config: OnehotEncoderConfig) -> Any:
    from sklearn.preprocessing import OneHotEncoder

    return OneHotEncoder(**config.options())


def _as_objects(values: list[Cell]) -> Array:
    """The values as scikit-learn takes categories of any kind; NaN for what is missing."""
    import numpy as np

    array = np.empty(len(values), dtype=object)
    array[:] = [np.nan if value is None else value for value in values]
    return array
