"""What is read off a node when its metrics are scraped."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime, timezone
from itertools import islice
from typing import Any, Iterable, Iterator, Mapping

from prometheus_client import Metric as Family
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector
from redis import RedisError, ResponseError

from secretflow_task.broker.connection import connect
from secretflow_task.broker.keys import queue_keys
from secretflow_task.broker.listener_groups import lags
from secretflow_task.broker.queue import waiting_in
from secretflow_task.config.settings import Settings
from secretflow_task.node.job import vitals
from secretflow_task.node.metrics import catalogue
from secretflow_task.node.metrics.catalogue import Metric
from secretflow_task.node.metrics.counters import Metrics
from secretflow_task.node.node import Node
from secretflow_task.node.publisher import Publisher

REDIS_SECONDS = 1.0  # how long a scrape or a question for readiness waits for Redis

Values = Mapping[tuple[str, ...], float]  # by the values of the labels
_FAMILIES = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily}


class NodeCollector(Collector):
    """Reads at each scrape what is there anyhow."""

    def __init__(
        self, node: Node, metrics: Metrics, publisher: Publisher, redis: RedisGlance
    ) -> None:
        self._node = node
        self._metrics = metrics
        self._publisher = publisher
        self._redis = redis

    def describe(self) -> Iterable[Family]:
        """The families without values."""
        return map(_family, catalogue.SAMPLED)

    def collect(self) -> Iterator[Family]:
        """The families with their values."""
        values = self._of_the_node() | self._of_events() | self._of_disks() | self._of_problems()
        for metric in catalogue.SAMPLED:
            family = _family(metric)
            for labels, value in values[metric].items():
                family.add_metric(labels, value)
            yield family

    def _of_the_node(self) -> dict[Metric, Values]:
        node, seen = self._node, self._redis.look()
        waiting: dict[tuple[str, ...], float] = {
            (queue,): length for queue, length in (seen.queue_lengths if seen else {}).items()
        }
        behind: dict[tuple[str, ...], float] = {
            (group,): lag for group, lag in (seen.lags if seen else {}).items()
        }
        oldest: dict[tuple[str, ...], float] = {
            (queue,): seconds for queue, seconds in (seen.oldest_seconds if seen else {}).items()
        }
        return {
            catalogue.EXECUTIONS_RUNNING: {(): len(node.running())},
            catalogue.EXECUTIONS_LIMIT: {(): node.settings.concurrency},
            catalogue.QUEUE_LENGTH: waiting,
            catalogue.QUEUE_OLDEST_SECONDS: oldest,
            catalogue.REDIS_UP: {(): float(seen is not None)},
            catalogue.LISTENER_LAG_SECONDS: behind,
            catalogue.JOB_MEMORY_BYTES: {(): self._metrics.job_memory_bytes()},
            catalogue.MEMORY_SIZE_BYTES: {(): vitals.memory_size_bytes()},
            catalogue.TEMPLATE_RESTARTS: {(): node.template.restarts},
            catalogue.TEMPLATE_READY: {(): float(node.template.ready)},
        }

    def _of_events(self) -> dict[Metric, Values]:
        store = self._node.store
        oldest = [datetime.fromisoformat(unsent.event.timestamp) for unsent in store.unsent(1)]
        ages = [(datetime.now(timezone.utc) - since).total_seconds() for since in oldest]
        return {
            catalogue.OUTBOX_EVENTS: {(): store.waiting()},
            catalogue.OUTBOX_OLDEST_SECONDS: {(): max([0.0, *ages])},
            catalogue.EVENTS_DROPPED: {(): store.dropped},
            catalogue.PUBLISH_FAILURES: {(): self._publisher.failures},
        }

    def _of_disks(self) -> dict[Metric, Values]:
        free: dict[tuple[str, ...], float] = {}
        size: dict[tuple[str, ...], float] = {}
        for name, folder in self._node.folders.items():
            if space := folder.look():  # one that does not exist yet has no series
                free[name,], size[name,] = float(space.free_bytes), float(space.size_bytes)
        return {catalogue.DISK_FREE_BYTES: free, catalogue.DISK_SIZE_BYTES: size}

    def _of_problems(self) -> dict[Metric, Values]:
        states = self._node.health.states()
        return {catalogue.PROBLEM: {(problem.code,): float(there) for problem, there in states}}


def _family(metric: Metric) -> Any:
    return _FAMILIES[metric.kind](metric.name, metric.meaning, labels=metric.labels)


@dataclass(frozen=True)
class Sight:
    """What Redis has.

    Attributes:
        queue_lengths: how many requests wait in each queue.
        oldest_seconds: how long the next of each queue has waited, where its sender says so.
        lags: age in seconds of the oldest event that a group of listeners has not written, 0 if
            all are written, by the group's name.
    """

    queue_lengths: dict[str, int]
    oldest_seconds: dict[str, float]
    lags: dict[str, float]


class RedisGlance:
    """Looks at Redis for a moment; nothing here may wait for it."""

    def __init__(self, settings: Settings) -> None:
        self._redis: Any = connect(settings, timeout_seconds=REDIS_SECONDS)
        self._queues = settings.queues
        self._ask_again_at = 0.0

    def look(self) -> Sight | None:
        """What it has; None when it does not answer in time, and for a second after that."""
        if time.monotonic() < self._ask_again_at:
            return None
        sight = self._look()
        if sight is None:
            self._ask_again_at = time.monotonic() + REDIS_SECONDS
        return sight

    def _look(self) -> Sight | None:
        lists = [queue_keys(queue) for queue in self._queues]
        try:
            with self._redis.pipeline(transaction=False) as pipeline:
                for keys in lists:
                    for key in keys:
                        pipeline.llen(key)
                counts = iter(pipeline.execute())
            oldest, behind = self._oldest(), self._lags()
        except RedisError:
            return None
        lengths = {}
        for queue, keys in zip(self._queues, lists):
            lengths[queue] = sum(islice(counts, len(keys)))
        return Sight(lengths, oldest, behind)

    def _oldest(self) -> dict[str, float]:
        """How long the next of each queue has waited, of those that say when they were sent."""
        found = {}
        try:
            for queue in self._queues:
                waiting = waiting_in(self._redis, queue, most=1)
                if not waiting:
                    found[queue] = 0.0
                elif waiting[0].sent_at is not None:
                    found[queue] = max(0.0, time.time() - waiting[0].sent_at)
        except ResponseError:  # this node's user may not look
            return {}
        return found

    def _lags(self) -> dict[str, float]:
        try:
            return lags(self._redis)
        except ResponseError:  # this node's user may not look
            return {}

    def close(self) -> None:
        """Give back the connections."""
        self._redis.close()
