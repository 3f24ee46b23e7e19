"""What a large result costs Redis, and how a person reads it whole."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path
from typing import Any, Iterator

import pytest
from redis import Redis

from secretflow_task.cli import remote
from secretflow_task.cli.exits import Exit
from secretflow_task.cli.result import print_result
from secretflow_task.contract.errors import ResultNotHere, UnknownExecution
from secretflow_task.contract.job_spec import JobSpec
from secretflow_task.contract.messages import StatusEvent
from secretflow_task.node.kept_results import result_path
from secretflow_task.node.node import Node
from secretflow_task.node.publisher import Publisher
from secretflow_task.testing import JobSide
from tests.bench.redis import RedisServer
from tests.unit.node.test_node import PSI, Bench, fail

NAMES = [f"feature_{number:04d}" for number in range(1002)]


@pytest.fixture(name="bench")
def _bench(
    tmp_path: Path, redis: Redis, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Bench]:
    del redis
    bench = Bench(tmp_path)
    monkeypatch.setenv("SFWORKER_REDIS_URL", redis_server.url)
    monkeypatch.setenv("SFWORKER_STATE_DIR", str(bench.settings.state_dir))
    monkeypatch.setenv("SFWORKER_PARTIES", "alice,bob")
    yield bench


def correlate(spec: JobSpec, job: JobSide) -> None:
    """Find what a workflow with `psi` and `pearson_correlation` of 1,002 columns finds; bob finds
    less, since every megabyte takes its time.
    """
    names = NAMES if spec.party == "alice" else NAMES[:100]
    chance = random.Random(spec.party)
    row = [chance.uniform(-1, 1) for _ in names]
    steps: dict[str, dict[str, Any]] = {
        "psi": {"intersection_count": 5000, "rows": 5000},
        "correlate": {
            "columns": names,
            "correlation": [row] * len(names),
            "rows": 5000,
            "columns_used": names,
        },
    }
    job.agree({})
    job.finish({"steps": steps, "timings": {"task_execution": 61.2}})


def publish(node: Node, redis: Redis) -> None:
    """Send all that the node has stored."""
    publisher = Publisher(node.store, redis, maxlen=1000)
    while publisher.send_batch():
        pass


def printed(capfdbinary: pytest.CaptureFixture[bytes]) -> bytes:
    """What a command has written to its standard output."""
    return capfdbinary.readouterr().out


@pytest.mark.timeout(300)
def test_a_correlation_of_a_thousand_columns_is_small_on_the_stream_and_whole_at_its_party(
    bench: Bench, redis: Redis, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    with bench.node(correlate) as node:
        node.execute("e-1", PSI)
        publish(node, redis)
    sizes = dict.fromkeys(("alice", "bob"), 0)
    told: dict[str, dict[str, Any]] = {}
    for _, fields in redis.xrange("task_status_stream"):
        event = StatusEvent.from_json(fields["event"])
        sizes[event.party] += len(fields["event"].encode())
        told[event.party] = dict(event.data.get("result", {}))
    assert max(sizes.values()) < 2**20
    assert "truncated" not in told["bob"]
    head = told["alice"]
    content = result_path(bench.settings.state_dir, "e-1", "alice").read_bytes()
    assert len(content) > 15_000_000 and head["size_bytes"] == len(content)
    corner = head["steps"]["correlate"]
    rows = len(corner["correlation"])
    assert rows >= 10 and corner["columns"] == NAMES[:rows]
    assert head["timings"] == {"task_execution": 61.2}
    whole = json.loads(content)["steps"]["correlate"]["correlation"]
    assert corner["correlation"] == [line[:rows] for line in whole[:rows]]
    assert redis.memory_usage("task_status_stream") < 2**20
    printed(capfdbinary)
    assert print_result("e-1", "alice") is Exit.OK
    assert hashlib.sha256(printed(capfdbinary)).hexdigest() == head["sha256"]
    remote.follow_execution("e-1", "0", 30.0, as_json=False)
    assert b"sfworker result e-1 --party alice" in printed(capfdbinary)


def test_a_result_is_read_at_the_node_that_kept_it_or_from_its_event(
    bench: Bench, redis: Redis, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    bench.settings = bench.settings.model_copy(update={"event_limit_bytes": 10_000})

    def find(spec: JobSpec, job: JobSide) -> None:
        job.agree({})
        job.finish({"rows": 5, "list": [1.5] * (5000 if spec.party == "alice" else 2)})

    with bench.node(find) as node:
        node.execute("e-1", PSI)
        publish(node, redis)
    printed(capfdbinary)
    assert print_result("e-1", None) is Exit.OK
    assert json.loads(printed(capfdbinary)) == {
        "alice": {"rows": 5, "list": [1.5] * 5000},
        "bob": {"rows": 5, "list": [1.5] * 2},
    }
    assert print_result("e-1", "bob") is Exit.OK
    assert printed(capfdbinary) == b'{"rows": 5, "list": [1.5, 1.5]}'
    result_path(bench.settings.state_dir, "e-1", "alice").unlink()
    with pytest.raises(ResultNotHere, match="kept by its node, node-1"):
        print_result("e-1", "alice")
    with pytest.raises(UnknownExecution):
        print_result("e-2", None)


def test_of_a_failure_the_command_says_why(
    bench: Bench, redis: Redis, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    with bench.node(fail) as node:
        node.execute("e-1", PSI)
        publish(node, redis)
    stale = result_path(bench.settings.state_dir, "e-1", "alice")
    stale.parent.mkdir(exist_ok=True)
    stale.write_text("{}")  # of a node that was killed before the failure
    printed(capfdbinary)
    assert print_result("e-1", None) is Exit.FAILED
    assert b"AlgorithmError" in printed(capfdbinary)
