"""The protocol that a request names, for how many parties, and what is said about its safety."""

from __future__ import annotations

from typing import Any, Callable

import pytest

from secretflow_task.contract.errors import UnsupportedProtocol, WorkerError
from secretflow_task.contract.plan import Plan
from secretflow_task.contract.protocols import Protocol, SpuConfig
from tests.unit.plan_requests import PLAN_REQUESTS

LR = {"task_type": "ss_lr", **PLAN_REQUESTS["ss_lr"]}
NAMES = [f"p{number:02d}" for number in range(17)]


def lr_of(parties: int) -> dict[str, Any]:
    """An `ss_lr` of so many parties."""
    return {**LR, "train_data": {name: "x.csv" for name in NAMES[:parties]}, "label_party": None}


def test_the_older_form_of_the_spu_config_is_the_same(plan_of: Callable[..., Plan]) -> None:
    nodes = [
        {"party": "alice", "address": "127.0.0.1:9100"},
        {"party": "bob", "address": "127.0.0.1:9101"},
    ]
    runtime = {"protocol": "SEMI2K", "field": "FM64", "fxp_fraction_bits": 18}
    older = plan_of(LR, spu_config={"cluster_def": {"nodes": nodes, "runtime_config": runtime}})
    newer = plan_of(
        LR,
        spu_config={
            "protocol": "SEMI2K",
            "field": "FM64",
            "runtime_config": {"fxp_fraction_bits": 18},
        },
    )
    assert older.protocol == newer.protocol == Protocol("SEMI2K", "FM64", {"fxp_fraction_bits": 18})


@pytest.mark.parametrize(
    ("protocol", "parties", "refusal"),
    [
        ("SEMI2K", 2, None),
        ("SEMI2K", 3, None),
        ("SEMI2K", 1, "SEMI2K takes 2 or more parties, not 1."),
        ("CHEETAH", 2, None),
        ("CHEETAH", 3, "CHEETAH takes 2 parties, not 3."),
        ("ABY3", 3, None),
        ("ABY3", 2, "ABY3 takes 3 parties, not 2."),
        ("REF2K", 2, "There is no SPU protocol 'REF2K' here."),
        ("SEMI3K", 2, "There is no SPU protocol 'SEMI3K' here."),
    ],
)
def test_a_protocol_takes_its_number_of_parties(
    protocol: str, parties: int, refusal: str | None, plan_of: Callable[..., Plan]
) -> None:
    try:
        plan = plan_of(lr_of(parties), spu_config={"protocol": protocol})
    except UnsupportedProtocol as error:
        assert error.message == refusal
    else:
        assert refusal is None and plan.protocol.name == protocol


@pytest.mark.parametrize("field", ["FM32", "FM256", "", 64])
def test_a_field_that_does_not_exist_is_refused(field: Any, plan_of: Callable[..., Plan]) -> None:
    with pytest.raises(WorkerError) as caught:
        plan_of(LR, spu_config={"runtime_config": {"field": field or "x"}})
    assert caught.value.code == "UnsupportedProtocol"
    assert caught.value.hint == "Use FM128 or FM64."


def test_only_semi2k_has_a_note_and_it_names_the_dealer() -> None:
    note = Protocol("SEMI2K", "FM128").note(["alice", "bob"])
    assert note is not None and "not secure against that party" in note and "alice" in note
    assert [Protocol(name, "FM128").note(["alice", "bob"]) for name in ("CHEETAH", "ABY3")] == [
        None,
        None,
    ]


@pytest.mark.parametrize(
    ("parties", "between_nodes", "name"),
    [
        (2, False, "SEMI2K"),
        (3, False, "SEMI2K"),
        (2, True, "CHEETAH"),
        (3, True, "ABY3"),
        (4, True, "SEMI2K"),
    ],
)
def test_the_default_between_nodes_is_secure_where_there_is_such_a_protocol(
    parties: int, between_nodes: bool, name: str
) -> None:
    chosen = Protocol.of(SpuConfig(), parties, needed=True, between_nodes=between_nodes)
    assert chosen == Protocol(name, "FM128")
