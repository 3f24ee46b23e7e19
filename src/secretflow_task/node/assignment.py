"""What one node does of a request: which parties it runs, and whether it may."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Mapping

from secretflow_task.config.settings import Settings
from secretflow_task.contract.errors import InvalidTaskConfig, PeerUnreachable, UnsupportedProtocol
from secretflow_task.contract.job_spec import Listening
from secretflow_task.contract.paths import PathRules
from secretflow_task.contract.plan import Plan
from secretflow_task.contract.requests import TaskRequest
from secretflow_task.node.job.staging import check_outputs_apart, paths_of
from secretflow_task.node.link.peer.agenda import Agenda
from secretflow_task.node.ports import Ports

_SOCKET_PATH_BYTES = 100  # the kernel takes 107
_SECURE_BETWEEN_NODES = frozenset({"CHEETAH", "ABY3"})


@dataclass(frozen=True)
class Assignment:
    """What this node does of an execution.

    Attributes:
        hosted: the parties that it runs, sorted.
        strangers: those at other nodes.
    """

    plan: Plan
    hosted: list[str]
    strangers: list[str]

    @property
    def request(self) -> TaskRequest:
        """The request."""
        return self.plan.request

    @property
    def execution_id(self) -> str:
        """Its name at all parties."""
        return self.plan.request.execution_id

    @property
    def linked(self) -> bool:
        """Whether the others are reached over the link between nodes."""
        return bool(self.strangers) and self.plan.fixed is None

    def addresses(self, ports: Ports) -> tuple[Mapping[str, str], Mapping[str, str]]:
        """Where this node's jobs reach each party: SecretFlow's messages, and the SPU's link."""
        if self.strangers and self.plan.fixed:
            return self.plan.fixed.fed, self.plan.fixed.spu
        return _on_loopback(ports.fed), self._sockets() or _on_loopback(ports.spu)

    def folder(self, party: str) -> str:
        """The name of the folder of a party's job, beside those of the others."""
        return f"{self.execution_id}.{party}"

    def _sockets(self) -> dict[str, str]:
        """Where jobs that are all on this host link their SPUs; empty where they need ports.

        A port that is not listened on yet, brpc tries again after 3 s only. Socket files are also
        faster, and open to this user alone. Relative to the job's folder, since there is room for
        few characters.
        """
        paths = {party: f"../{self.folder(party)}/spu" for party in self.plan.parties}
        too_long = any(len(path.encode()) > _SOCKET_PATH_BYTES for path in paths.values())
        if self.strangers or too_long or "brpc_channel_protocol" in self.plan.protocol.link_desc:
            return {}
        return {party: f"unix:{path}" for party, path in paths.items()}

    def listening(self, party: str, patience_seconds: float) -> Listening | None:
        """Where the job of a party with a fixed address listens."""
        fixed = self.plan.fixed
        if fixed is None or not self.strangers:
            return None
        return Listening(fixed.fed_listen[party], fixed.spu_listen.get(party, ""), patience_seconds)

    @property
    def agenda(self) -> Agenda:
        """What it must have in common with the other nodes."""
        return Agenda.of(self.plan, self.hosted)

    @staticmethod
    def of(plan: Plan, settings: Settings, knows: Callable[[str], bool]) -> Assignment:
        """What a node with these settings does of a request; ``knows`` tells to whom it has a link.

        Raises:
            PeerUnreachable: it can do nothing of it.
            InvalidTaskConfig: the request says that one node hosts a party that another one hosts.
        """
        listed = is_for_one_node(plan.request)
        if listed:
            _check_that_none_is_elsewhere(plan, settings, knows)
        hosted = [party for party in plan.parties if listed or party in settings.parties]
        if plan.fixed and plan.fixed.self_party in hosted:
            hosted = [plan.fixed.self_party]
        strangers = [party for party in plan.parties if party not in hosted]
        if hosted and strangers and plan.fixed:
            return Assignment(_with_fixed_addresses(plan, hosted), hosted, strangers)
        unknown = [party for party in strangers if not knows(party)]
        if unknown:
            raise PeerUnreachable(f"This node does not host {unknown[0]} and has no link to it.")
        if not hosted:
            raise PeerUnreachable("This node hosts no party of the request.")
        return Assignment(
            Plan.of(plan.request, between_nodes=True) if strangers else plan, hosted, strangers
        )

    def check(self, settings: Settings) -> None:
        """Refuse what a node with these settings may not do, before anything is started."""
        self._check_protocol(settings)
        rules = {party: rules_of(party, settings) for party in self.hosted}
        for use in paths_of(self.plan):
            if use.party in rules:
                rules[use.party].resolve(use.path, use.purpose)
        check_outputs_apart(self.plan, rules)

    def _check_protocol(self, settings: Settings) -> None:
        protocol = self.plan.protocol.name
        matters = self.strangers and "spu" in self.plan.needs
        if (
            matters
            and protocol not in _SECURE_BETWEEN_NODES
            and protocol not in settings.unsafe_protocols
        ):
            raise UnsupportedProtocol(
                f"{protocol} is not secure between nodes, and {self.hosted[0]} does not allow it.",
                hint="Leave spu_config.protocol out: two parties take CHEETAH, three ABY3.",
                party=self.hosted[0],
            )


def is_for_one_node(request: TaskRequest) -> bool:
    """Whether a request lists parties that are all to be hosted by the node that takes it."""
    return isinstance(dict(request.params.get("sf_init_config") or {}).get("parties"), list)


def _check_that_none_is_elsewhere(
    plan: Plan, settings: Settings, knows: Callable[[str], bool]
) -> None:
    for party in plan.parties:
        if party not in settings.parties and knows(party):
            raise InvalidTaskConfig(
                "With a list as sf_init_config.parties one node hosts all parties, "
                f"and {party} has a node of its own.",
                hint="Leave sf_init_config out of a request between nodes.",
            )


def _with_fixed_addresses(plan: Plan, hosted: list[str]) -> Plan:
    """Raise `InvalidTaskConfig` unless the addresses are enough to run."""
    fixed = plan.fixed
    if len(hosted) > 1 or fixed is None:
        raise InvalidTaskConfig(
            "With fixed addresses sf_init_config.self_party must name the own party."
        )
    missing = sorted(set(plan.parties) - set(fixed.spu)) if "spu" in plan.needs else []
    if missing:
        raise InvalidTaskConfig(
            f"spu_config.nodes must say where the SPU of {missing[0]} is reached."
        )
    fixed.check()
    return Plan.of(plan.request, between_nodes=True)


def _on_loopback(ports: Mapping[str, int]) -> dict[str, str]:
    return {party: f"127.0.0.1:{port}" for party, port in ports.items()}


def rules_of(party: str, settings: Settings) -> PathRules:
    """Which paths a party of this node may name."""
    roots = tuple(Path(root) for root in settings.allowed_roots)
    return PathRules(party, settings.data_root.absolute(), roots).settled()
