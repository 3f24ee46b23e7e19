"""The plan that follows from a request: what runs, with which parties, protocol and addresses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Mapping

from secretflow_task.contract.errors import InvalidTaskConfig
from secretflow_task.contract.protocols import HeuConfig, Protocol, SpuConfig
from secretflow_task.contract.requests import Params, SfInitConfig, TaskRequest
from secretflow_task.contract.task_config import STEP_PREFIX, PartyName, TaskConfig, parse
from secretflow_task.contract.task_dispatcher import Task, TaskDispatcher
from secretflow_task.utils.network import host_and_port

_REFERENCE = 'Name an earlier step\'s output by {"step": NAME, "output": KEY}.'


@dataclass(frozen=True)
class FixedAddresses:
    """Where each party is reached and listens, ``{party: host:port}``.

    Attributes:
        fed, fed_listen: of SecretFlow's messages.
        spu, spu_listen: of the SPU's link.
    """

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
        fed, fed_listen = {}, {}
        for party, at in init.parties.items():
            fed[party] = at.address
            fed_listen[party] = at.listen_addr or at.address
        links, links_listen = {}, {}
        for node in spu.nodes or []:
            links[node.party] = node.address
            links_listen[node.party] = node.listen_address or node.address
        return FixedAddresses(init.self_party, fed, fed_listen, links, links_listen)

    def check(self) -> None:
        """Raise `InvalidTaskConfig` unless each is ``host:port``; only who uses them cares."""
        for place, addresses in (
            ("sf_init_config.parties", [*self.fed.items(), *self.fed_listen.items()]),
            ("spu_config.nodes", [*self.spu.items(), *self.spu_listen.items()]),
        ):
            for party, address in addresses:
                try:
                    host_and_port(address)
                except ValueError as error:
                    raise InvalidTaskConfig(f"{place}: an address of {party} {error}.") from None


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
            between_nodes: not all parties are at one node, so the default protocol must be secure.

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
        needs_spu = "spu" in needed_devices(task, config)
        return Plan(
            request,
            task,
            config,
            parties,
            protocol=Protocol.of(params.spu_config, len(parties), needs_spu, between_nodes),
            heu=params.heu_config,
            timeout_seconds=params.timeout_seconds,
            fixed=FixedAddresses.of(params.sf_init_config, params.spu_config),
        )


def needed_devices(task: Task, config: Any) -> tuple[str, ...]:
    """The devices besides the PYUs that a task needs; a workflow needs those of its steps."""
    return tuple(getattr(config, "needs", task.needs))


def parties_of_request(init: SfInitConfig, config: TaskConfig) -> list[str]:
    """All parties of a request, sorted.

    Raises:
        InvalidTaskConfig: the task names a party that ``sf_init_config`` leaves out, or there is
            none at all.
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


def _refuse_step_paths(value: Any) -> None:
    """Only a workflow names intermediate files: elsewhere they would lead past allowed folders."""
    if isinstance(value, str) and value.startswith(STEP_PREFIX):
        raise InvalidTaskConfig(f"Text must not begin with {STEP_PREFIX!r}.", hint=_REFERENCE)
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
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
