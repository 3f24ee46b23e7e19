"""The node takes a request once, tells every party once how it ended, and leaves nothing behind."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Iterator, Mapping

import pytest

from secretflow_task.config.settings import Settings
from secretflow_task.contract.errors import (
    AlgorithmError,
    EngineUnavailable,
    InvalidTaskConfig,
    MissingFile,
)
from secretflow_task.contract.job_spec import JobSpec
from secretflow_task.contract.messages import Status, StatusEvent
from secretflow_task.contract.requests import TaskRequest
from secretflow_task.node.assembly import lone_node
from secretflow_task.node.node import Node
from secretflow_task.testing import JobSide, ScriptedTemplate
from tests.unit.plan_requests import PLAN_REQUESTS

Script = Callable[[JobSpec, JobSide], None]
ACCEPTED = (1, "RUNNING", "")  # the first event of what a node takes
PSI = {"task_config": {"task_type": "psi", **PLAN_REQUESTS["psi"]}}


def succeed(spec: JobSpec, job: JobSide) -> None:
    """Agree, stage the own output and succeed."""
    facts = job.agree({"own": spec.party})
    job.report(0.5)
    staged = spec.rules.data_root / spec.party / spec.staging / "0.csv"
    staged.parent.mkdir(parents=True)
    staged.write_text(f"of {spec.party}\n")
    (spec.folder / "scratch").write_text("rows")
    target = spec.rules.resolve(f"psi/{spec.party}.csv", "output_paths")
    job.finish({"party": spec.party, "facts": facts}, {str(staged): str(target)})


def fail(spec: JobSpec, job: JobSide) -> None:
    """Bob fails after everyone wrote something."""
    job.agree({})
    staged = spec.rules.data_root / spec.party / spec.staging / "0.csv"
    staged.parent.mkdir(parents=True)
    staged.write_text("half an output")
    (spec.folder / "scratch").write_text("rows")
    if spec.party == "bob":
        job.fail(AlgorithmError(party="bob"))
    job.hang()


def never(spec: JobSpec, job: JobSide) -> None:
    """What must not be started."""
    raise AssertionError("a job was started")


class Bench:
    """A node with scripted jobs in a folder of its own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.events: list[StatusEvent] = []
        self.listeners: list[Callable[[StatusEvent], object]] = [self.events.append]
        self.settings = Settings(
            name="node-1",
            parties=("alice", "bob"),
            data_root=root / "data",
            state_dir=root / "state",
            work_dir=root / "work",
            port_range="30000-30099",
            terminate_grace_seconds=0.5,
        )
        for party in self.settings.parties:
            (root / "data" / party).mkdir(parents=True, exist_ok=True)

    def tell(self, event: StatusEvent) -> None:
        """What the node calls with every event."""
        for listener in self.listeners:
            listener(event)

    @contextmanager
    def node(self, script: Script = succeed, **options: Any) -> Iterator[Node]:
        """A running node."""
        self.template = ScriptedTemplate(script)
        template: Any = self.template
        with lone_node(self.settings, self.tell, template=template, **options) as node:
            yield node

    def told(self) -> dict[str, list[tuple[int, str, str]]]:
        """``{party: [(seq, status, error code)]}`` of all events."""
        told: dict[str, list[tuple[int, str, str]]] = {}
        for event in self.events:
            told.setdefault(event.party, []).append(
                (event.seq, event.status.value, event.data.get("error_code", ""))
            )
        return told

    def files(self) -> list[str]:
        """Every file below the data root and the work folder."""
        roots = (self.root / "data", self.root / "work")
        return sorted(
            str(path.relative_to(self.root))
            for root in roots
            for path in root.rglob("*")
            if path.is_file()
        )


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """The bench."""
    return Bench(tmp_path)


def test_a_request_runs_at_all_its_parties_and_is_told_in_order(bench: Bench) -> None:
    with bench.node() as node:
        outcome = node.execute("r-1", {"task_id": "t-1", **PSI})
        kept = [unsent.event for unsent in node.store.unsent(100)]
    assert (outcome.execution_id, outcome.status, outcome.failure) == ("r-1", Status.SUCCESS, None)
    facts = {party: {"own": party} for party in ("alice", "bob")}
    for party in ("alice", "bob"):
        accepted, running, success = [event for event in bench.events if event.party == party]
        assert (accepted.status, accepted.seq, accepted.data) == (
            Status.RUNNING,
            1,
            {"stage": "accepted", "progress": 0.0},
        )
        assert (running.status, running.seq, running.data) == (
            Status.RUNNING,
            2,
            {"stage": "task_execution", "progress": 0.5},
        )
        result = {"party": party, "facts": facts}
        assert (success.status, success.seq) == (Status.SUCCESS, 3)
        assert success.data == {"stage": "SUCCESS", "progress": 1.0, "result": result}
    assert {(event.execution_id, event.task_request_id, event.task_id) for event in kept} == {
        ("r-1", "r-1", "t-1")
    }
    assert {(event.worker_container, event.task_name) for event in kept} == {
        ("node-1", "tasks.secretflow.execute_task")
    }
    assert sorted(map(repr, kept)) == sorted(map(repr, bench.events))
    assert bench.files() == ["data/alice/psi/alice.csv", "data/bob/psi/bob.csv"]


def test_jobs_are_told_what_they_need(bench: Bench) -> None:
    with bench.node() as node:
        node.execute("r-1", PSI)
    specs = {spec.party: spec for spec in bench.template.spawned}
    assert list(sorted(specs)) == ["alice", "bob"]
    alice, bob = specs["alice"], specs["bob"]
    assert alice.request == bob.request == TaskRequest("r-1", "r-1", PSI)
    assert alice.fed_addresses == bob.fed_addresses and alice.spu_addresses == bob.spu_addresses
    addresses = set(alice.fed_addresses.values())
    assert len(addresses) == 2 and all(address.startswith("127.0.0.1:300") for address in addresses)
    assert len({alice.folder, bob.folder}) == len({alice.log_path, bob.log_path}) == 2
    assert alice.staging != bob.staging and alice.several


def test_after_a_failure_nothing_is_left_and_the_next_request_runs(bench: Bench) -> None:
    (bench.root / "data/alice/psi").mkdir()
    (bench.root / "data/alice/psi/alice.csv").write_text("of an earlier run")
    with bench.node(fail) as node:
        outcome = node.execute("r-1", PSI)
        assert outcome.status is Status.FAILURE and outcome.failure is not None
        assert (outcome.failure.code, outcome.failure.party) == ("AlgorithmError", "bob")
        assert bench.told() == {
            party: [ACCEPTED, (2, "FAILURE", "AlgorithmError")] for party in ("alice", "bob")
        }
        assert bench.files() == ["data/alice/psi/alice.csv"]
        assert (bench.root / "data/alice/psi/alice.csv").read_text() == "of an earlier run"
        bench.template._script = succeed
        assert node.execute("r-2", PSI).status is Status.SUCCESS


@pytest.mark.parametrize(
    ("params", "code"),
    [
        ({"task_config": {"task_type": "pse"}}, "UnknownTaskType"),
        ({"task_config": {**PSI["task_config"], "reciever": "alice"}}, "InvalidTaskConfig"),
        ({"task_confg": {}}, "InvalidTaskConfig"),
        ({"task_config": {"task_type": "\ud800"}}, "UnknownTaskType"),
        ({**PSI, "spu_config": {"protocol": "SEMI5K"}}, "UnsupportedProtocol"),
        (
            {
                "task_config": {
                    **PSI["task_config"],
                    "input_paths": {"alice": "../x.csv", "bob": "b.csv"},
                }
            },
            "PathNotAllowed",
        ),
        (
            {
                "task_config": {
                    **PSI["task_config"],
                    "output_paths": {"alice": "/etc/a.csv", "bob": "b.csv"},
                }
            },
            "PathNotAllowed",
        ),
        ({**PSI, "sf_init_config": {"parties": None, "self_party": 5}}, "InvalidTaskConfig"),
    ],
)
def test_a_request_that_cannot_run_is_refused_at_every_party_and_starts_nothing(
    params: Mapping[str, Any], code: str, bench: Bench
) -> None:
    with bench.node(never) as node:
        outcome = node.execute("r-1", params)
    assert outcome.failure is not None and outcome.failure.code == code
    assert bench.told() == {party: [(1, "FAILURE", code)] for party in ("alice", "bob")}
    assert bench.template.spawned == [] and bench.files() == []
    assert all(event.data["progress"] == 0.0 and event.data["hint"] for event in bench.events)


def test_a_party_that_is_not_hosted_is_refused_unless_the_request_says_that_it_is(
    bench: Bench,
) -> None:
    paths = {"alice": "a.csv", "dora": "d.csv"}
    config = {**PSI["task_config"], "keys": {"alice": ["k"], "dora": ["k"]}, "input_paths": paths}
    config["output_paths"] = {"alice": "psi/alice.csv", "dora": "psi/dora.csv"}
    (bench.root / "data/dora").mkdir()
    with bench.node() as node:
        refused = node.execute("r-1", {"task_config": config})
        assert refused.failure is not None and refused.failure.code == "PeerUnreachable"
        assert "dora" in refused.failure.message
        hosted = node.execute(
            "r-2", {"task_config": config, "sf_init_config": {"parties": ["alice", "dora"]}}
        )
        assert hosted.status is Status.SUCCESS


def test_a_request_without_an_id_cannot_be_told_of(bench: Bench) -> None:
    with bench.node(never) as node, pytest.raises(InvalidTaskConfig):
        node.execute(PSI)
    assert bench.events == []


@pytest.mark.parametrize("script", [succeed, fail])
def test_a_request_that_comes_again_is_neither_run_nor_told_again(
    script: Script, bench: Bench
) -> None:
    with bench.node(script) as node:
        first = node.execute("r-1", PSI)
        before = list(bench.events)
        again = node.execute("r-1", PSI)
    assert (again.execution_id, again.status) == (first.execution_id, first.status)
    assert bench.events == before and len(bench.template.spawned) == 2
    with bench.node(never) as node:
        assert node.execute("r-1", PSI).status is first.status
    assert bench.events == before


def test_a_refused_request_that_comes_again_is_told_once(bench: Bench) -> None:
    with bench.node(never) as node:
        for _ in range(2):
            assert (
                node.execute("r-1", {"task_config": {"task_type": "pse"}}).status is Status.FAILURE
            )
    assert bench.told() == {
        party: [(1, "FAILURE", "UnknownTaskType")] for party in ("alice", "bob")
    }


def test_no_party_is_left_running_when_an_id_is_used_for_another_request(bench: Bench) -> None:
    alone = {
        "task_type": "standard_scaler",
        "input_data": {"alice": "a.csv"},
        "output_data": {"alice": "o.csv"},
        "columns": ["x"],
    }
    with bench.node(lambda spec, job: job.refuse(MissingFile(party="alice"))) as node:
        node.execute("r-1", {"task_config": alone})
        node.execute("r-1", PSI)
        assert node.store.unfinished() == []
    assert bench.told() == {
        "alice": [ACCEPTED, (2, "FAILURE", "MissingFile")],
        "bob": [(1, "FAILURE", "RequestMismatch")],
    }


def test_start_and_end_delete_what_this_node_left_in_its_work_folder_and_nothing_else(
    bench: Bench,
) -> None:
    def leave_a_copy(spec: JobSpec, job: JobSide) -> None:
        shutil.copytree(spec.folder, spec.folder.with_name(f"left.{spec.party}"))
        succeed(spec, job)

    precious = bench.root / "work" / "someone.else" / "precious.csv"
    precious.parent.mkdir(parents=True)
    precious.touch()
    with bench.node(leave_a_copy) as node:
        node.execute("r-1", PSI)
        (left,) = precious.parent.parent.glob("*/left.alice")
    assert not left.parent.exists()
    left.mkdir(parents=True)  # as a node that was killed
    with bench.node(never):
        assert not left.exists()
    assert precious.exists()


@pytest.mark.parametrize(("length", "link"), [(36, "unix"), (80, "unix"), (128, "127.0.0.1")])
def test_jobs_on_one_host_link_by_socket_files_unless_the_id_leaves_no_room(
    length: int, link: str, bench: Bench
) -> None:
    with bench.node() as node:
        node.execute("e" * length, PSI)
    links = set(bench.template.spawned[0].spu_addresses.values())
    assert {address.split(":")[0] for address in links} == {link} and len(links) == 2


def test_another_node_on_the_host_keeps_its_running_jobs(bench: Bench, tmp_path: Path) -> None:
    other = Bench(tmp_path)
    other.settings = bench.settings.model_copy(update={"state_dir": tmp_path / "state-2"})

    def start_the_other(spec: JobSpec, job: JobSide) -> None:
        job.agree({})
        job.report(0.5)
        job.agree({})
        job.finish({"folder": spec.folder.is_dir()})

    started: list[bool] = []

    def on_event(event: StatusEvent) -> None:
        if event.status is Status.RUNNING and not started:
            started.append(True)
            with other.node(never):
                pass

    with bench.node(start_the_other) as node:
        bench.listeners = [on_event]
        assert node.execute("r-1", PSI).status is Status.SUCCESS
        results = [
            unsent.event.data.get("result")
            for unsent in node.store.unsent(100)
            if unsent.event.status.terminal
        ]
    assert started and results == [{"folder": True}] * 2


@pytest.mark.parametrize(
    "error", [EngineUnavailable("It did not load."), OSError("no more processes")]
)
def test_a_job_that_cannot_be_started_is_a_failure_of_all(error: Exception, bench: Bench) -> None:
    with bench.node() as node:
        spawn = bench.template.spawn

        def spawn_all_but_bobs(spec: JobSpec) -> Any:
            if spec.party == "bob":
                raise error
            return spawn(spec)

        bench.template.spawn = spawn_all_but_bobs  # type: ignore[method-assign]
        assert node.execute("r-1", PSI).status is Status.FAILURE
    code = error.code if isinstance(error, EngineUnavailable) else "WorkerError"
    assert bench.told() == {party: [ACCEPTED, (2, "FAILURE", code)] for party in ("alice", "bob")}
    assert bench.files() == []


def test_without_free_ports_every_party_is_told(bench: Bench) -> None:
    bench.settings = bench.settings.model_copy(update={"port_range": "30000-30001"})
    with bench.node(never) as node:
        assert node.execute("r-1", PSI).status is Status.FAILURE
        assert node.store.unfinished() == []
    assert bench.told() == {
        party: [ACCEPTED, (2, "FAILURE", "PortUnavailable")] for party in ("alice", "bob")
    }


def test_executions_at_once_do_not_mix(bench: Bench) -> None:
    def script(spec: JobSpec, job: JobSide) -> None:
        facts = job.agree({"execution": spec.request.execution_id})
        job.finish({"facts": facts, "ports": sorted(spec.fed_addresses.values())})

    with bench.node(script) as node, ThreadPoolExecutor(4) as threads:
        outcomes = list(threads.map(lambda number: node.execute(f"r-{number}", PSI), range(8)))
    assert [outcome.status for outcome in outcomes] == [Status.SUCCESS] * 8
    ends = [event for event in bench.events if event.status.terminal]
    assert len(ends) == 16 and len(bench.events) == 32
    for event in ends:
        facts = {party: {"execution": event.execution_id} for party in ("alice", "bob")}
        assert event.data["result"]["facts"] == facts
