"""`sfworker doctor`: what a node needs, what is wrong with it here, and how to mend it."""

from __future__ import annotations

import os
import platform
import shutil
from collections import Counter
from importlib import metadata
from pathlib import Path
from typing import Any, Callable, Iterator, Mapping

from redis import RedisError
from rich.markup import escape
from rich.table import Table

from secretflow_task.broker.connection import connect
from secretflow_task.broker.nodes import living_nodes
from secretflow_task.broker.quarantine import rejected
from secretflow_task.cli import doctor_redis
from secretflow_task.cli.finding import Finding
from secretflow_task.cli.listeners import state_and_advice
from secretflow_task.cli.terminal import console
from secretflow_task.config.settings import Settings
from secretflow_task.contract.errors import BadSetting, NodeUnreachable, WorkerError
from secretflow_task.node.door.address import is_writable_by_others
from secretflow_task.node.door.client import ask
from secretflow_task.node.link.peer.dial import Dialler
from secretflow_task.node.ports import is_free
from secretflow_task.utils.log import problem_of

ENGINE = ("secretflow", "1.14.0b0")
_ANSWER_SECONDS = 3.0  # the operator waits
_DISK_BYTES = 5 * 1024**3


def examine(settings: Settings) -> bool:
    """Run all checks and print them; whether all is well."""
    return show({name: check(settings) for name, check in _CHECKS.items()})


def show(findings: Mapping[str, Finding]) -> bool:
    """Print findings as a table; whether all is well."""
    table = Table("check", "", "found", "what to do")
    for name, finding in findings.items():
        mark = "[red]wrong[/]" if finding.mend else "[green]ok[/]"
        table.add_row(name, mark, escape(finding.state), escape(finding.mend))
    console.print(table)
    return not any(finding.mend for finding in findings.values())


def _python(_settings: Settings) -> Finding:
    version = platform.python_version()
    if version.startswith("3.10."):
        return Finding(version)
    return Finding(
        version, "A node needs Python 3.10; a client or the command line runs on this one."
    )


def _engine(_settings: Settings) -> Finding:
    name, wanted = ENGINE
    try:
        found = metadata.version(name)
    except metadata.PackageNotFoundError:
        return Finding("not installed", "pip install 'secretflow-worker[engine]' on Python 3.10.")
    return Finding(
        found, "" if found == wanted else f"Install {name}=={wanted}; the worker is built for it."
    )


def _nodes(settings: Settings) -> Finding:
    try:
        with doctor_redis.opened(settings) as redis:
            nodes = living_nodes(redis)
    except (RedisError, OSError, ValueError) as error:
        return Finding(f"unknown: {doctor_redis.explain(error)[0]}")
    if not nodes:
        return Finding("none runs")
    found = [line for node in nodes for line in _told_by(node)]
    hints = [problem["hint"] for node in nodes for problem in node.get("problems", ())]
    return Finding("\n".join(found), "\n".join(dict.fromkeys(hints)))


def _own_node(settings: Settings) -> Finding:
    """What the node of this machine says at its door, also while Redis is away."""
    if is_writable_by_others(settings.state_dir):
        return Finding(
            "others may write to its state folder, so a node has no door",
            "chmod 700, or set SFWORKER_STATE_DIR to a folder below it; then restart the node.",
        )
    try:
        told = ask(settings.state_dir, "health", timeout_seconds=_ANSWER_SECONDS)
    except WorkerError as error:
        none_runs = error.message == NodeUnreachable().message
        return Finding(error.message, "" if none_runs else error.hint)
    except OSError as error:
        return Finding(problem_of(error), "Run this as the user of the node.")
    hints = [problem["hint"] for problem in told["problems"]]
    return Finding("\n".join(_told_by(told)), "\n".join(hints))


def _quarantine(settings: Settings) -> Finding:
    try:
        with connect(settings, timeout_seconds=_ANSWER_SECONDS) as redis:
            reasons = Counter(entry.reason for entry in rejected(redis, settings.queues))
    except (RedisError, OSError, ValueError) as error:
        return Finding(f"unknown: {doctor_redis.explain(error)[0]}")
    if not reasons:
        return Finding("empty")
    return Finding(
        "\n".join(f"{reason}: {count}" for reason, count in reasons.most_common()),
        "Somebody puts into the queue what is no request: `sfworker rejected` shows it, "
        "and with --delete forgets it.",
    )


def _told_by(node: Mapping[str, Any]) -> Iterator[str]:
    """What a node says of itself in its lease; one of an older version says nothing of problems."""
    yield (
        f"{node['name']}: {node['running']} running, {node['events_waiting']} events waiting,"
        f" {node['events_dropped']} dropped"
    )
    for problem in node.get("problems", ()):
        yield f"{node['name']}: {problem['code']}: {problem['message']}"


def _listeners(settings: Settings) -> Finding:
    try:
        with doctor_redis.opened(settings) as redis:
            return Finding(*state_and_advice(redis, settings))
    except (RedisError, OSError, ValueError) as error:
        return Finding(f"unknown: {doctor_redis.explain(error)[0]}")


def _ports(settings: Settings) -> Finding:
    sample = settings.ports[:: max(1, len(settings.ports) // 200)]
    free = sum(is_free(port) for port in sample) / len(sample)
    enough = free * len(settings.ports) >= 8 * settings.concurrency
    state = f"{settings.port_range}, {free:.0%} free"
    return Finding(state, "" if enough else "Choose another SFWORKER_PORT_RANGE below 32768.")


def _peer_link(settings: Settings) -> Finding:
    if not settings.peer_listen:
        return Finding("none: SFWORKER_PEER_LISTEN is not set")
    try:
        parties = ", ".join(sorted(Dialler.of(settings).book.peers))
    except BadSetting as error:
        return Finding(error.message, error.hint)
    return Finding(
        f"{settings.peer_listen}, to {parties}; `sfworker doctor --peer PARTY` tests the connection"
    )


def _metrics(settings: Settings) -> Finding:
    listen = settings.metrics_listen
    return Finding(
        f"http://{listen}/metrics" if listen else "none: SFWORKER_METRICS_LISTEN is not set"
    )


def _folder(field: str) -> Callable[[Settings], Finding]:
    def check(settings: Settings) -> Finding:
        path = Path(getattr(settings, field)).absolute()
        present = next(folder for folder in (path, *path.parents) if folder.is_dir())
        variable = f"SFWORKER_{field.upper()}"
        if not os.access(present, os.W_OK):
            return Finding(
                f"{path} cannot be written", f"Give this user the right, or set {variable}."
            )
        free = shutil.disk_usage(present).free
        state = f"{path}, {free / 1024**3:.0f} GiB free"
        return Finding(state, "" if free > _DISK_BYTES else f"Free some space, or set {variable}.")

    return check


def _data_root(settings: Settings) -> Finding:
    path = settings.data_root.absolute()
    if path.is_dir():
        return _folder("data_root")(settings)
    return Finding(f"{path} does not exist", "Make the folder, or set SFWORKER_DATA_ROOT.")


_CHECKS: dict[str, Callable[[Settings], Finding]] = {
    "Python": _python,
    "SecretFlow": _engine,
    "Redis": doctor_redis.server,
    "Redis memory": doctor_redis.memory,
    "Redis rights": doctor_redis.rights,
    "clock": doctor_redis.clock,
    "nodes": _nodes,
    "node here": _own_node,
    "listeners": _listeners,
    "quarantine": _quarantine,
    "ports": _ports,
    "peer link": _peer_link,
    "metrics": _metrics,
    "data folder": _data_root,
    "state folder": _folder("state_dir"),
    "work folder": _folder("work_dir"),
}
