"""Whether the worker became slower than SecretFlow on the same machine: `make bench-check`.

Seconds say nothing on another machine, or on this one tomorrow; the ratio to the same work in a
warm pair of processes, measured in turn, does. `--write` makes what is measured now the baseline,
`ratios.json`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Callable, Mapping, Sequence

from rich.console import Console
from rich.table import Table

from tests.performance.figures import is_lost, ratio
from tests.performance.sides import Side, Warm, Worker
from tests.performance.works import PARTIES, Work

_BASELINE = Path(__file__).with_name("ratios.json")
_ROUNDS = 5
# Small ones show what a job costs, the others what reading, checking, computing and writing do.
WORKS = (
    Work("psi", 1_000, 2),
    Work("standard_scaler", 1_000, 10),
    Work("psi", 100_000, 2),
    Work("standard_scaler", 100_000, 10),
    Work("table_statistics", 100_000, 20),
    Work("ss_lr", 5_000, 10),
)


class Pairs:
    """The seconds of one work on both sides, in turn."""

    def __init__(self, *runs: Callable[[], float]) -> None:
        """``runs`` do the work by the worker and in the warm pair; an uncounted run is now."""
        self._runs = runs
        self._seconds: list[list[float]] = []
        for run in runs:
            run()

    def ratio_to(self, baseline: float | None) -> float:
        """The ratio after some rounds, and, where it seems lost, after as many more."""
        self._more()
        if baseline is not None and is_lost(self._ratio(), baseline):
            self._more()
        return self._ratio()

    def _more(self) -> None:
        self._seconds += [[run() for run in self._runs] for _ in range(_ROUNDS)]

    def _ratio(self) -> float:
        return ratio(*zip(*self._seconds))


def measure(root: Path, baseline: Mapping[str, float]) -> dict[str, float]:
    """The ratios of all works."""
    for party in PARTIES:
        (root / party).mkdir()
    for work in WORKS:
        work.write_tables(root)
    with ExitStack() as stack:
        sides = (stack.enter_context(Worker.started(root)), stack.enter_context(Warm.started(root)))
        return {work.name: round(_ratio_of(work, sides, baseline), 3) for work in WORKS}


def _ratio_of(work: Work, sides: Sequence[Side], baseline: Mapping[str, float]) -> float:
    return Pairs(*(partial(side.run, work.task_config()) for side in sides)).ratio_to(
        baseline.get(work.name)
    )


def lost(measured: Mapping[str, float], baseline: Mapping[str, float]) -> list[str]:
    """The works of which the ratio was lost; raises `KeyError` for one that has no baseline."""
    return [name for name, value in measured.items() if is_lost(value, baseline[name])]


def main() -> None:
    """Measure and print; exit code 1 when a ratio was lost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="make this the baseline")
    write = parser.parse_args().write
    baseline = {} if write else json.loads(_BASELINE.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory(prefix="sfworker-bench-") as folder:
        measured = measure(Path(folder), baseline)
    if write:
        _BASELINE.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
        return
    missed = lost(measured, baseline)
    table = Table("worker / warm SecretFlow", "now", "baseline", "")
    for name, value in measured.items():
        table.add_row(
            name, f"{value:.2f}", f"{baseline[name]:.2f}", "lost" if name in missed else ""
        )
    Console().print(table)
    raise SystemExit(bool(missed))


if __name__ == "__main__":
    main()
