"""How a link wakes the supervisor that waits for it."""

from __future__ import annotations

import os
import threading
from contextlib import suppress


class Signal:
    """A file that becomes readable when it is `set`, from any thread, until it is cleared."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def fileno(self) -> int:
        """The file."""
        return self._event

    def set(self) -> None:
        """Make it readable, unless it is closed."""
        with self._mutex:
            if self._event >= 0:
                os.eventfd_write(self._event, 1)

    def clear(self) -> None:
        """Wait for the next `set`."""
        with suppress(BlockingIOError):
            os.eventfd_read(self._event)

    def close(self) -> None:
        """Give back the file."""
        with self._mutex:
            event, self._event = self._event, -1
        if event >= 0:
            os.close(event)


class SignalledLink:
    """What wakes the supervisor in a `PeerLink`: whoever changes something sets `signal`."""

    def __init__(self) -> None:
        self.signal = Signal()

    def fileno(self) -> int:
        """A file that becomes readable when something has changed at a peer."""
        return self.signal.fileno()

    def clear(self) -> None:
        """Make `fileno` wait for the next change."""
        self.signal.clear()

    def close(self) -> None:
        """Give back the file."""
        self.signal.close()
