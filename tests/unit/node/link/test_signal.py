"""A signal wakes who waits for it, from any thread, until it is cleared."""

from __future__ import annotations

import select
import threading
from contextlib import closing

from secretflow_task.node.link.signal import Signal


def is_set(signal: Signal) -> bool:
    """Whether it is readable now."""
    return bool(select.select([signal], [], [], 0)[0])


def test_it_is_readable_from_a_set_to_the_next_clear() -> None:
    with closing(Signal()) as signal:
        assert not is_set(signal)
        signal.set()
        signal.set()
        assert is_set(signal)
        signal.clear()
        assert not is_set(signal)
        signal.clear()
        assert not is_set(signal)


def test_another_thread_wakes_who_waits() -> None:
    with closing(Signal()) as signal:
        setter = threading.Thread(target=signal.set)
        setter.start()
        assert select.select([signal], [], [], 30)[0]
        setter.join()


def test_after_its_end_it_is_set_by_nobody() -> None:
    signal = Signal()
    signal.close()
    signal.set()
    signal.close()
    assert signal.fileno() == -1
