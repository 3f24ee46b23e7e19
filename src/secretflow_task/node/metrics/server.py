"""How a node is, over HTTP: ``/metrics`` for Prometheus, ``/healthz`` and ``/readyz`` for who runs
it.
"""

from __future__ import annotations

import json
import socket
import socketserver
import threading
from contextlib import suppress
from typing import Any, Callable
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4

from secretflow_task.config.settings import Settings
from secretflow_task.contract.errors import BadSetting
from secretflow_task.node.health import NODE_STARTING, NODE_STOPPING, REDIS_AWAY, Problem
from secretflow_task.node.metrics.collector import NodeCollector, RedisGlance
from secretflow_task.node.metrics.counters import Metrics
from secretflow_task.node.node import Node
from secretflow_task.node.publisher import Publisher
from secretflow_task.utils.log import get_logger
from secretflow_task.utils.network import address_family, host_and_port

log = get_logger()
_REQUEST_SECONDS = 5.0  # how long a client may take to send a request, or to read the answer
_REQUESTS_AT_ONCE = 4
_FAREWELL_SECONDS = 1.0  # how long the end of the node waits for each of them
StartResponse = Callable[[str, list[tuple[str, str]]], object]


class Monitor:
    """The HTTP server; a context manager that does nothing without an address to listen on."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._redis = RedisGlance(settings)
        self._server: _Server | None = None
        self._missing: Callable[[], list[str]] = lambda: []
        self._problems: Callable[[], list[Problem]] = lambda: [NODE_STARTING]

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
        node.health.watch(NODE_STOPPING, stopping)
        node.health.watch(REDIS_AWAY, lambda: self._redis.look() is None)
        self._metrics.registry.register(NodeCollector(node, self._metrics, publisher, self._redis))
        self._missing = lambda: _missing_threads(self._settings)
        self._problems = node.health.problems

    def _answer(self, environ: dict[str, Any], start_response: StartResponse) -> Any:
        path = environ["PATH_INFO"]
        if path == "/metrics":
            start_response("200 OK", [("Content-Type", CONTENT_TYPE_PLAIN_0_0_4)])
            return [self._metrics.exposition()]
        if path == "/healthz":
            return _verdict({"reasons": self._missing()}, start_response)
        if path == "/readyz":
            return _verdict(_told(self._problems()), start_response)
        start_response("404 Not Found", [("Content-Type", "text/plain")])
        return [b"There are /metrics, /healthz and /readyz.\n"]


def _told(problems: list[Problem]) -> dict[str, Any]:
    """The sentences alone, too: they are all that a person looks for."""
    return {
        "reasons": [problem.message for problem in problems],
        "problems": [problem.to_dict() for problem in problems],
    }


def _verdict(told: dict[str, Any], start_response: StartResponse) -> list[bytes]:
    well = not told["reasons"]
    status = "200 OK" if well else "503 Service Unavailable"
    start_response(status, [("Content-Type", "application/json")])
    return [json.dumps({"ok": well, **told}).encode() + b"\n"]


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
        self.address_family = address_family(host)
        self._free = threading.BoundedSemaphore(_REQUESTS_AT_ONCE)
        super().__init__((host, port), _Handler)

    def server_bind(self) -> None:
        """Bind; the standard way also asks the name service for the own name, which may take a
        while.
        """
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
    host, port = host_and_port(address)
    try:
        return _Server(host, port)
    except OSError:
        raise BadSetting(f"SFWORKER_METRICS_LISTEN: {address} cannot be listened on.") from None
