"""Whatever jobs say and however they end, in any order, their parties end alike."""

from __future__ import annotations

import shutil
import tempfile
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Mapping

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from secretflow_task.contract.errors import (
    AlgorithmError,
    NodeLost,
    PeerLost,
    TaskCancelled,
    WorkerError,
)
from secretflow_task.contract.job_spec import JobSpec
from secretflow_task.contract.messages import Kind, Status
from secretflow_task.contract.paths import PathRules
from secretflow_task.contract.requests import TaskRequest
from secretflow_task.node.job import dialogue
from secretflow_task.node.job.limits import Limits
from secretflow_task.node.job.supervisor import Supervisor
from secretflow_task.node.link.local import LocalSettlement
from secretflow_task.testing import MemoryJob

STAGING = ".sfworker-test"
PARTIES = ("alice", "bob")
PARTY = st.sampled_from(PARTIES)
STEPS = settings(max_examples=100, stateful_step_count=10, deadline=None, database=None)


class Party:
    """A job the machine speaks for, under a real supervisor, an old output at its target."""

    def __init__(self, name: str, root: Path, shared: LocalSettlement) -> None:
        self.job = MemoryJob()
        self.link = shared.links[name]
        self.events: list[tuple[Status, Mapping[str, Any]]] = []
        self.target = root / name / "out.csv"
        self.staged = root / name / STAGING / "0.csv"
        self.staged.parent.mkdir(parents=True)
        self.staged.write_text("new")
        self.target.write_text("old")
        self.owned, self.said_result, self.voted = True, False, False
        spec = JobSpec(
            request=TaskRequest("e-1", "r-1", {}),
            party=name,
            rules=PathRules(name, root / name),
            folder=root / name,
            log_path=root / name / "job.log",
            staging=STAGING,
            fed_addresses={},
            spu_addresses={},
            several=True,
        )
        limits = Limits(job_seconds=300.0, prepare_seconds=300.0, grace_seconds=0.0)
        self.supervisor = Supervisor(spec, self.job, self.link, self, limits)

    def say(self, kind: Kind, body: Mapping[str, Any]) -> None:
        """Send a message, if there is still somebody to send it and somebody to hear it."""
        if self.job.exit_code() is None:
            try:
                self.job.side.send(kind, body)
            except OSError:
                return

    def run(self) -> WorkerError | None:
        """Play the node."""
        end = self.supervisor.run()
        self.events.append((end.status, end.data))
        return end.failure

    def report(self, data: Mapping[str, Any]) -> None:
        """Note a RUNNING event."""
        self.events.append((Status.RUNNING, data))

    def vote(self, result: Mapping[str, Any]) -> Mapping[str, Any]:
        """Keep a result."""
        if not self.owned:
            raise NodeLost()
        self.voted = True
        return result

    def withdraw(self) -> None:
        """Forget it; a node that dies from here on finds the outputs undone or undoes them."""
        assert self.link.failed
        self.voted = False


class Execution(RuleBasedStateMachine):
    """Two parties whose jobs do anything at any moment."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp())
        self.shared = LocalSettlement(list(PARTIES))
        self.parties = {name: Party(name, self.root, self.shared) for name in PARTIES}
        self.threads = ThreadPoolExecutor(2)
        self.ends: list[Future[WorkerError | None]] = [
            self.threads.submit(party.run) for party in self.parties.values()
        ]

    @rule(name=PARTY)
    def prepared(self, name: str) -> None:
        """A job has checked its input, or is ready for another round."""
        self.parties[name].say(Kind.PREPARED, {"rows": 3})

    @rule(name=PARTY, progress=st.sampled_from([0.1, 0.7, 0.4, -1.0, float("nan"), 2.0]))
    def event(self, name: str, progress: float) -> None:
        """A job reports progress."""
        self.parties[name].say(Kind.EVENT, {"stage": "task_execution", "progress": progress})

    @rule(name=PARTY)
    def result(self, name: str) -> None:
        """A job has its result."""
        party = self.parties[name]
        party.said_result = True
        party.say(Kind.RESULT, {"result": {}, "outputs": {str(party.staged): str(party.target)}})

    @rule(name=PARTY, kind=st.sampled_from([Kind.REFUSED, Kind.FAILED]), from_peer=st.booleans())
    def fail(self, name: str, kind: Kind, from_peer: bool) -> None:
        """A job fails, by itself or since it lost its peer."""
        error = PeerLost(party=name) if from_peer else AlgorithmError(party=name)
        self.parties[name].say(kind, {"error": error.to_dict(), "from_peer": from_peer})

    @rule(
        name=PARTY,
        how=st.sampled_from(["disowned", "unstaged", "nonsense", "cancelled", 0, 255, -9]),
    )
    def go_wrong(self, name: str, how: str | int) -> None:
        """Another node takes over, a staged file vanishes, or a job errs, is cancelled or ends."""
        party = self.parties[name]
        if isinstance(how, int):
            party.job.end(how)
        elif how == "disowned":
            party.owned = False
        elif how == "unstaged":
            party.staged.unlink(missing_ok=True)
        elif how == "cancelled":
            party.link.fail(TaskCancelled())
        else:
            party.say(Kind.RESULT, {"outputs": 1, "progress": "x", "error": []})

    @rule()
    def pause(self) -> None:
        """The supervisors have their turn."""
        time.sleep(0.01)

    @precondition(lambda self: all(end.done() for end in self.ends))
    @invariant()
    def what_has_ended_stays_as_it_is(self) -> None:
        """No event follows the end."""
        self._check()

    @precondition(lambda self: not all(party.said_result for party in self.parties.values()))
    @invariant()
    def no_output_is_moved_before_all_have_a_result(self) -> None:
        """Whoever looks at a target finds what was there."""
        assert all(party.target.read_text() == "old" for party in self.parties.values())

    def teardown(self) -> None:
        """Whatever has not ended is cancelled, and ends."""
        self.parties["alice"].link.fail(TaskCancelled())
        try:
            for end in self.ends:
                end.result(60)
            self._check()
        finally:
            self.threads.shutdown()
            self.shared.close()
            for party in self.parties.values():
                party.job.close()
            shutil.rmtree(self.root)

    def _check(self) -> None:
        endings = set()
        for party, end in zip(self.parties.values(), self.ends):
            statuses = [status for status, _ in party.events]
            progress = [data["progress"] for _, data in party.events]
            assert [status.terminal for status in statuses] == [False] * (len(statuses) - 1) + [
                True
            ]
            assert progress == sorted(progress) and all(0 <= share <= 1 for share in progress)
            assert (
                (statuses[-1] is Status.SUCCESS) is (end.result() is None) is (progress[-1] == 1.0)
            )
            assert party.target.read_text() == ("new" if statuses[-1] is Status.SUCCESS else "old")
            assert party.voted is (statuses[-1] is Status.SUCCESS)
            assert party.said_result or statuses[-1] is Status.FAILURE
            assert party.job.exit_code() is not None
            endings.add((statuses[-1], party.events[-1][1].get("error_code")))
        assert len(endings) == 1


def test_two_parties_end_alike_whatever_their_jobs_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dialogue, "_CAUSE_SECONDS", 0.02)
    monkeypatch.setattr(dialogue, "_EXIT_SECONDS", 0.02)
    run_state_machine_as_test(Execution, settings=STEPS)  # type: ignore[no-untyped-call]
