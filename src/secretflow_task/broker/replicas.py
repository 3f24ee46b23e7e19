"""Whether what was written outlives the server that took it."""

from __future__ import annotations

from typing import Any

from redis import RedisError
from redis.exceptions import NoPermissionError

from secretflow_task.broker.keys import CONFIRMED

_WAIT_MILLISECONDS = 1000
_GLANCE_MILLISECONDS = 100


def is_replicated(redis: Any) -> bool | None:
    """Wait up to a second for a replica that has all that was written until now, by anyone.

    Returns:
        Whether there is one; None where the server has no replicas, for which nothing waits.
    """
    try:
        if not _replicas(redis):
            return None
        with redis.pipeline(transaction=False) as pipeline:
            # WAIT is about the writes of its own connection; replicas take all in one order.
            pipeline.set(CONFIRMED, "1", ex=60)
            pipeline.wait(1, _WAIT_MILLISECONDS)
            return bool(pipeline.execute()[-1])
    except RedisError:
        return False


def _replicas(redis: Any) -> int:
    try:
        return int(redis.info("replication")["connected_slaves"])
    except NoPermissionError:
        return int(redis.wait(1, _GLANCE_MILLISECONDS))  # one that lags behind counts as none
