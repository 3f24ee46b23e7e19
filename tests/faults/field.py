"""A Redis that can be hurt, nodes on it, and what must hold of every execution afterwards."""

from __future__ import annotations

import re
import time
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Iterator, Mapping

import psutil

from secretflow_task.client import Client
from secretflow_task.config.settings import Settings
from secretflow_task.contract.messages import Status, StatusEvent
from secretflow_task.utils.network import free_ports
from tests.bench.redis import RedisServer
from tests.e2e.conftest import psi_params, write_tables
from tests.e2e.nodes import PARTIES, RunningNode, jobs_below, running_node
from tests.faults.report import Report
from tests.integration.bench import listening

PORTS = range(24000, 25000)


def redis_of(folder: Path, keeps_data: bool = False) -> RedisServer:
    """A Redis that keeps its port, and its data where it is asked to."""
    kept = "yes" if keeps_data else "no"
    return RedisServer(folder, free_ports(1)[0], appendonly=kept, appendfsync="always")


class Field:
    """A folder with the parties' tables, and nodes and a Redis on it."""

    def __init__(self, root: Path, report: Report, keeps_data: bool = False) -> None:
        self.root = root
        self.report = report
        self.redis = redis_of(root, keeps_data)
        write_tables(root / "data")

    @contextmanager
    def node(self, name: str = "one", **settings: str) -> Iterator[RunningNode]:
        """A node with its own state, which it finds again when it is started again."""
        own = {
            "SFWORKER_STATE_DIR": str(self.root / f"state-{name}"),
            "SFWORKER_PORT_RANGE": "24000-24999",
        }
        with running_node(self.root, self.redis.url, SFWORKER_NAME=name, **own, **settings) as node:
            yield node

    def client(self) -> Client:
        """A client of the Redis."""
        return Client(Settings(redis_url=self.redis.url))  # type: ignore[arg-type]

    def ended(self, execution_id: str, seconds: float = 60.0) -> dict[str, list[StatusEvent]]:
        """All events of an execution, when each party has its terminal one."""
        found: dict[str, list[StatusEvent]] = {}
        with self.client() as client:
            for event in client.events(execution_id, timeout_seconds=seconds):
                if event is not None:
                    found.setdefault(event.party, []).append(event)
                elif all(party in found and found[party][-1].status.terminal for party in PARTIES):
                    return found
        raise AssertionError("unreachable: the iteration ends with a TimeoutError")

    def settle(
        self,
        fault: str,
        struck: float,
        executions: Mapping[str, set[str]],
        seconds: float = 60.0,
        within: float = float("inf"),
    ) -> None:
        """Wait for the end of ``{execution: allowed codes}``, check it, and note it in the table.

        The code of a success is an empty text; ``within`` so many seconds of the fault all must
        have ended.
        """
        found = {name: self.ended(name, seconds) for name in executions}
        time.sleep(0.5)  # for whatever should not come after a terminal event
        found = {name: self.ended(name, seconds) for name in executions}
        terminal = [
            event
            for events in found.values()
            for of_party in events.values()
            for event in of_party
            if event.status.terminal
        ]
        ended = max(datetime.fromisoformat(event.timestamp).timestamp() for event in terminal)
        self.report.add(
            fault,
            executions=len(PARTIES) * len(executions),
            terminal=len(terminal),
            seconds=max(0.0, ended - struck),
            leftovers=self.leftovers(),
        )
        for name, allowed in executions.items():
            for events in found[name].values():
                check_events(events)
            codes = {events[-1].data.get("error_code", "") for events in found[name].values()}
            assert len(codes) == 1 and codes <= allowed, (name, codes)
        assert ended - struck < within

    def leftovers(self) -> list[str]:
        """Job processes, ports and files that should be gone."""
        deadline = time.monotonic() + 5
        while left := self._leftovers():
            if time.monotonic() > deadline:
                break
            time.sleep(0.1)
        assert not left, left
        return left

    def _leftovers(self) -> list[str]:
        jobs = [f"process {process.pid}" for process in self.jobs()]
        ports = [f"port {port}" for port, _ in listening(PORTS)]
        folders = [*self.root.glob("work*/*/*"), *self.root.glob("data/**/.sfworker-*")]
        return [*jobs, *ports, *map(str, folders)]

    def jobs(self) -> list[psutil.Process]:
        """Every running job process of any node here."""
        return jobs_below(str(self.root / "work"))

    def serves(self, node: RunningNode, execution_id: str) -> None:
        """The next request succeeds."""
        node.send(execution_id, psi_params())
        for events in self.ended(execution_id).values():
            check_events(events)
            assert events[-1].status is Status.SUCCESS, events[-1].data


def check_events(events: list[StatusEvent]) -> None:
    """Numbered from 1 without a gap, one terminal event, the last; progress never falls."""
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert [event.status.terminal for event in events] == [False] * (len(events) - 1) + [True]
    progress = [event.data["progress"] for event in events]
    assert progress == sorted(progress) or events[-1].status is Status.FAILURE


def moved_to(params: dict[str, Any], folder: str) -> dict[str, Any]:
    """The same request with its outputs in another folder."""
    text = re.sub(r"\bout\.csv", f"{folder}/out.csv", repr(params))
    return dict(eval(text))  # pylint: disable=eval-used  # a literal of our own
