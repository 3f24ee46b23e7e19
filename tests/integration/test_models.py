"""Models of every kind work later on other tables, or are refused if the numbers would be wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Callable, Mapping

import numpy as np
import pytest

from tests.data.tables import Table, columns_in_order, rows_in_order
from tests.integration.bench import write_csv
from tests.integration.cases import CASES, Finished, Runs

pytestmark = pytest.mark.engine

TRAININGS = [task.removesuffix("_predict") for task in CASES if task.endswith("_predict")]
TRANSFORMATIONS = [
    "standard_scaler", "min_max_scaler", "label_encoder", "onehot_encoder", "binning", "fillna"
]  # fmt: skip
MODELS = TRAININGS + TRANSFORMATIONS
ON_SHARES = [
    "ss_lr",
    "ss_glm",
    "ss_xgb",
    "ss_kmeans",
]  # their parts mean nothing under another protocol


def using(runs: Runs, task_type: str) -> Finished:
    """A request, not yet run, that uses such a model on the tables that it was made from."""
    if task_type in TRAININGS:
        return runs[f"{task_type}_predict"].copy()
    fitting = runs[task_type].copy()
    fitting.config["model_output"] = fitting.workspace.text("model")
    fitting.run()
    own = ("input_data", "output_data")
    config = {key: fitting.config[key] for key in ("task_type", *own)} | {
        "model_path": fitting.config["model_output"]
    }
    return Finished(fitting.workspace, config, fitting.tables)


@pytest.fixture(scope="module")
def users(runs: Runs) -> Callable[[str], Finished]:
    """A copy of `using` by model type, which is made once."""
    made: dict[str, Finished] = {}

    def user(task_type: str) -> Finished:
        if task_type not in made:
            made[task_type] = using(runs, task_type)
        return made[task_type].copy()

    return user


def outputs(case: Finished) -> dict[str, Table]:
    """What every party got, as text."""
    read = case.workspace.read
    return {
        party: read(party, "out.csv")
        for party in case.tables
        if case.workspace.exists(party, "out.csv")
    }


def rewrite(case: Finished, change: Callable[[str, Table], Table]) -> None:
    """Give every party another table."""
    for party, table in case.tables.items():
        write_csv(case.workspace.path(party, "in.csv"), change(party, table))


def assert_same(
    found: Mapping[str, Table], expected: Mapping[str, Table], rows: Any = slice(None)
) -> None:
    """Equal in the columns that both have, but for the noise of fixed-point numbers."""
    assert set(found) == set(expected) and found
    for party, table in expected.items():
        shared = [name for name in table if name in found[party]]
        assert shared
        for name in shared:
            cells, others = np.array(table[name])[rows], np.array(found[party][name])
            if (cells != others).any():
                assert np.allclose(cells.astype(float), others.astype(float), atol=1e-4)


def model(case: Finished, party: str) -> Path:
    """A party's model folder."""
    return case.workspace.path(party, f"model/{party}")


@pytest.mark.parametrize(
    "task_type", [pytest.param(task, marks=pytest.mark.matrix) for task in MODELS]
)
def test_a_model_is_used_by_column_name_on_any_rows(
    users: Callable[[str], Finished], task_type: str
) -> None:
    before = outputs(users(task_type).run())
    shuffled = users(task_type)
    rows = [*range(59, 4, -1), 7, 7]

    def change(party: str, table: Table) -> Table:
        names = sorted(table, reverse=True)
        return {"more": ["1"] * len(rows), **rows_in_order(columns_in_order(table, names), rows)}

    rewrite(shuffled, change)
    assert_same(outputs(shuffled.run()), before, rows)


@pytest.mark.parametrize(
    "task_type", [pytest.param(task, marks=pytest.mark.matrix) for task in MODELS]
)
def test_rows_never_seen_have_one_answer_however_the_table_is_written(
    users: Callable[[str], Finished], task_type: str
) -> None:
    rng = np.random.default_rng(3)
    new = {
        party: {
            name: [str(cell) for cell in rng.normal(size=9)] if name[1:].isdigit() else cells[:9]
            for name, cells in table.items()
        }
        for party, table in users(task_type).tables.items()
    }
    plain, other = users(task_type), users(task_type)
    rewrite(plain, lambda party, _: new[party])
    rewrite(other, lambda party, _: columns_in_order(new[party], sorted(new[party], reverse=True)))
    assert_same(outputs(other.run()), outputs(plain.run()))


def used_column(case: Finished, party: str) -> str:
    """A column that the model needs of a party."""
    return str(json.loads((model(case, party) / "manifest.json").read_text())["features"][party][0])


def drop_a_column(case: Finished) -> None:
    """Bob's table lacks a feature."""
    name = used_column(case, "bob")
    rewrite(
        case,
        lambda party, table: {
            key: cells for key, cells in table.items() if (party, key) != ("bob", name)
        },
    )


def change_the_manifest(case: Finished) -> None:
    """Bob's manifest names another feature."""
    path = model(case, "bob") / "manifest.json"
    path.write_text(path.read_text().replace(f'"{used_column(case, "bob")}"', '"other"'))


def part_of(case: Finished, party: str) -> Path:
    """The largest of the files in a party's model."""
    files = [path for path in model(case, party).iterdir() if path.name != "manifest.json"]
    return max(files, key=lambda path: (path.stat().st_size, path.name))


def change_a_part(case: Finished) -> None:
    """One byte of alice's part is another."""
    path = part_of(case, "alice")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def remove_a_part(case: Finished) -> None:
    """A file of bob's part is not there."""
    part_of(case, "bob").unlink()


def swap_a_part(case: Finished) -> None:
    """Alice's file lies in bob's model."""
    shutil.copy(part_of(case, "alice"), model(case, "bob") / part_of(case, "alice").name)


def swap_the_folders(case: Finished) -> None:
    """Alice's whole part lies at bob."""
    shutil.rmtree(model(case, "bob"))
    shutil.copytree(model(case, "alice"), model(case, "bob"))


def remove_the_model(case: Finished) -> None:
    """Bob has no model."""
    shutil.rmtree(model(case, "bob"))


def give_other_rows(case: Finished) -> None:
    """Bob's table has a row less."""
    rewrite(case, lambda party, table: rows_in_order(table, range(60 - (party == "bob"))))


FAULTS: dict[str, tuple[Callable[[Finished], None], str, str | None]] = {
    "a missing column": (drop_a_column, "MissingColumn", "bob"),
    "a changed manifest": (change_the_manifest, "ModelDamaged", "bob"),
    "a changed file": (change_a_part, "ModelDamaged", "alice"),
    "a missing file": (remove_a_part, "ModelDamaged", "bob"),
    "another party's file": (swap_a_part, "ModelDamaged", "bob"),
    "another party's folder": (swap_the_folders, "ModelMismatch", "bob"),
    "no model": (remove_the_model, "MissingFile", "bob"),
    "unequal row counts": (give_other_rows, "RowCountMismatch", None),
}


def quick(task_type: str, fault: str) -> bool:
    """Whether `make test` has it: every fault once."""
    return MODELS[[*FAULTS].index(fault) % len(MODELS)] == task_type


@pytest.mark.parametrize(
    "task_type, fault",
    [
        pytest.param(task, fault, marks=() if quick(task, fault) else pytest.mark.matrix)
        for task in MODELS
        for fault in FAULTS
    ],
)
def test_a_model_that_would_give_wrong_numbers_is_refused(
    users: Callable[[str], Finished], task_type: str, fault: str
) -> None:
    case = users(task_type)
    spoil, code, party = FAULTS[fault]
    spoil(case)
    before = [sorted(case.workspace.path(party, "").rglob("*")) for party in case.tables]
    case.workspace.fail(case.config, code, party)
    assert before == [sorted(case.workspace.path(party, "").rglob("*")) for party in case.tables]


@pytest.mark.parametrize(
    "task_type", [pytest.param(task, marks=pytest.mark.matrix) for task in MODELS]
)
def test_folders_of_two_trainings_do_not_mix(
    users: Callable[[str], Finished], runs: Runs, task_type: str
) -> None:
    case = users(task_type)
    other = runs[task_type].copy()
    other.config["model_output"] = other.workspace.text("model")
    other.run()
    shutil.rmtree(model(case, "bob"))
    shutil.copytree(model(other, "bob"), model(case, "bob"))
    case.workspace.fail(case.config, "ModelMismatch")


@pytest.mark.parametrize(
    "task_type", [pytest.param(task, marks=pytest.mark.matrix) for task in MODELS]
)
def test_a_model_of_two_parties_is_not_used_by_three(
    users: Callable[[str], Finished], task_type: str
) -> None:
    case = users(task_type)
    theirs, carols = (case.workspace.path(party, "") for party in ("alice", "carol"))
    shutil.copytree(theirs, carols, dirs_exist_ok=True)
    shutil.copytree(theirs / "model" / "alice", carols / "model" / "carol")
    for value in case.config.values():
        if isinstance(value, dict) and isinstance(value.get("alice"), str):
            value["carol"] = value["alice"]
    parties = {"parties": ["alice", "bob", "carol"]}
    execution = case.workspace.bench.execute(
        {"task_config": case.config, "sf_init_config": parties}
    )
    assert execution.code == "ModelMismatch", execution.failures


@pytest.mark.parametrize(
    "spu", [{"protocol": "CHEETAH"}, {"field": "FM64"}], ids=["CHEETAH", "FM64"]
)
@pytest.mark.parametrize(
    "task_type", [pytest.param(task, marks=pytest.mark.matrix) for task in ON_SHARES]
)
def test_shares_are_not_read_under_another_protocol_or_field(
    users: Callable[[str], Finished], task_type: str, spu: dict[str, str]
) -> None:
    case = users(task_type)
    execution = case.workspace.bench.execute({"task_config": case.config, "spu_config": spu})
    assert execution.code == "ModelMismatch"
    assert [*spu][0] in execution.failures["alice"]["error"]
