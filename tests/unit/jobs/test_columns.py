"""Which columns at whom, the same answer at every party."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from secretflow_task.contract.errors import (
    AmbiguousColumn,
    InvalidTaskConfig,
    MissingColumn,
    RowCountMismatch,
    ValueRange,
)
from secretflow_task.data_loader.table import Table
from secretflow_task.jobs.columns import (
    agree_on_features,
    check_fits_shares,
    check_rows,
    find_label_party,
    own_features,
)
from tests.unit.conftest import RunOf

TABLE = Table(
    pa.table(
        {"uid": ["1", "2"], "b": ["3", "4"], "name": ["x", "y"], "y": ["0", "1"], "a": ["5", ""]}
    ),
    "alice",
    "t",
)


def test_asked_features_are_taken_in_the_order_of_the_request_where_the_table_has_them() -> None:
    assert own_features(TABLE, ["a", "other", "b", "y"], None) == ["a", "b", "y"]
    assert own_features(TABLE, ["a", "y", "uid"], {"alice": ["uid"]}, "y") == ["a"]
    assert own_features(TABLE, ["name"], None) == ["name"]
    assert own_features(TABLE, ["other"], None) == []


def test_without_a_list_features_are_the_numeric_columns_but_ids_and_label() -> None:
    assert own_features(TABLE, None, {"alice": ["uid"]}, "y") == ["b", "a"]
    assert own_features(TABLE, None, {"alice": ["uid"], "bob": ["b"]}) == ["b", "y", "a"]
    assert own_features(TABLE, None, None, "y") == ["uid", "b", "a"]
    assert own_features(TABLE, None, {}) == ["uid", "b", "y", "a"]


def test_without_anything_that_tells_ids_the_request_is_refused() -> None:
    with pytest.raises(InvalidTaskConfig, match="Give columns or ids"):
        own_features(TABLE, None, None)


def test_an_id_that_is_not_there_is_missed() -> None:
    with pytest.raises(MissingColumn, match="'id'"):
        own_features(TABLE, None, {"alice": ["id"]})


@pytest.mark.parametrize(
    ("wanted", "names"),
    [
        (None, {"alice": ["a1", "a2"], "bob": ["b2", "b1"]}),
        (["b1", "a2", "b2", "a1"], {"alice": ["a2", "a1"], "bob": ["b1", "b2"]}),
        (["b1"], {"alice": [], "bob": ["b1"]}),
    ],
)
def test_all_parties_find_the_same_owners(wanted: Any, names: Any, make_run: RunOf) -> None:
    held = {"alice": ["a1", "a2"], "bob": ["b2", "b1"]}
    facts = {party: {"features": own, "rows": 5, "extra": party} for party, own in held.items()}
    for party, peer in (("alice", "bob"), ("bob", "alice")):
        run = make_run(party, {peer: facts[peer]})
        assert agree_on_features(run, held[party], wanted, rows=5, extra=party) == (names, facts)
        assert run.channel.offered == [facts[party]]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("wanted", "facts", "error"),
    [
        (["f", "q"], {"features": ["f"], "rows": 5}, MissingColumn),
        (["f"], {"features": ["f"], "rows": 4}, RowCountMismatch),
        (["a"], {"features": ["a"], "rows": 5}, AmbiguousColumn),
        (None, {"features": ["a"], "rows": 5}, AmbiguousColumn),
    ],
)
def test_what_does_not_fit_is_the_same_error_at_every_party(
    wanted: Any, facts: Any, error: type[Exception], make_run: RunOf
) -> None:
    texts = set()
    own = {"features": ["a"], "rows": 5}
    for run, mine in (
        (make_run("alice", {"bob": facts}), own),
        (make_run("bob", {"alice": own}), facts),
    ):
        with pytest.raises(error) as caught:
            agree_on_features(run, mine["features"], wanted, rows=mine["rows"])
        texts.add(str(caught.value))
    assert len(texts) == 1


def test_only_parties_that_read_a_table_count_as_rows() -> None:
    check_rows({"alice": {"rows": 3}, "bob": {}, "carol": {"rows": 3}})
    check_rows({})
    with pytest.raises(RowCountMismatch):
        check_rows({"alice": {"rows": 3}, "bob": {"rows": 2}})


def holders(**has_label: bool) -> dict[str, dict[str, bool]]:
    """Facts that say who has the label."""
    return {party: {"has_label": has} for party, has in has_label.items()}


def test_the_label_party_is_the_asked_one_or_the_only_one_that_has_it() -> None:
    assert find_label_party("y", None, holders(alice=False, bob=True)) == "bob"
    assert find_label_party("y", "alice", holders(alice=True, bob=True)) == "alice"


@pytest.mark.parametrize(
    ("asked", "facts", "error", "message"),
    [
        ("alice", holders(alice=False, bob=True), MissingColumn, "alice has no label column 'y'."),
        ("carol", holders(alice=True, bob=True), MissingColumn, "carol has no label column 'y'."),
        (None, holders(alice=False, bob=False), MissingColumn, "No party has a label column 'y'."),
        (
            None,
            holders(bob=True, alice=True),
            AmbiguousColumn,
            "The label 'y' exists at alice and bob.",
        ),
    ],
)
def test_a_label_that_cannot_be_told_is_refused(
    asked: Any, facts: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as caught:
        find_label_party("y", asked, facts)
    assert str(caught.value) == message


@pytest.mark.parametrize(("field", "limit"), [("FM64", 1e6), ("FM128", 1e15)])
def test_numbers_that_would_overflow_the_fixed_point_are_refused(field: str, limit: float) -> None:
    values = np.array([[1.0, -limit], [2.0, 0.0]])
    check_fits_shares(TABLE, ["a", "b"], values, field)
    check_fits_shares(TABLE, [], values[:, :0], field)
    with pytest.raises(
        ValueRange, match=f"column 'b' of t holds values beyond .*{field}"
    ) as caught:
        check_fits_shares(TABLE, ["a", "b"], values * 1.01, field)
    assert caught.value.party == "alice"
