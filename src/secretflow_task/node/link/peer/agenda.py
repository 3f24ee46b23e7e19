"""What the nodes of an execution must have in common before anything is started."""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from dataclasses import asdict, dataclass
from functools import cache
from importlib import metadata
from typing import Any, Mapping

from secretflow_task import __version__
from secretflow_task.contract.errors import ClockSkew, RequestMismatch, VersionMismatch, WorkerError
from secretflow_task.contract.requests import Plan


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
        protocol = json.dumps(asdict(plan.protocol), sort_keys=True)
        params = dict(plan.request.params)
        return Agenda(
            plan.request.execution_id, tuple(plan.parties), tuple(hosted), _digest(params), protocol
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
        """What a node says of itself when it joins; another each time, so that a repeated one is known."""
        return {
            "kind": "join",
            "execution": self.execution_id,
            "parties": list(self.parties),
            "from": list(self.hosted),
            "digest": self.digest,
            "protocol": self.protocol,
            "versions": versions(),
            "clock": time.time(),
            "nonce": secrets.token_hex(16),
        }

    def difference(
        self, theirs: Mapping[str, Any], clock_limit_seconds: float
    ) -> WorkerError | None:
        """Why a node that joins with ``theirs`` cannot take part."""
        names = f"{self.hosted[0]} and {', '.join(sorted(set(map(str, theirs['from']))))}"
        if theirs["versions"] != versions():
            return VersionMismatch(f"The nodes of {names} run different versions.")
        apart = abs(float(theirs["clock"]) - time.time())
        if not apart <= clock_limit_seconds:
            return ClockSkew(f"The clocks of the nodes of {names} differ by {apart:.0f} s.")
        own = (list(self.parties), self.digest, self.protocol)
        if (theirs["parties"], theirs["digest"], theirs["protocol"]) != own:
            return RequestMismatch(f"The nodes of {names} received different requests.")
        return None


@cache
def versions() -> dict[str, str]:
    """The versions that must be the same at every node."""
    try:
        engine = metadata.version("secretflow")
    except metadata.PackageNotFoundError:
        engine = "none"
    return {"worker": __version__, "secretflow": engine}


def _digest(params: dict[str, Any]) -> str:
    init = params.get("sf_init_config")
    if isinstance(init, Mapping):
        params["sf_init_config"] = {
            key: value for key, value in init.items() if key != "self_party"
        }
    return hashlib.sha256(json.dumps(params, sort_keys=True).encode()).hexdigest()
