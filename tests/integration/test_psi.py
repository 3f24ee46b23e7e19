"""Private set intersection against `pandas.merge`."""

from __future__ import annotations

import itertools
from typing import Any, Mapping, Sequence

import pandas as pd
import pytest

from tests.data.tables import AWKWARD_KEYS, Table, columns_in_order, overlapping, rows_in_order
from tests.integration.bench import Execution, Workspace, read_csv

pytestmark = pytest.mark.engine

JOINS = {"inner": "inner", "left": "left", "right": "right", "full": "outer", "difference": "outer"}
UID = {"alice": ["uid"], "bob": ["uid"]}


def psi(
    workspace: Workspace,
    tables: Mapping[str, Table],
    keys: Mapping[str, list[str]] = UID,
    **more: Any,
) -> dict[str, Any]:
    """A request for the intersection of ``tables``, which it writes."""
    return {
        "task_type": "psi",
        "keys": dict(keys),
        "input_paths": workspace.write("in.csv", tables),
        "output_paths": workspace.paths("out.csv", tables),
        "receiver": "alice",
        **more,
    }


def merged(
    tables: Mapping[str, Table], keys: Mapping[str, Sequence[str]], how: str, left: str = "alice"
) -> list[Any]:
    """The rows as pandas joins them, alice's first, as text; sorted: only the set is fixed."""
    right = next(party for party in tables if party != left)
    frames = {
        party: pd.DataFrame({**tables[party], "here": 1}, dtype=str).add_prefix(f"{party}.")
        for party in tables
    }
    joined = frames[left].merge(
        frames[right],
        how=JOINS[how],
        left_on=[f"{left}.{key}" for key in keys[left]],
        right_on=[f"{right}.{key}" for key in keys[right]],
    )
    if how == "difference":
        joined = joined[joined["alice.here"].isna() | joined["bob.here"].isna()]
    order = [f"{party}.{name}" for party in sorted(tables) for name in tables[party]]
    return sorted(joined[order].fillna("").itertuples(index=False, name=None))


def written(workspace: Workspace, tables: Mapping[str, Table], name: str = "out.csv") -> list[Any]:
    """The rows that the parties wrote, put side by side; sorted."""
    outputs = [workspace.read(party, name) for party in sorted(tables)]
    assert [list(output) for output in outputs] == [list(tables[party]) for party in sorted(tables)]
    return sorted(zip(*(cells for output in outputs for cells in output.values()), strict=True))


def joined_as_pandas(
    workspace: Workspace,
    tables: Mapping[str, Table],
    keys: Mapping[str, list[str]] = UID,
    **more: Any,
) -> Execution:
    """Run an intersection and compare every cell that it writes with `pandas.merge`."""
    execution = workspace.run(psi(workspace, tables, keys, **more))
    expected = merged(tables, keys, more.get("join", "inner"), more.get("receiver", "alice"))
    assert written(workspace, tables) == expected
    for party, result in execution.results.items():
        assert result["rows"] == len(expected)
        assert result["original_count"] == len(next(iter(tables[party].values())))
        assert result["columns_used"] == list(keys[party])
        assert result["output_paths"] == {party: str(workspace.path(party, "out.csv"))}
    return execution


@pytest.mark.parametrize("at_alice, at_bob", [*itertools.product(range(3), range(3))])
def test_rows_are_aligned_wherever_the_key_column_stands(
    workspace: Workspace, at_alice: int, at_bob: int
) -> None:
    alice, bob = overlapping(60, 25)
    orders = []
    for table, place in ((alice, at_alice), (bob, at_bob)):
        order = [name for name in table if name != "uid"]
        order.insert(place, "uid")
        orders.append(order)
    tables = {"alice": columns_in_order(alice, orders[0]), "bob": columns_in_order(bob, orders[1])}
    execution = joined_as_pandas(workspace, tables)
    assert {result["intersection_count"] for result in execution.results.values()} == {25}


def test_several_keys_match_by_their_order_in_the_request_not_in_the_files(
    workspace: Workspace,
) -> None:
    alice = {
        "day": ["01", "02", "01", "02", "a", "a,b"],
        "x": ["1", "2", "3", "4", "5", "6"],
        "person": ["p1", "p1", "p2", "p2", "b,c", "c"],
    }
    bob = {
        "who": ["p2", "p1", "01", "c", "b,c"],
        "y": ["5", "6", "7", "8", "9"],
        "when": ["02", "01", "p1", "a,b", "a,b"],
    }
    keys = {"alice": ["person", "day"], "bob": ["who", "when"]}
    execution = joined_as_pandas(workspace, {"alice": alice, "bob": bob}, keys)
    assert execution.results["alice"]["intersection_count"] == 3


def test_keys_are_texts_that_nothing_takes_apart(workspace: Workspace) -> None:
    count = len(AWKWARD_KEYS)
    alice = {"uid": AWKWARD_KEYS, "x": AWKWARD_KEYS[::-1]}
    bob = rows_in_order({"y": AWKWARD_KEYS, "uid": AWKWARD_KEYS}, range(count - 1, -1, -1))
    tables = {"alice": alice, "bob": {name: cells[:-3] for name, cells in bob.items()}}
    execution = joined_as_pandas(workspace, tables)
    assert execution.results["bob"]["intersection_count"] == count - 3


def test_without_any_common_key_both_outputs_are_empty_tables(workspace: Workspace) -> None:
    alice, bob = overlapping(20, 0)
    execution = joined_as_pandas(workspace, {"alice": alice, "bob": bob})
    assert [result["intersection_count"] for result in execution.results.values()] == [0, 0]
    assert workspace.read("alice", "out.csv") == {"age": [], "uid": [], "city": []}


@pytest.mark.parametrize("protocol", ["RR22", "ECDH", "KKRT"])
def test_the_same_keys_at_both_parties_keep_every_row(workspace: Workspace, protocol: str) -> None:
    alice, bob = overlapping(40, 40)
    joined_as_pandas(workspace, {"alice": alice, "bob": bob}, protocol=protocol)


def test_one_row_at_each_party_is_enough(workspace: Workspace) -> None:
    joined_as_pandas(
        workspace, {"alice": {"uid": ["1"], "x": ["2"]}, "bob": {"y": [""], "uid": ["1"]}}
    )


def test_a_second_run_reads_the_changed_file_though_its_size_is_the_same(
    workspace: Workspace,
) -> None:
    alice, bob = overlapping(30, 20)
    joined_as_pandas(workspace, {"alice": alice, "bob": bob})
    size = workspace.path("bob", "in.csv").stat().st_size
    changed = bob | {"uid": [f"9{uid[1:]}" if uid.endswith("2") else uid for uid in bob["uid"]]}
    execution = joined_as_pandas(workspace, {"alice": alice, "bob": changed})
    assert workspace.path("bob", "in.csv").stat().st_size == size
    assert execution.results["alice"]["intersection_count"] == 18


@pytest.mark.parametrize("owner", ["alice", "bob"])
def test_duplicate_keys_are_refused_at_their_owner(workspace: Workspace, owner: str) -> None:
    tables = dict(zip(("alice", "bob"), overlapping(10, 5)))
    tables[owner] = rows_in_order(tables[owner], [*range(10), 3])
    execution = workspace.fail(psi(workspace, tables), "DuplicateKeys", owner)
    assert (
        execution.failures["alice"]["error"] == f"{owner}: the keys of input_paths are not unique."
    )
    assert execution.stages("alice") == []
    assert not workspace.exists("alice", "out.csv")


@pytest.mark.parametrize("receiver", ["alice", "bob"])
@pytest.mark.parametrize("join", JOINS)
def test_every_join_is_that_of_pandas_also_with_duplicates(
    workspace: Workspace, join: str, receiver: str
) -> None:
    alice = {"x": list("123456"), "uid": ["b", "a", "b", "c", "e", "e"]}
    bob = {"uid": ["c", "b", "d", "b", "b", "f"], "y": list("123456")}
    tables = {"alice": alice, "bob": bob}
    joined_as_pandas(workspace, tables, join=join, receiver=receiver, allow_duplicates=True)


@pytest.mark.parametrize("protocol", ["RR22", "ECDH", "KKRT"])
@pytest.mark.parametrize("join", ["inner", "full"])
def test_every_protocol_joins_alike(workspace: Workspace, protocol: str, join: str) -> None:
    alice, bob = overlapping(50, 20)
    tables = {"alice": alice, "bob": bob}
    execution = joined_as_pandas(workspace, tables, protocol=protocol, join=join, receiver="bob")
    assert {result["psi_protocol"] for result in execution.results.values()} == {protocol}


@pytest.mark.parametrize(
    "name, runs",
    [("ECDH_PSI_2PC", "ECDH"), ("KKRT_PSI_2PC", "KKRT"), ("BC22_PSI_2PC", "RR22"), (None, "RR22")],
)
def test_names_of_older_releases_run_what_replaced_them(
    workspace: Workspace, name: str | None, runs: str
) -> None:
    alice, bob = overlapping(8, 4)
    execution = joined_as_pandas(workspace, {"alice": alice, "bob": bob}, protocol=name)
    assert {result["psi_protocol"] for result in execution.results.values()} == {runs}
    assert ("no longer has BC22" in workspace.bench.log_of(execution, "bob")) == (
        name == "BC22_PSI_2PC"
    )


@pytest.mark.parametrize("curve", ["25519", "fourq", "sm2", "secp256k1"])
def test_every_curve_gives_the_same_rows(workspace: Workspace, curve: str) -> None:
    alice, bob = overlapping(8, 4)
    joined_as_pandas(workspace, {"alice": alice, "bob": bob}, protocol="ECDH", curve=curve)


@pytest.mark.parametrize("receiver", ["alice", "carol"])
@pytest.mark.parametrize("broadcast", [True, False])
def test_three_parties_find_what_all_of_them_have(
    workspace: Workspace, receiver: str, broadcast: bool
) -> None:
    alice, bob = overlapping(30, 20)
    carol = {
        "z": [str(number) for number in range(15)],
        "id": [f"{number:06d}" for number in range(28, 13, -1)],
    }
    tables = {"alice": alice, "bob": bob, "carol": carol}
    keys = UID | {"carol": ["id"]}
    request = psi(
        workspace,
        tables,
        keys,
        receiver=receiver,
        protocol="ECDH_PSI_3PC",
        broadcast_result=broadcast,
    )
    execution = workspace.run(request)
    common = sorted(set(alice["uid"]) & set(bob["uid"]) & set(carol["id"]))
    getters = list(tables) if broadcast else [receiver]
    for party in getters:
        table, output = tables[party], workspace.read(party, "out.csv")
        rows = dict(zip(table[keys[party][0]], zip(*table.values())))
        assert list(zip(*output.values())) == [rows[uid] for uid in common]
        assert execution.results[party]["intersection_count"] == len(common) == 15
    for party in set(tables) - set(getters):
        assert not workspace.exists(party, "out.csv")
        assert "intersection_count" not in execution.results[party]


def test_csv_and_parquet_mix_and_parquet_keeps_its_types(workspace: Workspace) -> None:
    alice = {"x": ["0.10", "0.20", "0.30"], "uid": ["5", "123456789012345678", "7"]}
    bob = pd.DataFrame(
        {
            "uid": [7, 123456789012345678, 9],
            "when": pd.to_datetime(["2020-01-01", "2021-02-03", None]),
            "ratio": [0.1, None, 1e300],
            "flag": [True, False, True],
        }
    )
    inputs = workspace.write("in.csv", {"alice": alice}) | {"bob": workspace.text("in.parquet")}
    workspace.path("bob", "").mkdir(parents=True)
    bob.to_parquet(workspace.path("bob", "in.parquet"))
    outputs = {"alice": workspace.text("out.parquet"), "bob": workspace.text("out.parquet")}
    request = {
        "task_type": "psi",
        "keys": UID,
        "input_paths": inputs,
        "output_paths": outputs,
        "receiver": "bob",
    }
    workspace.run(request)
    expected = bob.iloc[[1, 0]].reset_index(drop=True)
    pd.testing.assert_frame_equal(pd.read_parquet(workspace.path("bob", "out.parquet")), expected)
    own = pd.read_parquet(workspace.path("alice", "out.parquet"))
    assert own.to_dict("list") == {"x": ["0.20", "0.30"], "uid": ["123456789012345678", "7"]}


def test_a_key_that_is_nan_in_parquet_is_missing(workspace: Workspace) -> None:
    inputs = workspace.write("in.csv", {"alice": {"uid": ["nan", "1"]}}) | {
        "bob": workspace.text("in.parquet")
    }
    workspace.path("bob", "").mkdir(parents=True)
    pd.DataFrame({"uid": [1.0, None]}).to_parquet(workspace.path("bob", "in.parquet"))
    outputs = workspace.paths("out.csv")
    request = {
        "task_type": "psi",
        "keys": UID,
        "input_paths": inputs,
        "output_paths": outputs,
        "receiver": "bob",
    }
    workspace.fail(request, "MissingKeys", "bob")


def test_an_existing_output_is_replaced_whole(workspace: Workspace) -> None:
    alice, bob = overlapping(10, 3)
    for rows in (range(10), range(5)):
        tables = {"alice": rows_in_order(alice, rows), "bob": bob}
        joined_as_pandas(workspace, tables)
    assert read_csv(workspace.path("alice", "in.csv"))["uid"] == alice["uid"][:5]


@pytest.mark.parametrize(
    "wrong, join",
    [
        ("psi_swapped", "inner"),
        ("psi_swapped", "full"),
        ("psi_foreign_row", "inner"),
        ("psi_foreign_row", "right"),
    ],
)
def test_rows_that_do_not_belong_together_are_never_written(
    workspace: Workspace, wrong: str, join: str
) -> None:
    alice, bob = overlapping(12, 8)
    request = psi(workspace, {"alice": alice, "bob": bob}, join=join) | {"task_type": wrong}
    execution = workspace.fail(request, "Misaligned", None)
    assert execution.stages("bob")[-1][0] == "alignment"
    assert [
        path.name for party in ("alice", "bob") for path in workspace.path(party, "").iterdir()
    ] == ["in.csv"] * 2


@pytest.mark.matrix
def test_a_long_intersection_says_how_far_it_is(workspace: Workspace) -> None:
    tables = dict(zip(("alice", "bob"), overlapping(300_000, 100_000)))
    request = psi(workspace, tables, protocol="ECDH", curve="25519")
    execution = workspace.run(request)
    for party in ("alice", "bob"):
        shares = [share for stage, share in execution.stages(party) if stage == "intersection"]
        assert len(set(shares)) == len(shares) >= 2 and shares == sorted(
            shares
        )  # how many depends on the machine
        assert shares[0] == 0.55 and shares[-1] < 0.9
    assert execution.results["alice"]["intersection_count"] == 100_000
