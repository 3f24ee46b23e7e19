"""Each party compiles its own programs, and nobody runs when one of them has another."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.integration.bench import Bench
from tests.integration.cases import CASES, Runs

pytestmark = pytest.mark.engine

WITH_PROGRAMS = [
    "pearson_correlation",
    "ss_glm",
    "ss_glm_predict",
    "ss_kmeans",
    "ss_kmeans_predict",
    "ss_lr",
    "ss_lr_predict",
    "ss_xgb",
    "ss_xgb_predict",
    "vif",
    "woe_iv",
    "workflow",
]
# One of them in every run, all of them in `make test-matrix`.
PAIRS: list[Any] = [("ss_lr", "SEMI2K")]
for _name in WITH_PROGRAMS:
    for _protocol in ("SEMI2K", "CHEETAH"):
        stored_for_another = _name.endswith("_predict") and _protocol == "CHEETAH"
        if (_name, _protocol) != PAIRS[0] and not stored_for_another:
            PAIRS.append(pytest.param(_name, _protocol, marks=pytest.mark.matrix))
WITHOUT_PROGRAMS = sorted(set(CASES) - set(WITH_PROGRAMS))


@pytest.mark.parametrize(("task_type", "protocol"), PAIRS)
def test_a_party_that_compiles_another_program_ends_the_execution(
    task_type: str, protocol: str, runs: Runs, bench: Bench
) -> None:
    case = runs.prepared(task_type)
    for party in ("alice", "bob"):
        case.workspace.path(party, "out.csv").unlink(missing_ok=True)
    params = {"task_config": case.config, "spu_config": {"protocol": protocol}}
    execution = bench.execute(params, f"bent-{time.time_ns()}")
    assert execution.code == "ProgramMismatch"
    assert len(execution.failures) == 2
    for failure in execution.failures.values():
        assert failure["error"].endswith("neither was run.")
        assert failure["failed_party"] in ("alice", "bob")
    assert not any(case.workspace.exists(party, "out.csv") for party in ("alice", "bob"))


@pytest.mark.matrix
@pytest.mark.parametrize("task_type", WITHOUT_PROGRAMS)
def test_the_other_task_types_compile_nothing(task_type: str, runs: Runs, bench: Bench) -> None:
    case = runs.prepared(task_type)
    execution = bench.execute({"task_config": case.config}, f"bent-{time.time_ns()}")
    assert execution.succeeded, execution.failures
