"""What a request says about its cluster and devices, and the execution that follows from it."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import Annotated, Any, Collection, Literal, Mapping

from pydantic import AfterValidator, Field, field_validator, model_validator

from secretflow_task.contract.errors import InvalidTaskConfig, UnsupportedProtocol
from secretflow_task.contract.messages import PARTY_NAME, TaskRequest
from secretflow_task.contract.task_config import STEP_PREFIX, PartyName, Strict, TaskConfig, parse
from secretflow_task.contract.task_dispatcher import Task, TaskDispatcher
from secretflow_task.utils.network import host_and_port
from secretflow_task.utils.spelling import did_you_mean

# How many parties each SPU protocol takes.
PROTOCOLS: dict[str, tuple[int, int]] = {"SEMI2K": (2, 16), "CHEETAH": (2, 2), "ABY3": (3, 3)}
_MOST_PARTIES = 16  # of a request
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
_REFERENCE = 'Name an earlier step\'s output by {"step": NAME, "output": KEY}.'


def _checked_address(address: str) -> str:
    host_and_port(address)
    return address


Address = Annotated[str, AfterValidator(_checked_address)]


class PartyAddress(Strict):
    """Where a party of a cluster with fixed addresses is reached and listens."""

    address: Address
    listen_addr: Address | None = None


Listed = Annotated[list[PartyName], Field(min_length=1)]
Addressed = Annotated[dict[PartyName, PartyAddress], Field(min_length=1)]
Parties = Listed | Addressed


class SfInitConfig(Strict):
    """``sf_init_config``."""

    parties: Parties | None = None
    self_party: PartyName | None = None
    address: str | None = Field(
        default=None, description="Accepted for older web applications and not used."
    )


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
        if isinstance(value, Mapping) and isinstance(value.get("cluster_def"), Mapping):
            return {key: item for key, item in value.items() if key != "cluster_def"} | dict(
                value["cluster_def"]
            )
        return value

    @field_validator("protocol", "field")
    @classmethod
    def _upper(cls, value: str | None) -> str | None:
        return value and value.upper()


class HeuConfig(Strict):
    """``heu_config``: homomorphic encryption.

    Who holds the secret key follows from the data, since it is the label party; `check_key_holder` refuses a
    request that says otherwise.
    """

    scheme: Literal["ou", "paillier", "zpaillier"] = Field(default="ou", alias="schema")
    key_size: int = Field(default=2048, ge=2048, le=4096)
    sk_keeper: PartyName | None = None
    evaluators: list[PartyName] | None = None

    def check_key_holder(self, party: str, parties: list[str]) -> None:
        """Raise `InvalidTaskConfig` unless the key may lie at ``party`` and all others are evaluators."""
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


class Params(Strict):
    """The parts of a request; null stands for a part that is left out."""

    sf_init_config: SfInitConfig = SfInitConfig()
    spu_config: SpuConfig = SpuConfig()
    heu_config: HeuConfig | None = None
    task_config: dict[str, Any]
    timeout_seconds: float | None = Field(
        default=None,
        gt=0,
        description="Wall-clock limit; the node's own limit holds where it is lower.",
    )

    @model_validator(mode="before")
    @classmethod
    def _without_null(cls, value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: item for key, item in value.items() if item is not None}
        return value


@dataclass(frozen=True)
class Protocol:
    """The SPU protocol and field of an execution, with further runtime settings as SPU names them."""

    name: str
    field: str
    runtime: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    link_desc: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def numbers(self) -> str:
        """The field, and its fraction bits where they are set: what shares must be read with."""
        bits = self.runtime.get("fxp_fraction_bits")
        return f"{self.field} with {bits} fraction bits" if bits else self.field

    def note(self, parties: list[str]) -> str | None:
        """What a reader of the result must know about the protocol's safety."""
        if self.name != "SEMI2K":
            return None
        return (
            f"SEMI2K deals its randomness from {parties[0]} and is not secure against that party; "
            "it is meant for a node that hosts all parties."
        )


@dataclass(frozen=True)
class FixedAddresses:
    """Where each party is reached and listens, ``{party: host:port}``, of the messages and the SPU's link."""

    self_party: str | None
    fed: Mapping[str, str]
    fed_listen: Mapping[str, str]
    spu: Mapping[str, str]
    spu_listen: Mapping[str, str]

    @staticmethod
    def of(init: SfInitConfig, spu: SpuConfig) -> FixedAddresses | None:
        """Those of a request whose parties are a mapping."""
        if not isinstance(init.parties, Mapping):
            return None
        fed = {party: at.address for party, at in init.parties.items()}
        listen = {party: at.listen_addr or at.address for party, at in init.parties.items()}
        nodes = {node.party: node for node in spu.nodes or []}
        links = {party: node.address for party, node in nodes.items()}
        link_listen = {party: node.listen_address or node.address for party, node in nodes.items()}
        return FixedAddresses(init.self_party, fed, listen, links, link_listen)


@dataclass(frozen=True)
class Plan:
    """A validated request: what will run, with which parties and devices.

    Attributes:
        parties: all parties, sorted.
        config: the parsed ``task_config``.
        timeout_seconds: the limit that the request asks for.
        fixed: the addresses that the request gives.
    """

    request: TaskRequest
    task: Task
    config: TaskConfig
    parties: list[str]
    protocol: Protocol
    heu: HeuConfig | None = None
    timeout_seconds: float | None = None
    fixed: FixedAddresses | None = None

    @property
    def needs(self) -> tuple[str, ...]:
        """The devices besides the PYUs that the task needs."""
        return needed_devices(self.task, self.config)

    @staticmethod
    def of(request: TaskRequest, between_nodes: bool = False) -> Plan:
        """Validate a request.

        Args:
            between_nodes: not all parties are at one node, so that the default protocol must be secure.

        Raises:
            RequestError: of the kind that says what is wrong with it.
        """
        params = parse(Params, dict(request.params), "request")
        _refuse_step_paths(params.task_config)
        task_type = params.task_config.get("task_type")
        if not isinstance(task_type, str):
            raise InvalidTaskConfig("'task_config.task_type' is missing.")
        task = TaskDispatcher.get(task_type)
        config = task.parse(params.task_config)
        parties = parties_of_request(params.sf_init_config, config)
        _check_roles(params, parties)
        default = _BETWEEN_NODES.get(len(parties), "SEMI2K") if between_nodes else "SEMI2K"
        needed = "spu" in needed_devices(task, config)
        protocol = _protocol(params.spu_config, len(parties), needed, default)
        fixed = FixedAddresses.of(params.sf_init_config, params.spu_config)
        return Plan(
            request,
            task,
            config,
            parties,
            protocol,
            params.heu_config,
            params.timeout_seconds,
            fixed,
        )


def needed_devices(task: Task, config: Any) -> tuple[str, ...]:
    """The devices besides the PYUs that a task needs; a workflow's config knows them from its steps."""
    return tuple(getattr(config, "needs", task.needs))


def parties_of_request(init: SfInitConfig, config: TaskConfig) -> list[str]:
    """All parties of a request, sorted.

    Raises:
        InvalidTaskConfig: the task names a party that ``sf_init_config`` leaves out, or there is none at all.
    """
    used = config.parties() if isinstance(config, TaskConfig) else []
    listed = sorted(init.parties or used)
    outsiders = sorted(set(used) - set(listed))
    if outsiders:
        raise InvalidTaskConfig(
            f"task_config names {outsiders[0]!r}, which sf_init_config.parties leaves out."
        )
    if not listed or len(set(listed)) < len(listed):
        raise InvalidTaskConfig("The request must name each of its parties once.")
    return listed


def parties_to_tell(request: TaskRequest, hosted: Collection[str]) -> list[str]:
    """Whom to tell about a request that was not understood: whom it lists, or all of ``hosted``."""
    init = request.params.get("sf_init_config")
    listed = init.get("parties") if isinstance(init, Mapping) else None
    if isinstance(listed, (list, Mapping)) and 0 < len(listed) <= _MOST_PARTIES:
        if all(isinstance(party, str) and re.fullmatch(PARTY_NAME, party) for party in listed):
            return sorted(set(listed))
    return sorted(hosted) or ["unknown"]


def _refuse_step_paths(value: Any) -> None:
    """Only a workflow itself names intermediate files; elsewhere they would lead past the allowed folders."""
    if isinstance(value, str) and value.startswith(STEP_PREFIX):
        raise InvalidTaskConfig(f"Text must not begin with {STEP_PREFIX!r}.", hint=_REFERENCE)
    if isinstance(value, (Mapping, list)):
        for item in value.values() if isinstance(value, Mapping) else value:
            _refuse_step_paths(item)


def _check_roles(params: Params, parties: list[str]) -> None:
    """Refuse a role for a name that is not a party of the request."""
    heu = params.heu_config or HeuConfig()
    roles: dict[str, list[PartyName | None]] = {
        "sf_init_config.self_party": [params.sf_init_config.self_party],
        "heu_config.sk_keeper": [heu.sk_keeper],
        "heu_config.evaluators": [*(heu.evaluators or [])],
    }
    for role, names in roles.items():
        for name in names:
            if name is not None and name not in parties:
                raise InvalidTaskConfig(
                    f"{role} names {name!r}, which is not a party of the request."
                )


def _protocol(spu: SpuConfig, parties: int, needed: bool, default: str) -> Protocol:
    runtime = dict(spu.runtime_config)
    name = str(spu.protocol or runtime.pop("protocol", None) or default).upper()
    field_name = str(spu.field or runtime.pop("field", None) or "FM128").upper()
    runtime = {key: value for key, value in runtime.items() if key not in ("protocol", "field")}
    unknown = sorted(set(runtime) - _RUNTIME_KEYS)
    if unknown:
        guess = did_you_mean(unknown[0], _RUNTIME_KEYS) or "."
        raise InvalidTaskConfig(f"Unknown key 'spu_config.runtime_config.{unknown[0]}'{guess}")
    if name not in PROTOCOLS:
        raise UnsupportedProtocol(f"There is no SPU protocol {name!r} here.")
    if field_name not in FIELDS:
        raise UnsupportedProtocol(
            f"There is no field {field_name!r} here.", hint="Use FM128 or FM64."
        )
    fewest, most = PROTOCOLS[name]
    if needed and not fewest <= parties <= most:
        raise UnsupportedProtocol(
            f"{name} takes {fewest if fewest == most else '2 or more'} parties, not {parties}."
        )
    return Protocol(name, field_name, runtime, dict(spu.link_desc))
