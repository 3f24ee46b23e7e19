"""Two nodes, one party each, scripted jobs: both report one end and run the same request."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Iterator, Mapping

import pytest

from secretflow_task.broker.celery_tasks import Outcome
from secretflow_task.cli.check import print_plan
from secretflow_task.config.settings import Settings
from secretflow_task.contract.errors import InvalidTaskConfig
from secretflow_task.contract.job_spec import JobSpec
from secretflow_task.contract.messages import StatusEvent
from secretflow_task.contract.plan import Plan
from secretflow_task.contract.requests import TaskRequest
from secretflow_task.node.assignment import Assignment
from secretflow_task.node.assembly import lone_node
from secretflow_task.node.link.peer.certificates import make_certificate
from secretflow_task.node.node import Node
from secretflow_task.testing import JobSide, ScriptedTemplate
from tests.bench.waiting import PATIENCE_SECONDS, wait_for
from tests.unit.node.test_node import Script, never, succeed
from tests.unit.plan_requests import PLAN_REQUESTS

PARTIES = ("alice", "bob")
PSI = {"task_config": {"task_type": "psi", **PLAN_REQUESTS["psi"]}}


class Pair:
    """A node for alice and one for bob, in folders of their own."""

    def __init__(self, root: Path, ports: Mapping[str, int]) -> None:
        self.root = root
        self._ports = ports
        self._made = {party: make_certificate(party, root / party) for party in PARTIES}
        self.events: dict[str, list[StatusEvent]] = {party: [] for party in PARTIES}
        self.templates: dict[str, ScriptedTemplate] = {}

    def settings(self, party: str, **changes: Any) -> Settings:
        """The settings of a party's node."""
        root = self.root / party
        (root / "data" / party).mkdir(parents=True, exist_ok=True)
        book = [
            f"{other}: {{host: 127.0.0.1, port: {self._ports[other]}, "
            f"certificate: {identity.certificate},"
            f" fingerprints: [{fingerprint}]}}\n"
            for other, (identity, fingerprint) in self._made.items()
            if other != party
        ]
        (root / "parties.yaml").write_text("".join(book), encoding="utf-8")
        values: dict[str, Any] = {
            "parties": (party,),
            "data_root": root / "data",
            "state_dir": root / "state",
            "work_dir": root / "work",
            "port_range": "26000-26999",
            "terminate_grace_seconds": 0.5,
            "peer_listen": f"127.0.0.1:{self._ports[party]}",
            "peers_file": root / "parties.yaml",
            "peer_certificate": self._made[party][0].certificate,
            "peer_key": self._made[party][0].key,
            "join_seconds": PATIENCE_SECONDS,
            "heartbeat_seconds": 0.1,
            "peer_lost_seconds": PATIENCE_SECONDS,
        }
        return Settings(**values | changes)

    @contextmanager
    def node(self, party: str, script: Script = succeed, **changes: Any) -> Iterator[Node]:
        """A running node."""
        self.templates[party] = ScriptedTemplate(script)
        template: Any = self.templates[party]
        settings = self.settings(party, **changes)
        with lone_node(settings, self.events[party].append, template=template) as node:
            yield node

    @contextmanager
    def nodes(self, script: Script = succeed, **changes: Any) -> Iterator[dict[str, Node]]:
        """Both."""
        with ExitStack() as stack:
            yield {
                party: stack.enter_context(self.node(party, script, **changes)) for party in PARTIES
            }

    def ends(self) -> dict[str, tuple[str, str, str | None]]:
        """``{party: (status, code, party where it began)}`` of the terminal events."""
        last = {party: events[-1] for party, events in self.events.items() if events}
        return {
            party: (
                event.status.value,
                event.data.get("error_code", ""),
                event.data.get("failed_party"),
            )
            for party, event in last.items()
        }

    def all_are(self, status: str) -> bool:
        """Whether both have ended so."""
        return [end[0] for end in self.ends().values()] == [status] * len(PARTIES)

    def spawned(self) -> list[JobSpec]:
        """The jobs that were started."""
        return [spec for template in self.templates.values() for spec in template.spawned]


def run(nodes: Mapping[str, Node], **requests: Mapping[str, Any]) -> dict[str, Outcome]:
    """Send each party its request under one id, and wait for both ends."""
    with ThreadPoolExecutor(len(nodes)) as threads:
        started = {
            party: threads.submit(node.execute, "r-1", requests.get(party, PSI))
            for party, node in nodes.items()
        }
        return {party: outcome.result(2 * PATIENCE_SECONDS) for party, outcome in started.items()}


def test_both_run_their_own_party_and_report_success(pair: Pair) -> None:
    with pair.nodes() as nodes:
        run(nodes)
    assert pair.ends() == {party: ("SUCCESS", "", None) for party in PARTIES}
    facts = {party: {"own": party} for party in PARTIES}
    for party in PARTIES:
        assert {event.party for event in pair.events[party]} == {party}
        assert pair.events[party][-1].data["result"] == {"party": party, "facts": facts}
        assert (pair.root / party / "data" / party / "psi" / f"{party}.csv").exists()
    alice, bob = sorted(pair.spawned(), key=lambda spec: spec.party)
    assert (alice.party, bob.party) == PARTIES and not alice.several and alice.between_nodes
    assert {*alice.fed_addresses.values(), *alice.spu_addresses.values()}.isdisjoint(
        {*bob.fed_addresses.values(), *bob.spu_addresses.values()}
    )


def test_a_node_says_for_whom_it_waits_until_all_have_joined(pair: Pair) -> None:
    taken = [
        ("accepted", 0.0, None),
        ("waiting_for_peer", 0.0, ["bob"]),
    ]

    def told(party: str) -> list[tuple[str, float, list[str] | None]]:
        return [
            (event.data["stage"], event.data["progress"], event.data.get("waiting_for"))
            for event in pair.events[party]
        ]

    with pair.node("alice") as alice, ThreadPoolExecutor(1) as threads:
        running = threads.submit(alice.execute, "r-1", PSI)
        wait_for(lambda: told("alice") == taken)
        assert pair.spawned() == []
        with pair.node("bob") as bob:
            bob.execute("r-1", PSI)
            running.result(PATIENCE_SECONDS)
    began = [("task_execution", 0.5, None), ("SUCCESS", 1.0, None)]
    assert told("alice") == [*taken, *began]
    assert told("bob") == [taken[0], ("waiting_for_peer", 0.0, ["alice"]), *began]


def test_different_requests_are_refused_at_both_and_nothing_runs(pair: Pair) -> None:
    other = {"task_config": {**PSI["task_config"], "receiver": "bob"}}
    with pair.nodes(never) as nodes:
        run(nodes, bob=other)
    assert pair.ends() == {party: ("FAILURE", "RequestMismatch", None) for party in PARTIES}
    assert pair.spawned() == []


@pytest.mark.parametrize("bad", PARTIES)
def test_what_one_node_refuses_ends_at_both_with_one_code(bad: str, pair: Pair) -> None:
    paths = {**PSI["task_config"]["input_paths"], bad: "/etc/passwd"}
    request = {"task_config": {**PSI["task_config"], "input_paths": paths}}
    (pair.root / "etc").mkdir()
    other = next(party for party in PARTIES if party != bad)
    with ExitStack() as stack:
        nodes = {bad: stack.enter_context(pair.node(bad, never))}
        # The other's allowed roots let the path through, so that only one refuses.
        nodes[other] = stack.enter_context(pair.node(other, never, allowed_roots=("/etc",)))
        run(nodes, alice=request, bob=request)
    assert pair.ends() == {party: ("FAILURE", "PathNotAllowed", bad) for party in PARTIES}
    assert pair.spawned() == []


def test_a_job_that_dies_at_one_is_named_at_both(pair: Pair) -> None:
    def script(spec: JobSpec, job: JobSide) -> None:
        job.agree({})
        if spec.party == "bob":
            job.die()
        job.hang()

    with pair.nodes(script) as nodes:
        run(nodes)
    assert pair.ends() == {party: ("FAILURE", "JobProcessDied", "bob") for party in PARTIES}


@pytest.mark.parametrize("where", PARTIES)
@pytest.mark.parametrize("state", ["joining", "running"])
def test_a_cancel_reaches_both(where: str, state: str, pair: Pair) -> None:
    def script(spec: JobSpec, job: JobSide) -> None:
        job.agree({})
        job.hang()

    other = next(party for party in PARTIES if party != where)
    with pair.nodes(script) as nodes, ThreadPoolExecutor(2) as threads:
        threads.submit(nodes[where].execute, "r-1", PSI)
        if state == "running":
            threads.submit(nodes[other].execute, "r-1", PSI)
            wait_for(lambda: len(pair.spawned()) == 2)
        wait_for(lambda: nodes[where].running())
        assert nodes[where].cancel("r-1")
        if state == "joining":
            threads.submit(nodes[other].execute, "r-1", PSI)
        wait_for(lambda: len(pair.ends()) == 2)
    assert {end[:2] for end in pair.ends().values()} == {("FAILURE", "TaskCancelled")}


def test_semi2k_between_nodes_must_be_allowed_by_name_at_each(pair: Pair) -> None:
    request = {**PSI, "spu_config": {"protocol": "SEMI2K"}}
    with pair.node("alice", never) as alice:
        with pair.node("bob", never, unsafe_protocols=("SEMI2K",)) as bob:
            run({"alice": alice, "bob": bob}, alice=request, bob=request)
    assert pair.ends() == {party: ("FAILURE", "UnsupportedProtocol", "alice") for party in PARTIES}


def test_semi2k_that_is_allowed_by_name_at_each_runs(pair: Pair) -> None:
    request = {**PSI, "spu_config": {"protocol": "SEMI2K"}}
    with pair.nodes(unsafe_protocols=("SEMI2K",)) as nodes:
        run(nodes, alice=request, bob=request)
    assert {end[0] for end in pair.ends().values()} == {"SUCCESS"}


def test_a_party_without_an_entry_in_the_address_book_is_unreachable(pair: Pair) -> None:
    config = {**PSI["task_config"], "keys": {"alice": ["k"], "dora": ["k"]}}
    config |= {
        name: {"alice": "a.csv", "dora": "d.csv"} for name in ("input_paths", "output_paths")
    }
    with pair.node("alice", never) as node:
        outcome = node.execute("r-1", {"task_config": config})
    assert outcome.failure is not None and outcome.failure.code == "PeerUnreachable"
    assert "dora" in outcome.failure.message


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({}, "spu_config.nodes must say where the SPU of alice"),
        (
            {"spu_config": {"nodes": [{"party": "alice", "address": "alice.example:9001"}]}},
            "the SPU of bob",
        ),
        (
            {"spu_config": {"nodes": [{"party": "alice", "adress": "alice.example:9001"}]}},
            "'spu_config.nodes.0.address'",
        ),
        (
            {
                "spu_config": {
                    "nodes": [
                        {"party": "alice", "address": "alice.example:9001"},
                        {"party": "bob", "address": "bob.example"},
                    ]
                }
            },
            "spu_config.nodes: an address of bob must be address:port, such as 0.0.0.0:9443",
        ),
    ],
)
def test_fixed_addresses_must_be_complete(change: dict[str, Any], told: str, pair: Pair) -> None:
    parties = {party: {"address": f"{party}.example:9000"} for party in PARTIES}
    with pair.node("alice", never) as node:
        outcome = node.execute("r-1", PSI | {"sf_init_config": {"parties": parties}} | change)
    assert outcome.failure is not None and outcome.failure.code == "InvalidTaskConfig"
    assert told in outcome.failure.message


def test_addresses_matter_only_where_they_are_used(pair: Pair) -> None:
    parties = {party: {"address": "here"} for party in PARTIES}
    request = PSI | {"sf_init_config": {"parties": parties, "self_party": "alice"}}
    nodes = [{"party": party, "address": f"{party}.example:9001"} for party in PARTIES]
    with pair.node("alice", never) as node:
        outcome = node.execute("r-1", request | {"spu_config": {"nodes": nodes}})
    assert outcome.failure is not None and outcome.failure.code == "InvalidTaskConfig"
    assert "sf_init_config.parties: an address of alice must be" in outcome.failure.message
    both_here = PSI | {"sf_init_config": {"parties": parties}}
    plan = Plan.of(TaskRequest("e-1", "r-1", both_here))
    assert Assignment.of(plan, Settings(parties=("alice", "bob")), lambda party: False).hosted


def test_a_request_for_one_node_is_refused_where_a_peer_has_a_party(pair: Pair) -> None:
    with pair.node("alice", never) as node:
        outcome = node.execute("r-1", PSI | {"sf_init_config": {"parties": list(PARTIES)}})
    assert outcome.failure is not None and outcome.failure.code == "InvalidTaskConfig"
    assert "bob has a node of its own" in outcome.failure.message
    assert "Leave sf_init_config out" in outcome.failure.hint


@pytest.mark.parametrize(
    ("parties", "protocol"), [((), "SEMI2K"), (("alice", "bob"), "SEMI2K"), (("alice",), "CHEETAH")]
)
def test_check_says_which_protocol_would_run(
    parties: tuple[str, ...], protocol: str, capsys: pytest.CaptureFixture[str]
) -> None:
    print_plan(TaskRequest("e-1", "r-1", PSI), Settings(parties=parties))
    assert f"Protocol {protocol} on FM128" in capsys.readouterr().out


def test_a_request_that_only_one_understands_ends_at_both(pair: Pair) -> None:
    with pair.nodes(never) as nodes:
        outcomes = run(nodes, alice={"task_config": {"task_type": "psi", "reciever": "alice"}})
    assert {outcome.failure and outcome.failure.code for outcome in outcomes.values()} == {
        InvalidTaskConfig.__name__
    }
