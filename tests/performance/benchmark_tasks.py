"""What the worker costs: every task type through Celery, in a warm pair of processes, and cold.

`make bench` measures everything and writes `docs/performance`. What stands in its `results.json` is
not measured again, so that a run that was ended goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import statistics
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Callable

from rich.console import Console
from rich.markdown import Markdown

from tests.performance.machine import describe_machine
from tests.performance.report import pages, write_pages
from tests.performance.sides import Cold, Execution, Side, Warm, Worker, peak_megabytes
from tests.performance.works import HUGE, PARTIES, TASK_TYPES, Work, works

DOCUMENTS = Path(__file__).parents[2] / "docs" / "performance"
_QUICK = Path("build") / "performance"
_PARTS = ("at_once", "stream", "status", "memory")
_STAGES = ("prepare", "cluster_init", "device_creation", "task_execution")
_SMALL_JOB, _MEDIUM_JOB = Work("psi", 1_000, 2), Work("psi", 10_000, 2)
_AT_ONCE = (1, 2, 4, 8)
_MOST, _FEW, _SECONDS = 7, 3, 20.0
console = Console()


class Results:
    """What was measured so far, in a file."""

    def __init__(self, folder: Path, again: bool) -> None:
        self._path = folder / "results.json"
        self._again = again
        text = self._path.read_text(encoding="utf-8") if self._path.exists() else "{}"
        self.measured: dict[str, Any] = json.loads(text)

    def measure(self, part: str, name: str, measurement: Callable[[], Any]) -> None:
        """Add what ``measurement`` returns, unless it is there; also to the file."""
        if name in self.measured.get(part, {}) and not self._again:
            return
        started = time.monotonic()
        value = measurement()
        console.print(f"{part} {name}: {time.monotonic() - started:.0f} s")
        self.measured.setdefault(part, {})[name] = value
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text(json.dumps(self.measured, indent=1) + "\n", encoding="utf-8")


def repeats(seconds: float) -> int:
    """How often to measure what took so long the first time; 0 if that time is enough."""
    return 0 if seconds > _SECONDS else max(_FEW, min(_MOST, int(_SECONDS / seconds)))


class Benchmark:
    """The running sides, on tables in one folder."""

    def __init__(self, root: Path, stack: ExitStack, rounds: int | None) -> None:
        """``rounds``: how often everything is measured; None: by how long it takes."""
        self._root = root
        self._rounds = rounds
        for party in PARTIES:
            (root / party).mkdir()
        self._worker = stack.enter_context(Worker.started(root))
        self._warm = stack.enter_context(Warm.started(root))
        self._cold = Cold(root)
        self._sides: dict[str, Side] = {"worker": self._worker, "warm": self._warm}
        _SMALL_JOB.write_tables(root)
        for side in self._sides.values():  # nothing is measured while a side still starts
            side.run(_SMALL_JOB.task_config())

    def task(self, work: Work, cold: bool) -> dict[str, Any]:
        """One work on all sides, in turn; the first runs are warm-ups, unless they took long."""
        work.write_tables(self._root)
        config, sides = work.task_config(), self._sides
        if work.training:
            for side in sides.values():
                side.run(work.training.task_config())
        firsts = {name: _with_peak(side, config) for name, side in sides.items()}
        count = self._rounds or repeats(max(first for first, _ in firsts.values()))
        seconds = {name: [] if count else [round(first, 4)] for name, (first, _) in firsts.items()}
        seconds["alignment"] = [] if count else [self._worker.last.timing("alignment")]
        for _ in range(count):
            for name, side in sides.items():
                seconds[name].append(round(side.run(config), 4))
            seconds["alignment"].append(self._worker.last.timing("alignment"))
        if cold:
            firsts["cold"] = _with_peak(self._cold, config)
            seconds["cold"] = [round(firsts["cold"][0], 4)]
        self._forget(work)
        described = {**asdict(work), "against": work.against}
        return {
            **described,
            **seconds,
            "megabytes": {name: round(peak) for name, (_, peak) in firsts.items()},
        }

    def _forget(self, work: Work) -> None:
        for above in (self._root, self._root / "direct"):
            for party in PARTIES:
                shutil.rmtree(above / party / work.name, ignore_errors=True)

    def at_once(self, count: int) -> dict[str, list[float]]:
        """Seconds until so many executions, sent at once, have ended; the warm pair takes turns."""
        _MEDIUM_JOB.write_tables(self._root)
        configs = _MEDIUM_JOB.task_configs(count)
        seconds: dict[str, list[float]] = {"worker": [], "warm": []}
        for _ in range(self._rounds or _FEW):
            seconds["worker"].append(
                round(max(done.seconds for done in self._worker.run_all(configs)), 4)
            )
            seconds["warm"].append(round(sum(map(self._warm.run, configs)), 4))
        return seconds

    def stream(self, count: int) -> dict[str, Any]:
        """Seconds for many small jobs that wait in the queue."""
        configs = _SMALL_JOB.task_configs(count)
        worker = max(done.seconds for done in self._worker.run_all(configs))
        return {
            "jobs": count,
            "worker": round(worker, 2),
            "warm": round(sum(map(self._warm.run, configs)), 2),
        }

    def status(self, count: int) -> dict[str, Any]:
        """Seconds from a request to its first event, from event to arrival, and of each stage."""
        seen: list[Execution] = []
        for _ in range(count):
            self._worker.run(_SMALL_JOB.task_config())
            seen.append(self._worker.last)
        delays = [round(delay, 5) for done in seen for delay in done.delays]
        stages = {name: statistics.median(done.timing(name) for done in seen) for name in _STAGES}
        stages["rest"] = statistics.median(done.seconds for done in seen) - sum(stages.values())
        return {
            "first": [round(done.first, 4) for done in seen],
            "delays": delays,
            "stages": stages,
        }

    def idle(self) -> dict[str, float]:
        """Megabytes of the node without a job, and of the warm pair after its works."""
        return {
            name: round(peak_megabytes(side, lambda: time.sleep(1.0)))
            for name, side in self._sides.items()
        }


def _with_peak(side: Side, config: dict[str, Any]) -> tuple[float, float]:
    """Seconds of a run, and the most megabytes during it."""
    seconds: list[float] = []
    peak = peak_megabytes(side, lambda: seconds.append(side.run(config)))
    return seconds[0], peak


def chosen(task_types: list[str], quick: bool, huge: bool) -> list[tuple[Work, bool]]:
    """The works to measure, and whether by a cold script too, so slow that one size must do."""
    found = []
    for task_type in task_types:
        first, *rest = works(task_type)
        found += [(first, True), *((work, task_type == "psi") for work in rest if not quick)]
    return found + ([(HUGE, False)] if huge else [])


def measure(results: Results, benchmark: Benchmark, asked: argparse.Namespace) -> None:
    """Everything that is asked for and not there."""
    wanted = asked.only or [*TASK_TYPES, *_PARTS]
    task_types = [name for name in TASK_TYPES if name in wanted]
    for work, cold in chosen(task_types, asked.quick, asked.huge):
        results.measure("tasks", work.name, partial(benchmark.task, work, cold))
    if "at_once" in wanted:
        for count in _AT_ONCE[:2] if asked.quick else _AT_ONCE:
            results.measure("at_once", str(count), partial(benchmark.at_once, count))
    if "stream" in wanted:
        results.measure("stream", "psi", partial(benchmark.stream, 4 if asked.quick else 60))
    if "status" in wanted:
        results.measure("status", "psi", partial(benchmark.status, 2 if asked.quick else 30))
    if "memory" in wanted:
        results.measure("memory", "idle", benchmark.idle)
    results.measure("machine", "described", describe_machine)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    names = [*TASK_TYPES, *_PARTS]
    parser.add_argument(
        "--only", nargs="+", choices=names, metavar="PART", help=f"of {', '.join(names)}"
    )
    parser.add_argument("--quick", action="store_true", help="the smallest sizes, twice each")
    parser.add_argument("--huge", action="store_true", help="also psi of 10,000,000 rows")
    parser.add_argument(
        "--again", action="store_true", help="measure also what was measured before"
    )
    parser.add_argument(
        "--pages", action="store_true", help="measure nothing, write pages and plots again"
    )
    parser.add_argument(
        "--into", type=Path, help=f"folder, docs/performance or with --quick {_QUICK}"
    )
    asked = parser.parse_args(arguments)
    asked.into = asked.into or (_QUICK if asked.quick else DOCUMENTS)
    return asked


def main() -> None:
    """Measure, write pages and plots, and print the page."""
    asked = parse()
    from tests.performance.plots import write_plots  # now: it needs what only `make bench` installs

    results = Results(asked.into, asked.again)
    if not asked.pages:
        signal.signal(
            signal.SIGTERM, signal.default_int_handler
        )  # else the node and the pair would live on
        with tempfile.TemporaryDirectory(prefix="sfworker-bench-") as folder, ExitStack() as stack:
            measure(results, Benchmark(Path(folder), stack, 2 if asked.quick else None), asked)
    write_pages(results.measured, asked.into)
    write_plots(results.measured, asked.into)
    console.print(Markdown(pages(results.measured)["index.md"]))


if __name__ == "__main__":
    main()
