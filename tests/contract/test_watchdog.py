"""The watchdog barks when a node takes nothing that it could take, and at nothing else."""

from __future__ import annotations

from typing import Iterator

import pytest
from redis import Redis

from secretflow_task.broker.keys import queue_keys
from secretflow_task.config.settings import Settings
from secretflow_task.node.watchdog import LOOK_SECONDS, STALL_SECONDS, Slots, Watchdog
from tests.bench.redis import RedisServer

LOOKS = round(STALL_SECONDS / LOOK_SECONDS) + 3  # two see how it was, one begins to count


class Kennel:
    """A watchdog on a real Redis, with a clock of its own."""

    def __init__(self, server: RedisServer, redis: Redis) -> None:
        self.redis = redis
        self.slots = Slots(2)
        self.consuming = True
        self.restarts = 0
        self.seconds = 0.0
        self.watchdog = Watchdog(
            Settings(redis_url=server.url, queues=("q", "r")),  # type: ignore[arg-type]
            redis,
            self.slots,
            lambda: self.consuming,
            self.restart,
            lambda: self.seconds,
        )

    def restart(self) -> None:
        """Count."""
        self.restarts += 1

    def look(self) -> bool:
        """Look after the usual time; whether it barks."""
        self.seconds += LOOK_SECONDS
        self.watchdog.look()
        return self.watchdog.stalled()

    def long(self) -> list[bool]:
        """Look for as long as it takes to be sure, but not a look longer."""
        return [self.look() for _ in range(LOOKS)]


@pytest.fixture
def kennel(redis_server: RedisServer, redis: Redis) -> Iterator[Kennel]:
    """Requests wait in the second queue, at a priority."""
    redis.lpush(queue_keys("r")[2], "a", "b", "c", "d")
    yield Kennel(redis_server, redis)


def test_it_barks_in_time_and_once_per_period_until_something_is_taken(kennel: Kennel) -> None:
    assert kennel.long() == [False] * (LOOKS - 1) + [True]
    assert kennel.restarts == 1
    assert all(kennel.look() for _ in range(round(STALL_SECONDS / LOOK_SECONDS)))
    assert kennel.restarts == 2
    kennel.slots.take()
    assert not kennel.look()
    assert kennel.restarts == 2


def test_a_queue_that_is_empty_or_grows_from_empty_between_two_looks_is_no_stall(
    kennel: Kennel,
) -> None:
    kennel.redis.delete(queue_keys("r")[2])
    assert not any(kennel.long())
    for _ in range(LOOKS):  # one that comes and is taken before the next but one look
        kennel.redis.lpush("q", "x")
        assert not kennel.look()
        kennel.redis.delete("q")
        assert not kennel.look()


def test_a_node_whose_slots_are_all_taken_waits_for_a_place(kennel: Kennel) -> None:
    kennel.slots.take()
    kennel.slots.take()  # both may be waiting for their peers: they are in the pool
    assert not any(kennel.long())
    kennel.slots.give_back()
    assert kennel.long()[-1]


def test_a_node_that_takes_now_and_then_is_well(kennel: Kennel) -> None:
    for _ in range(3):
        assert not any(kennel.look() for _ in range(LOOKS - 2))
        kennel.slots.take()
        kennel.slots.give_back()


def test_another_node_that_takes_them_is_enough(kennel: Kennel) -> None:
    for number in range(3):
        kennel.redis.lpush("q", f"x-{number}", f"y-{number}")
        assert not any(kennel.look() for _ in range(LOOKS - 2))
        kennel.redis.rpop("q")


def test_a_node_that_is_paused_or_stops_means_to_take_nothing(kennel: Kennel) -> None:
    kennel.consuming = False
    assert not any(kennel.long())
    kennel.consuming = True
    assert kennel.long()[-1]


def test_a_redis_that_cannot_be_asked_is_another_problem(
    kennel: Kennel, redis_server: RedisServer
) -> None:
    redis_server.kill()
    assert not any(kennel.long())
    redis_server.start()
