"""Private set intersection.

SecretFlow's PSI sees a file of our own making with two columns, an encoded key and the row's
number, and tells which rows match. The rows themselves are taken here, from the party's own table,
so that every format and every order of columns works, only keys pass through native code, and the
alignment can be checked on what is written. (`spu.psi` on the original files joins the wrong rows,
silently, when the key is not the first column.)
"""

from __future__ import annotations

import hashlib
import secrets
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Mapping, Sequence
from urllib.parse import quote

from secretflow_task.contract.errors import AlgorithmError, DuplicateKeys, Misaligned, MissingKeys
from secretflow_task.contract.task_dispatcher import TaskDispatcher
from secretflow_task.contract.tasks.psi import PsiConfig
from secretflow_task.data_loader.csv_file import plain_rows
from secretflow_task.data_loader.table import Table
from secretflow_task.jobs.psi_progress import STARTED, progress_from_log
from secretflow_task.utils.log import get_logger

if TYPE_CHECKING:
    import pyarrow as pa

    from secretflow_task.engine.devices import Devices
    from secretflow_task.engine.run import Run
    from secretflow_task.jobs.columns import Array

log = get_logger()

_CURVES = {
    "25519": "CURVE_25519",
    "fourq": "CURVE_FOURQ",
    "sm2": "CURVE_SM2",
    "secp256k1": "CURVE_SECP256K1",
}
_NO_ROW = "NULL"  # native PSI takes an empty text for this, its default
_OWN_SALT = -1  # row number of the random key
_JOINS = {
    "inner": "JOIN_TYPE_INNER_JOIN",
    "left": "JOIN_TYPE_LEFT_JOIN",
    "right": "JOIN_TYPE_RIGHT_JOIN",
    "full": "JOIN_TYPE_FULL_JOIN",
    "difference": "JOIN_TYPE_DIFFERENCE",
}


@dataclass(frozen=True)
class PsiInput:
    """The own table and the key of each of its rows, encoded to ``[A-Za-z0-9_.~%/-]``."""

    table: Table
    keys: pa.Array


def prepare_psi(run: Run, config: PsiConfig) -> PsiInput:
    """Check that every own row has a key, and only one if duplicates are not joined."""
    table = run.read(config.input_paths, "input_paths")
    keys = encode_keys(table, config.keys[run.party])
    if len(keys.unique()) < len(keys) and not config.allow_duplicates:
        problem = f"{run.party}: the keys of input_paths are not unique."
        raise DuplicateKeys(problem, party=run.party)
    run.agree()
    return PsiInput(table, keys)


@TaskDispatcher.register_task("psi", prepare=prepare_psi)
def execute_psi(devices: Devices[PsiInput], task_config: PsiConfig) -> dict[str, Any]:
    """Find the rows that the parties have in common, without showing each other the rest."""
    run, config = devices.run, task_config
    own = devices.inputs
    _write_keys(own.keys, run.folder / "psi_in.csv")
    run.progress(STARTED, "intersection")
    with progress_from_log(run, len(own.keys)):
        count = _run_psi(devices, config)
    if run.party not in config.getters:
        return {
            "psi_protocol": config.used_protocol,
            "original_count": own.table.rows,
            "columns_used": [],
        }
    indices = _read_indices(run.folder / "psi_out.csv")
    rows = own.table.take(_output_rows(devices, config, own.keys, indices))
    run.progress(0.8, "alignment")
    with run.timed("alignment"):
        check_alignment(devices, config, rows)
    path = run.write(rows, config.output_paths[run.party], "output_paths")
    return {
        "intersection_count": count,
        "rows": rows.rows,
        "original_count": own.table.rows,
        "output_paths": {run.party: path},
        "psi_protocol": config.used_protocol,
        "columns_used": config.keys[run.party],
    }


def encode_keys(table: Table, columns: Sequence[str]) -> pa.Array:
    """One text per row that is equal exactly when all key cells are.

    Native PSI splits its file at line ends and joins several keys with commas; percent-encoding
    keeps ``("a,b", "c")`` apart from ``("a", "b,c")`` and lets quotes and line breaks through.

    Raises:
        MissingColumn: a key column is not there.
        MissingKeys: a key cell is empty.
    """
    import pyarrow.compute as pc

    table.require(columns)
    for column in columns:
        cells = table.text_column(column)
        if cells.null_count or pc.any(pc.equal(cells, "")).as_py():
            problem = f"{table.party}: key column {column!r} has empty cells."
            raise MissingKeys(problem, party=table.party)
    return _encoded(table, columns)


def _encoded(table: Table, columns: Sequence[str]) -> pa.Array:
    """The key of every row; null where a cell is missing."""
    import pyarrow as pa
    import pyarrow.compute as pc

    parts = [_encoded_column(table, column) for column in columns]
    return pc.binary_join_element_wise(*parts, pa.scalar("/", pa.large_string()))


def _encoded_column(table: Table, column: str) -> pa.Array:
    import pyarrow as pa
    import pyarrow.compute as pc

    cells = table.text_column(column).cast(pa.large_string()).combine_chunks()
    if pc.all(pc.ascii_is_alnum(cells)).as_py():
        return cells  # by far the most are, and need no loop
    encoded = (None if cell is None else quote(cell, safe="") for cell in cells.to_pylist())
    return pa.array(encoded, pa.large_string())


def alignment_digest(keys: pa.Array, matched: Array | None = None) -> str:
    """SHA-256 over position and key of every matched row, equal at all parties if aligned."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    if matched is None:
        matched = np.ones(len(keys), dtype=bool)
    places = pa.array(np.flatnonzero(matched))
    positions = places.cast(pa.large_string())
    colon, end = pa.scalar(":", pa.large_string()), pa.scalar("\n", pa.large_string())
    rows = pc.binary_join_element_wise(positions, keys.take(places), colon)
    text = pc.binary_join(pa.LargeListArray.from_arrays([0, len(rows)], rows), end)
    return hashlib.sha256(text[0].as_buffer()).hexdigest()


def check_alignment(devices: Devices, config: PsiConfig, rows: Table) -> None:
    """Compare what the parties are about to write, row by row, through a digest.

    Where only one party gets rows there is nothing to compare, and nothing is exchanged.

    Raises:
        Misaligned: the digests differ; no party writes anything.
    """
    import numpy as np
    import secretflow as sf

    if len(config.getters) < 2:
        return
    run = devices.run
    keys, present = _written_keys(rows, config.keys[run.party])
    matched = np.ones(rows.rows, dtype=bool)
    for mask in _masks(devices, config, present).values():
        if len(mask) != rows.rows:
            mask = np.zeros(rows.rows, dtype=bool)
        matched &= mask
    digest = f"{rows.rows}:{alignment_digest(keys, matched)}"
    shared = {party: devices[party](lambda own=digest: own)() for party in config.getters}
    digests = sf.reveal(shared)
    if len(set(digests.values())) > 1:
        raise Misaligned()


def _masks(devices: Devices, config: PsiConfig, present: Array) -> dict[str, Array]:
    """Which rows each party has, told to all; empty for the inner join, where all have each row."""
    import numpy as np
    import secretflow as sf

    if config.join == "inner":
        return {}
    own_bits, own_count = np.packbits(present), len(present)
    bits = sf.reveal({party: devices[party](lambda: own_bits)() for party in config.getters})
    counts = sf.reveal({party: devices[party](lambda: own_count)() for party in config.getters})
    masks = {}
    for party in bits:
        mask = np.unpackbits(bits[party])[: counts[party]]
        masks[party] = mask.astype(bool)
    return masks


def _written_keys(rows: Table, columns: Sequence[str]) -> tuple[pa.Array, Array]:
    """The keys of an output, read back from it, and which of its rows are the party's own."""
    keys = _encoded(rows, columns)
    return keys, keys.is_valid().to_numpy(zero_copy_only=False)


def _write_keys(keys: pa.Array, path: Path) -> None:
    """Write the input of native PSI: the keys, and one that no other party can have.

    Native PSI swaps a plain hash of each party's whole set of keys and says when they are equal:
    from it a peer could guess a small set, and learn the size of an intersection that it must not
    get. A random key hides both. It is never an encoded key, where two digits follow on a percent
    sign.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.csv as pa_csv

    with path.open("wb") as file:
        file.write(f"key,row\n%~{secrets.token_hex(16)},{_OWN_SALT}\n".encode())
        pa_csv.write_csv(pa.table({"key": keys, "row": np.arange(len(keys))}), file, plain_rows())


def _run_psi(devices: Devices, config: PsiConfig) -> int:
    """Run SecretFlow's PSI; returns the number of own rows that matched, where it is told.

    The SPU's actors are driven one by one: `spu.psi` reveals every party's counts to all.
    """
    import secretflow as sf

    run, spu = devices.run, devices["spu"]
    protocol = _native_protocol(config)
    reports = {}
    for party in sorted(config.input_paths):
        report = spu.actors[party].psi.remote(
            keys=["key"],
            input_path=str(run.folder / "psi_in.csv"),
            output_path=str(run.folder / "psi_out.csv"),
            receiver=config.receiver,
            # Always: unless keys are said to be duplicated the outputs are sorted by the wrong
            # columns.
            table_keys_duplicated=True,
            output_csv_na_rep=_NO_ROW,
            broadcast_result=config.broadcast_result,
            protocol=protocol,
            ecdh_curve=_CURVES[config.curve],
            join_type=_JOINS[config.join],
            left_side=config.receiver,
        )
        reports[party] = sf.PYUObject(devices[party], report)
    kept: dict[str, int] = {}

    def keep(report: Mapping[str, Any]) -> bool:
        kept["count"] = int(report["intersection_count"])
        return True

    sf.wait([devices[party](keep)(report) for party, report in reports.items()])
    if run.party in config.getters and kept.get("count", -1) < 0:
        raise AlgorithmError("The size of the intersection could not be read.", party=run.party)
    return kept["count"]


def _native_protocol(config: PsiConfig) -> str:
    if len(config.input_paths) > 2:
        return "PROTOCOL_ECDH_NPC"
    return f"PROTOCOL_{config.used_protocol}"


def _read_indices(path: Path) -> pa.Array:
    """The own row numbers in the order of the intersection; null where only the other has a row."""
    import pyarrow as pa
    import pyarrow.csv as pa_csv

    options = pa_csv.ConvertOptions(
        column_types={"row": pa.int64()}, include_columns=["row"], null_values=[_NO_ROW]
    )
    return pa_csv.read_csv(path, convert_options=options).column("row").combine_chunks()


def _output_rows(
    devices: Devices, config: PsiConfig, keys: pa.Array, indices: pa.Array
) -> pa.Array:
    """The own rows to write: matches by key, then each side's rest, null for the other's."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    own = indices.is_valid().to_numpy(zero_copy_only=False)
    masks = _masks(devices, config, own)
    if any(len(mask) != len(indices) for mask in masks.values()):
        raise Misaligned()
    matched = np.logical_and.reduce([own, *masks.values()])
    matches = indices.filter(pa.array(matched))
    parts = [_matches(devices, config, keys, matches)]
    for party, mask in sorted(masks.items()):
        alone = indices.filter(pa.array(mask & ~matched))
        if party == devices.run.party:
            parts.append(_by_key(keys, alone.filter(pc.not_equal(alone, _OWN_SALT))))
        else:
            parts.append(alone[:-1])  # one of these is the salt of that party
    return pa.concat_arrays(parts)


def _matches(devices: Devices, config: PsiConfig, keys: pa.Array, rows: pa.Array) -> pa.Array:
    """The own rows that matched, by key; with duplicates each as often as it is paired."""
    import pyarrow as pa

    if not config.allow_duplicates:
        return _by_key(keys, rows)
    is_receiver = config.receiver == devices.run.party
    paired = _paired(keys.to_pylist(), rows.to_pylist(), is_receiver)
    return pa.array(paired, pa.int64())


def _by_key(keys: pa.Array, rows: pa.Array) -> pa.Array:
    """Row numbers in the order of their keys."""
    import pyarrow.compute as pc

    return rows.take(pc.sort_indices(keys.take(rows)))


def _paired(keys: Sequence[str], indices: Sequence[int], receiver: bool) -> list[int]:
    """The matched own rows by key, every pair of rows with equal keys exactly once.

    Native PSI repeats a row as often as the other party has its key, but when both have it several
    times it pairs some rows twice and others never. The receiver repeats each row, the other the
    sequence of rows.
    """
    times = Counter(indices)
    groups: dict[str, list[int]] = defaultdict(list)
    for index in sorted(times):
        groups[keys[index]].append(index)
    rows: list[int] = []
    for _, group in sorted(groups.items()):
        if receiver:
            for index in group:
                rows += [index] * times[index]
        else:
            rows += group * times[group[0]]
    return rows
