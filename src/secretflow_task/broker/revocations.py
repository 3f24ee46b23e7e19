"""Celery's `revoke` cancels an execution, which it knows by Celery's id of the message."""

from __future__ import annotations

import threading
from contextlib import contextmanager, suppress
from typing import Iterator

from redis import Redis, RedisError

from secretflow_task.broker.keys import CANCEL_SECONDS, cancel_key


class Revocations:
    """Which messages are revoked, and which executions they are here; for any thread."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._mutex = threading.Lock()
        self._here: dict[str, str] = {}

    def revoke(self, celery_id: str) -> str | None:
        """Revoke a message, also one that has not come yet; the execution that it is here."""
        self._cancel(celery_id)
        with self._mutex:
            execution_id = self._here.get(celery_id)
        if execution_id:
            self._cancel(execution_id)
        return execution_id

    @contextmanager
    def watching(self, celery_id: str, execution_id: str) -> Iterator[None]:
        """Let what asked for an execution be revoked during the block, or before it."""
        with self._mutex:
            self._here[celery_id] = execution_id
        try:
            with suppress(RedisError):
                if self._redis.exists(cancel_key(celery_id)):
                    self._cancel(execution_id)
            yield
        finally:
            with self._mutex:
                self._here.pop(celery_id, None)

    def _cancel(self, name: str) -> None:
        with suppress(RedisError):  # who reads the key has no Redis either
            self._redis.set(cancel_key(name), "1", ex=CANCEL_SECONDS)
