"""The progress of native PSI is what its log says, and never falls."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any, Iterator

import pytest

from secretflow_task.engine.status import bind_status_sink
from secretflow_task.jobs import psi_progress
from secretflow_task.jobs.psi_progress import progress_from_log, share_done
from tests.unit.conftest import RunOf

# What libpsi of SecretFlow 1.14.0b0 writes, shortened; a line that changes nothing is left out.
INIT = """\
[receiver.cc:41] [{name}::Init] start
[interface.cc:68] [AbstractPsiParty::Init] start
[interface.cc:141] [AbstractPsiParty::Init] end
[receiver.cc:49] [{name}::Init] end
[receiver.cc:54] [{name}::PreProcess] start
"""
SIZES = """\
[bucket.cc:166] psi protocol=3, rank=0 item_size=1200001
[bucket.cc:166] psi protocol=3, rank=1 item_size=900001
[table_utils.cc:120] read 65536 lines from /work/input_key_info.csv
"""
START = """\
[receiver.cc:91] [{name}::PreProcess] end
[receiver.cc:96] [{name}::Online] start
"""
END = """\
[receiver.cc:116] [{name}::Online] end
[receiver.cc:121] [{name}::PostProcess] start
[table_utils.cc:120] read 65536 lines from /work/input_key_info.csv
[interface.cc:189] [AbstractPsiParty::Finalize] end
"""
READ = "[table_utils.cc:120] read 65536 lines from /work/input_key_info.csv\n"
LOGS = {
    "ECDH": (INIT + START + READ * 4 + END).format(name="EcdhPsiReceiver"),
    "RR22": (INIT + SIZES + START + "[rr22_psi.cc:170] get intersection end\n" * 2 + END).format(
        name="Rr22PsiSender"
    ),
    "KKRT": (
        INIT
        + SIZES
        + START
        + "".join(
            f"[bucket.cc:62] run psi bucket_idx={index}, bucket_item_size=1\n" for index in range(2)
        )
        + END
    ).format(name="KkrtPsiReceiver"),
}
EXPECTED = {
    "ECDH": [0.1, 0.2, 0.25, 0.362, 0.475, 0.587, 0.7, 0.78],
    "RR22": [0.1, 0.2, 0.25, 0.475, 0.7, 0.78],
    "KKRT": [0.1, 0.2, 0.25, 0.475, 0.7, 0.78],
}


@pytest.mark.parametrize("protocol", LOGS)
def test_every_line_moves_it_forward_or_not_at_all(protocol: str) -> None:
    lines = LOGS[protocol].encode().splitlines(keepends=True)
    shares = [share_done(b"".join(lines[:count]), 4 * 65_536) for count in range(len(lines) + 1)]
    assert shares == sorted(shares)
    assert sorted(set(shares)) == pytest.approx(EXPECTED[protocol], abs=2e-3)


@pytest.mark.parametrize("log", [b"", b"\xff::Init]", b"rank=0 item_size=0\n", READ.encode() * 9])
def test_a_log_that_tells_nothing_is_no_progress(log: bytes) -> None:
    assert share_done(log, 0) == psi_progress.STARTED


def test_more_lines_than_expected_are_not_more_than_all() -> None:
    log = (INIT + START + READ * 50).format(name="EcdhPsiSender").encode()
    assert share_done(log, 10) == 0.7


@pytest.fixture
def output(tmp_path: Path) -> Iterator[int]:
    """Standard output as a job has it: a file to which an earlier workflow step has written."""
    kept, file = os.dup(1), os.open(tmp_path / "job.log", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(file, 1)
    os.write(1, LOGS["RR22"].encode())
    yield 1
    os.dup2(kept, 1)
    os.close(kept)
    os.close(file)


def test_what_is_logged_during_the_block_is_reported_and_nothing_afterwards(
    output: int, make_run: RunOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[tuple[str, float]] = []
    written = b""
    monkeypatch.setattr(psi_progress, "_PAUSE_SECONDS", 0.005)
    bind_status_sink(lambda _status, data: events.append((data["stage"], data["progress"])))
    try:
        with progress_from_log(make_run(), 4 * 65_536):
            for line in LOGS["ECDH"].encode().splitlines(keepends=True):
                os.write(output, line)
                written += line
                expected = 0.5 + share_done(written, 4 * 65_536) / 2
                while expected > 0.55 and (not events or events[-1][1] < expected - 1e-3):
                    time.sleep(0.005)
        os.write(output, LOGS["ECDH"].encode())
        time.sleep(0.03)
    finally:
        bind_status_sink(None)
    assert [stage for stage, _ in events] == ["intersection"] * 7
    assert [share for _, share in events] == pytest.approx(
        [0.5 + x / 2 for x in EXPECTED["ECDH"][1:]], abs=1e-3
    )


def test_an_output_that_is_no_file_is_not_read(
    make_run: RunOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[Any] = []
    monkeypatch.setattr(psi_progress, "_PAUSE_SECONDS", 0.005)
    kept, (reading, writing) = os.dup(1), os.pipe()
    bind_status_sink(lambda *event: events.append(event))
    os.dup2(writing, 1)
    try:
        os.write(1, LOGS["ECDH"].encode())
        with progress_from_log(make_run(), 10):
            time.sleep(0.03)
    finally:
        os.dup2(kept, 1)
        bind_status_sink(None)
        for number in (kept, reading, writing):
            os.close(number)
    assert events == []
