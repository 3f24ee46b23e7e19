"""A token cannot be guessed, is recognised by its form, and counts once."""

from __future__ import annotations

import pytest

from secretflow_task.node.link.peer.tokens import Nonces, is_token, new_token
from tests.unit.node.link.peer.parties import Clock


def test_a_new_token_is_one_and_another_each_time() -> None:
    tokens = {new_token() for _ in range(100)}
    assert len(tokens) == 100 and all(map(is_token, tokens))


@pytest.mark.parametrize(
    "value", ["", "0" * 31, "0" * 33, "G" * 32, "A" * 32, "0" * 32 + "\n", 0, None, ["0" * 32]]
)
def test_nothing_else_is_a_token(value: object) -> None:
    assert not is_token(value)


def test_a_nonce_is_new_once_for_as_long_as_it_is_kept() -> None:
    clock = Clock()
    nonces = Nonces(60.0, clock)
    assert nonces.is_new("a") and not nonces.is_new("a") and nonces.is_new("b")
    clock.now += 59.0
    assert not nonces.is_new("a")
    clock.now += 2.0
    assert nonces.is_new("a") and nonces._until.keys() == {"a"}
