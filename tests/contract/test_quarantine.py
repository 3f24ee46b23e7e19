"""What the quarantine holds is listed, shown without harm to the terminal, and deleted."""

from __future__ import annotations

import os
import re
import time
from typing import Iterator

import pytest
from redis import Redis
from typer.testing import CliRunner

from secretflow_task.broker.entry import KEPT_BYTES, Reason
from secretflow_task.broker.keys import rejected_key
from secretflow_task.broker.quarantine import rejected
from secretflow_task.cli import app
from secretflow_task.cli.doctor import _quarantine
from secretflow_task.config.settings import Settings
from tests.bench.redis import RedisServer

STEERING = b"\x1b]0;title\x07\x1b[2J\r[red]\xff\xe2\x80\xae{}"


@pytest.fixture
def settings(
    redis: Redis, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Settings]:
    """Settings of two queues, whose quarantines hold three entries."""
    head, tail = b"x" * KEPT_BYTES, b"y" * KEPT_BYTES
    for queue, reason, size, fields in (
        ("q1", Reason.NO_JSON, len(STEERING), {"head": STEERING, "tail": b""}),
        ("q2", Reason.TOO_LARGE, 10**8, {"head": head, "tail": tail}),
        ("q2", Reason.NO_JSON, 0, {"head": b"", "tail": b""}),
    ):
        record = {"reason": reason.value, "size": size, "digest": "d1"} | fields
        redis.xadd(rejected_key(queue), record)  # type: ignore[arg-type]
    for name in [name for name in os.environ if name.startswith("SFWORKER_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SFWORKER_REDIS_URL", redis_server.url)
    monkeypatch.setenv("SFWORKER_QUEUES", "q1,q2")
    yield Settings()


def run(*arguments: str) -> tuple[int, str]:
    """Exit code and output of `sfworker rejected`."""
    result = CliRunner().invoke(app, ["rejected", *arguments], env={"COLUMNS": "200"})
    return result.exit_code, result.output


def names(server: RedisServer) -> list[str]:
    """The names of all entries, the newest of each queue first."""
    with Redis.from_url(server.url) as client:
        return [entry.name for entry in rejected(client, ("q1", "q2"))]


def test_all_entries_are_listed_with_time_size_and_reason(
    settings: Settings, redis_server: RedisServer
) -> None:
    del settings
    code, output = run()
    assert code == 0
    assert re.findall(r"q\d:\d+-\d+", output) == names(redis_server)
    assert time.strftime("%Y-%m-%d", time.gmtime()) in output
    assert "100,000,000" in output and Reason.TOO_LARGE.sentence[:40] in output


def test_an_entry_is_shown_and_steers_nothing(
    settings: Settings, redis_server: RedisServer
) -> None:
    del settings
    code, output = run(names(redis_server)[0])
    assert code == 0
    assert r"\x1b]0;title\x07\x1b[2J\r[red]\xff\u202e{}" in output
    assert not set(output) & {"\x1b", "\x07", "\r", "\u202e"}
    _, output = run(names(redis_server)[2])
    assert f"{10**8 - 2 * KEPT_BYTES:,} bytes that were not kept" in output
    assert output.rstrip().endswith("yyy")


def test_entries_are_deleted_one_by_one_or_all(
    settings: Settings, redis_server: RedisServer
) -> None:
    del settings
    first, *others = names(redis_server)
    assert run(first, "--delete") == (0, "Deleted: 1.\n")
    assert names(redis_server) == others
    code, output = run(first)
    assert code != 0 and "no such entry" in output
    assert run("--delete") == (0, "Deleted: 2.\n")
    assert run() == (0, "The quarantine is empty.\n")


def test_the_doctor_counts_them_by_their_reason(
    settings: Settings, redis: Redis, redis_server: RedisServer
) -> None:
    finding = _quarantine(settings)
    assert finding.state == "no_json: 2\ntoo_large: 1"
    assert "sfworker rejected" in finding.mend
    redis.flushall()
    assert _quarantine(settings).state == "empty" and not _quarantine(settings).mend
    with Redis.from_url(redis_server.url) as client:
        assert not list(rejected(client, settings.queues))
