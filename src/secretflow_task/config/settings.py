"""One frozen `Settings`, built at the entry point and passed down; a field is a variable."""

from __future__ import annotations

import os
import re
import socket
import tempfile
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from secretflow_task.config.redis_url import RedisAddress, read_redis_url
from secretflow_task.contract.task_config import PARTY_NAME
from secretflow_task.utils.network import host_and_port

CommaSeparated = Annotated[tuple[str, ...], NoDecode]
SecondsByTask = Annotated[dict[str, Annotated[float, Field(gt=0)]], NoDecode]
_SAFE_PATH = re.compile(r"[A-Za-z0-9_/.\-]+")


def _state_dir() -> Path:
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base).absolute() / "sfworker"


class Settings(BaseSettings):
    """What an operator can set, from ``SFWORKER_*`` variables; an empty one counts as absent."""

    model_config = SettingsConfigDict(
        env_prefix="SFWORKER_",
        env_ignore_empty=True,
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,  # it may be a URL with a password
    )

    redis_url: SecretStr = Field(
        SecretStr("redis://127.0.0.1:6379/0"),
        description="Redis that carries requests and status events: `redis://`, `rediss://` (TLS), "
        "`unix://` or `sentinel://` (several, joined by `;`).",
    )
    name: str = Field(
        default_factory=socket.gethostname,
        description="Name of this node in events (`worker_container`).",
    )
    parties: CommaSeparated = Field(
        (), description="Parties that this node hosts, separated by commas."
    )
    queues: CommaSeparated = Field(
        ("secretflow_queue",),
        min_length=1,
        description="Celery queues that this node consumes, separated by commas.",
    )
    data_root: Path = Field(
        Path("data"),
        description="Where relative paths start, in `<data root>/<party>` if that folder exists.",
    )
    allowed_roots: CommaSeparated = Field(
        (),
        description="Folders that paths may lie in besides the data root, separated by commas.",
    )
    state_dir: Path = Field(
        default_factory=_state_dir,
        description="Folder of the node's own store and of the job logs.",
    )
    work_dir: Path = Field(
        default_factory=lambda: Path(tempfile.gettempdir()) / f"sfworker-{os.getuid()}",
        description="Folder for the jobs' temporary files; letters, digits and `_/.-` only.",
    )
    port_range: str = Field(
        "20000-29999",
        description="Ports for SecretFlow on the loopback interface, first-last, below 32768.",
    )
    concurrency: int = Field(
        2, ge=1, le=256, description="Executions that run at once; others wait in the queue."
    )
    request_limit_bytes: int = Field(
        4 * 1024 * 1024,
        ge=64 * 1024,
        le=256 * 1024 * 1024,
        description="Largest entry of a queue that is taken, "
        "about four thirds of a request's JSON text.",
    )
    remote_inspect: bool = Field(
        False,
        description="Answer Celery's `inspect` commands too, "
        "which show whoever reaches Redis what runs and waits here, with the requests.",
    )
    job_timeout_seconds: float = Field(
        3600.0, gt=0, description="Wall-clock limit of an execution."
    )
    job_timeouts_seconds: SecondsByTask = Field(
        default_factory=dict,
        description="Limits of their own for task types, such as `psi=600,ss_xgb=7200`.",
    )
    memory_limit_bytes: int = Field(
        0,
        ge=0,
        description="Limit of a job's memory (its processes' proportional set size); 0 for none.",
    )
    prepare_timeout_seconds: float = Field(
        120.0,
        gt=0,
        description="Time that a party has to check its input and to hear from its peers.",
    )
    silence_seconds: float = Field(
        120.0, ge=20, description="How long a job may be silent before it is ended."
    )
    job_log_limit_bytes: int = Field(
        100_000_000,
        ge=1_000_000,
        description="Largest size of a job's log; beyond it the older part is dropped.",
    )
    job_log_days: float = Field(30.0, gt=0, description="Days for which the logs of jobs are kept.")
    terminate_grace_seconds: float = Field(
        5.0,
        ge=0,
        description="Time between SIGTERM and SIGKILL, and for a finished job process to exit.",
    )
    drain_seconds: float = Field(
        600.0,
        ge=0,
        description="How long a node that is told to stop waits for running executions.",
    )
    template_timeout_seconds: float = Field(
        180.0, gt=0, description="Limit for the template process to import SecretFlow."
    )
    stream_maxlen: int = Field(
        1_000_000,
        ge=1000,
        description="Approximate number of events that the stream is trimmed to.",
    )
    event_limit_bytes: int = Field(
        2**18,
        ge=10_000,
        description="Largest result in an event; a larger one is kept whole in the state folder.",
    )
    result_days: float = Field(
        30.0, gt=0, description="Days for which results too large for an event are kept."
    )
    stream_limit_bytes: int = Field(
        2**30,
        ge=2**20,
        description="Approximate size of the events that the stream is trimmed to.",
    )
    status_list: bool = Field(
        False,
        description="Also push events to the list `task_status_queue`, for older web applications.",
    )
    database_url: SecretStr = Field(
        SecretStr(""),
        description="Database of `sfworker listen`, `sqlite:///...` or `postgresql://...`; "
        "without it `status.sqlite` in the state folder.",
    )
    peer_listen: str = Field(
        "",
        description="Address and port that the nodes of other parties reach, "
        "such as `0.0.0.0:9443`; without it none.",
    )
    peers_file: Path | None = Field(
        None,
        description="Address book: host, port, certificate and fingerprints of every other party.",
    )
    peer_certificate: Path | None = Field(
        None, description="This node's certificate (`sfworker certs` makes one), in PEM."
    )
    peer_key: Path | None = Field(None, description="The key of this node's certificate, in PEM.")
    join_seconds: float = Field(
        120.0,
        gt=0,
        description="How long an execution waits for the other parties' nodes to join it.",
    )
    settle_seconds: float = Field(
        600.0,
        gt=0,
        description="How long a party that has voted waits for the decision.",
    )
    heartbeat_seconds: float = Field(
        1.0, gt=0, le=60, description="Time between two heartbeats on the link between nodes."
    )
    peer_lost_seconds: float = Field(
        6.0, gt=0, description="Silence of a peer's node after which the link to it counts as lost."
    )
    clock_limit_seconds: float = Field(
        60.0, gt=0, description="Largest clock difference at which a peer's node is accepted."
    )
    unsafe_protocols: CommaSeparated = Field(
        (),
        description="SPU protocols to allow between nodes "
        "although they are not secure there: SEMI2K.",
    )
    metrics_listen: str = Field(
        "",
        description="Address and port of `/metrics`, `/healthz` and `/readyz`, "
        "such as `127.0.0.1:9464`; none without.",
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="Level of the logs: DEBUG, INFO, WARNING or ERROR."
    )
    log_json: bool = Field(False, description="Write the logs as JSON lines.")
    log_file: Path | None = Field(
        None,
        description="Log file, a different one for the node and the listener; "
        "by default standard error.",
    )
    log_file_bytes: int = Field(
        100_000_000,
        ge=10_000,
        description="Size at which the log file is renamed and a new one is started.",
    )
    log_file_count: int = Field(
        9, ge=1, le=1000, description="Number of renamed log files that are kept."
    )

    @field_validator("redis_url")
    @classmethod
    def _readable(cls, value: SecretStr) -> SecretStr:
        read_redis_url(value.get_secret_value())
        return value

    @field_validator("parties", "queues", "allowed_roots", "unsafe_protocols", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        return tuple(part.strip() for part in value.split(",") if part.strip())

    @field_validator("job_timeouts_seconds", mode="before")
    @classmethod
    def _pairs(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        pairs = [part.partition("=") for part in value.split(",") if part.strip()]
        return {name.strip(): seconds.strip() for name, _, seconds in pairs}

    @field_validator("parties")
    @classmethod
    def _names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) < len(value):
            raise ValueError("must name each party once")
        for name in value:
            if not re.fullmatch(PARTY_NAME, name):
                raise ValueError(
                    f"{name!r} is not a name of a party: up to 32 letters, digits, _ and -, "
                    "the first a letter"
                )
        return value

    @field_validator("unsafe_protocols")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if set(value) - {"SEMI2K"}:
            raise ValueError("may name only SEMI2K: nodes refuse no other protocol")
        return value

    @field_validator("database_url")
    @classmethod
    def _sqlite_or_postgresql(cls, value: SecretStr) -> SecretStr:
        if not re.match(r"$|sqlite:///.|postgres(ql)?://.", value.get_secret_value()):
            raise ValueError(
                "must be sqlite:///file, sqlite:////absolute/file "
                "or postgresql://user@host/database"
            )
        return value

    @field_validator("peer_listen", "metrics_listen")
    @classmethod
    def _host_and_port(cls, value: str) -> str:
        if value:
            host_and_port(value)
        return value

    @model_validator(mode="after")
    def _whole_link(self) -> Settings:
        for name in ("peers_file", "peer_certificate", "peer_key"):
            if self.peer_listen and getattr(self, name) is None:
                raise ValueError(f"SFWORKER_PEER_LISTEN also needs SFWORKER_{name.upper()}")
        if self.peer_lost_seconds < 2 * self.heartbeat_seconds:
            raise ValueError(
                "SFWORKER_PEER_LOST_SECONDS must be twice SFWORKER_HEARTBEAT_SECONDS or more"
            )
        return self

    @field_validator("log_level", mode="before")
    @classmethod
    def _upper(cls, value: Any) -> Any:
        return value.upper() if isinstance(value, str) else value

    @field_validator("state_dir", "work_dir")
    @classmethod
    def _from_here(cls, value: Path) -> Path:
        return value.absolute()  # a job process works in a folder of its own

    @field_validator("work_dir")
    @classmethod
    def _safe(cls, value: Path) -> Path:
        if not _SAFE_PATH.fullmatch(str(value)):
            raise ValueError(
                "may hold only letters, digits and _/.-, since SecretFlow passes it to a shell"
            )
        return value

    @field_validator("port_range")
    @classmethod
    def _ordered(cls, value: str) -> str:
        match = re.fullmatch(r"(\d+)-(\d+)", value)
        if not match or not 1024 <= int(match[1]) < int(match[2]) < 32768:
            raise ValueError("must be first-last, both from 1024 to 32767")
        return value

    @cached_property
    def redis(self) -> RedisAddress:
        """What `redis_url` says."""
        return read_redis_url(self.redis_url.get_secret_value())

    @property
    def ports(self) -> range:
        """The ports of `port_range`."""
        first, last = self.port_range.split("-")
        return range(int(first), int(last) + 1)
