"""What a request says about its parties and devices, and the plan that follows."""

from __future__ import annotations

from typing import Any, Callable, Mapping

import pytest

from secretflow_task.contract.errors import InvalidTaskConfig, UnknownTaskType
from secretflow_task.contract.plan import Plan, needed_devices, parties_of_request
from secretflow_task.contract.protocols import HeuConfig, Protocol
from secretflow_task.contract.requests import Params, TaskRequest
from secretflow_task.contract.task_config import parse
from secretflow_task.contract.task_dispatcher import Task, TaskDispatcher
from tests.unit.plan_requests import PLAN_REQUESTS

MakeRequest = Callable[..., TaskRequest]
SCALER = {"task_type": "standard_scaler", **PLAN_REQUESTS["standard_scaler"]}
LR = {"task_type": "ss_lr", **PLAN_REQUESTS["ss_lr"]}


@pytest.mark.parametrize("task_type", PLAN_REQUESTS)
def test_a_request_of_the_plan_becomes_a_plan(task_type: str, request_of: MakeRequest) -> None:
    request = request_of({"task_type": task_type, **PLAN_REQUESTS[task_type]})
    plan = Plan.of(request)
    assert plan.request is request
    assert plan.task is TaskDispatcher.get(task_type)
    assert plan.config == plan.task.parse(PLAN_REQUESTS[task_type])
    assert plan.parties == (["alice"] if task_type == "table_statistics" else ["alice", "bob"])
    assert plan.protocol == Protocol("SEMI2K", "FM128")
    assert plan.heu is None
    assert plan.needs == (() if task_type in ("standard_scaler", "table_statistics") else ("spu",))


def test_all_four_parts_are_read(plan_of: Callable[..., Plan]) -> None:
    plan = plan_of(
        LR,
        sf_init_config={"parties": ["bob", "alice"], "address": "local"},
        spu_config={
            "protocol": "cheetah",
            "field": "fm64",
            "runtime_config": {"fxp_fraction_bits": 20},
            "link_desc": {"recv_timeout_ms": 1000},
        },
        heu_config={
            "schema": "paillier",
            "key_size": 3072,
            "sk_keeper": "alice",
            "evaluators": ["bob"],
        },
    )
    assert plan.parties == ["alice", "bob"]
    assert plan.protocol == Protocol(
        "CHEETAH", "FM64", {"fxp_fraction_bits": 20}, {"recv_timeout_ms": 1000}
    )
    assert plan.heu == HeuConfig(
        schema="paillier", key_size=3072, sk_keeper="alice", evaluators=["bob"]
    )


def test_a_request_may_ask_for_a_time_limit(plan_of: Callable[..., Plan]) -> None:
    assert plan_of(LR, timeout_seconds=1.5).timeout_seconds == 1.5
    assert plan_of(LR).timeout_seconds is None
    with pytest.raises(InvalidTaskConfig, match="timeout_seconds: input should be greater than 0"):
        plan_of(LR, timeout_seconds=0.0)


@pytest.mark.parametrize("part", ["sf_init_config", "spu_config", "heu_config"])
def test_null_stands_for_a_part_that_is_left_out(part: str, plan_of: Callable[..., Plan]) -> None:
    assert plan_of(LR, **{part: None}).protocol == plan_of(LR).protocol


@pytest.mark.parametrize(
    ("params", "problem"),
    [
        ({}, "request: 'task_config' is missing."),
        ({"task_config": None}, "request: 'task_config' is missing."),
        ({"task_config": {}}, "'task_config.task_type' is missing."),
        ({"task_config": {"task_type": 5}}, "'task_config.task_type' is missing."),
        (
            {"task_config": LR, "spu_confg": {}},
            "request: unknown key 'spu_confg', did you mean 'spu_config'?",
        ),
        (
            {"task_config": LR, "sf_init_config": {"partys": []}},
            "request: unknown key 'sf_init_config.partys', did you mean 'parties'?",
        ),
        (
            {"task_config": LR, "heu_config": {"key_size": 1024}},
            "request: heu_config.key_size: input should be greater than or equal to 2048.",
        ),
        (
            {"task_config": LR, "heu_config": {"schema": "rsa"}},
            "request: heu_config.schema: input should be 'ou', 'paillier' or 'zpaillier'.",
        ),
        (
            {"task_config": LR, "sf_init_config": {"parties": {"alice": {"adress": "x"}}}},
            "request: 'sf_init_config.parties.alice.address' is missing; "
            "unknown key 'sf_init_config.parties.alice.adress', did you mean 'address'?",
        ),
        (
            {"task_config": LR, "sf_init_config": {"parties": ["alice", "alice", "bob"]}},
            "The request must name each of its parties once.",
        ),
        (
            {"task_config": LR, "sf_init_config": {"parties": ["alice", "carol"]}},
            "task_config names 'bob', which sf_init_config.parties leaves out.",
        ),
        (
            {"task_config": LR, "sf_init_config": {"self_party": "carol"}},
            "sf_init_config.self_party names 'carol', which is not a party of the request.",
        ),
        (
            {
                "task_config": LR,
                "heu_config": {"sk_keeper": "alice", "evaluators": ["bob", "carol"]},
            },
            "heu_config.evaluators names 'carol', which is not a party of the request.",
        ),
    ],
)
def test_a_wrong_request_is_refused(params: Mapping[str, Any], problem: str) -> None:
    with pytest.raises(InvalidTaskConfig) as caught:
        Plan.of(TaskRequest("e", "r", params))
    assert caught.value.message == problem


@pytest.mark.parametrize("path", ["step:x.csv", "step:/etc/passwd.csv", "step:../../x.csv"])
def test_a_path_inside_a_workflow_is_not_for_requests(
    path: str, plan_of: Callable[..., Plan]
) -> None:
    """It is not held against the allowed folders."""
    step = {"name": "train", "task_config": {**LR, "train_data": {"alice": path, "bob": "b.csv"}}}
    for config in (step["task_config"], {"task_type": "workflow", "steps": [step]}):
        with pytest.raises(InvalidTaskConfig, match="^Text must not begin with 'step:'"):
            plan_of(config)


def test_an_empty_list_of_parties_is_not_a_way_round_the_list(plan_of: Callable[..., Plan]) -> None:
    for empty in ([], {}):
        with pytest.raises(InvalidTaskConfig, match="should have at least 1 item"):
            plan_of(LR, sf_init_config={"parties": empty})


def test_an_unknown_task_type_is_refused(plan_of: Callable[..., Plan]) -> None:
    with pytest.raises(UnknownTaskType, match="'sslr', did you mean 'ss_lr'"):
        plan_of({**LR, "task_type": "sslr"})


def test_parties_may_have_addresses_and_there_may_be_more_than_the_task_uses(
    plan_of: Callable[..., Plan],
) -> None:
    addresses = {
        name: {"address": f"{name}:9000", "listen_addr": "0.0.0.0:9000"}
        for name in ("carol", "bob", "alice")
    }
    plan = plan_of(SCALER, sf_init_config={"parties": addresses, "self_party": "alice"})
    assert plan.parties == ["alice", "bob", "carol"]


def test_a_task_without_a_config_model_takes_its_parties_from_the_list(
    registry: dict[str, Task],
) -> None:
    TaskDispatcher.register_task("any")(lambda devices, config: {})
    config = {"task_type": "any", "x": 1}
    request = TaskRequest("e", "r", {"task_config": config, "sf_init_config": {"parties": ["bob"]}})
    assert (Plan.of(request).parties, Plan.of(request).config) == (["bob"], config)
    with pytest.raises(InvalidTaskConfig, match="must name each of its parties once"):
        Plan.of(TaskRequest("e", "r", {"task_config": config}))


def test_a_task_without_spu_does_not_mind_the_number_of_parties(
    plan_of: Callable[..., Plan],
) -> None:
    plan = plan_of(SCALER, spu_config={"protocol": "ABY3"})
    assert (plan.needs, plan.protocol.name) == ((), "ABY3")


def test_devices_of_a_workflow_follow_from_its_config() -> None:
    class Config:
        needs = ("heu", "spu")

    task = Task("workflow", lambda devices, config: {}, needs=())
    assert needed_devices(task, Config()) == ("heu", "spu")
    assert needed_devices(task, {}) == ()


def test_parties_are_sorted() -> None:
    init = parse(
        Params, {"task_config": {}, "sf_init_config": {"parties": ["c", "a", "b"]}}, "request"
    ).sf_init_config
    assert parties_of_request(init, None) == ["a", "b", "c"]  # type: ignore[arg-type]
