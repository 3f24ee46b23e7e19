"""A request is read in both forms of its arguments, and what does not belong is refused."""

from __future__ import annotations

from typing import Any

import pytest

from secretflow_task.contract.errors import InvalidTaskConfig
from secretflow_task.contract.requests import TaskRequest, parties_to_tell, positional

CONFIG = {"task_config": {"task_type": "psi"}}


def test_a_request_with_its_id_in_front() -> None:
    request = TaskRequest.from_arguments("r-1", CONFIG)
    assert request == TaskRequest("r-1", "r-1", CONFIG)


def test_a_request_with_its_ids_inside() -> None:
    params = {"execution_id": "e-1", "task_id": "t", "subtask_id": 7, **CONFIG}
    assert TaskRequest.from_arguments(params) == TaskRequest("e-1", "e-1", CONFIG, "t", "7")


def test_an_execution_id_inside_goes_before_the_request_id_in_front() -> None:
    request = TaskRequest.from_arguments("r-1", {"execution_id": "e-1", **CONFIG})
    assert (request.execution_id, request.task_request_id) == ("e-1", "r-1")


def test_a_request_id_inside_is_as_good_as_one_in_front() -> None:
    assert TaskRequest.from_arguments({"task_request_id": "r-1", **CONFIG}) == TaskRequest(
        "r-1", "r-1", CONFIG
    )


def test_half_a_surrogate_pair_does_not_get_past_the_door() -> None:
    params = {"task_config": {"task_type": "\ud800", "x": [{"\udfff": ("\ud800a", 1, None)}]}}
    request = TaskRequest.from_arguments("r", params)
    assert request.params == {"task_config": {"task_type": "?", "x": [{"?": ["?a", 1, None]}]}}


def test_numbers_are_taken_as_ids() -> None:
    request = TaskRequest.from_arguments(42, CONFIG)
    assert (request.execution_id, request.task_request_id) == ("42", "42")


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("r",),
        ("r", "params"),
        ("r", CONFIG, "more"),
        (CONFIG, CONFIG, CONFIG),
        ("r", None),
        ([],),
        ("r", [CONFIG]),
    ],
)
def test_other_arguments_are_refused(arguments: tuple[Any, ...]) -> None:
    with pytest.raises(
        InvalidTaskConfig, match=r"^The task takes \[task_request_id, params\] or \[params\]"
    ):
        TaskRequest.from_arguments(*arguments)


def test_a_request_without_any_id_is_refused() -> None:
    with pytest.raises(InvalidTaskConfig, match="neither a task_request_id nor an execution_id"):
        TaskRequest.from_arguments(CONFIG)


@pytest.mark.parametrize(
    "bad", ["", ".", "..", "a/b", "a b", "-a", "a" * 129, "é", "a\n", "a\0", "../x", {}, ["a"]]
)
def test_an_execution_id_that_is_no_file_name_is_refused(bad: Any) -> None:
    with pytest.raises(InvalidTaskConfig, match="1 to 128 letters"):
        TaskRequest.from_arguments(bad, CONFIG)


def test_any_text_is_a_request_id_when_the_execution_has_its_own() -> None:
    request = TaskRequest.from_arguments("Auftrag 1/2 \ud800", {"execution_id": "e", **CONFIG})
    assert request.task_request_id == "Auftrag 1/2 ?"


def test_the_params_stay_whole_but_for_the_ids() -> None:
    params = {"spu_config": {}, "sf_init_config": {"parties": ["alice"]}, **CONFIG}
    assert TaskRequest.from_arguments({"task_request_id": "r", **params}).params == params


@pytest.mark.parametrize(
    ("params", "task_type"),
    [
        (CONFIG, "psi"),
        ({}, ""),
        ({"task_config": 5}, ""),
        ({"task_config": {}}, ""),
        ({"task_config": {"task_type": 5}}, "5"),
    ],
)
def test_the_task_type_is_read_from_any_params(params: dict[str, Any], task_type: str) -> None:
    assert TaskRequest("e", "r", params).task_type == task_type


def test_a_renewed_request_is_a_new_execution_of_the_same_request() -> None:
    request = TaskRequest.from_arguments("r" * 128, CONFIG)
    renewed = [request.renewed() for _ in range(20)]
    assert len({item.execution_id for item in renewed}) == 20
    assert {item.task_request_id for item in renewed} == {"r" * 128}
    for item in renewed:
        assert (
            TaskRequest.from_arguments(item.execution_id, CONFIG).execution_id == item.execution_id
        )


@pytest.mark.parametrize(
    ("parties", "told"),
    [
        (["bob", "alice", "bob"], ["alice", "bob"]),
        ({"bob": {}, "alice": 5}, ["alice", "bob"]),
        ([f"p{number}" for number in range(17)], ["carol"]),
        (["alice", "../x"], ["carol"]),
        (["alice", 5], ["carol"]),
        ([], ["carol"]),
        ("alice", ["carol"]),
        (None, ["carol"]),
    ],
)
def test_a_request_that_was_not_understood_is_told_to_whom_it_lists(
    parties: Any, told: list[str]
) -> None:
    request = TaskRequest("e", "r", {"sf_init_config": {"parties": parties}})
    assert parties_to_tell(request, ["carol"]) == told


@pytest.mark.parametrize("params", [{}, {"sf_init_config": 5}, {"sf_init_config": None}])
def test_a_request_that_lists_nobody_is_told_to_all_parties_here(params: dict[str, Any]) -> None:
    request = TaskRequest("e", "r", params)
    assert parties_to_tell(request, ["bob", "alice"]) == ["alice", "bob"]
    assert parties_to_tell(request, []) == ["unknown"]


@pytest.mark.parametrize(
    ("arguments", "keywords", "in_order"),
    [
        (["r", CONFIG], {}, ("r", CONFIG)),
        ([], {"params": CONFIG, "task_request_id": "r"}, ("r", CONFIG)),
        (["r"], {"params": CONFIG}, ("r", CONFIG)),
        ([], {"params": CONFIG}, (CONFIG,)),
    ],
)
def test_arguments_may_have_names(
    arguments: list[Any], keywords: dict[str, Any], in_order: tuple[Any, ...]
) -> None:
    assert positional(arguments, keywords) == in_order


@pytest.mark.parametrize(
    ("arguments", "keywords", "words"),
    [
        (["r", CONFIG], {"retries": 1}, "no argument 'retries'"),
        (["r", CONFIG], {"\ud800" * 99: 1}, r"no argument '\?{64}'"),
        (["r", CONFIG], {"params": CONFIG}, "missing, or is there twice"),
        ([CONFIG], {"task_request_id": "r"}, "missing, or is there twice"),
        (["r"], {"task_request_id": "r", "params": CONFIG}, "missing, or is there twice"),
    ],
)
def test_other_names_are_refused(
    arguments: list[Any], keywords: dict[str, Any], words: str
) -> None:
    with pytest.raises(InvalidTaskConfig, match=words):
        positional(arguments, keywords)


@pytest.mark.parametrize(
    ("arguments", "ids"),
    [
        (["r", "params"], ("r", "r")),
        ([CONFIG, "r"], ("r", "r")),
        (["r", {"execution_id": "e", **CONFIG}, 7], ("e", "r")),
        ([{"execution_id": "e"}, None], ("e", "e")),
        (["a b", CONFIG], ("celery", "a b")),
        (["a b" * 999, CONFIG], ("celery", ("a b" * 999)[:1000])),
        (["\ud800", None], ("celery", "?")),
        (['{"task_request_id": "r"}'], ("celery", "celery")),
        ([["r"], {"execution_id": ["e"]}], ("celery", "celery")),
        ([], ("celery", "celery")),
    ],
)
def test_of_what_is_refused_the_ids_are_told(arguments: list[Any], ids: tuple[str, str]) -> None:
    request = TaskRequest.unread(arguments, "celery")
    assert (request.execution_id, request.task_request_id) == ids


def test_a_fallback_that_names_no_execution_is_replaced_by_its_digest() -> None:
    ids = [TaskRequest.unread([], text).execution_id for text in ("a/b", "a/b", "a/\ud800")]
    assert ids[0] == ids[1] != ids[2]
    assert {TaskRequest.unread([], text).execution_id for text in ids} == set(ids)
