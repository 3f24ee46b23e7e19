"""Request files: what a file that is not a request is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from secretflow_task.cli.files import read_request
from secretflow_task.contract.errors import InvalidTaskConfig


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
