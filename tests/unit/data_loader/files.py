"""Files that the tests of this room read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st

from secretflow_task.data_loader.table import Table

# Cells that a round trip could change; a CSV cannot hold half a surrogate pair, nor the reader a
# NUL.
CELLS = st.text(
    st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=8
) | st.sampled_from(
    [
        "007",
        "1.50",
        "NA",
        "null",
        '"',
        '""',
        ",",
        "\n",
        "\r",
        "\r\n",
        " 1 ",
        "\ufeff",
        "é",
        "e\u0301",
        "🙂",
        "'",
        "\\",
        ";",
    ]
)


def read(folder: Path, content: bytes | str, name: str = "t.csv") -> Table:
    """Read a file with this content as alice's ``train_data``."""
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return Table.read(path, "alice", "train_data")


def parquet(folder: Path, **columns: Any) -> Table:
    """Read a Parquet file with these columns."""
    path = folder / "t.parquet"
    pq.write_table(pa.table(columns), path)
    return Table.read(path, "alice", "train_data")


def cells(table: Table) -> dict[str, list[str | None]]:
    """All columns as text."""
    return {name: table.text(name) for name in table.columns}
