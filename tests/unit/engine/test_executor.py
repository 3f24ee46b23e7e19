"""The public error for whatever a task raises, and an execution that brings its own cluster."""

from __future__ import annotations

import builtins
import errno
from pathlib import Path
from typing import Any

import pytest

from secretflow_task.contract.errors import (
    AlgorithmError,
    EmptyInput,
    InvalidTaskConfig,
    MemoryLimitExceeded,
    MissingFile,
)
from secretflow_task.contract.job_spec import JobSpec
from secretflow_task.contract.paths import PathRules
from secretflow_task.contract.requests import TaskRequest
from secretflow_task.contract.task_config import Reads, TaskConfig
from secretflow_task.contract.task_dispatcher import Task, TaskDispatcher
from secretflow_task.engine.codec import ForeignMessage
from secretflow_task.engine.devices import Devices
from secretflow_task.engine.executor import as_worker_error, execute_secretflow_task
from secretflow_task.engine.run import Run
from secretflow_task.testing import MemoryChannel

SECRET = "row 4711 of /data/alice.csv"
NOT_WRITABLE = {errno.ENOSPC, errno.EACCES, errno.EPERM, errno.EROFS, errno.EDQUOT, errno.ENOTDIR}
BUILTIN = sorted(
    {
        kind
        for kind in vars(builtins).values()
        if isinstance(kind, type)
        and issubclass(kind, Exception)
        and not issubclass(kind, (Warning, UnicodeError))
    },
    key=lambda kind: kind.__name__,
)


class FedRemoteError(Exception):
    """As SecretFlow's: a failure at a peer, whose text may hold its data."""

    def party(self) -> str:
        """Where it happened."""
        return "bob"


class FedLocalError(Exception):
    """As SecretFlow's: wraps what failed in the own process."""

    def cause(self) -> BaseException:
        """What failed."""
        assert isinstance(self.args[0], BaseException)
        return self.args[0]


class _InactiveRpcError(Exception):
    """As gRPC's: the peer does not answer."""


class YACLError(Exception):
    """As SPU's: a link or device could not be made."""


def kind_of(error: BaseException) -> tuple[str, bool]:
    """The public error's code, and whether a peer is to blame; it must not show foreign text."""
    public, from_peer = as_worker_error(error, "alice")
    assert SECRET not in str(public.to_dict()) + str(public.as_event_data()) + str(public)
    assert SECRET in (public.detail or "")
    return public.code, from_peer


@pytest.mark.parametrize("kind", BUILTIN, ids=lambda kind: kind.__name__)
def test_every_exception_of_python_has_a_public_error_without_its_text(
    kind: type[Exception],
) -> None:
    expected = MemoryLimitExceeded if issubclass(kind, MemoryError) else AlgorithmError
    assert kind_of(kind(SECRET)) == (expected.__name__, False)


def test_a_system_error_that_keeps_an_output_from_being_written_says_so() -> None:
    told = {
        number
        for number in errno.errorcode
        if kind_of(OSError(number, SECRET)) == ("OutputNotWritable", False)
    }
    assert told == NOT_WRITABLE
    others = {kind_of(OSError(number, SECRET)) for number in set(errno.errorcode) - told}
    assert others == {("AlgorithmError", False)}


@pytest.mark.parametrize(
    ("error", "code", "from_peer"),
    [
        (FedRemoteError(SECRET), "PeerLost", True),
        (_InactiveRpcError(SECRET), "PeerLost", True),
        (YACLError(SECRET), "DeviceInitError", False),
        (ForeignMessage(SECRET), "AlgorithmError", False),
        (FedLocalError(RuntimeError(SECRET)), "AlgorithmError", False),
        (FedLocalError(FedLocalError(MemoryError(SECRET))), "MemoryLimitExceeded", False),
        (FedLocalError(OSError(errno.ENOSPC, SECRET)), "OutputNotWritable", False),
        (KeyboardInterrupt(SECRET), "AlgorithmError", False),
        (SystemExit(SECRET), "AlgorithmError", False),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, SECRET), "AlgorithmError", False),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_foreign_exceptions_are_mapped(error: BaseException, code: str, from_peer: bool) -> None:
    assert kind_of(error) == (code, from_peer)


def test_an_error_of_our_own_stays_itself_also_in_a_wrapping() -> None:
    own = EmptyInput("alice: no rows.", party="alice")
    assert as_worker_error(own, "bob") == (own, False)
    assert as_worker_error(FedLocalError(own), "bob") == (own, False)
    assert own.party == "alice"


def test_a_foreign_error_began_at_the_party_that_raised_it() -> None:
    assert as_worker_error(ValueError("x"), "alice")[0].party == "alice"
    assert as_worker_error(FedRemoteError("x"), "alice")[0].party == "bob"


class CountConfig(TaskConfig):
    """The config of a task that counts rows."""

    input_data: Reads
    output_data: str = "out.csv"


@pytest.fixture
def spec(tmp_path: Path) -> JobSpec:
    """Alice's part of a `count` with a table of two rows."""
    (tmp_path / "data").mkdir()
    (tmp_path / "job").mkdir()
    (tmp_path / "data/a.csv").write_text("x\n1\n2\n")
    params = {"task_config": {"task_type": "count", "input_data": {"alice": "a.csv"}}}
    return JobSpec(
        request=TaskRequest("e-1", "r-1", params),
        party="alice",
        rules=PathRules("alice", tmp_path / "data"),
        folder=tmp_path / "job",
        log_path=tmp_path / "job.log",
        staging=".staging",
        fed_addresses={},
        spu_addresses={},
        several=False,
    )


@pytest.mark.usefixtures("without_secretflow")
def test_an_execution_prepares_once_and_runs_on_what_was_prepared(
    spec: JobSpec, registry: dict[str, Task]
) -> None:
    prepared: list[str] = []

    def prepare(run: Run, config: CountConfig) -> int:
        rows = run.read(config.input_data, "input_data").rows
        run.agree(rows=rows)
        prepared.append(run.party)
        return rows

    @TaskDispatcher.register_task("count", config=CountConfig, prepare=prepare)
    def execute_count(devices: Devices[int], task_config: CountConfig) -> dict[str, Any]:
        run = devices.run
        run.write(
            run.read(task_config.input_data, "input_data"), task_config.output_data, "output_data"
        )
        return {"rows": devices.inputs, "self_party": devices.self_party, "devices": list(devices)}

    told: list[tuple[dict[str, Any], dict[str, str]]] = []
    channel = MemoryChannel("alice")
    result = execute_secretflow_task(spec, channel, lambda *arguments: told.append(arguments))
    stages = ["prepare", "cluster_init", "device_creation", "task_execution"]
    assert list(result["timings"]) == stages
    assert prepared == ["alice"]
    assert result == {"rows": 2, "self_party": "alice", "devices": [], "timings": result["timings"]}
    assert channel.offered == [{"rows": 2}]
    ((told_result, outputs),) = told
    assert told_result == result
    assert list(outputs.values()) == [str(spec.rules.data_root / "out.csv")]


def test_a_wrong_request_fails_before_anything_is_read(
    spec: JobSpec, registry: dict[str, Task]
) -> None:
    TaskDispatcher.register_task("count", config=CountConfig)(lambda devices, config: {})
    spec.request.params["task_config"]["more"] = 1
    with pytest.raises(InvalidTaskConfig):
        execute_secretflow_task(
            spec, MemoryChannel("alice"), lambda *arguments: pytest.fail("told")
        )


def test_an_error_of_the_preparation_comes_before_any_agreement(
    spec: JobSpec, registry: dict[str, Task]
) -> None:
    def prepare(run: Run, config: CountConfig) -> None:
        run.read({"alice": "none.csv"}, "input_data")

    TaskDispatcher.register_task("count", config=CountConfig, prepare=prepare)(
        lambda devices, config: pytest.fail("ran")
    )
    channel = MemoryChannel("alice")
    with pytest.raises(MissingFile):
        execute_secretflow_task(spec, channel, lambda *arguments: pytest.fail("told"))
    assert channel.offered == []
