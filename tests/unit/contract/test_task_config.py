"""Declarations follow from the types of the fields, and a refused request says what to correct."""

from __future__ import annotations

from typing import Annotated, Any

import pytest
from pydantic import Field

from secretflow_task.contract.errors import InvalidTaskConfig
from secretflow_task.contract.task_config import (
    ColumnAt,
    LoadsModel,
    PartyColumns,
    PartyName,
    PathRole,
    Reads,
    Report,
    SavesModel,
    Strict,
    TaskConfig,
    Use,
    Writes,
    parse,
)


class Inner(Strict):
    """Parameters."""

    rate: float = Field(0.1, gt=0)
    rounds: int = 1


class Sample(TaskConfig):
    """A config with a field of every role."""

    feature_key = "features"

    train_data: Reads
    output_data: Writes | None = None
    features: list[str] | None = None
    label: ColumnAt | None = None
    model_path: LoadsModel | None = None
    model_output: SavesModel | None = None
    output_report: Report | None = None
    receiver: PartyName | None = None
    output_path: Annotated[str | None, PathRole("write", at="receiver")] = None
    ids: PartyColumns | None = None
    params: Inner = Inner()


BOTH = {"alice": "a.csv", "bob": "b.csv"}


def sample(**values: Any) -> Sample:
    """A valid `Sample`."""
    config = parse(Sample, {"train_data": BOTH, **values}, "sample")
    assert isinstance(config, Sample)
    return config


def refusal(value: Any) -> str:
    """The message by which a `Sample` is refused."""
    with pytest.raises(InvalidTaskConfig) as caught:
        parse(Sample, value, "sample")
    return caught.value.message


def test_the_roles_of_fields_are_found_also_where_they_are_optional() -> None:
    assert Sample.path_fields() == {
        "train_data": PathRole("read"),
        "output_data": PathRole("write"),
        "model_path": PathRole("load"),
        "model_output": PathRole("save"),
        "output_report": PathRole("write"),
        "output_path": PathRole("write", at="receiver"),
    }
    assert list(Sample.output_fields()) == [
        "output_data",
        "model_output",
        "output_report",
        "output_path",
    ]


def test_inputs_are_the_files_that_are_read_with_the_columns_that_are_named() -> None:
    config = sample(
        features=["f1", "f2"], label={"party": "bob", "path": "labels.csv", "column": "y"}
    )
    assert config.inputs() == [
        Use("alice", "a.csv", ("f1", "f2"), "train_data"),
        Use("bob", "b.csv", ("f1", "f2"), "train_data"),
        Use("bob", "labels.csv", ("y",), "label"),
    ]


def test_outputs_of_one_path_for_all_are_written_by_all() -> None:
    config = sample(output_report="report.json")
    assert config.outputs() == [
        Use("alice", "report.json", (), "output_report", shared=True),
        Use("bob", "report.json", (), "output_report", shared=True),
    ]


def test_an_output_of_one_party_is_written_by_that_party() -> None:
    config = sample(output_path="p.csv", receiver="bob", output_data={"alice": "o.csv"})
    assert config.outputs() == [
        Use("alice", "o.csv", (), "output_data"),
        Use("bob", "p.csv", (), "output_path"),
    ]


def test_an_output_of_a_party_that_is_not_known_yet_may_be_anyones() -> None:
    assert [use.party for use in sample(output_path="p.csv").outputs()] == ["alice", "bob"]


def test_models_are_those_that_are_loaded_and_saved() -> None:
    config = sample(model_path={"alice": "m1"}, model_output="m2")
    assert config.models() == [
        Use("alice", "m1", (), "model_path"),
        Use("alice", "m2", (), "model_output", shared=True),
        Use("bob", "m2", (), "model_output", shared=True),
    ]


def test_parties_are_all_that_are_named_anywhere() -> None:
    config = sample(
        train_data={"dora": "d.csv", "alice": "a.csv"},
        model_path={"bob": "m"},
        receiver="erin",
        output_path="p.csv",
        label={"party": "carol", "path": "l.csv", "column": "y"},
    )
    assert config.parties() == ["alice", "bob", "carol", "dora", "erin"]


def test_nothing_is_revealed_unless_the_task_says_so() -> None:
    assert sample().reveals() == []


def test_a_column_takes_its_own_partys_path_from_a_steps_paths() -> None:
    label = ColumnAt.model_validate(
        {"party": "bob", "path": {"alice": "x.csv", "bob": "y.csv"}, "column": "y"}
    )
    assert label.path == "y.csv"


@pytest.mark.parametrize("party", ["carol", None, [], {}, 5])
def test_a_column_of_a_party_without_a_path_is_refused(party: Any) -> None:
    assert "label.path: string should have at least 1 character" in refusal(
        {"train_data": BOTH, "label": {"party": party, "path": {"bob": "y.csv"}, "column": "y"}}
    )


def test_an_unknown_key_is_named_with_its_nearest() -> None:
    assert refusal({"train_dat": BOTH}) == (
        "sample: 'train_data' is missing; unknown key 'train_dat', did you mean 'train_data'?"
    )


def test_an_unknown_key_inside_is_named_with_its_nearest_there() -> None:
    message = refusal({"train_data": BOTH, "params": {"round": 3}})
    assert message == "sample: unknown key 'params.round', did you mean 'rounds'?"


def test_an_unknown_key_without_a_near_one_is_answered_with_all() -> None:
    assert refusal({"train_data": BOTH, "params": {"zzz": 1}}) == (
        "sample: unknown key 'params.zzz' (known: rate, rounds)."
    )


def test_all_problems_are_named_at_once_up_to_eight() -> None:
    assert refusal({"features": "f1", "params": {"rate": 0, "rounds": "2"}}) == (
        "sample: 'train_data' is missing; features: input should be a valid list; "
        "params.rate: input should be greater than 0; "
        "params.rounds: input should be a valid integer."
    )
    message = refusal({"train_data": BOTH, **{f"zz{number}": 1 for number in range(20)}})
    assert message.count("unknown key") == 8 and message.endswith("; and 12 more.")


@pytest.mark.parametrize(
    ("params", "problem"),
    [
        ({"rate": "0.1"}, "params.rate: input should be a valid number"),
        ({"rate": True}, "params.rate: input should be a valid number"),
        ({"rate": float("nan")}, "params.rate: input should be a finite number"),
        ({"rate": float("inf")}, "params.rate: input should be a finite number"),
        ({"rounds": 2.0}, "params.rounds: input should be a valid integer"),
        ({"rounds": True}, "params.rounds: input should be a valid integer"),
        ([], "params: input should be a valid dictionary or instance of Inner"),
    ],
)
def test_a_number_is_a_number(params: Any, problem: str) -> None:
    assert refusal({"train_data": BOTH, "params": params}) == f"sample: {problem}."


def test_a_whole_number_is_a_number_too() -> None:
    assert sample(params={"rate": 1}).params == Inner(rate=1.0)


@pytest.mark.parametrize("name", ["", "al ice", "1alice", "a" * 33, "../bob", "alice\n", "é"])
def test_a_party_name_that_is_no_file_name_is_refused(name: str) -> None:
    assert "should match pattern" in refusal({"train_data": {name: "a.csv"}})


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        (
            {"train_data": {}},
            "train_data: dictionary should have at least 1 item after validation, not 0",
        ),
        (
            {"train_data": {"alice": ""}},
            "train_data.alice: string should have at least 1 character",
        ),
        ({"train_data": {"alice": None}}, "train_data.alice: input should be a valid string"),
        ({"train_data": "a.csv"}, "train_data: input should be a valid dictionary"),
    ],
)
def test_a_path_is_a_text_per_party(values: dict[str, Any], problem: str) -> None:
    assert refusal(values) == f"sample: {problem}."


def test_of_a_value_with_several_forms_only_the_meant_one_is_explained() -> None:
    message = refusal({"train_data": BOTH, "model_path": {"alice": 5}})
    assert message == "sample: model_path.alice: input should be a valid string."


def test_a_value_of_none_of_its_forms_is_told_them_all() -> None:
    problems = [f"model_path: input should be a valid {form}" for form in ("string", "dictionary")]
    assert refusal({"train_data": BOTH, "model_path": 5}) == f"sample: {'; '.join(problems)}."


def test_a_model_folder_is_one_text_or_one_per_party() -> None:
    assert sample(model_path="m").model_path == "m"
    assert sample(model_path={"alice": "m"}).model_path == {"alice": "m"}


@pytest.mark.parametrize("value", [None, 5, "x", []])
def test_what_is_no_object_is_refused(value: Any) -> None:
    assert refusal(value) == "sample: Input should be a valid dictionary or instance of Sample."


def test_a_refusal_never_repeats_a_value() -> None:
    secret = "4711-secret"
    message = refusal(
        {
            "train_data": {"alice": [secret]},
            "features": secret,
            "receiver": f" {secret}",
            "params": secret,
        }
    )
    assert secret not in message
