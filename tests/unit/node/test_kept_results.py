"""A result that is too large for its event is whole at its party, or its execution has failed."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import time
from pathlib import Path
from typing import Any, Mapping

import pytest

from secretflow_task.contract.job_spec import JobSpec
from secretflow_task.contract.messages import Kind, Status, StatusEvent, json_text
from secretflow_task.node import kept_results
from secretflow_task.node.kept_results import KeptResults, result_path
from secretflow_task.node.reporter import Reporter
from secretflow_task.testing import JobSide
from tests.unit.node.test_node import PSI, Bench, fail, never

PARTIES = ("alice", "bob")
LIMIT = 10_000
LARGE = {"rows": 2000, "table": [{"id": number, "wert": "é"} for number in range(2000)]}


@pytest.fixture(name="bench")
def _bench(tmp_path: Path) -> Bench:
    bench = Bench(tmp_path)
    bench.settings = bench.settings.model_copy(update={"event_limit_bytes": LIMIT})
    return bench


def find_much(spec: JobSpec, job: JobSide) -> None:
    """Agree and find a large result at alice, a small one at bob."""
    job.agree({})
    job.finish(LARGE if spec.party == "alice" else {"rows": 2000})


def results(bench: Bench) -> dict[str, Mapping[str, Any]]:
    """The results in the events of the parties."""
    return {
        event.party: event.data["result"]
        for event in bench.events
        if event.status is Status.SUCCESS
    }


def files(bench: Bench) -> list[str]:
    """What is kept."""
    return sorted(path.name for path in (bench.settings.state_dir / "results").glob("*"))


def test_a_large_result_is_whole_in_a_file_and_its_event_has_head_size_and_digest(
    bench: Bench,
) -> None:
    with bench.node(find_much) as node:
        assert node.execute("e-1", PSI).status is Status.SUCCESS
        assert max(len(each.event.to_json()) for each in node.store.unsent(9)) < LIMIT
    told = results(bench)
    assert told["bob"] == {"rows": 2000} and files(bench) == ["e-1.alice.json"]
    path = result_path(bench.settings.state_dir, "e-1", "alice")
    content = path.read_bytes()
    assert json.loads(content) == LARGE
    assert (told["alice"]["truncated"], told["alice"]["size_bytes"], told["alice"]["sha256"]) == (
        True,
        len(content),
        hashlib.sha256(content).hexdigest(),
    )
    rows = told["alice"]["table"]
    assert told["alice"]["rows"] == 2000 and rows == LARGE["table"][: len(rows)] and rows
    modes = [stat.S_IMODE(each.stat().st_mode) for each in (path, path.parent)]
    assert modes == [0o600, 0o700]


@pytest.mark.parametrize("spare", [0, 1])
def test_a_result_that_just_fits_is_told_as_it_is(spare: int, bench: Bench) -> None:
    empty = len(json_text({"text": ""}))
    result = {"text": "x" * (LIMIT - empty + 1 - spare)}

    def just_fits(_spec: JobSpec, job: JobSide) -> None:
        job.agree({})
        job.finish(result)

    with bench.node(just_fits) as node:
        node.execute("e-1", PSI)
    assert [told == result for told in results(bench).values()] == [bool(spare)] * 2
    assert len(files(bench)) == (0 if spare else 2)


def test_a_result_that_cannot_be_kept_fails_the_execution_at_every_party(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_handle: int) -> None:
        raise OSError(28, "No space left on device")

    with bench.node(find_much) as node:
        with monkeypatch.context() as patch:
            patch.setattr(kept_results.os, "fsync", full)
            outcome = node.execute("e-1", PSI)
        assert outcome.failure is not None
        assert (outcome.failure.code, outcome.failure.party) == ("OutputNotWritable", "alice")
        assert "too large for an event" in outcome.failure.message and files(bench) == []
        assert node.execute("e-2", PSI).status is Status.SUCCESS


def test_of_a_failure_no_result_is_kept(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    keep = KeptResults.keep

    def keep_and_fail(results_: KeptResults, execution_id: str, party: str, result: Any) -> Any:
        keep(results_, execution_id, party, result)
        raise RuntimeError("after the file was written")

    monkeypatch.setattr(KeptResults, "keep", keep_and_fail)
    with bench.node(find_much) as node:
        assert node.execute("e-1", PSI).status is Status.FAILURE
    assert files(bench) == []


def test_a_node_that_dies_before_it_has_told_of_a_large_result_tells_the_same_later(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Reporter, "ended", lambda *_: None)  # as one that was killed
        with bench.node(find_much) as node:
            node.execute("e-1", PSI)
    assert results(bench) == {} and files(bench) == ["e-1.alice.json"]
    with bench.node(never):
        pass
    content = result_path(bench.settings.state_dir, "e-1", "alice").read_bytes()
    assert results(bench)["alice"]["sha256"] == hashlib.sha256(content).hexdigest()
    assert results(bench)["bob"] == {"rows": 2000} and json.loads(content) == LARGE


def test_what_is_old_goes_and_what_a_killed_node_had_begun(tmp_path: Path) -> None:
    kept = KeptResults(tmp_path, LIMIT, days=3.0)
    for age_days, name in ((2.9, "new.alice"), (3.1, "old.alice")):
        kept.keep(name.split(".", maxsplit=1)[0], "alice", LARGE)
        then = time.time() - age_days * 24 * 3600
        os.utime(tmp_path / "results" / f"{name}.json", (then, then))
    begun = tmp_path / "results" / "e-3.alice.new"
    begun.write_text("half")
    os.utime(begun, (0, 0))
    kept.forget_old()
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["new.alice.json"]


def test_also_progress_and_failures_are_bounded(bench: Bench) -> None:
    def talk_much(spec: JobSpec, job: JobSide) -> None:
        job.agree({})
        if spec.party == "bob":
            much = {"progress": 0.6, "stage": "training", "list": ["x"] * 10**5}
            job.send(Kind.EVENT, much)
        fail(spec, job)

    with bench.node(talk_much) as node:
        node.execute("e-1", PSI)
        sent = [each.event for each in node.store.unsent(99)]
    (progress,) = [each for each in sent if "list" in each.data]
    assert (progress.data["progress"], progress.data["truncated"]) == (0.6, True)
    assert max(len(each.to_json()) for each in sent) < LIMIT


def test_an_error_that_names_all_columns_is_told_in_part(bench: Bench) -> None:
    columns = [f"column_{number}" for number in range(5000)]
    params = {"task_config": {**PSI["task_config"], **dict.fromkeys(columns, 1)}}
    with bench.node(never) as node:
        node.execute("e-1", params)
    for event in bench.events:
        assert len(event.to_json()) < LIMIT and event.data["error_code"] == "InvalidTaskConfig"
        assert StatusEvent.from_json(event.to_json()) == event
