"""Random names: of an execution's session between nodes, and of a join, so that it counts once."""

from __future__ import annotations

import re
import secrets
import time
from typing import Callable

_BYTES = 16
_TOKEN = re.compile(f"[0-9a-f]{{{2 * _BYTES}}}")


def new_token() -> str:
    """A name that nobody can guess."""
    return secrets.token_hex(_BYTES)


def is_token(value: object) -> bool:
    """Whether something is what `new_token` makes."""
    return isinstance(value, str) and _TOKEN.fullmatch(value) is not None


class Nonces:
    """The tokens that came lately.

    Args:
        kept_seconds: how long each is remembered.
    """

    def __init__(self, kept_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._kept_seconds = kept_seconds
        self._clock = clock
        self._until: dict[str, float] = {}

    def is_new(self, nonce: str) -> bool:
        """Whether a token has not come before; from now on it has."""
        now = self._clock()
        self._until = {known: until for known, until in self._until.items() if until > now}
        if nonce in self._until:
            return False
        self._until[nonce] = now + self._kept_seconds
        return True
