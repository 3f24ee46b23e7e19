"""Where one party's paths lie: allowed folders, formats, staging folders."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, replace
from pathlib import Path

from secretflow_task.contract.errors import PathNotAllowed, UnsupportedFormat


@dataclass(frozen=True)
class PathRules:
    """Where one party's paths start and which folders they must lie in.

    Attributes:
        data_root: relative paths start in its folder of the party's name if there is one, else in
            itself.
        allowed_roots: what absolute paths may lie in, besides the folder in which relative ones
            start.
        base: where relative paths start, once that is settled.
    """

    party: str
    data_root: Path
    allowed_roots: tuple[Path, ...] = ()
    base: Path | None = None

    def settled(self) -> PathRules:
        """The same rules, whatever folders come and go from now on."""
        return replace(self, base=self._base())

    def _base(self) -> Path:
        own_folder = self.data_root / self.party
        if own_folder.is_dir():
            return own_folder
        return self.data_root

    def resolve(self, text: str, purpose: str) -> Path:
        """Absolute path of ``text``, links followed; ``purpose`` is the request key, for the error.

        A root itself, or a folder that contains one, is refused too: an output replaces what it
        names.

        Raises:
            PathNotAllowed: the path is not inside one of the allowed folders.
        """
        base = self.base or self._base()
        try:
            path = Path(os.path.realpath(base / text))
            roots = [Path(os.path.realpath(root)) for root in (base, *self.allowed_roots)]
        except ValueError:  # a NUL, or half a surrogate pair
            roots = []
        inside = any(path.is_relative_to(root) for root in roots)
        if not inside or any(root.is_relative_to(path) for root in roots):
            raise PathNotAllowed(
                f"The path of {purpose} lies outside the folders that {self.party} allows.",
                party=self.party,
            )
        return path


def check_format(path: Path, party: str, purpose: str) -> None:
    """Refuse a path that is neither CSV nor Parquet by its ending; raises `UnsupportedFormat`."""
    if path.suffix.lower() not in (".csv", ".parquet"):
        raise UnsupportedFormat(
            f"{party}: the file of {purpose} must end in .csv or .parquet.", party=party
        )


def folder_beside(target: Path, name: str) -> Path:
    """The folder ``name`` beside ``target``, or as near above it as a folder exists."""
    above = target.parent
    while not above.is_dir():
        above = above.parent
    return above / name


def staging_name(execution_id: str, party: str) -> str:
    """Short, hidden, and the same again after a restart."""
    digest = hashlib.sha256(f"{execution_id}/{party}".encode()).hexdigest()[:16]
    return f".sfworker-{digest}"
