"""What a misspelt name may have meant."""

from __future__ import annotations

import difflib
from typing import Iterable


def did_you_mean(name: str, known: Iterable[str], likeness: float = 0.6) -> str:
    """The end of a sentence about an unknown name, ``, did you mean 'psi'?``, or nothing.

    Args:
        likeness: how alike two names must be, from 0 to 1.
    """
    for near in difflib.get_close_matches(name, list(known), n=1, cutoff=likeness):
        return f", did you mean {near!r}?"
    return ""
