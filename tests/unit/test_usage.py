"""A job's stages are its whole life, and its memory is what it had at its peak."""

from __future__ import annotations

import mmap
import os
import time
from typing import Iterator

import pytest

from secretflow_task.node.usage import STAGES, Usage
from secretflow_task.testing import JobSide, scripted_job

_MIB = 2**20


def test_the_stages_are_the_life_of_a_job_and_only_the_first_end_of_each_counts() -> None:
    began = time.monotonic()
    usage = Usage(os.getpid())
    for stage in STAGES:
        usage.end(stage)
        usage.end(STAGES[0])
    whole = time.monotonic() - began
    assert tuple(usage.stages) == STAGES
    assert all(seconds >= 0 for seconds in usage.stages.values())
    assert sum(usage.stages.values()) <= whole


@pytest.fixture
def own() -> Iterator[Usage]:
    """The usage of this process."""
    yield Usage(os.getpid())


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
