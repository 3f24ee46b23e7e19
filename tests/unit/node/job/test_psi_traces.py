"""Only the traces that a job's own log names are deleted."""

from __future__ import annotations

import uuid
from pathlib import Path

from secretflow_task.node.job.psi_traces import remove_traces


def test_the_traces_that_the_log_names_are_deleted_and_no_others(tmp_path: Path) -> None:
    stem = uuid.uuid4().hex
    own, others, odd = (Path(f"/tmp/psi_{stem}{end}") for end in ("-1.trace", "-2.trace", "-3.txt"))
    for path in (own, others, odd):
        path.touch()
    log = tmp_path / "job.log"
    log.write_bytes(
        f"I Trace has been written to {own}\nTrace has been written to /tmp/psi_{stem}gone.trace\n"
        f"Trace has been written to {odd}\nTrace has been written to /tmp/psi_/../{others.name}\n"
        f"a row of the data: {others}\n".encode() + b"\xff"
    )
    try:
        remove_traces(log)
        assert [path.exists() for path in (own, others, odd)] == [False, True, True]
    finally:
        others.unlink()
        odd.unlink()


def test_a_job_without_a_log_has_no_traces(tmp_path: Path) -> None:
    remove_traces(tmp_path / "none.log")
