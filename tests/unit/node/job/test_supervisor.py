"""Whatever a job process does, its party hears one terminal event, the same as the others."""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable, Mapping

import psutil
import pytest
from structlog.testing import capture_logs

from secretflow_task.contract.errors import AlgorithmError, MissingColumn, PeerLost, WorkerError
from secretflow_task.contract.job_spec import JobSpec
from secretflow_task.contract.messages import Kind, Status
from secretflow_task.contract.paths import PathRules
from secretflow_task.contract.requests import TaskRequest
from secretflow_task.node.job import checkup, dialogue, supervisor
from secretflow_task.node.job import limits as limits_module
from secretflow_task.node.job.limits import Limits
from secretflow_task.node.job.supervisor import Supervisor
from secretflow_task.node.link.local import LocalSettlement
from secretflow_task.testing import JobSide, scripted_job
from tests.bench.waiting import PATIENCE_SECONDS

Script = Callable[[JobSide], None]
STAGING = ".sfworker-test"
JUMP = 1000.0


@dataclass
class Ending:
    """What was published for one party, and what is left; the `Host` of its supervisor."""

    party: str
    root: Path
    events: list[tuple[Status, Mapping[str, Any]]] = field(default_factory=list)
    failure: WorkerError | None = None
    pid: int = 0

    def report(self, data: Mapping[str, Any]) -> None:
        """Note a RUNNING event."""
        self.events.append((Status.RUNNING, data))

    def vote(self, result: Mapping[str, Any]) -> Mapping[str, Any]:
        """There is nothing to keep it in."""
        return result

    def withdraw(self) -> None:
        """Nothing was kept."""

    @property
    def last(self) -> Mapping[str, Any]:
        """The data of the terminal event."""
        return self.events[-1][1]

    def check(self) -> None:
        """The laws that hold for every ending."""
        statuses = [status for status, _ in self.events]
        assert [status for status in statuses if status.terminal] == statuses[-1:]
        assert (statuses[-1] is Status.SUCCESS) is (self.failure is None)
        progress = [data["progress"] for _, data in self.events]
        assert progress == sorted(progress) and all(0 <= value <= 1 for value in progress)
        assert progress[-1] == 1 or self.failure
        assert not running(self.pid)


def running(pid: int) -> bool:
    """Whether there is a process of that number."""
    return Path(f"/proc/{pid}").exists()


class Bench:
    """Runs executions of scripted jobs under real supervisors."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def run(self, *executions: Mapping[str, Script], **limits: Any) -> list[dict[str, Ending]]:
        """Run executions, ``{party: script}``, side by side."""
        runs: list[tuple[dict[str, Ending], dict[str, Supervisor], LocalSettlement]] = []
        for number, scripts in enumerate(executions):
            shared = LocalSettlement(sorted(scripts))
            endings, supervisors = {}, {}
            for party, script in scripts.items():
                root = self.root / f"{number}" / party
                (root / STAGING).mkdir(parents=True, exist_ok=True)
                endings[party] = Ending(party, root)
                supervisors[party] = self._supervisor(endings[party], shared, script, limits)
            runs.append((endings, supervisors, shared))
        with ThreadPoolExecutor(100) as threads:
            for endings, supervisors, shared in runs:
                for party, watching in supervisors.items():
                    threads.submit(self._watch, watching, endings[party])
        for endings, _, shared in runs:
            shared.close()
            for ending in endings.values():
                ending.check()
        return [endings for endings, _, _ in runs]

    @staticmethod
    def _watch(watching: Supervisor, ending: Ending) -> None:
        end = watching.run()
        ending.failure = end.failure
        ending.events.append((end.status, end.data))

    def _supervisor(
        self, ending: Ending, shared: LocalSettlement, script: Script, limits: Mapping[str, Any]
    ) -> Supervisor:
        job = scripted_job(script)
        ending.pid = job.pid
        spec = JobSpec(
            request=TaskRequest("e-1", "r-1", {}),
            party=ending.party,
            rules=PathRules(ending.party, ending.root),
            folder=ending.root,
            log_path=ending.root / "job.log",
            staging=STAGING,
            fed_addresses={},
            spu_addresses={},
            several=True,
        )
        defaults = Limits(
            job_seconds=PATIENCE_SECONDS, prepare_seconds=PATIENCE_SECONDS, grace_seconds=0.2
        )
        link = shared.links[ending.party]
        return Supervisor(spec, job, link, ending, replace(defaults, **limits))


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """The bench."""
    return Bench(tmp_path)


@pytest.fixture
def hasty_bench(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A bench where a failure waits briefly for its cause, and a broken pipe for an exit."""
    monkeypatch.setattr(dialogue, "_CAUSE_SECONDS", 0.15)
    monkeypatch.setattr(dialogue, "_EXIT_SECONDS", 0.2)
    return bench


@pytest.fixture
def jumping_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """With every report of a job the supervisors' clock jumps by `JUMP` seconds."""
    jumps: list[float] = []
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + sum(jumps))
    for module in (checkup, dialogue, limits_module, supervisor):
        monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(Ending, "report", lambda _ending, _data: jumps.append(JUMP))


def good(job: JobSide) -> None:
    """What a job does when all goes well."""
    job.agree({})
    job.report(0.5)
    job.finish({})


def kill_me(job: JobSide) -> None:
    """Die as by the system's out-of-memory killer."""
    job.die(signal.SIGKILL)


def both_fail(endings: Mapping[str, Ending], code: str, party: str | None) -> str:
    """All parties end in the same failure; returns its public message."""
    told = {
        (data["error_code"], data["failed_party"], data["error"], data["hint"])
        for data in (e.last for e in endings.values())
    }
    ((found, failed_party, message, hint),) = told
    assert (found, failed_party) == (code, party)
    assert message.endswith(".") and hint.endswith(".")
    return str(message)


def test_two_jobs_that_do_well_end_in_success_at_both(bench: Bench) -> None:
    def script(job: JobSide, party: str) -> None:
        facts = job.agree({"rows": len(party)})
        job.report(0.1, "cluster_init")
        job.report(0.75, "training")
        job.finish({"party": party, "facts": facts})

    (endings,) = bench.run({name: partial(script, party=name) for name in ("alice", "bob")})
    facts = {"alice": {"rows": 5}, "bob": {"rows": 3}}
    for party, ending in endings.items():
        assert ending.events == [
            (Status.RUNNING, {"stage": "cluster_init", "progress": 0.1}),
            (Status.RUNNING, {"stage": "training", "progress": 0.75}),
            (
                Status.SUCCESS,
                {"stage": "SUCCESS", "progress": 1.0, "result": {"party": party, "facts": facts}},
            ),
        ]


def test_several_rounds_are_agreed_on_one_after_another(bench: Bench) -> None:
    def script(job: JobSide, party: str, slow: bool) -> None:
        rounds = []
        for number in range(3):
            time.sleep(0.05 if slow else 0)
            rounds.append(job.agree({"round": number, "party": party}))
        job.finish({"rounds": rounds})

    (endings,) = bench.run(
        {
            "alice": lambda job: script(job, "alice", True),
            "bob": lambda job: script(job, "bob", False),
        }
    )
    expected = [
        {party: {"round": number, "party": party} for party in ("alice", "bob")}
        for number in range(3)
    ]
    assert [ending.last["result"] for ending in endings.values()] == [{"rounds": expected}] * 2


@pytest.mark.parametrize(
    "phase", ["before it is prepared", "while it waits", "after go", "while it works"]
)
def test_a_killed_job_process_ends_in_exactly_one_failure(phase: str, bench: Bench) -> None:
    def dies(job: JobSide) -> None:
        if phase == "while it waits":
            job.send(Kind.PREPARED, {})
        elif phase != "before it is prepared":
            job.agree({})
        if phase == "while it works":
            job.report(0.5)
        job.die(signal.SIGKILL)

    (endings,) = bench.run(
        {"alice": dies, "bob": good if phase != "while it waits" else JobSide.hang}
    )
    message = both_fail(endings, "JobProcessDied", "alice")
    assert message == "The job process of alice ended without a result (signal SIGKILL)."
    assert endings["alice"].last["progress"] == (0.5 if phase == "while it works" else 0.0)


def test_the_way_in_which_a_job_process_died_is_told(hasty_bench: Bench) -> None:
    ways: dict[str, Script] = {
        "exit code 0": lambda job: job.leave(0),
        "exit code 3": lambda job: job.leave(3),
        "signal SIGTERM": lambda job: job.die(signal.SIGTERM),
        "signal SIGABRT": lambda job: job.die(signal.SIGABRT),
        "signal SIGSEGV": lambda job: job.die(signal.SIGSEGV),
        "exit code 255": lambda job: job.leave(255),
        "signal 40": lambda job: job.die(40),
    }
    for way, endings in zip(
        ways, hasty_bench.run(*({"alice": script} for script in ways.values()))
    ):
        message = both_fail(endings, "JobProcessDied", "alice")
        assert message == f"The job process of alice ended without a result ({way})."


def test_the_last_words_of_a_job_process_count(bench: Bench) -> None:
    def many_words(job: JobSide) -> None:
        job.agree({})
        for number in range(150):
            job.report(number / 1000)
        job.finish({"all": "said"})
        job.leave(1)

    (endings,) = bench.run({"alice": many_words})
    assert [data["progress"] for _, data in endings["alice"].events] == [
        *(number / 1000 for number in range(150)),
        1.0,
    ]
    assert endings["alice"].last["result"] == {"all": "said"}


GARBAGE = {
    "nothing": b"",
    "text": b"garbage",
    "a pickle": b"\x80\x04\x95",
    "a list": b"[]",
    "a number": b"5",
    "an unknown kind": b'{"kind": "shutdown", "body": {}}',
    "no body": b'{"kind": "result"}',
    "a body that is a list": b'{"kind": "event", "body": [1]}',
    "a result without one": b'{"kind": "result", "body": {}}',
    "outputs that are a list": b'{"kind": "result", "body": {"result": {}, "outputs": ["x"]}}',
    "outputs that are numbers": b'{"kind": "result", "body": {"result": {}, "outputs": {"x": 1}}}',
    "a failure without an error": b'{"kind": "failed", "body": {"from_peer": false}}',
    "a failure that is a text": b'{"kind": "failed", "body": {"error": "x", "from_peer": false}}',
    "progress that is a text": b'{"kind": "event", "body": {"progress": "half"}}',
    "progress that is a list": b'{"kind": "event", "body": {"progress": []}}',
    "a stage without seconds": b'{"kind": "stage", "body": {"stage": "prepare"}}',
    "seconds before zero": b'{"kind": "stage", "body": {"stage": "prepare", "seconds": -1}}',
    "seconds without end": b'{"kind": "stage", "body": {"stage": "prepare", "seconds": Infinity}}',
    "seconds that are NaN": b'{"kind": "stage", "body": {"stage": "prepare", "seconds": NaN}}',
}


def test_garbage_on_the_pipe_is_a_failure_at_once(hasty_bench: Bench) -> None:
    def script(job: JobSide, data: bytes, then: Script) -> None:
        job.agree({})
        job.connection.send_bytes(data)
        then(job)

    def broken(job: JobSide, how: Script) -> None:
        job.agree({})
        how(job)
        job.hang()

    def half_a_message(job: JobSide) -> None:
        os.write(job.connection.fileno(), struct.pack("!i", 1000) + b"{")
        socket.socket(fileno=job.connection.fileno()).shutdown(socket.SHUT_RDWR)

    scripts = [partial(script, data=data, then=JobSide.hang) for data in GARBAGE.values()]
    scripts += [
        partial(script, data=data, then=JobSide.leave) for data in list(GARBAGE.values())[:3]
    ]
    scripts += [
        partial(broken, how=how) for how in (lambda job: job.connection.close(), half_a_message)
    ]
    started = time.monotonic()
    for endings in hasty_bench.run(*({"alice": script} for script in scripts)):
        both_fail(endings, "JobProcessDied", "alice")
    assert time.monotonic() - started < PATIENCE_SECONDS


def test_a_failure_tells_what_the_stages_before_it_took(bench: Bench) -> None:
    def fails(job: JobSide) -> None:
        job.stage_ended("prepare", 1.5)
        job.agree({})
        for seconds in (0.25, 0.5):
            job.stage_ended("task_execution", seconds)
        job.fail(AlgorithmError(party="alice"))

    def waits(job: JobSide) -> None:
        job.agree({})
        job.hang()

    (endings,) = bench.run({"alice": fails, "bob": waits})
    assert endings["alice"].last["timings"] == {"prepare": 1.5, "task_execution": 0.75}
    assert endings["bob"].last["timings"] == {}


def test_the_log_of_a_job_that_was_killed_says_why(bench: Bench) -> None:
    def waits(job: JobSide) -> None:
        job.agree({})
        job.hang()

    (endings,) = bench.run(
        {"alice": waits, "bob": lambda job: job.refuse(MissingColumn(party="bob"))}
    )
    log = endings["alice"].root / "job.log"
    (line,) = log.read_text().splitlines()
    assert "action=job_gone code=MissingColumn failed_party=bob status=FAILURE" in line
    assert log.stat().st_mode & 0o777 == 0o600


def test_a_job_cannot_fill_the_log_of_its_node_with_stages(bench: Bench) -> None:
    def floods(job: JobSide) -> None:
        for number in range(1200):
            job.send(Kind.STAGE, {"stage": f"s{number}", "seconds": 0})
        job.fail(AlgorithmError(party="alice"))

    with capture_logs() as records:
        (endings,) = bench.run({"alice": floods})
    assert len(endings["alice"].last["timings"]) == len(records) == 1000


def test_a_refusal_is_the_same_at_every_party(bench: Bench) -> None:
    refusal = MissingColumn(
        "bob: the file of train_data has no column 'f1'.", party="bob", step="train"
    )

    def waits(job: JobSide) -> None:
        job.agree({})
        pytest.fail("no go may follow a refusal")

    (endings,) = bench.run({"alice": waits, "bob": lambda job: job.refuse(refusal), "carol": waits})
    assert (
        both_fail(endings, "MissingColumn", "bob")
        == "Step 'train': bob: the file of train_data has no column 'f1'."
    )
    assert {ending.last["step"] for ending in endings.values()} == {"train"}
    assert all(len(ending.events) == 1 for ending in endings.values())


def test_a_failure_ends_a_peer_that_has_its_result_ready(bench: Bench) -> None:
    def fails(job: JobSide) -> None:
        job.agree({})
        time.sleep(0.1)
        job.fail(AlgorithmError(party="bob"))

    def is_ready(job: JobSide) -> None:
        job.agree({})
        path = bench.root / "0" / "alice"
        (path / STAGING / "0.csv").write_text("new")
        job.finish({}, {str(path / STAGING / "0.csv"): str(path / "out.csv")})

    (endings,) = bench.run({"alice": is_ready, "bob": fails})
    both_fail(endings, "AlgorithmError", "bob")
    assert not (endings["alice"].root / "out.csv").exists()


@pytest.mark.parametrize("end", ["says so", "exit 255", "SIGABRT", "SIGSEGV", "SIGPIPE"])
def test_a_failure_that_follows_from_a_peers_names_the_peer(end: str, bench: Bench) -> None:
    def consequence(job: JobSide) -> None:
        job.agree({})
        if end == "says so":
            job.fail(PeerLost(party="alice"), from_peer=True)
        elif end == "exit 255":
            job.leave(255)
        else:
            job.die(getattr(signal, end))

    def cause(job: JobSide) -> None:
        job.agree({})
        time.sleep(0.05)
        job.die(signal.SIGKILL)

    (endings,) = bench.run({"alice": consequence, "bob": cause})
    both_fail(endings, "JobProcessDied", "bob")


def test_a_consequence_without_a_cause_is_a_failure_after_a_moment(hasty_bench: Bench) -> None:
    def consequence(job: JobSide) -> None:
        job.agree({})
        job.fail(PeerLost(party="bob"), from_peer=True)

    def waits(job: JobSide) -> None:
        job.agree({})
        job.hang()

    (endings,) = hasty_bench.run({"alice": consequence, "bob": waits})
    both_fail(endings, "PeerLost", "bob")


def test_of_two_failures_the_first_counts(bench: Bench) -> None:
    def fails(job: JobSide, after: float, party: str) -> None:
        job.agree({})
        time.sleep(after)
        job.fail(AlgorithmError(f"Broken at {party}.", party=party))

    (endings,) = bench.run(
        {"alice": lambda job: fails(job, 5.0, "alice"), "bob": lambda job: fails(job, 0.0, "bob")}
    )
    assert both_fail(endings, "AlgorithmError", "bob") == "Broken at bob."


@pytest.mark.usefixtures("jumping_clock")
def test_a_party_that_is_not_prepared_in_time_ends_the_execution(bench: Bench) -> None:
    def prepared(job: JobSide) -> None:
        job.send(Kind.PREPARED, {})
        job.report(0.1)
        job.hang()

    (endings,) = bench.run(
        {"alice": JobSide.hang, "bob": prepared},
        prepare_seconds=JUMP / 2,
        job_seconds=10 * JUMP,
        silence_seconds=10 * JUMP,
    )
    assert both_fail(endings, "TaskTimeout", "alice") == "The parties were not prepared in time."


@pytest.mark.usefixtures("jumping_clock")
def test_only_the_preparation_of_a_round_has_to_be_in_time(bench: Bench) -> None:
    def script(job: JobSide) -> None:
        job.agree({})
        job.report(0.1)
        job.agree({})
        job.finish({})

    (endings,) = bench.run(
        {"alice": script, "bob": script},
        prepare_seconds=JUMP / 2,
        job_seconds=10 * JUMP,
        silence_seconds=10 * JUMP,
    )
    assert [ending.failure for ending in endings.values()] == [None, None]


def test_an_execution_has_a_wall_clock_limit(bench: Bench) -> None:
    def works(job: JobSide) -> None:
        job.agree({})
        job.report(0.5)
        job.hang()

    def floods(job: JobSide) -> None:
        job.agree({})
        while True:
            job.report(0.5)

    def ready(job: JobSide) -> None:
        job.agree({})
        job.finish({})

    started = time.monotonic()
    executions = bench.run(
        {"alice": works}, {"alice": floods}, {"alice": works, "bob": ready}, job_seconds=0.4
    )
    assert time.monotonic() - started < PATIENCE_SECONDS
    for endings in executions:
        for ending in endings.values():
            assert ending.last["error_code"] == "TaskTimeout"
            assert (
                ending.last["hint"]
                == "Raise SFWORKER_JOB_TIMEOUT_SECONDS or make the task smaller."
            )


def test_a_stopped_job_process_is_noticed_within_seconds(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stops(job: JobSide) -> None:
        job.agree({})
        os.kill(os.getpid(), signal.SIGSTOP)
        job.finish({})

    monkeypatch.setattr(supervisor, "_LOOK_SECONDS", 0.1)
    (endings,) = bench.run({"alice": stops, "bob": lambda job: job.agree({}) and job.hang()})
    message = "The job process of alice was stopped from outside (SIGSTOP)."
    assert both_fail(endings, "JobProcessDied", "alice") == message


def test_a_job_that_gives_no_sign_is_ended_and_one_that_only_works_is_not(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def works(job: JobSide) -> None:
        for _ in range(8):
            job.send(Kind.ALIVE, {})
            time.sleep(0.3)
        good(job)

    monkeypatch.setattr(supervisor, "_LOOK_SECONDS", 0.1)
    silent, busy = bench.run({"alice": JobSide.hang}, {"alice": works}, silence_seconds=2.0)
    said = both_fail(silent, "JobProcessDied", "alice")
    assert said == "The job process of alice was silent for 2 s."
    assert busy["alice"].failure is None


def test_a_flood_of_progress_is_thinned_and_its_log_is_bounded(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    log = tmp_path / "0" / "alice" / "job.log"

    def floods(job: JobSide) -> None:
        job.agree({})
        with log.open("ab", buffering=0) as file:
            for step in range(3000):
                job.report(step / 6000)
                file.write(b"x" * 1000)
            time.sleep(0.3)
            file.write(b"the end")
        job.finish({})

    monkeypatch.setattr(supervisor, "_LOOK_SECONDS", 0.1)
    (endings,) = bench.run({"alice": floods}, log_bytes=2_000_000)
    assert endings["alice"].failure is None
    assert len(endings["alice"].events) <= 2 + 200 * 5
    content = log.read_bytes()
    assert content.endswith(b"xx" + b"the end") and b"bytes dropped]\n" in content
    assert len(content) < 2_000_000


def test_a_process_group_that_is_too_large_is_ended(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A fork of the tests has its share of their memory, a third or less here.
    limit = psutil.Process().memory_info().rss // 2 + 60_000_000

    def grows(job: JobSide) -> None:
        code = f"held = bytearray({limit}); print(flush=True); input()"
        with subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1) as child:
            child.stdout.readline()  # type: ignore[union-attr]
            job.hang()

    monkeypatch.setattr(supervisor, "_LOOK_SECONDS", 0.1)
    calm = {"alice": lambda job: time.sleep(0.5) or good(job)}
    (endings,) = bench.run({"alice": grows, "bob": JobSide.hang}, memory_bytes=limit)
    assert both_fail(endings, "MemoryLimitExceeded", "alice")
    (endings,) = bench.run(calm, memory_bytes=10**12)
    assert endings["alice"].failure is None


def test_a_job_hears_sigterm_before_it_is_killed(bench: Bench, tmp_path: Path) -> None:
    def tidies(job: JobSide) -> None:
        signal.signal(signal.SIGTERM, lambda *_: (tmp_path / "heard").touch())
        job.agree({})
        job.fail(AlgorithmError(party="alice"))
        job.hang()

    bench.run({"alice": tidies})
    assert (tmp_path / "heard").exists()


def test_progress_never_goes_backwards_and_only_success_is_whole(bench: Bench) -> None:
    def script(job: JobSide) -> None:
        for progress in (0.1, 0.5, 0.3, -1, 0.6, float("nan"), float("inf"), 7):
            job.report(progress)
        job.fail(AlgorithmError(party="alice"))

    (endings,) = bench.run({"alice": script})
    progress = [data["progress"] for _, data in endings["alice"].events]
    assert progress[:6] == [0.1, 0.5, 0.5, 0.5, 0.6, 0.6]
    assert all(value < 1 for value in progress) and len(progress) == 9


def writes(bench: Bench, outputs: Mapping[str, str], *, number: int = 0) -> Script:
    """A job of alice that stages ``{staged: target}`` (relative to her root) and succeeds."""
    root = bench.root / f"{number}" / "alice"

    def script(job: JobSide) -> None:
        job.agree({})
        job.finish(
            {},
            {
                str(root / staged): target.replace("{root}", str(root))
                for staged, target in outputs.items()
            },
        )

    for staged in outputs:
        path = root / staged
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"new {staged}")
    (root / STAGING).mkdir(exist_ok=True)
    return script


def test_outputs_are_moved_to_their_places_on_success(bench: Bench) -> None:
    script = writes(
        bench,
        {
            f"{STAGING}/0.csv": "{root}/out.csv",
            f"{STAGING}/1.csv": "{root}/new/deep/out.csv",
            f"{STAGING}/m": "{root}/model",
        },
    )
    root = bench.root / "0" / "alice"
    (root / "out.csv").write_text("old and longer than the new one")
    (root / STAGING / "m").unlink()
    for folder, name in ((root / "model", "old"), (root / STAGING / "m", "new")):
        folder.mkdir()
        (folder / name).touch()
    (endings,) = bench.run({"alice": script})
    assert endings["alice"].failure is None
    assert (root / "out.csv").read_text() == f"new {STAGING}/0.csv"
    assert (root / "new/deep/out.csv").read_text() == f"new {STAGING}/1.csv"
    assert [path.name for path in (root / "model").iterdir()] == ["new"]


@pytest.mark.parametrize(
    ("staged", "target"),
    [
        ("elsewhere/0.csv", "{root}/out.csv"),
        ("0.csv", "{root}/out.csv"),
        (f"{STAGING}/deep/0.csv", "{root}/out.csv"),
        (f"{STAGING}/0.csv", "{root}/../bob/out.csv"),
        (f"{STAGING}/0.csv", "/etc/sfworker-test.csv"),
        (f"{STAGING}/0.csv", "{root}"),
        (f"{STAGING}/0.csv", "{root}/file/out.csv"),
        (f"{STAGING}/0.csv", "{root}/\0.csv"),
    ],
)
def test_an_output_that_cannot_or_must_not_be_moved_is_a_failure(
    staged: str, target: str, bench: Bench
) -> None:
    script = writes(bench, {staged: target})
    root = bench.root / "0" / "alice"
    (root / "file").write_text("in the way")
    (endings,) = bench.run({"alice": script})
    ending = endings["alice"]
    assert (ending.last["error_code"], ending.last["failed_party"]) == (
        "OutputNotWritable",
        "alice",
    )
    assert str(root) not in ending.last["error"]
    assert not (root / "out.csv").exists() and (root / "file").read_text() == "in the way"
    assert (root / staged).exists()


def test_an_output_that_was_never_written_is_a_failure(bench: Bench) -> None:
    script = writes(bench, {f"{STAGING}/0.csv": "{root}/out.csv"})
    (bench.root / "0" / "alice" / STAGING / "0.csv").unlink()
    (endings,) = bench.run({"alice": script})
    assert endings["alice"].last["error_code"] == "OutputNotWritable"


def test_a_job_that_does_not_leave_after_its_result_is_killed_and_has_succeeded(
    bench: Bench,
) -> None:
    def stays(job: JobSide) -> None:
        good(job)
        job.hang()

    (endings,) = bench.run({"alice": stays, "bob": good})
    assert [ending.failure for ending in endings.values()] == [None, None]


def test_what_a_job_process_started_goes_with_it(bench: Bench, tmp_path: Path) -> None:
    def starts_another(job: JobSide) -> None:
        with subprocess.Popen(["sleep", "60"]) as child:
            (tmp_path / "child").write_text(str(child.pid))
            job.agree({})
            job.fail(AlgorithmError(party="alice"))
            job.hang()

    bench.run({"alice": starts_another})
    child = int((tmp_path / "child").read_text())
    deadline = time.monotonic() + PATIENCE_SECONDS
    while running(child) and " Z " not in Path(f"/proc/{child}/stat").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.01)
