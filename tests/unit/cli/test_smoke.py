"""`sfworker smoke`: between whom, and what the answer must be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from secretflow_task.cli.smoke import ROWS, Trial
from secretflow_task.config.settings import Settings
from secretflow_task.contract.errors import BadSetting
from secretflow_task.contract.plan import Plan
from secretflow_task.node.link.peer.certificates import make_certificate


def settings_with(tmp_path: Path, *peers: str, **values: Any) -> Settings:
    """Settings of a node whose address book has these peers."""
    lines = []
    for peer in peers:
        identity, fingerprint = make_certificate(peer, tmp_path)
        certificate = f"certificate: {identity.certificate}, fingerprints: [{fingerprint}]"
        entry = f"{{host: {peer}, port: 1, {certificate}}}"
        lines.append(f"{peer}: {entry}\n")
    book = tmp_path / "parties.yaml"
    book.write_text("".join(lines), encoding="utf-8")
    return Settings(data_root=tmp_path, peers_file=book if peers else None, **values)


@pytest.mark.parametrize(
    ("here", "peers", "wanted", "parties", "hosted"),
    [
        ((), (), (), "alice bob", "alice bob"),
        (("x", "b"), (), (), "b x", "b x"),
        (("bob",), ("alice",), (), "alice bob", "bob"),
        (("bob",), ("alice", "carol"), (), "alice bob carol", "bob"),
        (("bob",), ("alice", "carol"), ("carol", "bob"), "bob carol", "bob"),
    ],
)
def test_it_is_between_the_parties_of_the_settings_or_those_that_are_wanted(
    here: tuple[str, ...],
    peers: tuple[str, ...],
    wanted: tuple[str, ...],
    parties: str,
    hosted: str,
    tmp_path: Path,
) -> None:
    trial = Trial.of("it", settings_with(tmp_path, *peers, parties=here), wanted)
    assert (" ".join(trial.parties), " ".join(trial.hosted)) == (parties, hosted)
    plan = Plan.of(trial.request)
    assert list(plan.parties) == list(trial.parties)


@pytest.mark.parametrize(
    ("here", "peers", "wanted"),
    [
        (("alice",), (), ()),
        ((), ("bob",), ()),
        (("alice",), ("bob", "carol"), ("bob", "carol")),
        (("alice",), ("bob",), ("alice", "carol")),
        (("alice", "bob"), (), ("alice",)),
    ],
)
def test_without_two_parties_or_one_of_them_here_it_is_refused(
    here: tuple[str, ...], peers: tuple[str, ...], wanted: tuple[str, ...], tmp_path: Path
) -> None:
    with pytest.raises(BadSetting):
        Trial.of("it", settings_with(tmp_path, *peers, parties=here), wanted)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_the_answer_is_what_the_tables_have_in_common(count: int, tmp_path: Path) -> None:
    parties = tuple(f"p{number}" for number in range(count))
    settings = settings_with(tmp_path, parties=parties)
    trial = Trial.of("it", settings)
    assert {len(set(trial.ids(party))) for party in parties} == {ROWS}
    assert sorted(set.intersection(*(set(trial.ids(party)) for party in parties))) == trial.common
    assert ROWS / 2 <= len(trial.common) < ROWS


def test_every_party_makes_the_same_request(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    alice = Trial.of("it", settings_with(tmp_path / "a", "bob", parties=("alice",)))
    bob = Trial.of("it", settings_with(tmp_path / "b", "alice", parties=("bob",)))
    assert alice.request == bob.request


def test_the_tables_of_the_parties_here_are_made_and_leave_nothing(tmp_path: Path) -> None:
    (tmp_path / "bob").mkdir()
    settings = settings_with(tmp_path, parties=("alice", "bob"))
    before = sorted(tmp_path.rglob("*"))
    trial = Trial.of("it", settings)
    with trial.tables(settings):
        assert (tmp_path / "sfworker-smoke-it" / "alice-in.csv").read_text().splitlines()[:2] == [
            "id,whose",
            "0000,alice",
        ]
        assert (tmp_path / "bob" / "sfworker-smoke-it" / "bob-in.csv").read_text().splitlines()[
            -1
        ] == "0124,bob"
    assert sorted(tmp_path.rglob("*")) == before


def test_a_data_root_that_is_not_there_is_named(tmp_path: Path) -> None:
    settings = Settings(data_root=tmp_path / "none")
    with (
        pytest.raises(BadSetting, match="SFWORKER_DATA_ROOT"),
        Trial.of("it", settings).tables(settings),
    ):
        pass


def test_a_folder_that_is_there_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "sfworker-smoke-it").mkdir()
    (tmp_path / "sfworker-smoke-it" / "alice-in.csv").write_text("of another run")
    settings = Settings(data_root=tmp_path)
    with pytest.raises(BadSetting, match="File exists"), Trial.of("it", settings).tables(settings):
        pass
    assert (tmp_path / "sfworker-smoke-it" / "alice-in.csv").read_text() == "of another run"
