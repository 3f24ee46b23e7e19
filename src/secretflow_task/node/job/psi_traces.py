"""The traces that SecretFlow's PSI leaves in /tmp whatever TMPDIR says."""

from __future__ import annotations

import re
from pathlib import Path

_TRACE = re.compile(r"Trace has been written to (/tmp/psi_[A-Za-z0-9_-]+\.trace)")


def remove_traces(log_path: Path) -> None:
    """Delete the trace files that a job's log names as its own: other jobs may write theirs."""
    try:
        text = log_path.read_text(errors="replace")
    except OSError:
        return
    for name in _TRACE.findall(text):
        Path(name).unlink(missing_ok=True)
