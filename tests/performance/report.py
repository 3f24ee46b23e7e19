"""The tables and the pages of `docs/performance`, from what was measured."""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import Any, Iterable, Mapping, Sequence

from tests.performance.figures import beyond_limit, exponent, ratio, spread
from tests.performance.words import WHY, WORDS
from tests.performance.works import TASK_TYPES

_TEMPLATES = Path(__file__).with_name("pages")
Measured = Mapping[str, Any]
Rows = Iterable[Sequence[str]]


def write_pages(measured: Measured, folder: Path) -> None:
    """Write both pages."""
    for name, text in pages(measured).items():
        (folder / name).write_text(text, encoding="utf-8")


def pages(measured: Measured) -> dict[str, str]:
    """``{file: text}`` of the page in both languages; what was not measured is an empty table."""
    return {
        name: (_TEMPLATES / name)
        .read_text(encoding="utf-8")
        .format(**{key: table(measured, words) for key, table in _TABLES.items()})
        for name, words in zip(("index.md", "index.zh-CN.md"), WORDS)
    }


def median(measured: Measured, side: str) -> float:
    """The seconds of a side."""
    return float(statistics.median(measured[side]))


def _table(header: Sequence[str], rows: Rows) -> str:
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _size(work: Measured) -> str:
    return f"`{work['task_type']}` {work['rows']:,} x {work['columns']}"


def works_of(measured: Measured) -> list[Measured]:
    """The measured works by task type, the main ones first."""
    return sorted(
        measured.get("tasks", {}).values(), key=lambda work: TASK_TYPES.index(work["task_type"])
    )


def _beyond(work: Measured) -> float:
    """Seconds beyond what the worker may take, without the check that SecretFlow does not do."""
    return beyond_limit(median(work, "worker") - median(work, "alignment"), median(work, "warm"))


def machine_table(measured: Measured, words: Mapping[str, str]) -> str:
    """Where it was measured."""
    described = measured.get("machine", {}).get("described", {})
    return _table([words["what"], words["value"]], described.items())


def task_table(measured: Measured, words: Mapping[str, str]) -> str:
    """Every work by worker, warm pair and cold script."""
    header = [
        words[key]
        for key in ("task", "worker", "warm", "ratio", "spread", "limit", "cold", "against")
    ]
    return _table(header, (_task_row(work, words) for work in works_of(measured)))


def _task_row(work: Measured, words: Mapping[str, str]) -> list[str]:
    worker, warm = median(work, "worker"), median(work, "warm")
    spreads = " / ".join(f"{spread(work[side]):.0%}" for side in ("worker", "warm"))
    kept = words["kept"] if _beyond(work) <= 0 else f"+{_beyond(work):.2f} s"
    cold = f"{median(work, 'cold'):.1f}" if "cold" in work else ""
    times = [f"{worker:.2f}", f"{warm:.2f}", f"{ratio(work['worker'], work['warm']):.2f}"]
    return [_size(work), *times, spreads, kept, cold, words[work["against"]]]


def slower_list(measured: Measured, words: Mapping[str, str]) -> str:
    """What takes longer than it may, the worst first, and why."""
    worst = sorted(
        (work for work in works_of(measured) if _beyond(work) > 0), key=_beyond, reverse=True
    )
    lines = [
        words["slower"].format(
            work=_size(work),
            worker=median(work, "worker"),
            warm=median(work, "warm"),
            beyond=_beyond(work),
        )
        + words.get(WHY.get(work["task_type"], ""), "")
        for work in worst
    ]
    return "\n".join(lines) or words["none_slower"]


def fixed_cost(measured: Measured, words: Mapping[str, str]) -> str:
    """What a small job takes longer than its work, over all task types."""
    least: dict[str, Measured] = {}
    for work in works_of(measured):
        least.setdefault(work["task_type"], work)
    more = [median(work, "worker") - median(work, "warm") for work in least.values()]
    return words["fixed"].format(middle=statistics.median(more), most=max(more)) if more else ""


def stage_table(measured: Measured, words: Mapping[str, str]) -> str:
    """Where the time of a small job goes."""
    stages = measured.get("status", {}).get("psi", {}).get("stages", {})
    return _table(
        [words["stage"], words["milliseconds"]],
        ((words[key], _ms(value)) for key, value in stages.items()),
    )


def alignment_table(measured: Measured, words: Mapping[str, str]) -> str:
    """What the comparison of both outputs costs."""
    header = [words[key] for key in ("task", "worker", "alignment", "share")]
    rows = (
        [
            _size(work),
            f"{median(work, 'worker'):.2f}",
            f"{median(work, 'alignment'):.3f}",
            f"{median(work, 'alignment') / median(work, 'worker'):.0%}",
        ]
        for work in works_of(measured)
        if work["task_type"] == "psi"
    )
    return _table(header, rows)


def growth_table(measured: Measured, words: Mapping[str, str]) -> str:
    """How the time of every task type grows with the rows, at its first number of columns."""
    rows = []
    for task_type, works in by_type(measured).items():
        sizes = [work["rows"] for work in works]
        if len(set(sizes)) > 2:
            grown = [
                exponent(sizes, [median(work, side) for work in works])
                for side in ("worker", "warm")
            ]
            rows.append(
                [
                    f"`{task_type}`",
                    f"{min(sizes):,} - {max(sizes):,}",
                    *(f"{one:.2f}" for one in grown),
                ]
            )
    return _table(
        [words[key] for key in ("task_type", "rows", "worker_exponent", "warm_exponent")], rows
    )


def by_type(measured: Measured) -> dict[str, list[Measured]]:
    """The works of every type that differ in rows only."""
    found: dict[str, list[Measured]] = {}
    for work in works_of(measured):
        same = found.setdefault(work["task_type"], [])
        if not same or work["columns"] == same[0]["columns"]:
            same.append(work)
    return found


def at_once_table(measured: Measured, words: Mapping[str, str]) -> str:
    """Several executions at once, and many small ones."""
    rows = [
        [count, f"{median(took, 'worker'):.2f}", _per_minute(int(count), median(took, "worker"))]
        + [f"{median(took, 'warm'):.2f}", _per_minute(int(count), median(took, "warm"))]
        for count, took in measured.get("at_once", {}).items()
    ]
    for took in measured.get("stream", {}).values():
        row = [words["stream"].format(count=took["jobs"])]
        for side in ("worker", "warm"):
            row += [f"{took[side]:.2f}", _per_minute(took["jobs"], took[side])]
        rows.append(row)
    return _table(
        [words[key] for key in ("at_once", "worker", "per_minute", "warm", "per_minute")], rows
    )


def _per_minute(count: int, seconds: float) -> str:
    return f"{60 * count / seconds:.0f}"


def status_table(measured: Measured, words: Mapping[str, str]) -> str:
    """How fast a submitter hears of a job."""
    seen = measured.get("status", {}).get("psi", {})
    rows = [
        [words[key], *(_ms(value) for value in _quantiles(seen[key]))]
        for key in ("first", "delays")
        if key in seen
    ]
    return _table([words["milliseconds"], "p50", "p99", words["slowest"]], rows)


def _quantiles(values: Sequence[float]) -> tuple[float, float, float]:
    ranked = sorted(values)
    return statistics.median(ranked), ranked[math.ceil(0.99 * len(ranked)) - 1], ranked[-1]


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.1f}"


def memory_table(measured: Measured, words: Mapping[str, str]) -> str:
    """The peaks of every task type at its largest size."""
    largest = {task_type: works[-1] for task_type, works in by_type(measured).items()}
    idle = measured.get("memory", {})
    rows = [[words["idle"], f"{took['worker']:,}", f"{took['warm']:,}"] for took in idle.values()]
    rows += [
        [_size(work), *(f"{work['megabytes'][side]:,}" for side in ("worker", "warm"))]
        for work in largest.values()
    ]
    return _table([words["megabytes"], words["worker_memory"], words["warm_memory"]], rows)


_TABLES = {
    "machine": machine_table,
    "tasks": task_table,
    "slower": slower_list,
    "fixed": fixed_cost,
    "stages": stage_table,
    "alignment": alignment_table,
    "growth": growth_table,
    "at_once": at_once_table,
    "status": status_table,
    "memory": memory_table,
}
