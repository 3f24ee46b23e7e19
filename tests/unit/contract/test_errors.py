"""Every error says in public what is wrong and what to do, and nothing else."""

from __future__ import annotations

import inspect
import json
import re

import pytest

from secretflow_task.contract import errors
from secretflow_task.contract.errors import (
    AlgorithmError,
    DataError,
    ExecutionStopped,
    MissingColumn,
    RequestError,
    RequestExpired,
    RuntimeUnavailable,
    TaskCancelled,
    TaskTimeout,
    WorkerError,
    error_classes,
)

CLASSES = sorted(error_classes().values(), key=lambda kind: kind.__name__)
FAMILIES = [RequestError, DataError, RuntimeUnavailable, ExecutionStopped, AlgorithmError]
each_class = pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)


@each_class
def test_a_class_is_its_own_public_message(kind: type[WorkerError]) -> None:
    text = inspect.cleandoc(kind.__dict__["__doc__"])
    assert kind().message == text == kind().public_message == str(kind())
    assert re.fullmatch(r"[A-Z][^\n]{10,}[^.]\.", text)


@each_class
def test_a_class_says_what_to_do_next(kind: type[WorkerError]) -> None:
    assert re.fullmatch(r"[`A-Z][^\n]{10,}\.", kind().hint)


@each_class
def test_an_error_survives_its_journey_as_json(kind: type[WorkerError]) -> None:
    error = kind("What.", hint="How.", party="alice", step="scale", detail="private")
    back = WorkerError.from_dict(json.loads(json.dumps(error.to_dict())))
    assert type(back) is kind
    assert back.to_dict() == error.to_dict()
    assert back.detail is None


@each_class
def test_a_class_belongs_to_one_family(kind: type[WorkerError]) -> None:
    families = [family for family in FAMILIES if issubclass(kind, family)]
    assert kind is WorkerError or [kind().family] == [family.__name__ for family in families]


@each_class
def test_what_can_be_sent_again_follows_from_the_family(kind: type[WorkerError]) -> None:
    expected = issubclass(kind, (RuntimeUnavailable, ExecutionStopped))
    assert kind.retryable is (expected and kind not in (TaskCancelled, RequestExpired))


def test_what_a_person_has_stopped_reads_as_such() -> None:
    data = TaskCancelled(party="alice", step="s").as_event_data()
    assert (data["error_code"], data["retryable"], data["cancelled"]) == (
        "TaskCancelled",
        False,
        True,
    )
    assert WorkerError.from_event_data(data).as_event_data() == data
    assert "cancelled" not in TaskTimeout().as_event_data()


def test_codes_are_unique_and_every_class_of_the_module_is_known() -> None:
    defined = {
        name: kind
        for name, kind in vars(errors).items()
        if inspect.isclass(kind) and issubclass(kind, WorkerError)
    }
    assert {
        kind.__name__: kind for kind in CLASSES if kind.__module__ == errors.__name__
    } == defined
    assert len({kind().code for kind in CLASSES}) == len(CLASSES)


def test_the_module_page_lists_every_class_in_its_family() -> None:
    tree = (errors.__doc__ or "").split("An error has two faces")[0]
    families = {family.__name__: family for family in FAMILIES}
    family: type[WorkerError] = WorkerError
    listed = {"WorkerError"}
    for line in tree.splitlines()[2:]:
        names = re.findall(r"\b[A-Z][A-Za-z]+\b", line)
        family = families[names[0]] if names and names[0] in families else family
        assert all(issubclass(error_classes()[name], family) for name in names)
        listed |= set(names)
    assert listed == {kind.__name__ for kind in CLASSES if kind.__module__ == errors.__name__}


def test_a_step_stands_in_front_of_the_public_message() -> None:
    error = MissingColumn("No column.", step="scale")
    assert error.public_message == "Step 'scale': No column."
    assert error.message == "No column."


def test_event_data_is_the_public_face() -> None:
    error = MissingColumn("alice: no column 'x'.", party="alice", detail="columns: secret")
    assert error.as_event_data() == {
        "error": "alice: no column 'x'.",
        "error_type": "DataError",
        "error_code": "MissingColumn",
        "hint": "Check the spelling and the header of the file at that party.",
        "retryable": False,
        "failed_party": "alice",
    }
    assert MissingColumn(step="s").as_event_data()["step"] == "s"


def test_an_unknown_code_becomes_the_plain_error() -> None:
    error = WorkerError.from_dict(
        {"code": "FromTheFuture", "message": "New.", "hint": "Wait.", "party": "bob"}
    )
    assert (type(error), error.message, error.hint, error.party) == (
        WorkerError,
        "New.",
        "Wait.",
        "bob",
    )


def test_an_empty_dict_becomes_the_plain_error() -> None:
    assert WorkerError.from_dict({}).to_dict() == WorkerError().to_dict()
