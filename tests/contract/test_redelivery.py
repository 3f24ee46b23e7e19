"""What a dead node had taken from the queue and not acknowledged goes back into it."""

from __future__ import annotations

from typing import Iterator

import pytest
from kombu import Connection
from redis import Redis, RedisError

from secretflow_task.broker.celery_app import _transport_options, redeliver
from secretflow_task.config.settings import Settings
from tests.bench.redis import RedisServer
from tests.bench.waiting import PATIENCE_SECONDS

NODE = "n1"


@pytest.fixture
def queue_settings(redis_server: RedisServer, redis: Redis) -> Iterator[Settings]:
    """A Redis in which a dead node holds two of three requests."""
    del redis  # it is empty
    url = f"redis+socket://{redis_server.socket}"
    with Connection(url, transport_options=_transport_options(NODE)) as connection:
        queue = connection.SimpleQueue("q")
        for number in range(3):
            queue.put({"number": number})
        for _ in range(2):
            queue.get(timeout=PATIENCE_SECONDS)
        queue.close()
        connection.default_channel.qos._dirty.clear()  # dead: it puts nothing back when it closes
        connection.default_channel.qos._delivered.clear()
    yield Settings(redis_url=url)  # type: ignore[arg-type]


def test_it_goes_back_into_the_queue(queue_settings: Settings, redis: Redis) -> None:
    assert (redis.llen("q"), redis.hlen(f"sfworker:unacked:{NODE}")) == (1, 2)
    redeliver(queue_settings, NODE)
    assert (redis.llen("q"), redis.hlen(f"sfworker:unacked:{NODE}")) == (3, 0)
    redeliver(queue_settings, NODE)
    assert redis.llen("q") == 3


def test_a_lock_that_the_node_held_when_it_died_is_an_error_so_that_it_is_tried_again(
    queue_settings: Settings, redis: Redis
) -> None:
    redis.set(f"sfworker:unacked_mutex:{NODE}", "held")
    with pytest.raises(RedisError, match="locked"):
        redeliver(queue_settings, NODE)
    redis.delete(f"sfworker:unacked_mutex:{NODE}")
    redeliver(queue_settings, NODE)
    assert redis.llen("q") == 3
