"""How a node is, over HTTP: ``/metrics`` for Prometheus, ``/healthz`` and ``/readyz`` for who runs it."""

from __future__ import annotations

import json
import shutil
import socket
import socketserver
import threading
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Callable, Iterable, Iterator, Mapping
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from kombu.transport.redis import PRIORITY_STEPS, Channel
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client import Metric as Family
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector
from redis import Redis, RedisError

from secretflow_task.config.settings import Settings
from secretflow_task.errors import BadSetting
from secretflow_task.node import vitals
from secretflow_task.node.metrics import Metric, Metrics
from secretflow_task.node.node import Node
from secretflow_task.utils.log import get_logger
from secretflow_task.utils.status_notifier import GROUP, STREAM, Publisher

log = get_logger()

_REDIS_SECONDS = 1.0  # how long a scrape or a question for readiness waits for Redis
_REQUEST_SECONDS = 5.0  # how long a client may take to send a request, or to read the answer
_REQUESTS_AT_ONCE = 4
_FAREWELL_SECONDS = 1.0  # how long the end of the node waits for each of them

SAMPLED = (
    Metric("sfworker_executions_running", "gauge", "Executions that run now."),
    Metric(
        "sfworker_executions_limit",
        "gauge",
        "Executions that may run at once: SFWORKER_CONCURRENCY.",
    ),
    Metric(
        "sfworker_queue_length",
        "gauge",
        "Requests that wait in Redis; absent when it is away.",
        ("queue",),
    ),
    Metric("sfworker_redis_up", "gauge", "1 if Redis answers, else 0."),
    Metric(
        "sfworker_job_memory_bytes",
        "gauge",
        "Proportional set size of all job processes; each is weighed every 10 s.",
    ),
    Metric(
        "sfworker_memory_size_bytes",
        "gauge",
        "Memory of the machine, or the container's limit if less.",
    ),
    Metric(
        "sfworker_template_restarts_total", "counter", "Templates that had died and were replaced."
    ),
    Metric(
        "sfworker_template_ready",
        "gauge",
        "1 if jobs can be started; 0 while there is no template for them.",
    ),
    Metric("sfworker_outbox_events", "gauge", "Status events that wait to be sent to Redis."),
    Metric(
        "sfworker_outbox_oldest_seconds",
        "gauge",
        "Age of the oldest event that waits; 0 if none waits.",
    ),
    Metric(
        "sfworker_events_dropped_total",
        "counter",
        "Progress that was dropped, since too many events waited.",
    ),
    Metric("sfworker_publish_failures_total", "counter", "Attempts to send events that failed."),
    Metric(
        "sfworker_listener_lag_seconds",
        "gauge",
        "Age of the oldest status event that no listener has written; absent without listeners or Redis.",
    ),
    Metric(
        "sfworker_disk_free_bytes",
        "gauge",
        "Free space of the disk that holds a folder of the node.",
        ("folder",),
    ),
    Metric(
        "sfworker_disk_size_bytes",
        "gauge",
        "Size of the disk that holds a folder of the node.",
        ("folder",),
    ),
)
_FAMILIES = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily}
Values = Mapping[tuple[str, ...], float]  # by the values of the labels
Problems = Callable[[], list[str]]
StartResponse = Callable[[str, list[tuple[str, str]]], object]


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
        return map(_family, SAMPLED)

    def collect(self) -> Iterator[Family]:
        """The families with their values."""
        values = self._of_the_node() | self._of_events() | self._of_disks()
        for metric in SAMPLED:
            family = _family(metric)
            for labels, value in values[metric.name].items():
                family.add_metric(labels, value)
            yield family

    def _of_the_node(self) -> dict[str, Values]:
        node, seen = self._node, self._redis.look()
        waiting: dict[tuple[str, ...], float] = {
            (queue,): length for queue, length in (seen.queue_lengths if seen else {}).items()
        }
        return {
            "sfworker_executions_running": {(): len(node.running())},
            "sfworker_executions_limit": {(): node.settings.concurrency},
            "sfworker_queue_length": waiting,
            "sfworker_redis_up": {(): float(seen is not None)},
            "sfworker_listener_lag_seconds": (
                {} if seen is None or seen.lag_seconds is None else {(): seen.lag_seconds}
            ),
            "sfworker_job_memory_bytes": {(): self._metrics.job_memory_bytes()},
            "sfworker_memory_size_bytes": {(): vitals.memory_size_bytes()},
            "sfworker_template_restarts_total": {(): node.template.restarts},
            "sfworker_template_ready": {(): float(node.template.ready)},
        }

    def _of_events(self) -> dict[str, Values]:
        store = self._node.store
        oldest = [datetime.fromisoformat(unsent.event.timestamp) for unsent in store.unsent(1)]
        ages = [(datetime.now(timezone.utc) - since).total_seconds() for since in oldest]
        return {
            "sfworker_outbox_events": {(): store.waiting()},
            "sfworker_outbox_oldest_seconds": {(): max([0.0, *ages])},
            "sfworker_events_dropped_total": {(): store.dropped},
            "sfworker_publish_failures_total": {(): self._publisher.failures},
        }

    def _of_disks(self) -> dict[str, Values]:
        settings = self._node.settings
        folders = {
            "state": settings.state_dir,
            "work": settings.work_dir,
            "data": settings.data_root,
        }
        free: dict[tuple[str, ...], float] = {}
        size: dict[tuple[str, ...], float] = {}
        for name, folder in folders.items():
            with suppress(OSError):  # one that does not exist yet has no series
                usage = shutil.disk_usage(folder)
                free[name,], size[name,] = float(usage.free), float(usage.total)
        return {"sfworker_disk_free_bytes": free, "sfworker_disk_size_bytes": size}


def _family(metric: Metric) -> Any:
    return _FAMILIES[metric.kind](metric.name, metric.meaning, labels=metric.labels)


@dataclass(frozen=True)
class Sight:
    """What Redis has.

    Attributes:
        queue_lengths: how many requests wait in each queue.
        lag_seconds: age of the oldest event that no listener has written, 0 if all are written; None where
            no listener has ever been.
    """

    queue_lengths: dict[str, int]
    lag_seconds: float | None


class RedisGlance:
    """Looks at Redis for a moment; nothing here may wait for it."""

    def __init__(self, settings: Settings) -> None:
        self._redis: Any = Redis.from_url(
            settings.redis_url.get_secret_value(),
            socket_timeout=_REDIS_SECONDS,
            socket_connect_timeout=_REDIS_SECONDS,
        )
        self._queues = settings.queues

    def look(self) -> Sight | None:
        """What it has; None when it does not answer in time."""
        try:
            with self._redis.pipeline(transaction=False) as pipeline:
                for queue in self._queues:
                    for step in PRIORITY_STEPS:  # kombu has one list for each
                        pipeline.llen(f"{queue}{Channel.sep}{step}" if step else queue)
                pipeline.time().xinfo_groups(STREAM).xpending(STREAM, GROUP)
                *counts, now, groups, pending = pipeline.execute(raise_on_error=False)
            for failed in filter(lambda answer: isinstance(answer, RedisError), [*counts, now]):
                raise failed
            lag = self._lag_seconds(now, groups, pending)
        except RedisError:
            return None
        steps = len(PRIORITY_STEPS)
        lengths = {
            queue: sum(counts[steps * i : steps * (i + 1)]) for i, queue in enumerate(self._queues)
        }
        return Sight(lengths, lag)

    def _lag_seconds(self, now: tuple[int, int], groups: Any, pending: Any) -> float | None:
        """From what Redis says of the stream; it refuses an answer where there is no stream or no group."""
        if isinstance(groups, RedisError) or isinstance(pending, RedisError):
            return None
        positions = {group["name"]: group["last-delivered-id"] for group in groups}
        position = positions.get(GROUP.encode(), b"0-0")
        oldest = pending["min"]  # read and not written; all that comes after it is newer
        if oldest is None:
            unread = self._redis.xrange(STREAM, min=b"(" + position, count=1)
            oldest = unread[0][0] if unread else None
        # An id begins with the milliseconds of the same clock.
        return 0.0 if oldest is None else max(0.0, now[0] - int(oldest.split(b"-")[0]) / 1000)

    def close(self) -> None:
        """Give back the connections."""
        self._redis.close()


class Monitor:
    """The HTTP server; a context manager that does nothing without an address to listen on."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._redis = RedisGlance(settings)
        self._server: _Server | None = None
        self._alive: Problems = lambda: []
        self._ready: Problems = lambda: ["The node is starting."]

    def __enter__(self) -> Monitor:
        if self._settings.metrics_listen:
            self._server = _listen(self._settings.metrics_listen)
            self._server.set_app(self._answer)
            threading.Thread(target=self._server.serve_forever, name="monitor", daemon=True).start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Answer no more."""
        if server := self._server:
            self._server = None
            server.shutdown()
            server.server_close()
        self._redis.close()

    @property
    def port(self) -> int:
        """The port that is listened on; 0 for none."""
        return int(self._server.server_port) if self._server else 0

    def watch(self, node: Node, publisher: Publisher, stopping: Callable[[], bool]) -> None:
        """Tell how a node is that has started; `close` comes before the node's end."""
        self._metrics.registry.register(NodeCollector(node, self._metrics, publisher, self._redis))
        self._alive = lambda: _missing_threads(self._settings)
        self._ready = lambda: self._why_unready(node, stopping)

    def _why_unready(self, node: Node, stopping: Callable[[], bool]) -> list[str]:
        reasons = {
            "The node is stopping.": stopping(),
            "The template has ended; another is started.": not node.template.ready,
            "Redis does not answer.": self._redis.look() is None,
        }
        return [reason for reason, holds in reasons.items() if holds]

    def _answer(self, environ: dict[str, Any], start_response: StartResponse) -> Any:
        checks = {"/healthz": self._alive, "/readyz": self._ready}
        path = environ["PATH_INFO"]
        if path == "/metrics":
            start_response("200 OK", [("Content-Type", CONTENT_TYPE_PLAIN_0_0_4)])
            return [self._metrics.exposition()]
        if path not in checks:
            start_response("404 Not Found", [("Content-Type", "text/plain")])
            return [b"There are /metrics, /healthz and /readyz.\n"]
        reasons = checks[path]()
        status = "503 Service Unavailable" if reasons else "200 OK"
        start_response(status, [("Content-Type", "application/json")])
        return [json.dumps({"ok": not reasons, "reasons": reasons}).encode() + b"\n"]


def _missing_threads(settings: Settings) -> list[str]:
    """A thread that ended by a defect: the node would go on without what it does."""
    expected = {"status-publisher", "lease", "housekeeping"} | (
        {"peers"} if settings.peer_listen else set()
    )
    missing = expected - {thread.name for thread in threading.enumerate()}
    return [f"The thread {name} has ended." for name in sorted(missing)]


class _Handler(WSGIRequestHandler):
    timeout = _REQUEST_SECONDS  # of each wait for the client, and of the request as a whole

    def log_message(self, *_arguments: Any) -> None:  # pylint: disable=arguments-differ
        """Nobody reads about scrapes."""


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    """One thread per request, a few at once; the others wait in the kernel.

    No client can hold up the node's end, so that there is a limit to every wait.
    """

    daemon_threads = True

    def __init__(self, host: str, port: int) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._free = threading.BoundedSemaphore(_REQUESTS_AT_ONCE)
        super().__init__((host, port), _Handler)

    def server_bind(self) -> None:
        """Bind; the standard way also asks the name service for the own name, which may take a while."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]
        self.setup_environ()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread, when one is free."""
        # pylint: disable-next=consider-using-with  # the thread releases it
        if self._free.acquire(timeout=_REQUEST_SECONDS):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer, to a client that does not take its time byte by byte."""
        deadline = threading.Timer(_Handler.timeout, _hang_up, [request])
        deadline.daemon = True
        deadline.start()
        try:
            super().process_request_thread(request, client_address)
        finally:
            deadline.cancel()
            self._free.release()

    def server_close(self) -> None:
        """Listen no more, and let what is being answered be answered."""
        super().server_close()
        for _ in range(_REQUESTS_AT_ONCE):
            self._free.acquire(timeout=_FAREWELL_SECONDS)  # pylint: disable=consider-using-with

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that left early is no news."""
        log.debug("A request for metrics broke.", action="scrape_broke", exc_info=True)


def _hang_up(request: socket.socket) -> None:
    with suppress(OSError):  # it may have just ended
        request.shutdown(socket.SHUT_RDWR)


def _listen(address: str) -> _Server:
    host, _, port = address.rpartition(":")
    try:
        return _Server(host.strip("[]"), int(port))
    except (OSError, OverflowError):
        raise BadSetting(f"SFWORKER_METRICS_LISTEN: {address} cannot be listened on.") from None
