"""A real Prometheus and Alertmanager on the files of monitoring, in fast motion, and a receiver."""

from __future__ import annotations

import json
import subprocess
import threading
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest

from secretflow_task.utils.network import free_ports
from tests.bench.waiting import wait_for
from tests.contract.monitoring import FOLDER, faster, program

FACTOR = 60  # a minute of the files is a second of a test
PROMETHEUS, ALERTMANAGER = program("prometheus"), program("prometheus-alertmanager", "alertmanager")
needs_programs = pytest.mark.skipif(
    not (PROMETHEUS and ALERTMANAGER), reason="Prometheus and Alertmanager are not installed"
)
Notice = tuple[str, str, dict[str, str]]  # alert, "firing" or "resolved", labels


class Alerting:
    """Watches one node; a context manager.

    Attributes:
        notices: what has come to the webhook, in order.
    """

    def __init__(self, folder: Path, metrics_port: int) -> None:
        self._folder = folder
        self._target = f"127.0.0.1:{metrics_port}"
        self._stack = ExitStack()
        self.notices: list[Notice] = []
        self.url, self.alertmanager_url = (f"http://127.0.0.1:{port}" for port in free_ports(2))

    def __enter__(self) -> Alerting:
        with ExitStack() as stack:
            webhook = stack.enter_context(_Webhook(self.notices))
            threading.Thread(target=webhook.serve_forever, daemon=True).start()
            stack.callback(webhook.shutdown)
            self._write(f"http://127.0.0.1:{webhook.server_port}/alerts")
            self._run(
                stack,
                ALERTMANAGER,
                self.alertmanager_url,
                "alertmanager/alertmanager.yml",
                "storage.path",
            )
            self._run(stack, PROMETHEUS, self.url, "prometheus.yml", "storage.tsdb.path")
            wait_for(
                lambda: self.query('up{job="sfworker"} == 1')
            )  # Prometheus looks for targets every 5 s
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def hears(self, alert: str, status: str, since: int = 0, **labels: str) -> int:
        """Wait until the webhook hears of an alert; returns how many notices there are then."""

        def heard() -> bool:
            return any(
                (name, state) == (alert, status) and labels.items() <= found.items()
                for name, state, found in self.notices[since:]
            )

        wait_for(heard, 90)
        return len(self.notices)

    def query(self, expression: str) -> list[dict[str, Any]]:
        """What an expression is now."""
        with urlopen(
            f"{self.url}/api/v1/query?{urlencode({'query': expression})}", timeout=10
        ) as answer:
            return list(json.load(answer)["data"]["result"])

    def _write(self, webhook: str) -> None:
        changes = {
            "prometheus.yml": {"localhost:9093": self.alertmanager_url.removeprefix("http://")},
            "targets.yml": {"localhost:9464": self._target},
            "alertmanager/alertmanager.yml": {"http://localhost:8080/alerts": webhook},
            "rules/sfworker.yml": {},
            "alerts/sfworker.yml": {},
        }
        for path, replaced in changes.items():
            text = (FOLDER / path).read_text(encoding="utf-8")
            for old, new in replaced.items():
                assert old in text
                text = text.replace(old, new)
            (self._folder / path).parent.mkdir(parents=True, exist_ok=True)
            (self._folder / path).write_text(faster(text, FACTOR), encoding="utf-8")

    def _run(self, stack: ExitStack, path: str | None, url: str, config: str, storage: str) -> None:
        address = url.removeprefix("http://")
        command = [
            path,
            f"--config.file={self._folder / config}",
            f"--web.listen-address={address}",
        ]
        command += [f"--{storage}={self._folder / storage}", "--log.level=warn"]
        command += ["--cluster.listen-address="] if storage == "storage.path" else []
        log = stack.enter_context((self._folder / f"{storage}.log").open("wb"))
        process = stack.enter_context(
            subprocess.Popen(list(map(str, command)), stdout=log, stderr=log)
        )
        stack.callback(process.kill)
        wait_for(lambda: process.poll() is None and _answers(f"{url}/-/ready"))


class _Webhook(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, notices: list[Notice]) -> None:
        self.notices = notices
        super().__init__(("127.0.0.1", 0), _Handler)


class _Handler(BaseHTTPRequestHandler):
    server: _Webhook

    def do_POST(self) -> None:  # pylint: disable=invalid-name
        """Take a group of alerts."""
        message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        for alert in message["alerts"]:
            self.server.notices.append(
                (alert["labels"]["alertname"], alert["status"], alert["labels"])
            )
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_arguments: object) -> None:  # pylint: disable=arguments-differ
        """Nobody reads it."""


def _answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=5):
            return True
    except OSError:
        return False
