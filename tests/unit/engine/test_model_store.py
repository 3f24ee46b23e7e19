"""A model folder is what training wrote, or it is refused."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from secretflow_task.contract.errors import MissingFile, ModelDamaged, ModelFormat, ModelMismatch
from secretflow_task.engine.model_store import (
    FORMAT,
    MANIFEST,
    Manifest,
    check_same_model,
    load_manifest,
    read_manifest,
    save_manifest,
)

EARLIER = Path(__file__).parents[2] / "data" / "earlier_models"
MODEL = Manifest(
    model_id="e-1",
    model_type="ss_lr",
    parties=["alice", "bob"],
    features={"alice": ["f1", "größe"], "bob": ["f2"]},
    protocol="SEMI2K",
    field="FM128",
    params={"epochs": 3, "learning_rate": 0.1},
    label="y",
    label_party="alice",
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of a saved model with one file."""
    (tmp_path / "weights.share").write_bytes(b"\x00share\xff")
    save_manifest(tmp_path, MODEL, "alice")
    return tmp_path


def test_a_model_comes_back_as_it_was_saved_with_the_digests_of_its_files(folder: Path) -> None:
    sha256 = hashlib.sha256(b"\x00share\xff").hexdigest()
    assert load_manifest(folder, "alice") == replace(
        MODEL, party="alice", files={"weights.share": sha256}
    )


def test_the_manifest_can_be_read_by_people(folder: Path) -> None:
    text = (folder / MANIFEST).read_text(encoding="utf-8")
    assert '"größe"' in text and text.endswith("}\n")
    assert json.loads(text)["model_type"] == "ss_lr"


def test_a_folder_without_a_manifest_holds_no_model(tmp_path: Path) -> None:
    with pytest.raises(MissingFile) as caught:
        load_manifest(tmp_path / "none", "bob")
    assert (caught.value.message, caught.value.party) == ("bob: model_path holds no model.", "bob")
    assert caught.value.detail == str(tmp_path / "none")


@pytest.mark.parametrize(
    "change",
    [
        {"params": {"epochs": 4}},
        {"features": {"alice": ["größe", "f1"], "bob": ["f2"]}},
        {"parties": ["alice"]},
        {"digest": "0"},
        {"files": {}},
        {"party": "bob"},
        {"more": 1},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_changed_manifest_is_damaged(folder: Path, change: dict[str, Any]) -> None:
    fields = json.loads((folder / MANIFEST).read_text(encoding="utf-8")) | change
    (folder / MANIFEST).write_text(json.dumps(fields), encoding="utf-8")
    with pytest.raises(ModelDamaged) as caught:
        load_manifest(folder, "alice")
    assert (caught.value.message, caught.value.party) == (
        "alice: the model's manifest was changed.",
        "alice",
    )


@pytest.mark.parametrize("name", sorted({*MODEL.__dict__, "digest"} - {"format"}))
def test_a_manifest_that_lacks_anything_is_damaged(folder: Path, name: str) -> None:
    fields = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    del fields[name]
    (folder / MANIFEST).write_text(json.dumps(fields), encoding="utf-8")
    with pytest.raises(ModelDamaged):
        load_manifest(folder, "alice")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"5",
        b"null",
        b'"text"',
        b"{}",
        b'{"digest": 1}',
        b"\xff",
        b"[" * 100_000,
        b"[[1, 2]]",
    ],
)
def test_a_manifest_that_is_none_is_damaged(folder: Path, content: bytes) -> None:
    (folder / MANIFEST).write_bytes(content)
    with pytest.raises(ModelDamaged):
        load_manifest(folder, "alice")


def test_a_changed_missing_or_foreign_file_is_damage(folder: Path) -> None:
    share = folder / "weights.share"
    share.write_bytes(b"\x00share\xfe")
    with pytest.raises(ModelDamaged, match="a file of the model was changed or is missing"):
        load_manifest(folder, "alice")
    share.unlink()
    with pytest.raises(ModelDamaged):
        load_manifest(folder, "alice")
    share.mkdir()
    with pytest.raises(ModelDamaged):
        load_manifest(folder, "alice")


@pytest.mark.parametrize("number", [1, FORMAT + 1])
def test_a_model_of_another_version_is_refused(tmp_path: Path, number: int) -> None:
    save_manifest(tmp_path, replace(MODEL, format=number), "alice")
    with pytest.raises(ModelFormat) as caught:
        load_manifest(tmp_path, "alice")
    assert ("convert" in caught.value.hint) == (number < FORMAT)


def test_a_model_that_says_no_format_is_of_the_first() -> None:
    earlier = EARLIER / "ss_lr" / "alice"
    assert read_manifest(earlier, "alice").format == 1
    with pytest.raises(ModelFormat):
        load_manifest(earlier, "alice")


def test_another_partys_part_is_refused(folder: Path) -> None:
    with pytest.raises(ModelMismatch) as caught:
        load_manifest(folder, "bob")
    assert caught.value.message == "bob: model_path holds another party's part of the model."


def test_the_digest_is_the_same_at_all_parties_and_differs_between_trainings() -> None:
    assert MODEL.digest() == replace(MODEL, party="bob", files={"weights.share": "abc"}).digest()
    changes: list[dict[str, Any]] = [
        {"model_id": "e-2"},
        {"model_type": "ss_glm"},
        {"parties": ["alice", "carol"]},
        {"features": {"alice": ["größe", "f1"], "bob": ["f2"]}},
        {"protocol": "CHEETAH"},
        {"field": "FM64"},
        {"params": {"epochs": 4, "learning_rate": 0.1}},
        {"label": "z"},
        {"label_party": "bob"},
        {"format": 1},
    ]
    assert {key for change in changes for key in change} == set(MODEL.__dict__) - {"party", "files"}
    assert (
        len({MODEL.digest(), *(replace(MODEL, **change).digest() for change in changes)})
        == len(changes) + 1
    )


def test_parts_of_one_training_belong_together() -> None:
    check_same_model({"alice": "d1", "bob": "d1"})
    check_same_model({})
    with pytest.raises(ModelMismatch, match="different trainings"):
        check_same_model({"alice": "d1", "bob": "d2"})


def test_a_model_is_used_as_it_was_trained() -> None:
    MODEL.check_use("ss_lr", ["alice", "bob"], "SEMI2K", "FM128", "alice")


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (
            ("ss_glm", ["alice", "bob"], "SEMI2K", "FM128"),
            "The model's kind of model is ss_lr, the request's is ss_glm.",
        ),
        (
            ("ss_lr", ["alice", "bob", "carol"], "SEMI2K", "FM128"),
            "The model's parties is alice and bob, the request's is alice and bob and carol.",
        ),
        (
            ("ss_lr", ["alice", "bob"], "CHEETAH", "FM128"),
            "The model's protocol is SEMI2K, the request's is CHEETAH.",
        ),
        (
            ("ss_lr", ["alice", "bob"], "SEMI2K", "FM64"),
            "The model's field is FM128, the request's is FM64.",
        ),
    ],
)
def test_another_use_is_refused_by_name(use: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ModelMismatch) as caught:
        MODEL.check_use(*use, "bob")
    assert (caught.value.message, caught.value.party) == (message, "bob")
