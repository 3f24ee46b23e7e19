"""A job's stages add up, and its memory is what it had at its peak."""

from __future__ import annotations

import mmap
import os
from typing import Iterator

import pytest

from secretflow_task.node.job.usage import Usage
from secretflow_task.testing import JobSide, scripted_job

_MIB = 2**20


@pytest.fixture
def own() -> Iterator[Usage]:
    """The usage of this process."""
    yield Usage(os.getpid())


def test_the_seconds_of_a_stage_add_up(own: Usage) -> None:
    for stage, seconds in (("prepare", 0.5), ("task_execution", 1.0), ("prepare", 0.25)):
        own.note(stage, seconds)
    assert own.stages == {"prepare": 0.75, "task_execution": 1.0}


def test_memory_that_was_given_back_counts_as_peak_and_not_as_present(own: Usage) -> None:
    own.weigh()
    before = own.memory_bytes
    with mmap.mmap(-1, 64 * _MIB) as memory:
        for page in range(0, len(memory), mmap.PAGESIZE):
            memory[page] = 1
    own.weigh()
    assert own.memory_bytes < before + 32 * _MIB
    assert own.peak_memory_bytes >= before + 48 * _MIB


def test_a_job_is_weighed_at_its_end_if_it_was_before_or_is_one_of_the_sample(own: Usage) -> None:
    own.sampled = False
    own.conclude()
    assert own.peak_memory_bytes == 0 and own.cpu_seconds > 0
    own.sampled = True
    own.conclude()
    own.sampled, own.memory_bytes = False, 0
    own.conclude()
    assert own.peak_memory_bytes >= own.memory_bytes > 0


def test_cpu_time_is_that_of_the_process(own: Usage) -> None:
    before = sum(os.times()[:4])
    while sum(os.times()[:4]) < before + 0.1:
        pass
    least = sum(os.times()[:4])
    own.look()
    most = sum(os.times()[:4])
    assert least - 0.05 <= own.cpu_seconds <= most + 0.05  # the kernel counts in hundredths


def test_what_was_known_of_a_process_that_has_ended_stays_but_for_its_present_memory() -> None:
    def wait_for_go(job: JobSide) -> None:
        job.agree({})

    job = scripted_job(wait_for_go)
    usage = Usage(job.pid)
    usage.weigh()
    peak = usage.peak_memory_bytes
    assert usage.memory_bytes > 0
    job.kill()
    usage.weigh()
    assert (usage.memory_bytes, usage.peak_memory_bytes) == (0, peak)
