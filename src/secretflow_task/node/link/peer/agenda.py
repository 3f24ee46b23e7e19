"""What the nodes of an execution must have in common before anything is started."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import asdict, dataclass
from functools import cache
from importlib import metadata
from typing import Any, Mapping

from secretflow_task import __version__
from secretflow_task.contract.errors import ClockSkew, RequestMismatch, VersionMismatch, WorkerError
from secretflow_task.contract.plan import Plan
from secretflow_task.node.link.peer.tokens import new_token

# Raised with every change of what nodes, or their jobs, say to each other.
LINK_VERSION = "2"


@dataclass(frozen=True)
class Agenda:
    """An execution as one node sees it.

    Attributes:
        parties: all of them, sorted.
        hosted: those at this node, sorted.
        digest: of the request, apart from who receives it.
        protocol: the SPU's, with field and further settings.
    """

    execution_id: str
    parties: tuple[str, ...]
    hosted: tuple[str, ...]
    digest: str
    protocol: str

    @staticmethod
    def of(plan: Plan, hosted: list[str]) -> Agenda:
        """The agenda of a validated request."""
        return Agenda(
            plan.request.execution_id,
            tuple(plan.parties),
            tuple(hosted),
            _digest(plan.request.params),
            json.dumps(asdict(plan.protocol), sort_keys=True),
        )

    @property
    def coordinator(self) -> str:
        """The party whose node decides how the execution ends."""
        return self.parties[0]

    @property
    def strangers(self) -> tuple[str, ...]:
        """The parties at other nodes."""
        return tuple(party for party in self.parties if party not in self.hosted)

    def join(self) -> dict[str, Any]:
        """What a node says of itself when it joins; a repeated one is known by its nonce."""
        return {
            "kind": "join",
            "execution": self.execution_id,
            "parties": list(self.parties),
            "from": list(self.hosted),
            "digest": self.digest,
            "protocol": self.protocol,
            "versions": versions(),
            "clock": time.time(),
            "nonce": new_token(),
        }

    def difference(
        self, theirs: Mapping[str, Any], clock_limit_seconds: float
    ) -> WorkerError | None:
        """Why a node that joins with ``theirs`` cannot take part."""
        their_parties = ", ".join(sorted(set(map(str, theirs["from"]))))
        names = f"{self.hosted[0]} and {their_parties}"
        if theirs["versions"] != versions():
            return VersionMismatch(f"The nodes of {names} run different versions.")
        apart = abs(float(theirs["clock"]) - time.time())
        if not apart <= clock_limit_seconds:  # also if it is not a number
            return ClockSkew(f"The clocks of the nodes of {names} differ by {apart:.0f} s.")
        same_request = (
            theirs["parties"] == list(self.parties)
            and theirs["digest"] == self.digest
            and theirs["protocol"] == self.protocol
        )
        if not same_request:
            return RequestMismatch(f"The nodes of {names} received different requests.")
        return None


@cache
def versions() -> dict[str, str]:
    """The versions that must be the same at every node."""
    try:
        engine = metadata.version("secretflow")
    except metadata.PackageNotFoundError:
        engine = "none"
    return {"link": LINK_VERSION, "worker": __version__, "secretflow": engine}


def _digest(params: Mapping[str, Any]) -> str:
    same_for_all = dict(params)
    init = params.get("sf_init_config")
    if isinstance(init, Mapping):
        same_for_all["sf_init_config"] = dict(init)
        same_for_all["sf_init_config"].pop("self_party", None)
    text = json.dumps(same_for_all, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
