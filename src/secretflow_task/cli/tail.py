"""Lines of a file that grows."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO, Iterator


class Tail:
    """The lines of a file that may not be there yet, or be trimmed or renamed meanwhile."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self._begun = b""

    def lines(self) -> Iterator[str]:
        """The whole lines that came since the last call."""
        yield from self._new_lines()
        if self._was_replaced():
            self.close()
            yield from self._new_lines()

    def rest(self) -> Iterator[str]:
        """The last line, if nothing ends it; closes the file."""
        if self._begun:
            yield self._begun.decode(errors="replace")
        self.close()

    def close(self) -> None:
        """Forget what was read."""
        if self._file:
            self._file.close()
        self._file, self._begun = None, b""

    def _new_lines(self) -> Iterator[str]:
        try:
            self._file = self._file or self._path.open("rb")
        except FileNotFoundError:
            return
        size = os.fstat(self._file.fileno()).st_size
        if size < self._file.tell():  # trimmed: its end is at its beginning
            self._file.seek(0)
            self._begun = b""
        for piece in self._file:
            self._begun += piece
            if piece.endswith(b"\n"):
                line, self._begun = self._begun[:-1], b""
                yield line.decode(errors="replace")

    def _was_replaced(self) -> bool:
        if self._file is None:
            return False
        try:
            return not os.path.samestat(os.fstat(self._file.fileno()), self._path.stat())
        except FileNotFoundError:
            return False
