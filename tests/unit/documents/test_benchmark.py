"""The benchmark's arithmetic, its decision, and that the pages say what was measured."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secretflow_task.contract.task_dispatcher import TaskDispatcher
from tests.performance.benchmark_tasks import Results, chosen, parse, repeats
from tests.performance.check_ratios import WORKS, Pairs, lost
from tests.performance.figures import beyond_limit, exponent, is_lost, ratio, spread
from tests.performance.report import pages
from tests.performance.works import PARTIES, TASK_TYPES, Work, works

ROOT = Path(__file__).parents[3]
DOCUMENTS = ROOT / "docs" / "performance"
POSITIVE = st.floats(0.01, 100)


def work(task_type: str = "psi", rows: int = 1000, **seconds: list[float]) -> dict[str, Any]:
    """A measured work, as `results.json` has it."""
    sides = {"worker": [1.0], "warm": [0.8], "alignment": [0.1]} | seconds
    size = {"task_type": task_type, "rows": rows, "columns": 2, "against": "SecretFlow"}
    return {**size, **sides, "megabytes": {"worker": 1000, "warm": 1200}}


def page_of(*measured: dict[str, Any], **parts: Any) -> str:
    """The English page of some works."""
    tasks = {str(number): found for number, found in enumerate(measured)}
    return pages({"tasks": tasks, **parts})["index.md"]


@given(POSITIVE, st.floats(-2, 3))
def test_a_power_law_has_its_exponent(factor: float, power: float) -> None:
    sizes = [1e3, 1e4, 1e6]
    assert exponent(sizes, [factor * size**power for size in sizes]) == pytest.approx(
        power, abs=1e-9
    )


def test_a_fixed_cost_makes_the_exponent_smaller() -> None:
    sizes = [1e3, 1e4, 1e5]
    assert 0 < exponent(sizes, [0.5 + size / 1e5 for size in sizes]) < 1


def test_the_spread_is_half_the_range_of_the_middle_half() -> None:
    assert spread([1.0, 2.0, 3.0, 4.0, 5.0]) == pytest.approx(1 / 3)
    assert spread([2.0, 2.0, 200.0]) == pytest.approx(99 / 2 / 2)
    assert spread([7.0]) == 0.0


@pytest.mark.parametrize(
    ("worker", "warm", "beyond"),
    [(0.6, 0.1, -0.005), (0.61, 0.1, 0.005), (11.0, 10.0, 0.0), (11.01, 10.0, 0.01)],
)
def test_the_limit_is_five_per_cent_and_half_a_second(
    worker: float, warm: float, beyond: float
) -> None:
    assert beyond_limit(worker, warm) == pytest.approx(beyond)


def test_the_check_of_psi_is_listed_by_itself_and_not_held_against_the_limit() -> None:
    warm = [1.0]
    assert "| kept |" in page_of(work(worker=[1.6], warm=warm, alignment=[0.06]))
    assert "| +0.05 s |" in page_of(work(worker=[1.6], warm=warm, alignment=[0.0]))


@given(st.lists(POSITIVE, min_size=1, max_size=9), POSITIVE, st.data())
def test_a_ratio_does_not_see_what_slows_both_sides_down(
    warm: list[float], true: float, data: st.DataObject
) -> None:
    slowdowns = data.draw(st.lists(st.floats(1, 10), min_size=len(warm), max_size=len(warm)))
    seconds = [one * slow for one, slow in zip(warm, slowdowns)]
    assert ratio([true * one for one in seconds], seconds) == pytest.approx(true)


@given(POSITIVE, st.floats(1.01, 100))
def test_two_disturbed_pairs_of_five_do_not_make_a_loss(true: float, disturbance: float) -> None:
    assert not is_lost(ratio([true] * 3 + [true * disturbance] * 2, [1.0] * 5), true)


@given(st.floats(0.1, 10))
def test_a_quarter_more_is_a_loss_and_a_tenth_or_less_is_not(baseline: float) -> None:
    assert is_lost(1.25 * baseline, baseline)
    assert not is_lost(1.1 * baseline, baseline)
    assert not is_lost(0.5 * baseline, baseline)


def test_a_loss_of_one_work_is_not_made_up_for_by_another() -> None:
    baseline = {"psi": 2.0, "ss_lr": 1.0}
    assert lost({"psi": 1.0, "ss_lr": 1.25}, baseline) == ["ss_lr"]
    assert lost(baseline, baseline) == []
    with pytest.raises(KeyError):
        lost({"new": 1.0}, baseline)


class Clock:
    """Runs that take the given seconds, and from then on the last."""

    def __init__(self, *seconds: float) -> None:
        self._seconds = list(seconds)
        self.runs = 0

    def __call__(self) -> float:
        self.runs += 1
        return self._seconds.pop(0) if len(self._seconds) > 1 else self._seconds[0]


@pytest.mark.parametrize(
    ("worker", "found", "runs"),
    [
        (Clock(1.0), 1.0, 6),
        (Clock(1.5), 1.5, 11),
        (Clock(*[1.5] * 5, 1.0), 1.0, 11),  # a warm-up, and four disturbed ones of ten
    ],
    ids=["none", "lost", "disturbed"],
)
def test_a_ratio_that_seems_lost_is_measured_again(worker: Clock, found: float, runs: int) -> None:
    warm = Clock(1.0)
    assert Pairs(worker, warm).ratio_to(1.0) == found
    assert worker.runs == warm.runs == runs


def test_there_is_a_baseline_of_every_checked_work() -> None:
    baseline = json.loads((ROOT / "tests/performance/ratios.json").read_text(encoding="utf-8"))
    assert list(baseline) == [found.name for found in WORKS]
    assert all(value > 0 for value in baseline.values())


def test_every_task_type_is_measured_at_small_and_large_sizes() -> None:
    assert sorted(TASK_TYPES) == TaskDispatcher.list_supported_tasks()
    for task_type in TASK_TYPES:
        sizes = [found.rows for found in works(task_type)]
        assert len(sizes) >= 3 and max(sizes) >= 16 * min(sizes)
    assert len({found.name for found, _ in chosen(TASK_TYPES, quick=False, huge=True)}) > 75


def test_every_task_type_is_measured_cold_once_and_quickly_at_its_smallest_size() -> None:
    quick = chosen(TASK_TYPES, quick=True, huge=False)
    assert [found for found, _ in quick] == [works(task_type)[0] for task_type in TASK_TYPES]
    assert all(cold for _, cold in quick)


@pytest.mark.parametrize("task_type", TASK_TYPES)
def test_a_request_of_the_benchmark_is_one(task_type: str) -> None:
    config = works(task_type)[0].task_config()
    assert TaskDispatcher.get(task_type).parse(config).parties() <= list(PARTIES)


def test_what_takes_long_is_measured_less_often() -> None:
    counts = [repeats(seconds) for seconds in (0.1, 3.0, 6.0, 19.0, 21.0, 500.0)]
    assert counts == [7, 6, 3, 3, 0, 0]


def test_what_was_measured_is_not_measured_again_unless_asked(tmp_path: Path) -> None:
    def fails() -> Any:
        raise AssertionError

    Results(tmp_path, again=False).measure("tasks", "a", lambda: 1)
    Results(tmp_path, again=False).measure("tasks", "a", fails)
    Results(tmp_path, again=False).measure("tasks", "b", lambda: 2)
    Results(tmp_path, again=True).measure("tasks", "a", lambda: 3)
    assert Results(tmp_path, again=False).measured == {"tasks": {"a": 3, "b": 2}}


def test_a_page_tells_medians_ratios_and_what_is_beyond_the_limit() -> None:
    text = page_of(work(worker=[2.0, 2.0, 9.0], warm=[1.0, 1.0, 1.0]), work("ss_lr", cold=[8.25]))
    assert "| `psi` 1,000 x 2 | 2.00 | 1.00 | 2.00 | 88% / 0% | +0.35 s |  | SecretFlow |" in text
    assert "| `ss_lr` 1,000 x 2 | 1.00 | 0.80 | 1.25 | 0% / 0% | kept | 8.2 | SecretFlow |" in text
    assert "- `psi` 1,000 x 2: 2.00 s, warm 1.00 s, 0.35 s beyond." in text
    assert "a job takes 0.60 s longer" in text and "at most 1.00 s" in text


def test_a_page_says_so_when_nothing_is_beyond_the_limit() -> None:
    assert "Beyond 5 % and 0.5 s:\n\n- none" in page_of(work())


def test_growth_is_fitted_over_rows_and_not_over_columns() -> None:
    grown = [work(rows=rows, worker=[rows / 1e3], warm=[1.0]) for rows in (10**3, 10**4, 10**5)]
    wide = work(rows=10**6, worker=[1e-3]) | {"columns": 40}
    assert "| `psi` | 1,000 - 100,000 | 1.00 | 0.00 |" in page_of(*grown, wide)


def test_latencies_are_told_by_rank() -> None:
    delays = [number / 1000 for number in range(1, 101)]
    text = page_of(
        work(), status={"psi": {"first": [0.2], "delays": delays, "stages": {"prepare": 0.01}}}
    )
    assert "| event to its arrival | 50.5 | 99.0 | 100.0 |" in text
    assert "| request to first event | 200.0 | 200.0 | 200.0 |" in text


def test_jobs_per_minute() -> None:
    text = page_of(
        work(),
        at_once={"4": {"worker": [2.0], "warm": [1.0]}},
        stream={"psi": {"jobs": 30, "worker": 10, "warm": 60}},
    )
    assert "| 4 | 2.00 | 120 | 1.00 | 240 |" in text
    assert "| 30 in the queue | 10.00 | 180 | 60.00 | 30 |" in text


def test_the_pages_say_what_was_measured() -> None:
    measured = json.loads((DOCUMENTS / "results.json").read_text(encoding="utf-8"))
    for name, text in pages(measured).items():
        assert (DOCUMENTS / name).read_text(encoding="utf-8") == text, "run `make bench`"


def test_both_pages_have_the_same_tables_and_their_plots_exist() -> None:
    texts = [
        (DOCUMENTS / name).read_text(encoding="utf-8") for name in ("index.md", "index.zh-CN.md")
    ]
    numbers = [re.findall(r"\d+\.\d+", text) for text in texts]
    assert numbers[0] == numbers[1]
    for text in texts:
        plots = re.findall(r"\]\((\w+\.svg)\)", text)
        assert plots == ["tasks.svg", "growth.svg"] and all(
            (DOCUMENTS / plot).exists() for plot in plots
        )


@pytest.mark.parametrize("name", ["index.md", "index.zh-CN.md"])
def test_the_commands_of_the_pages_are_understood(name: str) -> None:
    text = (DOCUMENTS / name).read_text(encoding="utf-8")
    commands = re.findall(r'`make bench ARGS="(.*?)"`', text)
    asked = [parse(command.split()) for command in commands]
    assert [one.only for one in asked] == [None, ["psi", "at_once"], None, None, None]
    assert [one.into for one in asked] == [DOCUMENTS] * 4 + [Path("build/performance")]
    assert asked[0].again and asked[2].huge and asked[3].pages and asked[4].quick


def test_tables_of_the_parties_belong_together(tmp_path: Path) -> None:
    found = Work("ss_lr", 10, 4)
    found.write_tables(tmp_path)
    rows = [
        (tmp_path / party / found.name / "in.csv").read_text().splitlines() for party in PARTIES
    ]
    assert [row.split(",")[0] for row in rows[0][1:]] == [row.split(",")[0] for row in rows[1][1:]]
    assert (
        rows[0][0] == '"a_id","a0","a1","label","a_target","a_score"'
        and rows[1][0] == '"b_id","b0","b1"'
    )
    assert math.isfinite(float(rows[0][1].split(",")[1]))
