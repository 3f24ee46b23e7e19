"""Request files: what a file that is not a request is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from secretflow_task.cli.files import read_execution, read_request
from secretflow_task.contract.errors import InvalidTaskConfig, MissingFile


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "task_id: 1\nspu_config: {}\ntask_conifg: {}",
            "unknown key 'task_conifg', did you mean 'task_config'?",
        ),
        (
            "task_id: 1\nspu_config: {}\nheu_config: {}",
            "it must be an object with the key 'task_config'.",
        ),
        ("[]", "it must be an object with the key 'task_config'."),
    ],
)
def test_only_an_unknown_key_may_have_meant_the_task_config(
    text: str, problem: str, tmp_path: Path
) -> None:
    path = tmp_path / "request.yaml"
    path.write_text(text)
    with pytest.raises(InvalidTaskConfig) as refused:
        read_request(path)
    assert refused.value.message == f"{path} is not a request: {problem}"


@pytest.mark.parametrize(
    ("ids", "given", "execution_id"),
    [
        ("task_request_id: march", "march-1", "march-1"),
        ("task_request_id: march\nexecution_id: march-2", "march-1", "march-1"),
        ("task_request_id: march\nexecution_id: march-2", None, "march-2"),
        ("task_request_id: march", None, None),
        ("task_request_id: march\nexecution_id: ''", None, None),
    ],
)
def test_an_execution_has_the_id_that_is_given_or_the_file_s_or_a_new_one(
    ids: str, given: str | None, execution_id: str | None, tmp_path: Path
) -> None:
    path = tmp_path / "request.yaml"
    path.write_text(f"{ids}\ntask_config: {{}}")
    first, second = read_execution(path, given), read_execution(path, given)
    assert first.task_request_id == "march"
    if execution_id:
        assert first.execution_id == second.execution_id == execution_id
    else:
        assert first.execution_id != second.execution_id


def test_an_id_that_is_none_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    path = tmp_path / "request.yaml"
    path.write_text("task_config: {}")
    with pytest.raises(InvalidTaskConfig):
        read_execution(path, "not an id")


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("macth.yaml", "There is no file {path}, did you mean 'match.yaml'?"),
        ("other.json", "There is no file {path}."),
        ("folder", "{path} is a folder, not a request."),
        ("nowhere/match.yaml", "There is no file {path}."),
    ],
)
def test_a_file_that_is_missing_is_told_with_the_nearest(
    name: str, problem: str, tmp_path: Path
) -> None:
    (tmp_path / "match.yaml").touch()
    (tmp_path / "folder").mkdir()
    path = tmp_path / name
    with pytest.raises(MissingFile) as refused:
        read_request(path)
    assert refused.value.message == problem.format(path=path)
