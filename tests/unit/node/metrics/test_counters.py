"""What happens at a node is counted once, under labels that are known beforehand."""

from __future__ import annotations

import os
import re
import threading
import time
from pathlib import Path
from typing import Any, Callable

import pytest
from prometheus_client import Metric, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from secretflow_task.contract.errors import MissingFile, PeerLost, WorkerError
from secretflow_task.contract.job_spec import JobSpec
from secretflow_task.contract.messages import Stage, Status
from secretflow_task.contract.requests import TaskRequest
from secretflow_task.contract.task_dispatcher import TaskDispatcher
from secretflow_task.node.job.ending import Ending
from secretflow_task.node.job.usage import STAGES, Usage
from secretflow_task.node.metrics import counters as metrics_module
from secretflow_task.node.metrics.catalogue import OBSERVED
from secretflow_task.node.metrics.counters import Metrics
from secretflow_task.node.store.event_store import EventStore
from secretflow_task.testing import JobSide
from tests.unit.node.test_node import PSI, Bench, fail, never

PSI_SUCCESS = {"task_type": "psi", "outcome": "success"}


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """Runs a node with scripted jobs."""
    return Bench(tmp_path)


def exposed(metrics: Metrics) -> list[Metric]:
    """What a scrape gives."""
    return list(text_string_to_metric_families(metrics.exposition().decode()))


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    """The value of a series; None when there is none."""
    found = (sample for family in exposed(metrics) for sample in family.samples)
    return next(
        (one.value for one in found if (one.name, one.labels) == (f"sfworker_{name}", labels)), None
    )


def counted(metrics: Metrics) -> dict[tuple[str, str], float]:
    """What was counted, and how often something was measured, by name and values of labels."""
    return {
        (sample.name.removeprefix("sfworker_"), " ".join(sample.labels.values())): sample.value
        for family in exposed(metrics)
        for sample in family.samples
        if family.name.startswith("sfworker_")
        and sample.name.endswith(("_total", "_count"))
        and not sample.name.startswith("sfworker_job_")
        and sample.value
    }


def every_stage(spec: JobSpec, job: JobSide) -> None:
    """Succeed as a real job does, through all stages."""
    job.stage_ended("prepare", 0.1)
    job.agree({"own": spec.party})
    for stage in Stage:
        job.report(stage.progress, stage.value)
        job.stage_ended(stage.value, 0.1)
    job.finish({})


def test_a_success_counts_once_though_two_parties_are_hosted(bench: Bench) -> None:
    with bench.node(every_stage) as node:
        node.execute("r-1", PSI, sent_at=time.time() - 7)
        assert node.execute("r-1", PSI).repeated
    assert counted(node.metrics) == {
        ("executions_total", "  success psi"): 1,
        ("execution_seconds_count", "success psi"): 1,
        ("queue_wait_seconds_count", "psi"): 1,
        **{("stage_seconds_count", f"{stage} psi"): 1 for stage in STAGES},
        ("events_stored_total", "RUNNING"): 8,
        ("events_stored_total", "SUCCESS"): 2,
    }
    assert 7 <= (value(node.metrics, "queue_wait_seconds_sum", task_type="psi") or 0) < 60
    whole = value(node.metrics, "execution_seconds_sum", **PSI_SUCCESS) or 0
    assert 0 < whole < 60
    assert node.metrics.job_memory_bytes() == 0


def stay(spec: JobSpec, job: JobSide) -> None:
    """Succeed, and do not leave."""
    job.agree({"own": spec.party})
    job.finish({})
    job.hang()


def test_of_many_short_jobs_one_is_weighed(bench: Bench) -> None:
    with bench.node(stay) as node:
        node.execute("r-1", PSI)
        node.execute("r-2", PSI)
    assert value(node.metrics, "job_peak_memory_bytes_count", task_type="psi") == 1
    assert (value(node.metrics, "job_peak_memory_bytes_sum", task_type="psi") or 0) > 2**20


def test_a_job_that_left_before_it_was_weighed_is_no_sample() -> None:
    metrics, gone, weighed, later = Metrics(), Usage(0), Usage(os.getpid()), Usage(0)
    with metrics.watching(gone):
        pass
    with metrics.watching(weighed):
        weighed.conclude()
    with metrics.watching(later):
        pass
    assert [job.sampled for job in (gone, weighed, later)] == [True, True, False]


def test_a_failure_counts_under_its_code_and_has_the_stages_that_it_completed(
    bench: Bench,
) -> None:
    def fail_in_the_end(spec: JobSpec, job: JobSide) -> None:
        job.stage_ended("prepare", 0.1)
        fail(spec, job)

    with bench.node(fail_in_the_end) as node:
        node.execute("r-1", PSI)
    assert counted(node.metrics) == {
        ("executions_total", "AlgorithmError AlgorithmError failure psi"): 1,
        ("execution_seconds_count", "failure psi"): 1,
        ("stage_seconds_count", "prepare psi"): 1,
        ("events_stored_total", "RUNNING"): 2,
        ("events_stored_total", "FAILURE"): 2,
    }


@pytest.mark.parametrize(
    ("params", "labels"),
    [
        (
            {"task_config": {"task_type": "r-1 of alice"}},
            "UnknownTaskType RequestError failure other",
        ),
        ({"task_config": {"task_type": "psi"}}, "InvalidTaskConfig RequestError failure psi"),
        ({}, "InvalidTaskConfig RequestError failure other"),
    ],
)
def test_a_refused_request_counts_under_a_name_that_we_know(
    bench: Bench, params: dict[str, Any], labels: str
) -> None:
    with bench.node(never) as node:
        node.execute("r-1", params)
    assert counted(node.metrics) == {
        ("executions_total", labels): 1,
        ("execution_seconds_count", labels.split(" ", 2)[2]): 1,
        ("events_stored_total", "FAILURE"): 2,
    }


def test_what_an_earlier_process_left_counts_when_it_is_settled(bench: Bench) -> None:
    with EventStore(bench.settings.state_dir) as store:
        store.claim(TaskRequest("r-1", "r-1", PSI), "alice", "bob")
    with bench.node(never) as node:
        assert counted(node.metrics) == {
            ("executions_total", "NodeLost ExecutionStopped failure psi"): 1,
            ("execution_seconds_count", "failure psi"): 1,
            ("events_stored_total", "FAILURE"): 2,
        }


@pytest.mark.parametrize(
    "said",
    [None, "yesterday", float("nan"), float("inf"), -1, {"at": 1}, True, 10**400, -(10**400), 1.0],
)
def test_a_sender_that_does_not_say_when_has_no_queue_wait(said: object) -> None:
    metrics = Metrics()
    metrics.taken("psi", said)
    assert value(metrics, "queue_wait_seconds_count", task_type="psi") is None


def test_what_cannot_be_counted_fails_no_request(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_arguments: Any) -> None:
        raise OverflowError

    for name in ("taken", "stored", "ended"):
        monkeypatch.setattr(Metrics, name, broken)
    with bench.node(every_stage) as node:
        assert node.execute("r-1", PSI, sent_at=10**400).status is Status.SUCCESS


def test_a_sender_whose_clock_is_ahead_has_not_waited() -> None:
    metrics = Metrics()
    metrics.taken("psi", time.time() + 3600)
    assert value(metrics, "queue_wait_seconds_sum", task_type="psi") == 0
    assert value(metrics, "queue_wait_seconds_count", task_type="psi") == 1


def test_a_stage_takes_as_long_as_at_the_slowest_party_and_each_job_has_its_memory() -> None:
    metrics, jobs = Metrics(), [Usage(0), Usage(0)]
    for number, job in enumerate(jobs, 1):
        job.stages = {"prepare": float(number)}
        job.cpu_seconds, job.peak_memory_bytes = float(number), number * 2**30
    metrics.ended("psi", [Ending(None, {}, job) for job in jobs], 4.0)
    assert value(metrics, "stage_seconds_sum", task_type="psi", stage="prepare") == 2
    assert value(metrics, "stage_seconds_count", task_type="psi", stage="prepare") == 1
    assert value(metrics, "job_cpu_seconds_total", task_type="psi") == 3
    assert value(metrics, "job_peak_memory_bytes_sum", task_type="psi") == 3 * 2**30
    assert value(metrics, "job_peak_memory_bytes_count", task_type="psi") == 2
    assert value(metrics, "execution_seconds_sum", **PSI_SUCCESS) == 4


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (PeerLost(party="bob"), {"bob": 1.0, "carol": 0.0}),
        (PeerLost(party="bob, carol"), {"bob": 1.0, "carol": 1.0}),  # one node hosts both
        (PeerLost(party="mallory"), {"bob": 0.0, "carol": 0.0}),
        (PeerLost(), {"bob": 0.0, "carol": 0.0}),
        (MissingFile(party="bob"), {"bob": 0.0, "carol": 0.0}),
    ],
)
def test_losses_count_for_the_peers_of_the_address_book(
    error: WorkerError, lost: dict[str, float]
) -> None:
    metrics = Metrics()
    metrics.know_peers(["bob", "carol"])
    metrics.ended("psi", [Ending.of(error)], 1.0)
    (family,) = (family for family in exposed(metrics) if family.name == "sfworker_peer_losses")
    assert {sample.labels["peer"]: sample.value for sample in family.samples} == lost


def test_jobs_weigh_while_they_are_watched() -> None:
    metrics, first, second = Metrics(), Usage(0), Usage(0)
    first.memory_bytes, second.memory_bytes = 5, 7
    with metrics.watching(first):
        with metrics.watching(second):
            assert metrics.job_memory_bytes() == 12
        assert metrics.job_memory_bytes() == 5
    assert metrics.job_memory_bytes() == 0


def test_what_can_be_known_at_the_start_is_there_from_the_start() -> None:
    metrics = Metrics()
    for task_type in (*TaskDispatcher.list_supported_tasks(), "other"):
        labels = {"task_type": task_type, "outcome": "success", "error_type": "", "code": ""}
        assert value(metrics, "executions_total", **labels) == 0
        assert value(metrics, "job_cpu_seconds_total", task_type=task_type) == 0
    for status in Status:
        assert value(metrics, "events_stored_total", status=status.value) == 0
        assert value(metrics, "events_published_total", status=status.value) == 0
    metrics.taken("psi", None)
    assert value(metrics, "execution_seconds_count", task_type="psi", outcome="failure") == 0


def test_names_follow_the_conventions() -> None:
    for metric in OBSERVED:
        assert metric.name.startswith("sfworker_")
        assert metric.name.endswith("_total") is (metric.kind == "counter")
        assert bool(metric.buckets) is (metric.kind == "histogram")
        assert metric.meaning.endswith(".") and metric.buckets == tuple(sorted(metric.buckets))


def test_there_are_no_series_of_creation_times() -> None:
    metrics = Metrics()
    metrics.ended("psi", [Ending(None, {})], 1.0)
    assert b"_created" not in metrics.exposition()


def run(metrics: Metrics, task_type: str) -> None:
    """Count a success with all stages."""
    usage = Usage(0)
    usage.stages, usage.peak_memory_bytes = dict.fromkeys(STAGES, 1.0), 2**30
    metrics.taken(task_type, time.time() + 3600)
    metrics.ended(task_type, [Ending(None, {}, usage)], 1.0)


class Parsed(Collector):
    """What a text says, to be rendered again."""

    def __init__(self, text: bytes) -> None:
        self.families = list(text_string_to_metric_families(text.decode()))

    def collect(self) -> list[Metric]:
        """The families, as they were read."""
        return self.families


def test_a_scrape_is_what_a_full_rendering_gives_with_one_group_for_each_family() -> None:
    metrics = Metrics()
    for task_type in ("psi", "nobody's", "ss_lr", "psi"):
        run(metrics, task_type)
        text = metrics.exposition()
        families = Parsed(text).families
        assert generate_latest(Parsed(text)) == text
        assert len({family.name for family in families}) == len(families)


def of_task_types(metrics: Metrics) -> list[Metric]:
    """What a scrape gives by task type."""
    return [
        one
        for one in exposed(metrics)
        if any("task_type" in sample.labels for sample in one.samples)
    ]


def test_every_change_is_in_the_next_scrape_whatever_earlier_ones_have_rendered() -> None:
    often, once = Metrics(), Metrics()
    for task_type in ("psi", "ss_lr", "nobody's", "psi", "ss_lr"):
        for metrics in (often, once):
            run(metrics, task_type)
            metrics.ended(task_type, [Ending.of(MissingFile())], 1.0)
        often.exposition()
    assert of_task_types(often) == of_task_types(once)


def test_a_task_type_is_rendered_when_it_ran_and_never_at_a_scrape(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    metrics, rendered = Metrics(), []

    def noting(collector: Collector) -> bytes:
        text = generate_latest(collector)
        rendered.extend(re.findall('task_type="(.*?)"', text.decode()))
        return text

    monkeypatch.setattr(metrics_module, "generate_latest", noting)
    for task_type in ("psi", "ss_lr", "psi"):
        run(metrics, task_type)
        assert set(rendered) == {task_type}
        rendered.clear()
        metrics.exposition()
        assert not rendered


class Stages(dict[str, float]):
    """One stage; something happens whenever it is read, in the middle of counting."""

    def __init__(self, meanwhile: Callable[[], None]) -> None:
        super().__init__(prepare=1.0)
        self._meanwhile = meanwhile

    def __getitem__(self, stage: str) -> float:
        self._meanwhile()
        return super().__getitem__(stage)


def test_a_scrape_while_an_execution_is_counted_tells_all_of_it() -> None:
    metrics, usage, found = Metrics(), Usage(0), []
    scrape = threading.Thread(target=lambda: found.append(counted(metrics)))

    def meanwhile() -> None:
        scrape.start()
        scrape.join(0.2)  # long enough for a scrape that does not wait for us

    usage.stages = Stages(meanwhile)
    metrics.ended("psi", [Ending(None, {}, usage)], 1.0)
    scrape.join()
    expected = {
        ("executions_total", "  success psi"): 1,
        ("execution_seconds_count", "success psi"): 1,
        ("stage_seconds_count", "prepare psi"): 1,
    }
    assert [*found, counted(metrics)] == [expected, expected]
