"""One execution at one party, from its checked input to its result, in the job process."""

from __future__ import annotations

import errno
import json
from contextlib import ExitStack, contextmanager
from typing import Any, Callable, Iterator, Mapping

from secretflow_task.contract.errors import (
    AlgorithmError,
    DeviceInitError,
    MemoryLimitExceeded,
    OutputNotWritable,
    PeerLost,
    WorkerError,
)
from secretflow_task.contract.job_spec import JobSpec
from secretflow_task.contract.messages import Stage, Status
from secretflow_task.contract.plan import Plan
from secretflow_task.contract.protocols import HeuConfig
from secretflow_task.contract.task_dispatcher import Prepared, TaskDispatcher
from secretflow_task.engine.codec import ForeignMessage
from secretflow_task.engine.cluster import cluster
from secretflow_task.engine.devices import create_devices
from secretflow_task.engine.run import Channel, Run
from secretflow_task.engine.status import _publish_status


def execute_secretflow_task(
    spec: JobSpec, channel: Channel, on_result: Callable[[dict[str, Any], dict[str, str]], None]
) -> dict[str, Any]:
    """Run the task of ``spec`` and return the own party's result.

    ``on_result(result, outputs)`` is called with the staged outputs, ``{staged: target}``, before
    the closing barrier with the peers, so that the node knows the result even if the barrier fails.

    Raises:
        WorkerError: the public error of whatever went wrong.
    """
    plan = Plan.of(spec.request, spec.between_nodes)
    run = Run(
        spec.request.execution_id,
        spec.request.task_request_id,
        spec.party,
        plan.parties,
        spec.rules,
        spec.folder,
        spec.staging,
        channel,
        plan.protocol,
        spec.several,
        plan.heu or HeuConfig(),
    )
    if spec.listening:
        return _with_fixed_addresses(plan, run, spec, on_result)
    prepared = _prepare(plan, run)
    with _timed_cluster(run, spec):
        return _in_cluster(plan, prepared, run, spec, on_result)


def _prepare(plan: Plan, run: Run) -> Prepared:
    return run.prepare(TaskDispatcher.with_body(plan.task.task_type), plan.config)


@contextmanager
def _timed_cluster(run: Run, spec: JobSpec) -> Iterator[None]:
    """The cluster; what is timed is its beginning."""
    with ExitStack() as stack:
        with run.timed(Stage.CLUSTER_INIT.value):
            stack.enter_context(
                cluster(spec.fed_addresses, spec.party, spec.request.execution_id, spec.listening)
            )
        yield


def _with_fixed_addresses(
    plan: Plan, run: Run, spec: JobSpec, on_result: Callable[[dict[str, Any], dict[str, str]], None]
) -> dict[str, Any]:
    """Without a link between the nodes the parties agree in the cluster, so that it comes first."""
    with _timed_cluster(run, spec):
        run.channel = ClusterChannel(run.channel, run.parties)
        prepared = _prepare(plan, run)
        return _in_cluster(plan, prepared, run, spec, on_result)


class ClusterChannel:
    """Agrees with the peers through SecretFlow's messages; the node only hears that it is done."""

    def __init__(self, node: Channel, parties: list[str]) -> None:
        self._node = node
        self._parties = parties

    def agree(self, facts: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Tell the own facts and wait for those of all, as JSON."""
        import secretflow as sf

        self._node.agree(facts)
        text = json.dumps(dict(facts))  # what a party's device says is made at that party alone
        told = {party: sf.PYU(party)(lambda: text)() for party in self._parties}
        return {party: dict(json.loads(sf.reveal(said))) for party, said in told.items()}

    def stage_ended(self, stage: str, seconds: float) -> None:
        """Tell the node."""
        self._node.stage_ended(stage, seconds)


def _in_cluster(
    plan: Plan,
    prepared: Prepared,
    run: Run,
    spec: JobSpec,
    on_result: Callable[[dict[str, Any], dict[str, str]], None],
) -> dict[str, Any]:
    _report(run, Stage.CLUSTER_INIT)
    with run.timed(Stage.DEVICE_CREATION.value):
        devices = create_devices(run, plan.needs, spec.spu_addresses, spec.listening)
    _report(run, Stage.DEVICE_CREATION)
    with run.timed(Stage.TASK_EXECUTION.value):
        _report(run, Stage.TASK_EXECUTION)
        result = TaskDispatcher.run(prepared, devices)
    return _finish(plan, run, result, on_result)


def _finish(
    plan: Plan,
    run: Run,
    result: dict[str, Any],
    on_result: Callable[[dict[str, Any], dict[str, str]], None],
) -> dict[str, Any]:
    if "spu" in plan.needs:
        note = plan.protocol.note(run.parties)
        result |= {"protocol": plan.protocol.name, "field": plan.protocol.field}
        result |= {"protocol_note": note} if note else {}
    result |= {"timings": dict(run.timings)}
    on_result(result, dict(run.outputs))
    return result


def _report(run: Run, stage: Stage) -> None:
    data = {"stage": stage.value, "progress": stage.progress}
    _publish_status(run.task_request_id, Status.RUNNING.value, data)


def as_worker_error(error: BaseException, party: str) -> tuple[WorkerError, bool]:
    """The public error for whatever a task raises, and whether the fault began at another party.

    Foreign exceptions are mapped here and nowhere else; their text becomes private ``detail``. An
    error of our own without a party was found by all of them alike and began at none.
    """
    cause = _unwrapped(error)
    if isinstance(cause, WorkerError):
        return cause, False
    detail = f"{type(cause).__name__}: {cause}"
    if _name(cause) in _PEER_FAILURES:
        peer = None
        if _name(cause) == "FedRemoteError":
            peer = cause.party()  # type: ignore[attr-defined]
        return PeerLost(party=peer, detail=detail), True
    if isinstance(cause, ForeignMessage):
        message = f"{party}: a message was refused, since it holds what no message may hold."
        hint = (
            "Ask the operators of the other parties what they run: "
            "this version does not send such messages."
        )
        return AlgorithmError(message, hint=hint, party=party, detail=detail), False
    kind = next((kind for test, kind in _FOREIGN if test(cause)), AlgorithmError)
    return kind(party=party, detail=detail), False


def _unwrapped(error: BaseException) -> BaseException:
    """What SecretFlow wrapped: a device task's failure arrives inside a ``FedLocalError``."""
    while _name(error) == "FedLocalError":
        error = error.cause()  # type: ignore[attr-defined]
    return error


def _name(error: BaseException) -> str:
    return type(error).__name__


_PEER_FAILURES = frozenset({"FedRemoteError", "_InactiveRpcError"})
_FOREIGN: tuple[tuple[Callable[[BaseException], bool], type[WorkerError]], ...] = (
    (lambda error: isinstance(error, MemoryError), MemoryLimitExceeded),
    (
        lambda error: isinstance(error, OSError)
        and error.errno
        in (errno.ENOSPC, errno.EACCES, errno.EPERM, errno.EROFS, errno.EDQUOT, errno.ENOTDIR),
        OutputNotWritable,
    ),
    (lambda error: _name(error) == "YACLError", DeviceInitError),
)
