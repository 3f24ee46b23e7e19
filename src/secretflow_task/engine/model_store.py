"""Model folders: each party's own shares or parameters, and a manifest that says whose they are."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Mapping

from secretflow_task.contract.errors import (
    MissingFile,
    ModelDamaged,
    ModelFormat,
    ModelMismatch,
)

MANIFEST = "manifest.json"
FORMAT = 2  # 1 held shares as pickle


@dataclass(frozen=True)
class Manifest:
    """What a model is. Everything but ``party`` and ``files`` is the same at every party.

    Attributes:
        model_id: names the training that made it; all parties' folders must have the same one.
        features: ``{party: [columns]}`` in the order of the weights, parties sorted.
        party: whose part it is, as `save_manifest` was told.
        files: SHA-256 of each of the own party's files.
        format: how the files are written.
    """

    model_id: str
    model_type: str
    parties: list[str]
    features: dict[str, list[str]]
    protocol: str
    field: str
    params: dict[str, Any]
    label: str | None = None
    label_party: str | None = None
    party: str = ""
    files: dict[str, str] = dataclasses.field(default_factory=dict)
    format: int = FORMAT

    def digest(self) -> str:
        """SHA-256 of the part that all parties share."""
        shared = asdict(self)
        del shared["party"], shared["files"]
        return _sha256(json.dumps(shared, sort_keys=True).encode())

    def check_use(
        self, model_type: str, parties: list[str], protocol: str, field_name: str, party: str
    ) -> None:
        """Raise `ModelMismatch` unless the model fits the execution that wants to use it."""
        wanted = {
            "kind of model": (model_type, self.model_type),
            "parties": (parties, self.parties),
            "protocol": (protocol, self.protocol),
            "field": (field_name, self.field),
        }
        for name, (asked, made) in wanted.items():
            if asked != made:
                raise ModelMismatch(
                    f"The model's {name} is {_text(made)}, the request's is {_text(asked)}.",
                    party=party,
                )


def save_manifest(folder: Path, manifest: Manifest, party: str) -> None:
    """Write the manifest of the ``party``'s part of a model, which is all files of the folder."""
    files = {path.name: _sha256(path.read_bytes()) for path in sorted(folder.iterdir())}
    fields = asdict(replace(manifest, party=party, files=files))
    signed = {**fields, "digest": _digest(fields)}
    text = json.dumps(signed, indent=2, ensure_ascii=False)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def load_manifest(folder: Path, party: str) -> Manifest:
    """Read a manifest and check it and every file that it names.

    Raises:
        MissingFile: there is no model in the folder.
        ModelDamaged: the manifest or a file is not what training wrote.
        ModelFormat: another version of the worker wrote it.
        ModelMismatch: it is another party's part, whose shares would give wrong numbers silently.
    """
    manifest = read_manifest(folder, party)
    if manifest.format < FORMAT:
        raise ModelFormat(party=party)
    if manifest.format > FORMAT:
        problem = f"{party}: a newer version of the worker wrote the model."
        raise ModelFormat(problem, party=party, hint="Use it with that version.")
    if manifest.party != party:
        raise ModelMismatch(
            f"{party}: model_path holds another party's part of the model.",
            party=party,
            hint="Put each party's part back into the folder of that party.",
        )
    return manifest


def read_manifest(folder: Path, party: str) -> Manifest:
    """Read a manifest of any format and check it and every file that it names.

    Args:
        party: whom errors name.

    Raises:
        MissingFile: there is no model in the folder.
        ModelDamaged: the manifest or a file is not what training wrote.
    """
    if not (folder / MANIFEST).is_file():
        raise MissingFile(f"{party}: model_path holds no model.", party=party, detail=str(folder))
    damaged = ModelDamaged(f"{party}: the model's manifest was changed.", party=party)
    try:
        fields = dict(json.loads((folder / MANIFEST).read_text(encoding="utf-8")))
        written_digest = fields.pop("digest")
        digest = _digest(fields)
        fields.setdefault("format", 1)
        manifest = Manifest(**fields)
    except (ValueError, KeyError, TypeError, RecursionError):
        raise damaged from None
    if written_digest != digest:
        raise damaged
    for name, file_digest in manifest.files.items():
        path = folder / name
        if not path.is_file() or _sha256(path.read_bytes()) != file_digest:
            problem = f"{party}: a file of the model was changed or is missing."
            raise ModelDamaged(problem, party=party)
    return manifest


def check_same_model(digests: Mapping[str, str]) -> None:
    """Raise `ModelMismatch` unless all parties loaded their parts of one model."""
    if len(set(digests.values())) > 1:
        raise ModelMismatch("The parties' model folders come from different trainings.")


def _digest(fields: Mapping[str, Any]) -> str:
    return _sha256(json.dumps(fields, sort_keys=True).encode())


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _text(value: Any) -> str:
    if isinstance(value, list):
        return " and ".join(value)
    return str(value)
