"""In-memory twins of what a test would otherwise need SQLite, a node or SecretFlow for.

Each keeps the contract of the real one; `tests/contract` runs one suite on both.
"""

from __future__ import annotations

import json
import multiprocessing
import multiprocessing.connection
import multiprocessing.context
import multiprocessing.process
import os
import signal
import threading
import traceback
import uuid
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Any, Callable, Iterable, Mapping, NoReturn

from secretflow_task.contract.errors import PeerLost, WorkerError
from secretflow_task.contract.job_spec import JobSpec
from secretflow_task.contract.messages import Kind, Stage, Status, StatusEvent, TaskRequest
from secretflow_task.engine.job_process import Aborted, PipeChannel
from secretflow_task.node.job.process import JobProcess
from secretflow_task.node.link.peer.agenda import Agenda
from secretflow_task.node.link.peer.coordinator import Coordinator
from secretflow_task.node.link.peer.member import Member
from secretflow_task.node.link.protocol import PeerLink
from secretflow_task.node.publisher import Unsent
from secretflow_task.node.store.executions import TakenExecution

Facts = Mapping[str, Mapping[str, Any]]

# A fork takes over every open file: another job's end of its pipe must not be among them.
_FORKING = threading.Lock()


class MemoryChannel:
    """A `Channel` to peers that have answered already.

    Attributes:
        offered: the own facts of every round so far.
    """

    def __init__(self, party: str, *rounds: Facts) -> None:
        """``rounds`` are the peers' facts, ``{party: facts}``, for one call of `agree` after another."""
        self._party = party
        self._rounds = list(rounds)
        self.offered: list[dict[str, Any]] = []

    def agree(self, facts: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """The peers' facts of this round with the own ones, as JSON carries them."""
        self.offered.append(_as_json(facts))
        peers = self._rounds.pop(0) if self._rounds else {}
        return dict(sorted(_as_json({**peers, self._party: facts}).items()))

    def stage_ended(self, stage: str, seconds: float) -> None:
        """There is no node to tell."""


class MemoryOutbox:
    """An `EventStore` that is gone with its process."""

    def __init__(self, maxlen: int = 100_000) -> None:
        self.node_id = uuid.uuid4().hex
        self.dropped = 0
        self._mutex = threading.Lock()
        self._maxlen = maxlen
        self._executions: dict[tuple[str, str], TakenExecution] = {}
        self._statuses: dict[tuple[str, str], Status | None] = {}
        self._epochs: dict[tuple[str, str], int] = {}
        self._last_seq: dict[tuple[str, str], int] = {}
        self._events: dict[int, Unsent] = {}
        self._sent: set[int] = set()
        self._last_number = 0

    def claim(
        self,
        request: TaskRequest,
        *parties: str,
        epoch: int = 1,
        seqs: Mapping[str, int] | None = None,
        again: bool = False,
    ) -> bool:
        """Take an execution for all of ``parties``; False, and none taken, when one was taken before."""
        keys = {(request.execution_id, party): party for party in parties}
        with self._mutex:
            if keys.keys() & self._executions.keys() and not again:
                return False
            for key, party in keys.items():
                self._executions[key] = TakenExecution(request, party, epoch)
                self._statuses[key] = Status.RUNNING
                self._epochs[key] = epoch
                self._last_seq[key] = (seqs or {}).get(party, 0)
            return True

    def status(self, execution_id: str, party: str) -> Status | None:
        """The status of an execution at a party; None when it was never taken, or another node has it."""
        with self._mutex:
            return self._statuses.get((execution_id, party))

    def knows(self, execution_id: str, party: str) -> bool:
        """Whether an execution was ever taken here."""
        with self._mutex:
            return (execution_id, party) in self._executions

    def unfinished(self) -> list[TakenExecution]:
        """What was taken and has no terminal event."""
        with self._mutex:
            return [
                item
                for key, item in self._executions.items()
                if self._statuses[key] is Status.RUNNING
            ]

    def append(self, event: StatusEvent) -> StatusEvent | None:
        """Number an event of a taken execution and keep it until sent; None when it is not kept."""
        if not event.status.terminal and self.waiting() >= self._maxlen:
            self.dropped += 1
            return None
        with self._mutex:
            return self._append(event)

    def append_all(self, events: Iterable[StatusEvent]) -> list[StatusEvent]:
        """As `append`, for the terminal events of an execution at all parties."""
        with self._mutex:
            return [kept for event in events if (kept := self._append(event)) is not None]

    def _append(self, event: StatusEvent) -> StatusEvent | None:
        key = (event.execution_id, event.party)
        if self._statuses.get(key) is not Status.RUNNING:
            return None
        self._statuses[key] = event.status
        self._last_seq[key] += 1
        numbered = replace(event, seq=self._last_seq[key])
        as_stored = StatusEvent.from_json(numbered.to_json())
        self._last_number += 1
        self._events[self._last_number] = Unsent(self._last_number, self._epochs[key], as_stored)
        return numbered

    def waiting(self) -> int:
        """How many events Redis does not have yet."""
        with self._mutex:
            return len(self._events) - len(self._sent)

    def unsent(self, limit: int) -> list[Unsent]:
        """The oldest unsent events, in order."""
        with self._mutex:
            waiting = [
                unsent for number, unsent in self._events.items() if number not in self._sent
            ]
            return waiting[:limit]

    def mark_sent(self, numbers: Iterable[int]) -> None:
        """Redis has these events."""
        with self._mutex:
            self._sent.update(self._events.keys() & set(numbers))

    def rewind(self) -> int:
        """Make all events unsent again; returns the highest number."""
        with self._mutex:
            self._sent.clear()
            return max(self._events, default=0)

    def give_up(self, execution_id: str, party: str, epoch: int) -> None:
        """The execution was taken over since ``epoch``."""
        with self._mutex:
            if self._epochs.get((execution_id, party), 0) <= epoch:
                self._statuses[execution_id, party] = None
            for number, unsent in list(self._events.items()):
                key = (unsent.event.execution_id, unsent.event.party)
                if key == (execution_id, party) and unsent.epoch <= epoch:
                    del self._events[number]
                    self._sent.discard(number)


class MemorySettlement:
    """An execution between nodes without a network: a coordinator, and members that hear it at once.

    Args:
        parties: one at each node; the first coordinates.
        decide: as `LocalSettlement` takes it.
    """

    def __init__(self, parties: list[str], decide: Callable[[], None] = lambda: None) -> None:
        agendas = [
            Agenda("memory", tuple(parties), (party,), "digest", "protocol") for party in parties
        ]
        self.coordinator = Coordinator(
            agendas[0],
            decide,
            lambda nonce: True,
            lambda party: False,
            join_seconds=5.0,
            clock_limit_seconds=60.0,
        )
        self.members = {agenda.hosted[0]: Member(agenda, 5.0, 10.0) for agenda in agendas[1:]}
        self.cables = {
            party: MemoryCable(self.coordinator, member) for party, member in self.members.items()
        }

    @property
    def links(self) -> dict[str, PeerLink]:
        """Every party's link."""
        links = dict(self.coordinator.links)
        return links | {party: member.links[party] for party, member in self.members.items()}

    def join(self) -> None:
        """Bring all together."""
        self.coordinator.join()
        for member in self.members.values():
            member.join()

    def close(self) -> None:
        """Give back what the links hold."""
        self.coordinator.close()
        for member in self.members.values():
            member.close()


class MemoryCable:
    """Carries the messages between a member and its seat, until it is cut."""

    def __init__(self, coordinator: Coordinator, member: Member) -> None:
        self._coordinator = coordinator
        self._member = member
        self._seat = coordinator.seat(_as_json(member.agenda.join()))
        self._mutex = threading.Lock()
        self._carrying = self._again = False
        self.is_cut = False
        member.attach(coordinator.session)
        self._seat.watch(self._carry)
        member.watch(self._carry)

    def _carry(self) -> None:
        with self._mutex:
            self._again = True
            if self._carrying:
                return
            self._carrying = True
        while self._goes_on():
            for message in self._member.take():
                self._seat.receive(_as_json(message))
            for message in self._seat.take():
                self._member.receive(_as_json(message))

    def _goes_on(self) -> bool:
        with self._mutex:
            self._carrying, self._again = self._again and not self.is_cut, False
            return self._carrying

    def cut(self) -> None:
        """Let nothing through, and let both sides notice."""
        self.is_cut = True
        self._seat.lost(PeerLost(party=self._member.agenda.hosted[0]))
        self._member.lost(PeerLost(party=self._member.agenda.coordinator))

    def ask(self) -> None:
        """Let the member ask how the execution ended."""
        self._member.learn(_as_json(self._coordinator.outcome()))


class JobSide(PipeChannel):
    """What a scripted job can do: everything that a job process says to its node, and every way to end."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self.connection = connection

    def report(self, progress: float, stage: str = Stage.TASK_EXECUTION.value) -> None:
        """Send a RUNNING event."""
        self.send(Kind.EVENT, {"stage": stage, "progress": progress})

    def refuse(self, error: WorkerError, from_peer: bool = False) -> None:
        """Say that the own input does not fit."""
        self.send(Kind.REFUSED, {"error": error.to_dict(), "from_peer": from_peer})

    def fail(self, error: WorkerError, from_peer: bool = False) -> None:
        """Say that the execution failed."""
        self.send(Kind.FAILED, {"error": error.to_dict(), "from_peer": from_peer})

    def finish(self, result: Mapping[str, Any], outputs: Mapping[str, str] | None = None) -> None:
        """Send the result, with ``{staged: target}``, and say that all is done."""
        self.send(Kind.RESULT, {"result": dict(result), "outputs": dict(outputs or {})})
        self.send(Kind.DONE, {})

    def die(self, number: int = signal.SIGKILL) -> NoReturn:
        """End by a signal."""
        if number != signal.SIGKILL:
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        os._exit(70)  # not reached

    def leave(self, code: int = 0) -> NoReturn:
        """End with an exit code."""
        os._exit(code)

    def hang(self) -> NoReturn:
        """Do nothing until the process is killed."""
        while True:
            signal.pause()


def scripted_job(script: Callable[[JobSide], None]) -> JobProcess:
    """A job process without an engine: forked from the test, it plays ``script`` and ends.

    It has its own process group, as a real one has.
    """
    with _FORKING:
        ours, theirs = multiprocessing.Pipe()
        process = _Process(target=_play, args=(script, ours, theirs), daemon=True)
        process.start()
        theirs.close()
    return JobProcess(process, ours)


class MemoryJob(JobProcess):
    """A job process without a process: a test says through `side` what it says, and by `end` how it ended."""

    def __init__(self) -> None:
        ours, theirs = multiprocessing.Pipe()
        super().__init__(multiprocessing.process.BaseProcess(), ours)
        self.side = JobSide(theirs)
        self._mutex = threading.Lock()
        self._code: int | None = None
        self._sentinel = os.eventfd(0, os.EFD_CLOEXEC)

    @property
    def sentinel(self) -> int:
        """Becomes readable at `end`."""
        return self._sentinel

    def exit_code(self) -> int | None:
        """None until `end`."""
        return self._code

    def end(self, code: int) -> None:
        """End with an exit code, or a signal if negative; only the first end counts."""
        with self._mutex:
            if self._code is None:
                self._code = code
                self.side.connection.close()
                os.eventfd_write(self._sentinel, 1)

    def close(self) -> None:
        """Give back the files."""
        self.strike()
        os.close(self._sentinel)

    def _signal(self, number: int) -> None:  # there is no process that could be sent one
        if number != signal.SIGCONT:
            self.end(-number)


class ScriptedTemplate:
    """A `Template` without an engine: its jobs play one script, which is told its spec."""

    def __init__(self, script: Callable[[JobSpec, JobSide], None]) -> None:
        self._script = script
        self.spawned: list[JobSpec] = []
        self.ready = True
        self.restarts = 0

    def start(self) -> int:
        """There is nothing to load; returns this process's id."""
        return os.getpid()

    def close(self) -> None:
        """Nothing is held."""

    def spawn(self, spec: JobSpec) -> JobProcess:
        """Start a scripted job."""
        self.spawned.append(spec)
        return scripted_job(lambda job: self._script(spec, job))


class _Process(multiprocessing.context.ForkProcess):
    """A fork that is reaped, as the forkserver's children are, when its sentinel says that it has ended."""

    @property
    def exitcode(self) -> int | None:
        """None while it runs; negative for a signal."""
        if multiprocessing.connection.wait([self.sentinel], timeout=0):
            self.join()
        return super().exitcode


def _play(script: Callable[[JobSide], None], ours: Connection, theirs: Connection) -> NoReturn:
    ours.close()
    os.setsid()
    code = 1
    try:
        script(JobSide(theirs))
        code = 0
    except (Aborted, EOFError):
        pass
    except BaseException:  # pylint: disable=broad-exception-caught
        traceback.print_exc()  # and no further: a fork must not go on as a second run of the tests
    os._exit(code)


def _as_json(value: Any) -> Any:
    return json.loads(json.dumps(value))
