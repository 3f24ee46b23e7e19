"""A node as `sfworker start` runs it, with real Redis and Celery, whose jobs need no engine.

A job succeeds at once, but not while `held`; one with ``timeout_seconds`` in its request runs until
it is ended. SIGUSR1 makes its consumer deaf, as one that has lost all of its slots.
"""

from __future__ import annotations

import gc
import signal
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator

from celery.worker.consumer import Consumer

from secretflow_task.config.settings import Settings
from secretflow_task.contract.job_spec import JobSpec
from secretflow_task.node.service import serve
from secretflow_task.testing import JobSide, ScriptedTemplate
from secretflow_task.utils import log

COMMAND = (sys.executable, "-m", "tests.bench.stand_in")
PSI = {
    "task_config": {
        "task_type": "psi",
        "keys": {party: ["id"] for party in ("alice", "bob")},
        "input_paths": {party: "in.csv" for party in ("alice", "bob")},
        "output_paths": {party: f"{party}.csv" for party in ("alice", "bob")},
        "receiver": "alice",
    }
}
ENDLESS = PSI | {"timeout_seconds": 3000}
_GATE = "closed"  # in the data root: while this file is there, no job ends


@contextmanager
def held(data_root: Path) -> Iterator[None]:
    """Let no job of a node with this data root end before the block does."""
    data_root.mkdir(exist_ok=True)
    (data_root / _GATE).touch()
    try:
        yield
    finally:
        (data_root / _GATE).unlink()


def _play(spec: JobSpec, job: JobSide) -> None:
    job.agree({})
    if "timeout_seconds" in spec.request.params:
        job.report(0.6)
        job.hang()
    while (spec.rules.data_root / _GATE).exists():
        time.sleep(0.02)
    job.finish({"rows": 1})


def _deafen(*_signal: object) -> None:
    """Let the channel of the consumer believe that it holds as much as it may, for good."""
    (consumer,) = (each for each in gc.get_objects() if isinstance(each, Consumer))
    qos = consumer.connection.default_channel.qos
    for number in range(qos.prefetch_count):
        qos._delivered[f"ghost-{number}"] = None


def main() -> None:
    """Serve until a signal comes."""
    settings = Settings()
    log.configure(settings.log_level, settings.log_json)
    signal.signal(signal.SIGUSR1, _deafen)
    template = ScriptedTemplate(_play)
    sys.exit(serve(settings, template=template))  # type: ignore[arg-type]  # its twin


if __name__ == "__main__":
    main()
