"""Executions that cannot succeed end in one FAILURE per party by its code, and leave nothing."""

from __future__ import annotations

import json
import signal
import threading
import time
from typing import Any, Callable

import pytest

from secretflow_task.contract.errors import EngineUnavailable
from tests.bench.waiting import PATIENCE_SECONDS
from tests.data.tables import Table, overlapping, two_halves
from tests.integration.bench import Bench, Workspace, start_bench
from tests.integration.probes import FOREIGN_TEXT
from tests.integration.test_job_process import probe
from tests.integration.test_psi import joined_as_pandas, psi

pytestmark = pytest.mark.engine

# Less than any limit that would end a job that waits for a peer which is gone; no measure of speed.
WITHIN_SECONDS = 25.0
serves_the_next_job = pytest.mark.usefixtures("the_node_serves_the_next_job")


def small_tables() -> dict[str, Table]:
    """Two tables of 12 rows with 6 common keys."""
    return dict(zip(("alice", "bob"), overlapping(12, 6)))


@pytest.fixture
def the_node_serves_the_next_job(bench: Bench) -> Any:
    """After the failure the same node runs a job that succeeds."""
    yield
    joined_as_pandas(bench.workspace("next"), small_tables())


def nothing_was_written(workspace: Workspace) -> None:
    """Both parties have only their inputs."""
    for party in ("alice", "bob"):
        folder = workspace.path(party, "")
        assert not folder.exists() or {path.name for path in folder.iterdir()} <= {"in.csv"}


def kill_job(
    bench: Bench, party: str, ready: Callable[[], bool], signal_number: int = signal.SIGKILL
) -> threading.Thread:
    """Send a signal to a party's job process as soon as ``ready``."""

    def watch() -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            jobs = [job for job in bench.job_processes() if job.exe() and f".{party}" in job.cwd()]
            if jobs and ready():
                for job in jobs:
                    job.send_signal(signal_number)
                return
            time.sleep(0.002)

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


def reported(bench: Bench, party: str, stage: str) -> Callable[[], bool]:
    """Whether a party has reported a stage in the running execution."""

    def has() -> bool:
        with bench.mutex:
            events = [event for some in bench.events.values() for event in some]
        return any(event.party == party and event.data.get("stage") == stage for event in events)

    return has


@serves_the_next_job
@pytest.mark.parametrize("stage", [None, "cluster_init", "task_execution", "waiting"])
@pytest.mark.parametrize("victim", ["alice", "bob"])
def test_a_killed_job_process_ends_in_exactly_one_failure(
    workspace: Workspace, bench: Bench, victim: str, stage: str | None
) -> None:
    ready = reported(bench, victim, stage) if stage else lambda: True
    killer = kill_job(bench, victim, ready)
    what = "waits" if stage else "early_waits"
    execution = workspace.fail(probe(workspace, what), "JobProcessDied", victim)
    killer.join()
    message = f"The job process of {victim} ended without a result (signal SIGKILL)."
    assert {failure["error"] for failure in execution.failures.values()} == {message}
    assert {failure["retryable"] for failure in execution.failures.values()} == {True}
    assert execution.seconds < WITHIN_SECONDS
    nothing_was_written(workspace)


@serves_the_next_job
def test_a_psi_killed_in_native_code_leaves_no_rows_behind(
    workspace: Workspace, bench: Bench
) -> None:
    tables = dict(zip(("alice", "bob"), overlapping(60_000, 30_000)))
    request = psi(workspace, tables, protocol="ECDH")
    work = bench.node.settings.work_dir
    killer = kill_job(
        bench, "alice", lambda: any(path.is_dir() for path in work.glob("*/*.alice/*"))
    )
    execution = workspace.fail(request, "JobProcessDied", "alice")
    killer.join()
    assert execution.stages("bob")[-1][0] == "intersection"
    nothing_was_written(workspace)


@serves_the_next_job
def test_a_training_killed_in_the_middle_leaves_no_model(
    workspace: Workspace, bench: Bench
) -> None:
    request = {
        "task_type": "ss_lr",
        "train_data": workspace.write("in.csv", two_halves(100)),
        "label": "y",
        "ids": {"alice": ["uid"], "bob": ["uid"]},
        "model_output": workspace.text("model"),
        "params": {"epochs": 1000},
    }
    killer = kill_job(bench, "bob", reported(bench, "alice", "training"))
    execution = workspace.fail(request, "JobProcessDied", "bob")
    killer.join()
    assert execution.seconds < WITHIN_SECONDS
    nothing_was_written(workspace)


# What goes wrong, the request that it goes wrong in, and what both parties are told.
BAD_TABLES: dict[str, tuple[str, Any, str, str | None]] = {
    "a missing key column": ("psi", {"bob": {"id": "1", "x": "2"}}, "MissingColumn", "bob"),
    "an empty key": ("psi", {"alice": {"uid": ["1", ""], "x": "23"}}, "MissingKeys", "alice"),
    "a header without rows": ("psi", {"bob": {"uid": "", "x": ""}}, "EmptyInput", "bob"),
    "an empty file": ("psi", {"bob": b""}, "EmptyInput", "bob"),
    "two columns with the same name": (
        "psi",
        {"alice": b"uid,x,x\n1,2,3\n"},
        "DuplicateColumn",
        "alice",
    ),
    "rows of different lengths": ("psi", {"alice": b"uid,x\n1,2\n3\n"}, "UnreadableFile", "alice"),
    "bytes that are no text": ("psi", {"alice": b"uid,x\n1,\xff\xfe\n"}, "UnreadableFile", "alice"),
    "text in a numeric column": ("standard_scaler", {"bob": {"b": "12x"}}, "BadColumnType", "bob"),
    "a column that nobody has": ("standard_scaler", {"bob": {"c": "123"}}, "MissingColumn", None),
    "a column of two parties": (
        "standard_scaler",
        {"bob": {"a": "111", "b": "111"}},
        "AmbiguousColumn",
        None,
    ),
    "infinity": (
        "standard_scaler",
        {"alice": {"a": ["1", "inf", "3"]}},
        "NonFiniteValues",
        "alice",
    ),
    "unequal rows": ("standard_scaler", {"alice": {"a": "12"}}, "RowCountMismatch", None),
    "NaN where none may be": ("ss_lr", {"bob": {"b": ["1", "nan", "0"]}}, "MissingValues", "bob"),
    "an empty cell where none may be": (
        "ss_lr",
        {"bob": {"b": ["1", "", "0"]}},
        "MissingValues",
        "bob",
    ),
    "an unscaled feature": ("ss_lr", {"bob": {"b": ["1", "200", "0"]}}, "FeatureRange", "bob"),
    "a label of one value": ("ss_lr", {"alice": {"a": "010", "y": "111"}}, "BadLabel", "alice"),
    "labels 1 and 2": ("ss_lr", {"alice": {"a": "010", "y": "121"}}, "BadLabel", "alice"),
    "no label anywhere": ("ss_lr", {"alice": {"a": "010"}}, "MissingColumn", None),
    "as many features as rows": (
        "ss_lr",
        {"alice": {"a": "01", "y": "10"}, "bob": {"b": "12"}},
        "TooFewRows",
        None,
    ),
}


def request_for(workspace: Workspace, task_type: str) -> dict[str, Any]:
    """A request that would succeed with good tables."""
    inputs = workspace.paths("in.csv")
    return {
        "psi": {
            "task_type": "psi",
            "keys": {"alice": ["uid"], "bob": ["uid"]},
            "input_paths": inputs,
            "output_paths": workspace.paths("out.csv"),
            "receiver": "alice",
        },
        "standard_scaler": {
            "task_type": "standard_scaler",
            "input_data": inputs,
            "output_data": workspace.paths("out.csv"),
            "columns": ["a", "b"],
        },
        "ss_lr": {
            "task_type": "ss_lr",
            "train_data": inputs,
            "features": ["a", "b"],
            "label": "y",
            "model_output": workspace.text("model"),
            "params": {"epochs": 1},
        },
    }[task_type]


GOOD_TABLES: dict[str, dict[str, Table]] = {
    "psi": {"alice": {"uid": ["1"], "x": ["2"]}, "bob": {"uid": ["1"], "y": ["2"]}},
    "standard_scaler": {"alice": {"a": ["1", "2", "3"]}, "bob": {"b": ["1", "2", "4"]}},
    "ss_lr": {"alice": {"a": ["0", "1", "0"], "y": ["0", "1", "1"]}, "bob": {"b": ["1", "2", "0"]}},
}


@pytest.mark.parametrize("case", BAD_TABLES)
def test_a_bad_table_is_found_at_its_owner_before_cryptography(
    workspace: Workspace, case: str
) -> None:
    task_type, tables, code, party = BAD_TABLES[case]
    for owner, table in (GOOD_TABLES[task_type] | tables).items():
        if isinstance(table, bytes):
            workspace.path(owner, "in.csv").parent.mkdir(parents=True, exist_ok=True)
            workspace.path(owner, "in.csv").write_bytes(table)
        else:
            workspace.write("in.csv", {owner: table})
    execution = workspace.fail(request_for(workspace, task_type), code, party)
    for failure in execution.failures.values():
        assert failure["error_type"] == "DataError"
        assert party is None or failure["error"].startswith(party)
        assert failure["progress"] == 0.0
    # Accepted and failed: no stage was reached.
    assert {len(events) for events in execution.events.values()} == {2}
    nothing_was_written(workspace)


@pytest.mark.parametrize(
    "task_type, change, text",
    [
        ("ss_lr", {"features": ["a", "y"]}, "features must not name the label"),
        ("ss_lr", {"features": ["a", "a", "b"]}, "features: a column is named twice"),
        ("ss_lr", {"features": []}, "features: name one column or more"),
        (
            "ss_lr",
            {"params": {"learning_rate": "0.1"}},
            "params.learning_rate: input should be a valid number",
        ),
        ("ss_lr", {"params": {"epoch": 3}}, "did you mean 'epochs'?"),
        ("standard_scaler", {"columns": ["a", "a"]}, "columns: a column is named twice"),
        (
            "psi",
            {"keys": {"alice": ["uid", "uid"], "bob": ["uid", "y"]}},
            "keys must not name a column twice",
        ),
        ("psi", {"protocol": "KKRT", "receiver": "carol"}, "receiver"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused(
    workspace: Workspace, task_type: str, change: dict[str, Any], text: str
) -> None:
    workspace.write("in.csv", GOOD_TABLES[task_type])
    execution = workspace.fail(
        request_for(workspace, task_type) | change, "InvalidTaskConfig", None
    )
    assert text in execution.failures["bob"]["error"]


@pytest.mark.parametrize("task_type", ["psi", "standard_scaler"])
def test_an_output_of_no_known_format_is_refused_before_anything_runs(
    workspace: Workspace, task_type: str
) -> None:
    workspace.write("in.csv", GOOD_TABLES[task_type])
    request = request_for(workspace, task_type)
    key = "output_paths" if task_type == "psi" else "output_data"
    request[key] = request[key] | {"bob": workspace.text("out.txt")}
    execution = workspace.fail(request, "UnsupportedFormat", "bob")
    assert execution.stages("alice") == []


def test_a_missing_file_is_named_by_its_key_not_by_its_path(workspace: Workspace) -> None:
    workspace.write("in.csv", {"alice": GOOD_TABLES["psi"]["alice"]})
    execution = workspace.fail(request_for(workspace, "psi"), "MissingFile", "bob")
    assert execution.failures["alice"]["error"] == "bob: the file of input_paths does not exist."


@pytest.mark.parametrize("task_type", GOOD_TABLES)
def test_the_same_requests_succeed_with_good_tables(workspace: Workspace, task_type: str) -> None:
    workspace.write("in.csv", GOOD_TABLES[task_type])
    workspace.run(request_for(workspace, task_type))


BAD_REQUESTS: dict[str, tuple[dict[str, Any], dict[str, Any], str, str]] = {
    "a task type with a typo": (
        {"task_type": "pssi"},
        {},
        "UnknownTaskType",
        "did you mean 'psi'?",
    ),
    "a key with a typo": ({"reciever": "bob"}, {}, "InvalidTaskConfig", "did you mean 'receiver'?"),
    "a value of another type": (
        {"broadcast_result": "yes"},
        {},
        "InvalidTaskConfig",
        "broadcast_result",
    ),
    "an unknown join": ({"join": "outer"}, {}, "InvalidTaskConfig", "join"),
    "another number of keys": (
        {"keys": {"alice": ["uid", "x"], "bob": ["uid"]}},
        {},
        "InvalidTaskConfig",
        "keys",
    ),
    "a protocol that does not exist": (
        {},
        {"spu_config": {"protocol": "SEMI3K"}},
        "UnsupportedProtocol",
        "SEMI3K",
    ),
    "a protocol for three": (
        {},
        {"spu_config": {"protocol": "ABY3"}},
        "UnsupportedProtocol",
        "ABY3",
    ),
    "a field that does not exist": (
        {},
        {"spu_config": {"field": "FM32"}},
        "UnsupportedProtocol",
        "FM32",
    ),
    "a part with a typo": (
        {},
        {"spu_confg": {}},
        "InvalidTaskConfig",
        "did you mean 'spu_config'?",
    ),
    "a party that is left out": (
        {},
        {"sf_init_config": {"parties": ["alice"]}},
        "InvalidTaskConfig",
        "bob",
    ),
}


@pytest.mark.parametrize("case", BAD_REQUESTS)
def test_a_bad_request_is_refused_with_what_would_be_right(workspace: Workspace, case: str) -> None:
    workspace.write("in.csv", GOOD_TABLES["psi"])
    change, params, code, text = BAD_REQUESTS[case]
    execution = workspace.fail(request_for(workspace, "psi") | change, code, None, **params)
    for failure in execution.failures.values():
        assert text in failure["error"] and failure["error_type"] == "RequestError"


def test_a_party_that_the_node_does_not_host_is_named(workspace: Workspace) -> None:
    workspace.write("in.csv", {"alice": GOOD_TABLES["psi"]["alice"]})
    request = request_for(workspace, "psi")
    text = json.dumps(request).replace("bob", "mallory")
    execution = workspace.fail(json.loads(text), "PeerUnreachable", None)
    assert "mallory" in execution.failures["alice"]["error"]


@pytest.mark.parametrize(
    "path",
    [
        "../../../etc/passwd.csv",
        "/etc/passwd.csv",
        "link.csv",
        "folder/../../../x.csv",
        "nul\0.csv",
        ".",
    ],
)
@pytest.mark.parametrize("key", ["input_paths", "output_paths"])
def test_a_path_outside_the_allowed_folders_is_refused(
    workspace: Workspace, key: str, path: str
) -> None:
    workspace.write("in.csv", GOOD_TABLES["psi"])
    link = workspace.bench.node.settings.data_root / "bob" / "link.csv"
    if not link.is_symlink():
        link.symlink_to("/etc/hostname")
    request = request_for(workspace, "psi")
    request[key] = request[key] | {"bob": path}
    execution = workspace.fail(request, "PathNotAllowed", "bob")
    assert path == "." or path not in json.dumps(execution.failures)
    nothing_was_written(workspace)


def a_file_in_the_way(workspace: Workspace) -> str:
    """The parent of the target is a file."""
    workspace.path("bob", "file").write_text("in the way")
    return workspace.text("file/out.csv")


def a_folder_in_the_way(workspace: Workspace) -> str:
    """The target is a folder that holds something."""
    workspace.path("bob", "folder.csv").mkdir()
    workspace.path("bob", "folder.csv/precious.txt").write_text("keep me")
    return workspace.text("folder.csv")


@pytest.mark.parametrize("obstacle", [a_file_in_the_way, a_folder_in_the_way])
def test_an_output_that_cannot_be_written_at_one_party_is_written_at_none(
    workspace: Workspace, obstacle: Callable[[Workspace], str]
) -> None:
    workspace.write("in.csv", GOOD_TABLES["psi"])
    request = request_for(workspace, "psi")
    request["output_paths"] = request["output_paths"] | {"bob": obstacle(workspace)}
    workspace.fail(request, "OutputNotWritable", "bob")
    assert not workspace.exists("alice", "out.csv")
    assert (
        obstacle is a_file_in_the_way or workspace.path("bob", "folder.csv/precious.txt").exists()
    )


def test_a_model_never_replaces_a_folder_that_is_no_model(workspace: Workspace) -> None:
    workspace.write("in.csv", GOOD_TABLES["ss_lr"])
    workspace.path("alice", "model/alice").mkdir(parents=True)
    workspace.path("alice", "model/alice/precious.txt").write_text("keep me")
    workspace.fail(request_for(workspace, "ss_lr"), "OutputNotWritable", "alice")
    assert workspace.path("alice", "model/alice/precious.txt").read_text() == "keep me"


def test_two_outputs_of_one_name_are_refused(workspace: Workspace) -> None:
    workspace.write("in.csv", GOOD_TABLES["standard_scaler"])
    request = {
        "task_type": "train_test_split",
        "input_data": workspace.paths("in.csv"),
        "train_data": workspace.paths("part.csv"),
        "test_data": workspace.paths("x/../part.csv"),
    }
    workspace.fail(request, "InvalidTaskConfig", None)
    nothing_was_written(workspace)


@serves_the_next_job
def test_an_error_text_stays_at_the_party_where_it_was_raised(
    workspace: Workspace, bench: Bench
) -> None:
    for what in ("fails_in_device", "fails_in_driver"):
        execution = workspace.fail(probe(workspace, what), "AlgorithmError", "bob")
        assert FOREIGN_TEXT in bench.log_of(execution, "bob")
        assert FOREIGN_TEXT not in bench.log_of(execution, "alice")
        assert FOREIGN_TEXT not in json.dumps(execution.failures)
        assert execution.seconds < WITHIN_SECONDS


@serves_the_next_job
def test_when_one_party_fails_last_no_party_has_an_output(workspace: Workspace) -> None:
    execution = workspace.fail(probe(workspace, "fails_last"), "ValueRange", "bob")
    assert execution.seconds < WITHIN_SECONDS
    nothing_was_written(workspace)


@serves_the_next_job
def test_a_job_process_that_ends_itself_is_a_failure(workspace: Workspace) -> None:
    execution = workspace.fail(probe(workspace, "leaves"), "JobProcessDied", "bob")
    assert "exit code 1" in execution.failures["alice"]["error"]
    execution = workspace.fail(
        probe(workspace, "early_dies", at="alice"), "JobProcessDied", "alice"
    )
    assert execution.stages("bob") == []


@serves_the_next_job
def test_code_that_a_peer_sends_does_not_run(workspace: Workspace) -> None:
    execution = workspace.fail(probe(workspace, "sends_code"), "AlgorithmError", "alice")
    assert "a message was refused" in execution.failures["bob"]["error"]
    assert execution.seconds < WITHIN_SECONDS


@serves_the_next_job
def test_a_template_that_cannot_be_renewed_leaves_the_old_one(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = bench.node.template
    old = template._current
    monkeypatch.setattr(template, "_preload", ["tests.integration.dying_preload"])
    with pytest.raises(EngineUnavailable):
        template.renew()
    assert (template._current, template.ready, template.restarts) == (old, True, 0)


def test_a_job_that_takes_too_long_is_ended(
    tmp_path_factory: pytest.TempPathFactory, bench: Bench
) -> None:
    node, strict = start_bench(
        tmp_path_factory.mktemp("strict"),
        port_range="22000-22999",
        job_timeout_seconds=2.5,
        prepare_timeout_seconds=60.0,
    )
    with node:  # its jobs come from the template that the process has
        workspace = strict.workspace("t")
        execution = strict.execute({"task_config": probe(workspace, "waits")})
        assert execution.code == "TaskTimeout"
        assert "prepared in time" not in execution.failures["alice"]["error"]
        assert execution.seconds >= 2.4
        nothing_was_written(workspace)


def test_a_job_that_is_not_prepared_in_time_is_ended(
    tmp_path_factory: pytest.TempPathFactory, bench: Bench
) -> None:
    node, strict = start_bench(
        tmp_path_factory.mktemp("strict"),
        port_range="22000-22999",
        job_timeout_seconds=60.0,
        prepare_timeout_seconds=1.5,
    )
    with node:
        workspace = strict.workspace("t")
        execution = strict.execute({"task_config": probe(workspace, "early_waits")})
        assert execution.code == "TaskTimeout"
        assert "prepared in time" in execution.failures["alice"]["error"]
        assert execution.seconds >= 1.4
        nothing_was_written(workspace)
