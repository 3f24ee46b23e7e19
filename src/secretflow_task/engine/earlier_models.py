"""Rewrites models of earlier versions, whose share files are pickle, as this version writes them.

Runs as a process of its own, ``python -m secretflow_task.engine.earlier_models FOLDER...``, and
gives up the network first: unpickling a file that somebody has changed may run what it names.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import resource
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

_NEW_USER, _NEW_NETWORK = 0x10000000, 0x40000000
_NO_NEW_PRIVILEGES = 38
# What the share files of format 1 name.
_NAMES = frozenset(
    [
        "numpy.bool_",
        "numpy.float32",
        "numpy.float64",
        "numpy.int32",
        "numpy.int64",
        "secretflow.device.device.spu.SPUValueMeta",
        "spu.libspu.FieldType",
        "spu.libspu.ProtocolKind",
        "spu.libspu.Share",
        "spu.libspu.Visibility",
    ]
)


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """What a name stands for; raises `pickle.UnpicklingError` for all but a few."""
        if f"{module}.{name}" not in _NAMES:
            raise pickle.UnpicklingError("a share file names what none of them names")
        return super().find_class(module, name)


def shut_off() -> None:
    """Give up the network, further rights and core dumps; raises `OSError` where that cannot be.

    Call it before anything starts a thread.
    """
    library = ctypes.CDLL(None, use_errno=True)
    if library.unshare(_NEW_USER | _NEW_NETWORK):
        raise OSError(ctypes.get_errno(), "unshare")
    if library.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def convert(model: Path) -> bool:
    """Replace the folder of a model at once; the old one stays beside it as ``NAME.earlier``.

    Returns:
        Whether it was of an earlier format.

    Raises:
        FileExistsError: a model was converted there before.
        WorkerError: a file of the model is not what training wrote.
    """
    from secretflow_task.engine.model_store import FORMAT, MANIFEST, read_manifest, save_manifest

    manifest = read_manifest(model, model.name)
    if manifest.format >= FORMAT:
        return False
    new, earlier = (model.with_name(f"{model.name}.{end}") for end in ("new", "earlier"))
    if earlier.exists():
        raise FileExistsError(str(earlier))
    try:
        shutil.copytree(model, new)
        (new / MANIFEST).unlink()
        for path in new.glob("*.share"):
            _rewrite(path)
        save_manifest(new, replace(manifest, format=FORMAT), manifest.party)
        model.rename(earlier)
        new.rename(model)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return True


def _rewrite(path: Path) -> None:
    from secretflow_task.engine import codec

    with path.open("rb") as file:
        record = _Unpickler(file).load()
    with path.open("wb") as file:
        codec.dump(record, file)
        file.flush()
        os.fsync(file.fileno())


def main(folders: list[str]) -> int:
    """Convert, and print a line for each; returns the exit code."""
    from secretflow_task.contract.errors import WorkerError

    try:
        shut_off()
    except OSError:
        print("This kernel grants no namespace without network: convert on another machine.")
        return 1
    failed = 0
    for folder in map(Path, folders):
        try:
            if convert(folder):
                print(f"Converted: {folder}  (as it was: {folder}.earlier)")
            else:
                print(f"Already of this version: {folder}")
        except (WorkerError, OSError, pickle.UnpicklingError, EOFError, KeyError) as error:
            failed = 1
            print(f"Left as it is: {folder}  ({type(error).__name__}: {error})")
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
