"""Every bend of SecretFlow: what it does with and without it, which tells when to drop it."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from secretflow_task.contract.tasks.trees import TreeParams
from tests.bench.waiting import comes_true
from tests.integration.bench import Bench, Workspace
from tests.integration.probes import FOREIGN_TEXT
from tests.integration.test_job_process import probe

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def stock() -> dict[str, Any]:
    """What SecretFlow does as it comes."""
    script = [sys.executable, "-m", "tests.integration.stock_engine"]
    done = subprocess.run(script, capture_output=True, text=True, timeout=90, check=False)
    last = done.stdout.splitlines()[-1]
    assert last.startswith("{"), done.stderr
    return {"exit_code": done.returncode, **json.loads(last)}


@pytest.fixture(scope="module")
def bent(bench: Bench) -> dict[str, Any]:
    """What it does in a job."""
    return (
        bench.workspace("adapter")
        .run(probe(bench.workspace("adapter"), "adapter"))
        .results["alice"]
    )


def test_importing_it_starts_a_backend_that_forked_children_hang_on(
    stock: dict[str, Any], bench: Bench
) -> None:
    assert stock["backend_started"] is True
    script = "from secretflow_task.engine import adapter as a; a.preload(); print(a.is_preloaded())"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=90, check=True
    )
    assert done.stdout.splitlines()[-1] == "True"


def test_its_server_listens_on_every_interface_and_ours_on_loopback(
    stock: dict[str, Any], bent: dict[str, Any], workspace: Workspace
) -> None:
    assert stock["listens"] == ["::"]
    assert bent["listens"] == ["::ffff:127.0.0.1"]  # gRPC; the SPU's link has a socket file
    by_port = {"link_desc": {"brpc_channel_protocol": "http"}}
    with_port = workspace.run(probe(workspace, "adapter"), spu_config=by_port).results["bob"]
    assert with_port["listens"] == ["127.0.0.1", "::ffff:127.0.0.1"]


def test_it_runs_code_that_a_peer_sends_and_we_do_not(
    stock: dict[str, Any], bent: dict[str, Any]
) -> None:
    assert stock["peer_runs_code"] is True
    assert bent["refused"] is True


def test_it_sends_the_text_of_an_error_to_the_peers_and_we_do_not(
    stock: dict[str, Any], bent: dict[str, Any]
) -> None:
    assert "4711" in stock["error_text"]
    assert FOREIGN_TEXT not in bent["error"] and "bob" in bent["error"]


def test_its_link_sleeps_a_second_where_ours_tries_again_at_once(
    stock: dict[str, Any], bent: dict[str, Any]
) -> None:
    assert stock["retries"] == [3, 1000]
    assert [bent["retries"], bent["retry_pause"]] == [20, 20]


def test_it_ends_its_own_process_after_an_error(
    stock: dict[str, Any], bent: dict[str, Any]
) -> None:
    assert stock["exit_code"] == 1
    assert stock["interrupt"].startswith("secretflow.")
    assert bent["interrupt"] == "secretflow_task.engine.adapter"


def test_it_trains_with_a_cache_that_gives_random_weights_with_the_real_sigmoid(
    stock: dict[str, Any],
) -> None:
    assert stock["cache"] == [True, False]


def test_it_drops_the_rows_of_a_last_short_batch(stock: dict[str, Any]) -> None:
    assert stock["weights"]["10"] == stock["weights"]["8"]
    assert stock["weights_on_every_row"]["8"] == stock["weights"]["8"]
    assert stock["weights_on_every_row"]["10"] != stock["weights"]["8"]


def test_its_trees_take_a_sigmoid_of_twice_the_slope_and_ours_the_true_one(
    stock: dict[str, Any],
) -> None:
    assert stock["tree_slope"] == [0.5, 0.25]


def test_its_trees_run_a_program_to_wait_for_a_share_and_ours_none(stock: dict[str, Any]) -> None:
    (stock_programs, _), (our_programs, was_there) = stock["programs_of_a_wait"]
    assert (stock_programs, our_programs, was_there) == (1, 0, True)


def test_it_shows_every_party_the_gains_of_splits_and_we_do_not(stock: dict[str, Any]) -> None:
    shown, hidden = stock["gains"]
    assert shown[0] > 0 and hidden == [0.0]


def test_it_numbers_bins_in_a_signed_byte_which_more_than_our_most_would_overflow(
    stock: dict[str, Any],
) -> None:
    assert stock["smallest_bin"]["200"] < 0 == stock["smallest_bin"]["100"]
    finest = TreeParams.model_json_schema()["properties"]["sketch_eps"]["minimum"]
    assert finest == 1 / 100


def test_it_never_splits_without_a_penalty_which_we_refuse(stock: dict[str, Any]) -> None:
    with_penalty, without = stock["split"]
    assert with_penalty < without == 2
    assert TreeParams.model_json_schema()["properties"]["reg_lambda"]["minimum"] > 0


def test_its_garbage_collector_takes_message_numbers_and_ours_does_not(
    stock: dict[str, Any], workspace: Workspace
) -> None:
    assert stock["messages_of_a_collected_share"] == 1
    execution = workspace.run(probe(workspace, "collects", at="bob", times=5))
    assert [result["total"] for result in execution.results.values()] == [42.0, 42.0]
    assert execution.results["bob"]["deleted"] >= 5


def test_a_job_finds_its_peer_without_waiting(workspace: Workspace) -> None:
    def finds_it_at_once() -> bool:
        execution = workspace.run(probe(workspace, "modules"))
        return execution.results["bob"]["timings"]["cluster_init"] < 1.0

    # A busy machine may be slow once; a wait of a second is in every execution.
    assert comes_true(finds_it_at_once)
