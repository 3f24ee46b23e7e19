"""How far native PSI is, read from the job's own log: libpsi never calls its hook for progress.

The log is what the job writes to its standard output. It tells the phases, and in the longest of
them the batches of rows (ECDH) or the buckets of a million rows (RR22, KKRT) that are done.
"""

from __future__ import annotations

import os
import re
import stat
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Iterator

if TYPE_CHECKING:
    from secretflow_task.engine.run import Run

STARTED = 0.1
_PAUSE_SECONDS = 2.0  # what is over sooner needs no progress
_ONLINE = (0.25, 0.7)
_PHASES = (
    (b"::Finalize] end", 0.78),
    (b"::Online] end", 0.7),
    (b"::PreProcess] end", 0.25),
    (b"::Init] end", 0.2),
)
_BATCH_ROWS = 65_536
_BUCKET_ROWS = 1 << 20
_SIZES = re.compile(rb"rank=\d+ item_size=(\d+)")
_BUCKET = re.compile(rb"get intersection end|run psi bucket_idx=[1-9]")
_OUT = "/proc/self/fd/1"


@contextmanager
def progress_from_log(run: Run, rows: int) -> Iterator[None]:
    """Report how far native PSI is while the block runs it; ``rows`` is the number of own keys.

    The thread that reports has ended when the block has: the pipe to the node has one writer at a
    time.
    """
    ended = threading.Event()
    begin = os.fstat(1).st_size

    def watch() -> None:
        last = STARTED
        while not ended.wait(_PAUSE_SECONDS):
            share = share_done(_own_log(begin), rows)
            if share > last:
                run.progress(share, "intersection")
                last = share

    watcher = threading.Thread(target=watch, name="psi-progress", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()


def share_done(log: bytes, rows: int) -> float:
    """The share of the task that is done, `STARTED` to 0.78, by what native PSI has logged.

    Args:
        rows: number of own keys.
    """
    done = STARTED
    for mark, share in _PHASES:
        if mark in log:
            done = share
            break
    _, online, lines = log.partition(b"::Online] start")
    if not online or b"::Online] end" in lines:
        return done
    first, last = _ONLINE
    return round(first + (last - first) * _share_online(log, lines, rows), 3)


def _share_online(log: bytes, lines: bytes, rows: int) -> float:
    sizes = [int(size) for size in _SIZES.findall(log)]
    if sizes:
        done = len(_BUCKET.findall(lines))
        buckets = -(-max(sizes) // _BUCKET_ROWS)
        return min(done / buckets, 1.0)
    begun = lines.count(b" lines from ")  # written before a batch is encrypted
    batches = -(-rows // _BATCH_ROWS)
    return min(max(begun - 1, 0) / batches, 1.0)


def _own_log(begin: int) -> bytes:
    """What this process has written since its log had ``begin`` bytes; empty without a file."""
    if not stat.S_ISREG(os.fstat(1).st_mode):
        return b""
    with open(_OUT, "rb") as log:
        log.seek(begin)
        return log.read()
