"""What `psi` takes, how keys become text, and what the alignment digest sees."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from secretflow_task.contract.errors import (
    DuplicateKeys,
    InvalidTaskConfig,
    MissingColumn,
    MissingFile,
    MissingKeys,
)
from secretflow_task.contract.task_config import Use, parse
from secretflow_task.contract.tasks.psi import PsiConfig
from secretflow_task.data_loader.table import Table
from secretflow_task.jobs.psi_task import alignment_digest, encode_keys, prepare_psi
from tests.data.tables import AWKWARD_KEYS
from tests.unit.conftest import RunOf
from tests.unit.plan_requests import PLAN_REQUESTS

PLAN = PLAN_REQUESTS["psi"]
THREE = {
    "keys": {name: ["uid"] for name in ("alice", "bob", "carol")},
    "input_paths": {name: f"{name}.csv" for name in ("alice", "bob", "carol")},
    "output_paths": {name: f"out/{name}.csv" for name in ("alice", "bob", "carol")},
    "receiver": "carol",
}
KEY_CELLS = st.text(
    st.characters(blacklist_categories=["Cs"]), min_size=1, max_size=6
) | st.sampled_from(AWKWARD_KEYS)


def psi(**values: Any) -> PsiConfig:
    """The plan's request with other values."""
    config = parse(PsiConfig, {**PLAN, **values}, "psi")
    assert isinstance(config, PsiConfig)
    return config


def table(**columns: Any) -> Table:
    """Alice's table."""
    return Table(pa.table(columns), "alice", "input_paths")


def keys_of(rows: Table, columns: list[str]) -> list[str]:
    """The encoded keys of a table."""
    keys: list[str] = encode_keys(rows, columns).to_pylist()
    return keys


def digest_of(keys: list[str], matched: list[bool] | None = None) -> str:
    """The digest of these keys in this order."""
    return alignment_digest(
        pa.array(keys, pa.large_string()),
        None if matched is None else np.array(matched, dtype=bool),
    )


def test_what_is_left_out_has_the_defaults_of_the_plan() -> None:
    config = parse(
        PsiConfig, {key: value for key, value in PLAN.items() if key != "protocol"}, "psi"
    )
    assert config.model_dump() == {
        **PLAN,
        "protocol": None,
        "broadcast_result": True,
        "join": "inner",
        "curve": "fourq",
        "allow_duplicates": False,
    }
    assert config.used_protocol == "RR22"


@pytest.mark.parametrize(
    ("name", "used"),
    [
        ("RR22", "RR22"),
        ("ECDH", "ECDH"),
        ("KKRT", "KKRT"),
        ("PROTOCOL_RR22", "RR22"),
        ("PROTOCOL_ECDH", "ECDH"),
        ("ecdh", "ECDH"),
        ("ECDH_PSI_2PC", "ECDH"),
        ("KKRT_PSI_2PC", "KKRT"),
        ("BC22_PSI_2PC", "RR22"),
        (None, "RR22"),
    ],
)
def test_names_of_protocols_of_all_releases_are_accepted(name: str | None, used: str) -> None:
    assert psi(protocol=name).used_protocol == used


@pytest.mark.parametrize("name", [None, "ECDH", "ECDH_PSI_3PC"])
def test_three_parties_take_ecdh(name: str | None) -> None:
    assert parse(PsiConfig, {**THREE, "protocol": name}, "psi").used_protocol == "ECDH"


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"protocol": "DP"}, "protocol: input should be 'RR22', 'ECDH' or 'KKRT'"),
        ({"protocol": 5}, "protocol: input should be 'RR22', 'ECDH' or 'KKRT'"),
        ({"curve": "25518"}, "curve: input should be '25519', 'fourq', 'sm2' or 'secp256k1'"),
        (
            {"join": "outer"},
            "join: input should be 'inner', 'left', 'right', 'full' or 'difference'",
        ),
        ({"key": {}}, "unknown key 'key', did you mean 'keys'?"),
        (
            {"input_paths": {"alice": "a.csv"}},
            "input_paths names alice only; psi takes two parties or more",
        ),
        (
            {"keys": {"alice": ["uid"]}},
            "keys and input_paths must name the same parties: keys lacks bob",
        ),
        (
            {"keys": {"alice": ["uid"], "carol": ["uid"]}},
            "keys and input_paths must name the same parties: "
            "keys lacks bob, input_paths lacks carol",
        ),
        (
            {"keys": {"alice": ["uid"], "bob": ["uid", "day"]}},
            "keys must name the same number of columns, one or more, for every party",
        ),
        (
            {"keys": {"alice": [], "bob": []}},
            "keys must name the same number of columns, one or more, for every party",
        ),
        ({"receiver": "carol"}, "receiver is carol, who is not in input_paths"),
        (
            {"output_paths": {"alice": "a.csv"}},
            "output_paths must name alice and bob, who get the rows",
        ),
        (
            {"output_paths": {"bob": "b.csv"}, "broadcast_result": False},
            "output_paths must name alice, who get the rows",
        ),
        (
            {"join": "left", "broadcast_result": False},
            "a join other than inner gives rows to both parties: leave broadcast_result true",
        ),
        (
            {**THREE, "join": "left"},
            "with three or more parties join must be inner and protocol ECDH",
        ),
        (
            {**THREE, "protocol": "KKRT"},
            "with three or more parties join must be inner and protocol ECDH",
        ),
    ],
)
def test_what_does_not_fit_together_is_refused(values: dict[str, Any], problem: str) -> None:
    with pytest.raises(InvalidTaskConfig) as caught:
        psi(**{"protocol": None, **values})
    assert caught.value.message == f"psi: {problem}.".replace("?.", "?")


def test_all_parties_get_rows_unless_the_result_is_not_broadcast() -> None:
    assert psi().getters == ["alice", "bob"]
    assert [use.party for use in psi().outputs()] == ["alice", "bob"]
    quiet = psi(broadcast_result=False, receiver="bob")
    assert quiet.getters == ["bob"]
    assert quiet.outputs() == [Use("bob", "psi/bob.csv", (), "output_paths")]
    assert [use.party for use in quiet.inputs()] == ["alice", "bob"]


def test_who_gets_no_rows_learns_only_how_many_keys_the_others_have() -> None:
    def told(**values: Any) -> list[tuple[str, str]]:
        found = psi(**values).reveals()
        everyone = ["alice", "bob"]
        return [(party, each.what) for each in found for party in each.learners(everyone) or ()]

    rows = "which of its own rows the other parties have too, and their number"
    keys = [(party, "how many keys each of the others has") for party in ("alice", "bob")]
    assert told(broadcast_result=False) == [("alice", rows), *keys]
    assert told() == [("alice", rows), ("bob", rows), *keys]
    assert ["without a match" in purpose for _, purpose in told(join="full")] == [
        True,
        True,
        False,
        False,
    ]


def test_a_key_of_letters_and_digits_stays_as_it_is() -> None:
    assert keys_of(table(uid=["007", "Ab9"]), ["uid"]) == ["007", "Ab9"]


def test_several_keys_are_joined_in_the_asked_order() -> None:
    rows = table(day=["1", "2"], uid=["a/b", "c"])
    assert keys_of(rows, ["uid", "day"]) == ["a%2Fb/1", "c/2"]
    assert keys_of(rows, ["day", "uid"]) == ["1/a%2Fb", "2/c"]


def test_numbers_of_parquet_are_the_same_keys_as_their_text() -> None:
    text = keys_of(table(uid=["1", "20", str(2**60 + 1)]), ["uid"])
    assert keys_of(table(uid=[1, 20, 2**60 + 1]), ["uid"]) == text
    assert keys_of(table(uid=[1.0, 20.0]), ["uid"]) == text[:2]


@pytest.mark.parametrize(
    "cells",
    [["a", ""], ["a", None], pa.array([None, None]), [1.0, float("nan")], pa.array([1, None])],
)
def test_a_row_without_a_key_is_refused(cells: Any) -> None:
    with pytest.raises(MissingKeys) as caught:
        keys_of(table(day=["1", "2"], uid=cells), ["day", "uid"])
    assert caught.value.message == "alice: key column 'uid' has empty cells."


def test_text_that_only_looks_missing_is_a_key() -> None:
    assert len(set(keys_of(table(uid=["NA", "null", "nan", "None", " "]), ["uid"]))) == 5


def test_a_key_column_that_is_not_there() -> None:
    with pytest.raises(MissingColumn, match="has no column 'id'"):
        keys_of(table(uid=["1"]), ["uid", "id"])


@given(
    st.integers(1, 3).flatmap(
        lambda n: st.lists(st.lists(KEY_CELLS, min_size=n, max_size=n), min_size=1, max_size=8)
    )
)
@example([["a,b", "c"], ["a", "b,c"]])
@example([["a/b", "c"], ["a", "b/c"], ["a%2Fb", "c"], ["a%252Fb", "c"]])
@example([["é", "1"], ["e\u0301", "1"], ["É", "1"], ["%C3%A9", "1"]])
@example([[cell] for cell in AWKWARD_KEYS])
def test_rows_have_the_same_key_exactly_when_all_their_cells_are_equal(
    rows: list[list[str]],
) -> None:
    names = [f"k{index}" for index in range(len(rows[0]))]
    keys = keys_of(table(**dict(zip(names, map(list, zip(*rows))))), names)
    assert len(keys) == len(rows)
    assert all((a == b) == (x == y) for a, x in zip(rows, keys) for b, y in zip(rows, keys))
    assert all(re.fullmatch(r"[A-Za-z0-9_.~%/-]+", key) for key in keys)


def test_the_digest_is_the_same_for_the_same_rows_wherever_they_lie_in_memory() -> None:
    part = pa.array(["x", "a", "b", "c"], pa.large_string())[1:]
    assert alignment_digest(part) == digest_of(["a", "b", "c"])
    assert re.fullmatch(r"[0-9a-f]{64}", digest_of([]))


@given(st.lists(st.text("abc/%", min_size=1), min_size=2, max_size=8, unique=True), st.data())
def test_a_swapped_pair_of_rows_changes_the_digest(keys: list[str], data: st.DataObject) -> None:
    first, second = sorted(
        data.draw(st.sets(st.integers(0, len(keys) - 1), min_size=2, max_size=2))
    )
    swapped = list(keys)
    swapped[first], swapped[second] = keys[second], keys[first]
    assert digest_of(swapped) != digest_of(keys)


@given(
    st.lists(st.text("ab", min_size=1), max_size=6), st.lists(st.text("ab", min_size=1), max_size=6)
)
def test_different_rows_have_different_digests(first: list[str], second: list[str]) -> None:
    assert (digest_of(first) == digest_of(second)) is (first == second)


def test_rows_that_only_one_side_has_do_not_count_but_keep_their_places() -> None:
    matched = [True, False, True]
    assert digest_of(["a", "mine", "c"], matched) == digest_of(["a", "theirs", "c"], matched)
    assert digest_of(["a", "c", "mine"], [True, True, False]) != digest_of(
        ["a", "mine", "c"], matched
    )
    assert digest_of(["a", "b"], [True, True]) == digest_of(["a", "b"])


def test_preparing_reads_the_own_table_and_tells_the_peers_nothing_of_it(
    make_run: RunOf, tmp_path: Path
) -> None:
    run = make_run("alice")
    (tmp_path / "data/alice/alice.csv").write_text("x,uid\n1,b\n2,a\n")
    own = prepare_psi(run, psi())
    assert own.keys.to_pylist() == ["b", "a"]
    assert own.table.columns == ["x", "uid"]
    assert run.channel.offered == [{}]  # type: ignore[attr-defined]


def test_duplicate_keys_are_refused_unless_they_are_allowed(
    make_run: RunOf, tmp_path: Path
) -> None:
    run = make_run("alice")
    (tmp_path / "data/alice/alice.csv").write_text("uid\na\na\n")
    with pytest.raises(DuplicateKeys, match="^alice: the keys of input_paths are not unique.$"):
        prepare_psi(run, psi())
    assert prepare_psi(run, psi(allow_duplicates=True)).keys.to_pylist() == ["a", "a"]


def test_a_missing_file_is_found_before_any_agreement(make_run: RunOf) -> None:
    run = make_run("bob")
    with pytest.raises(MissingFile, match="^bob: the file of input_paths does not exist.$"):
        prepare_psi(run, psi())
    assert run.channel.offered == []  # type: ignore[attr-defined]
