"""What a node tells a job process when it starts it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Mapping

from secretflow_task.contract.paths import PathRules
from secretflow_task.contract.requests import TaskRequest


@dataclass(frozen=True)
class Listening:
    """Where a party with a fixed address listens, each ``host:port``.

    Attributes:
        patience_seconds: how long it waits for the others to listen.
    """

    fed: str
    spu: str
    patience_seconds: float


@dataclass(frozen=True)
class JobSpec:
    """Everything that a job process is told by its node.

    Attributes:
        folder: the job's own folder: working directory, temporary files, intermediate files.
        log_path: where the process's output goes.
        fed_addresses: ``{party: host:port}`` of SecretFlow's messages.
        spu_addresses: ``{party: address}`` of the SPU's link, ``host:port`` or ``unix:PATH``.
        several: the node hosts more than one of the parties.
        between_nodes: some of the parties are at other nodes.
        listening: where this party listens, when all have fixed addresses and their nodes no
            link between them.
        log_level: of our own records in the job's log.
        log_json: whether these are JSON lines.
    """

    request: TaskRequest
    party: str
    rules: PathRules
    folder: Path
    log_path: Path
    staging: str
    fed_addresses: Mapping[str, str]
    spu_addresses: Mapping[str, str]
    several: bool
    between_nodes: bool = False
    listening: Listening | None = None
    log_level: str = "INFO"
    log_json: bool = False
