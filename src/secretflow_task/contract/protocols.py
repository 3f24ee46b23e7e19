"""The encryption that a request asks for: SPU's protocol, with its limits, and HEU's keys."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal, Mapping

from pydantic import Field, field_validator, model_validator

from secretflow_task.contract.errors import InvalidTaskConfig, UnsupportedProtocol
from secretflow_task.contract.task_config import PartyName, Strict
from secretflow_task.utils.spelling import did_you_mean

# How many parties each SPU protocol takes.
PROTOCOLS: dict[str, tuple[int, int]] = {"SEMI2K": (2, 16), "CHEETAH": (2, 2), "ABY3": (3, 3)}
# The default between nodes, by the number of parties.
_BETWEEN_NODES = {2: "CHEETAH", 3: "ABY3"}
FIELDS = ("FM64", "FM128")
# The further settings of SPU that a request may make; none names a file or shows a value.
_RUNTIME_KEYS = frozenset("""
    beaver_type cheetah_2pc_config enable_hal_profile enable_lower_accuracy_rsqrt
    enable_pphlo_profile experimental_disable_mmul_split experimental_disable_vectorization
    experimental_enable_colocated_optimization experimental_enable_exp_prime
    experimental_enable_inter_op_par experimental_enable_intra_op_par
    experimental_inter_op_concurrency fxp_div_goldschmidt_iters fxp_exp_iters fxp_exp_mode
    fxp_fraction_bits fxp_log_iters fxp_log_mode fxp_log_orders max_concurrency quick_sort_threshold
    share_max_chunk_size sigmoid_mode sine_cosine_iters sort_method trunc_allow_msb_error
    ttp_beaver_config
    """.split())


class SpuNode(Strict):
    """Where the SPU's link of a party with a fixed address is reached and listens."""

    party: PartyName
    address: str
    listen_address: str | None = None
    id: str | None = Field(
        default=None, description="Accepted for older web applications and not used."
    )


class SpuConfig(Strict):
    """``spu_config``; the older form ``{cluster_def: {nodes, runtime_config}}`` is accepted too."""

    protocol: str | None = None
    field: str | None = None
    runtime_config: dict[str, Any] = Field(default_factory=dict)
    link_desc: dict[str, int | str] = Field(default_factory=dict)
    nodes: list[SpuNode] | None = None

    @model_validator(mode="before")
    @classmethod
    def _older_form(cls, value: Any) -> Any:
        if not isinstance(value, Mapping) or not isinstance(value.get("cluster_def"), Mapping):
            return value
        newer = dict(value)
        newer.update(newer.pop("cluster_def"))
        return newer

    @field_validator("protocol", "field")
    @classmethod
    def _upper(cls, value: str | None) -> str | None:
        return value and value.upper()


class HeuConfig(Strict):
    """``heu_config``: homomorphic encryption.

    Who holds the secret key follows from the data, since it is the label party; `check_key_holder`
    refuses a request that says otherwise.
    """

    scheme: Literal["ou", "paillier", "zpaillier"] = Field(default="ou", alias="schema")
    key_size: int = Field(default=2048, ge=2048, le=4096)
    sk_keeper: PartyName | None = None
    evaluators: list[PartyName] | None = None

    def check_key_holder(self, party: str, parties: list[str]) -> None:
        """Check that the key may lie at ``party`` and that all others are evaluators.

        Raises:
            InvalidTaskConfig: the request says otherwise.
        """
        if self.sk_keeper not in (None, party):
            raise InvalidTaskConfig(
                f"heu_config.sk_keeper is {self.sk_keeper}, but the label is at {party}.",
                hint="The label party must hold the key, or leave sk_keeper out.",
            )
        others = [other for other in parties if other != party]
        if self.evaluators is not None and sorted(self.evaluators) != others:
            raise InvalidTaskConfig(
                f"heu_config.evaluators must be all parties but {party}, which holds the label."
            )


@dataclass(frozen=True)
class Protocol:
    """SPU's protocol and field in an execution, with further runtime settings as SPU names them."""

    name: str
    field: str
    runtime: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    link_desc: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @staticmethod
    def of(spu: SpuConfig, parties: int, needed: bool, between_nodes: bool) -> Protocol:
        """The protocol that a request names, or the default.

        Args:
            parties: how many take part.
            needed: the task computes on SPU, so the protocol must take that many parties.
            between_nodes: not all parties are at one node, so the default must be secure.

        Raises:
            UnsupportedProtocol: there is no such protocol or field, or not for so many parties.
            InvalidTaskConfig: a runtime setting is unknown.
        """
        runtime = dict(spu.runtime_config)
        inner_name = runtime.pop("protocol", None)
        inner_field = runtime.pop("field", None)
        default = "SEMI2K"
        if between_nodes:
            default = _BETWEEN_NODES.get(parties, "SEMI2K")
        name = str(spu.protocol or inner_name or default).upper()
        field_name = str(spu.field or inner_field or "FM128").upper()
        _check_runtime(runtime)
        if name not in PROTOCOLS:
            raise UnsupportedProtocol(f"There is no SPU protocol {name!r} here.")
        if field_name not in FIELDS:
            raise UnsupportedProtocol(
                f"There is no field {field_name!r} here.", hint="Use FM128 or FM64."
            )
        if needed:
            _check_parties(name, parties)
        return Protocol(name, field_name, runtime, dict(spu.link_desc))

    @property
    def numbers(self) -> str:
        """The field, and its fraction bits where they are set: what shares must be read with."""
        bits = self.runtime.get("fxp_fraction_bits")
        if not bits:
            return self.field
        return f"{self.field} with {bits} fraction bits"

    def note(self, parties: list[str]) -> str | None:
        """What a reader of the result must know about the protocol's safety."""
        if self.name != "SEMI2K":
            return None
        return (
            f"SEMI2K deals its randomness from {parties[0]} and is not secure against that party; "
            "it is meant for a node that hosts all parties."
        )


def _check_runtime(runtime: Mapping[str, Any]) -> None:
    unknown = sorted(set(runtime) - _RUNTIME_KEYS)
    if unknown:
        guess = did_you_mean(unknown[0], _RUNTIME_KEYS) or "."
        raise InvalidTaskConfig(f"Unknown key 'spu_config.runtime_config.{unknown[0]}'{guess}")


def _check_parties(name: str, parties: int) -> None:
    fewest, most = PROTOCOLS[name]
    if fewest <= parties <= most:
        return
    takes = str(fewest) if fewest == most else "2 or more"
    raise UnsupportedProtocol(f"{name} takes {takes} parties, not {parties}.")
