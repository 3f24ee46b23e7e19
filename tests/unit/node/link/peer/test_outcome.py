"""What a peer says of how an execution ended is taken if it is well-formed, and only then."""

from __future__ import annotations

from typing import Any

import pytest

from secretflow_task.contract.errors import JobProcessDied
from secretflow_task.node.link.peer.outcome import checked_outcome, outcome_of, read_error


def test_an_error_survives_the_journey() -> None:
    error = JobProcessDied("It died.", party="bob", hint="Look into the log.")
    assert read_error(error.to_dict()).to_dict() == error.to_dict()


def test_the_texts_of_an_error_have_a_sensible_length() -> None:
    error = read_error({"code": "DataError", "message": "x" * 100_000})
    assert error.message == "x" * 4000


@pytest.mark.parametrize(
    "fields",
    [
        None,
        "text",
        ["code"],
        {"message": 7},
        {"message": ""},
        {"code": ["DataError"]},
        {"party": "../etc"},
        {"party": "\n"},
        {"hint": {"a": "b"}},
        {"step": True},
    ],
    ids=repr,
)
def test_what_is_not_an_error_is_refused(fields: Any) -> None:
    with pytest.raises((ValueError, TypeError, AttributeError)):
        read_error(fields)


@pytest.mark.parametrize("status", ["SUCCESS", "RUNNING", "UNKNOWN"])
def test_an_answer_with_a_status_is_taken(status: str) -> None:
    answer = {"kind": "outcome", "status": status}
    assert checked_outcome(answer) == answer


@pytest.mark.parametrize(
    "answer",
    [
        {"kind": "outcome"},
        {"kind": "welcome", "status": "SUCCESS"},
        {"kind": "outcome", "status": "PERHAPS"},
        {"kind": "outcome", "status": ["SUCCESS"]},
        {"kind": "outcome", "status": "FAILURE"},
        {"kind": "outcome", "status": "FAILURE", "error": {"party": "\n"}},
        {"kind": "outcome", "status": "FAILURE", "error": "text"},
        {"status": "SUCCESS"},
    ],
    ids=repr,
)
def test_an_answer_that_makes_no_sense_is_not_taken(answer: dict[str, Any]) -> None:
    assert checked_outcome(answer) is None


def test_what_is_answered_is_taken_at_the_other_node() -> None:
    for failure in (None, JobProcessDied(party="bob")):
        answer = outcome_of(failure)
        assert checked_outcome(answer) == answer
