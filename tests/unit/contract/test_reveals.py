"""What a party learns: who it is, and what is kept of it."""

from __future__ import annotations

import json

import pytest
import yaml

from secretflow_task.cli.tasks import example_of
from secretflow_task.contract.plan import Plan
from secretflow_task.contract.requests import TaskRequest
from secretflow_task.contract.reveals import Fineness, Reveal, Role, shown
from secretflow_task.contract.task_dispatcher import TaskDispatcher

PARTIES = ["alice", "bob", "carol"]


def reveal(role: Role, party: str | None = None) -> Reveal:
    """That somebody learns a count."""
    return Reveal(role, "number of rows", Fineness.COUNT, party=party)


@pytest.mark.parametrize(
    ("role", "party", "learners"),
    [
        (Role.EVERYONE, None, PARTIES),
        (Role.PARTY, "bob", ["bob"]),
        (Role.OTHERS, "bob", ["alice", "carol"]),
        (Role.LABEL_PARTY, "bob", ["bob"]),
        (Role.LABEL_PARTY, None, ["alice"]),
        (Role.RECEIVER, "bob", ["bob"]),
        (Role.RECEIVER, None, ["carol"]),
        (Role.OWNERS, None, ["bob", "carol"]),
    ],
)
def test_a_role_is_resolved_by_the_request_or_by_what_prepare_found(
    role: Role, party: str | None, learners: list[str]
) -> None:
    found = reveal(role, party).learners(PARTIES, "alice", "carol", ["bob", "carol"])
    assert found == learners


@pytest.mark.parametrize("role", [Role.LABEL_PARTY, Role.RECEIVER, Role.OWNERS])
def test_a_role_that_only_prepare_resolves_is_open_before(role: Role) -> None:
    assert reveal(role).learners(PARTIES) is None


def test_the_label_party_receives_where_nobody_else_is_named() -> None:
    assert reveal(Role.RECEIVER).learners(PARTIES, label_party="bob") == ["bob"]


def test_people_see_each_line_once_with_its_columns() -> None:
    rows = Reveal(Role.OWNERS, "bins", Fineness.BIN, ("y", "z"))
    assert shown([reveal(Role.PARTY, "bob"), rows, reveal(Role.PARTY, "bob")], PARTIES) == [
        ("bob", "number of rows"),
        ("owner of a column", "bins (y, z)"),
    ]


@pytest.mark.parametrize("task_type", TaskDispatcher.list_supported_tasks())
def test_every_task_reveals_values_that_json_holds_and_that_resolve(task_type: str) -> None:
    plan = Plan.of(TaskRequest.from_arguments(yaml.safe_load(example_of(task_type))))
    for value in plan.config.reveals():
        assert Reveal.from_dict(json.loads(json.dumps(value.to_dict()))) == value
        learners = value.learners(plan.parties, "alice", owners=plan.parties)
        assert learners is not None and set(learners) <= set(plan.parties)
        assert value.what


def test_an_unknown_role_is_refused() -> None:
    fields = reveal(Role.EVERYONE).to_dict() | {"role": "somebody"}
    with pytest.raises(ValueError, match="somebody"):
        Reveal.from_dict(fields)
