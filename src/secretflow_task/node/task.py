"""What one node does of a request: which parties it runs, and whether it may."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Mapping

from secretflow_task.config.settings import Settings
from secretflow_task.data_loader import PathRules
from secretflow_task.errors import PeerUnreachable, UnsupportedProtocol
from secretflow_task.messages import PARTY_NAME, TaskRequest
from secretflow_task.node.peer.agenda import Agenda
from secretflow_task.node.staging import check_outputs_apart, paths_of
from secretflow_task.requests import Plan

_MOST_PARTIES = 16
_SECURE_BETWEEN_NODES = frozenset({"CHEETAH", "ABY3"})


@dataclass(frozen=True)
class Task:
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
    def agenda(self) -> Agenda:
        """What it must have in common with the other nodes."""
        return Agenda.of(self.plan, self.hosted)

    @staticmethod
    def of(plan: Plan, settings: Settings, knows: Callable[[str], bool]) -> Task:
        """What a node with these settings does of a request; ``knows`` tells to whom it has a link.

        Raises:
            PeerUnreachable: it can do nothing of it.
        """
        named = dict(plan.request.params.get("sf_init_config") or {}).get("parties")
        hosted = [party for party in plan.parties if isinstance(named, list) or party in settings.parties]
        strangers = [party for party in plan.parties if party not in hosted]
        if strangers and isinstance(named, Mapping):
            raise PeerUnreachable(
                f"This node reaches {strangers[0]} over the link between nodes only, at no fixed address.",
                hint="Leave sf_init_config.parties out; SFWORKER_PEERS_FILE says where the others are.",
            )
        unknown = [party for party in strangers if not knows(party)]
        if unknown:
            raise PeerUnreachable(f"This node does not host {unknown[0]} and has no link to it.")
        if not hosted:
            raise PeerUnreachable("This node hosts no party of the request.")
        return Task(Plan.of(plan.request, between_nodes=True) if strangers else plan, hosted, strangers)

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
        if matters and protocol not in _SECURE_BETWEEN_NODES and protocol not in settings.unsafe_protocols:
            raise UnsupportedProtocol(
                f"{protocol} is not secure between nodes, and {self.hosted[0]} does not allow it.",
                hint="Leave spu_config.protocol out: two parties take CHEETAH, three ABY3.",
                party=self.hosted[0],
            )


def rules_of(party: str, settings: Settings) -> PathRules:
    """Which paths a party of this node may name."""
    roots = tuple(Path(root) for root in settings.allowed_roots)
    return PathRules(party, settings.data_root.absolute(), roots).settled()


def parties_of(request: TaskRequest, settings: Settings) -> list[str]:
    """Whom to tell about a request that could not be understood."""
    init = request.params.get("sf_init_config")
    listed = init.get("parties") if isinstance(init, Mapping) else None
    if isinstance(listed, (list, Mapping)) and 0 < len(listed) <= _MOST_PARTIES:
        if all(isinstance(party, str) and re.fullmatch(PARTY_NAME, party) for party in listed):
            return sorted(set(listed))
    return sorted(settings.parties) or ["unknown"]
