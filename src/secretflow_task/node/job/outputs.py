"""The outputs of a job: staged beside their targets, moved there together, and back when that must
be undone.

A journal in each staging folder says what is moved, so that a node that was killed in between can
undo it.
"""

from __future__ import annotations

import json
import os
import shutil
from itertools import groupby
from pathlib import Path
from typing import Iterable, Mapping

from secretflow_task.contract.errors import OutputNotWritable, PathNotAllowed
from secretflow_task.contract.paths import PathRules
from secretflow_task.utils.log import get_logger, problem_of

_JOURNAL = "moves.json"

log = get_logger()


def move_outputs(outputs: Mapping[str, str], rules: PathRules, staging: str) -> None:
    """Move ``{staged: target}``, all or none; what was at a target is kept until `remove_staged`.

    The job is not trusted with the choice of either: what is staged must lie in a folder
    ``staging``.

    Raises:
        OutputNotWritable: one could not be moved, and all are as they were.
    """
    moves: list[tuple[Path, Path]] = []
    try:
        moves = [
            (Path(staged), rules.resolve(target, "output")) for staged, target in outputs.items()
        ]
        for staged, _ in moves:
            if staged.parent.name != staging or not staged.exists():
                raise OSError("the job named something that it has not staged")
        for folder, some in groupby(sorted(moves), lambda move: move[0].parent):
            _note(folder, some)
        for staged, target in moves:
            _keep(target, staged)
            os.replace(staged, target)
    except (OSError, PathNotAllowed) as error:
        problem = problem_of(error)
        log.error(
            "An output could not be moved to its place.", action="commit_failed", problem=problem
        )
        put_back({staged.parent for staged, _ in moves}, rules)
        raise OutputNotWritable(party=rules.party) from error


def put_back(folders: Iterable[Path], rules: PathRules) -> bool:
    """Undo `move_outputs` by what the journals of these staging folders say, as often as need be.

    What somebody else has put at a target since then is left alone, and what was there before stays
    in the staging folder. Returns whether all could be undone.
    """
    undone = [_put_back(folder, rules) for folder in folders if (folder / _JOURNAL).exists()]
    return all(undone)


def _put_back(folder: Path, rules: PathRules) -> bool:
    try:
        moves = json.loads((folder / _JOURNAL).read_bytes())
        undone = [
            _undo(folder / name, rules.resolve(path, "output"), told)
            for name, path, told in moves[::-1]
        ]
        if all(undone):
            (folder / _JOURNAL).unlink()
    except (OSError, ValueError, PathNotAllowed) as error:
        # Such as a folder that is no longer allowed.
        log.error(
            "An output could not be put back.", action="undo_failed", problem=problem_of(error)
        )
        return False
    return all(undone)


def _undo(staged: Path, target: Path, identity: list[int]) -> bool:
    kept = _kept(staged)
    if _identity(target) == identity:
        os.replace(target, staged)
    if kept.exists() and not target.exists():
        os.replace(kept, target)
    if kept.exists() and not kept.samefile(target):
        log.error("An output was replaced before it could be put back.", action="undo_overtaken")
        return False
    return True


def remove_staged(folders: Iterable[Path], succeeded: bool) -> None:
    """Delete staging folders, with what was kept of earlier outputs unless that is still to be put
    back.
    """
    for folder in folders:
        if succeeded or not (folder / _JOURNAL).exists():
            shutil.rmtree(folder, ignore_errors=True)


def _note(folder: Path, moves: Iterable[tuple[Path, Path]]) -> None:
    draft = folder / f"{_JOURNAL}.new"
    with draft.open("w", encoding="utf-8") as file:
        json.dump([[staged.name, str(target), _identity(staged)] for staged, target in moves], file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(draft, folder / _JOURNAL)


def _identity(path: Path) -> list[int] | None:
    """What tells a file or folder from others, also after a move and a restart; None when there is
    none.
    """
    try:
        status = path.stat()
    except OSError:
        return None
    # A folder's time changes with its content, and numbers of devices are not the same after every
    # restart.
    return [status.st_ino] + ([] if path.is_dir() else [status.st_mtime_ns])


def _kept(staged: Path) -> Path:
    return staged.with_name(f"{staged.name}.old")


def _keep(target: Path, staged: Path) -> None:
    """Make way for ``staged``: what is at ``target`` is kept."""
    kept = _kept(staged)
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_dir() or (target.exists() and staged.is_dir()):
        os.replace(target, kept)
    elif target.exists():
        try:
            os.link(target, kept)  # a file stays in its place until it is replaced
        except OSError:  # no hard links here, or the file is another owner's
            os.replace(target, kept)
