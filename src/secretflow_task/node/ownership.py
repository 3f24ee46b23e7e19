"""Who runs an execution: agreed through Redis by all nodes that share it, since Celery may deliver
twice.

A node holds one lease, ``sfworker:node:<id>``, which ends 15 s after its last renewal. A record per
execution and party names the node that took it and how often it was taken over (its epoch); the
publisher lets only events of the newest epoch through. ``sfworker:taken:<id>`` holds what a node
has taken and not ended. None of it is run again when the node has died, since its peers are gone: a
survivor settles it as `NodeLost`.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any, Callable, Iterator, Mapping, Protocol

from redis import (  # pylint: disable=redefined-builtin
    AuthenticationError,
    BusyLoadingError,
    ConnectionError,
    RedisError,
    TimeoutError,
)

from secretflow_task.broker.celery_tasks import NodeStopping
from secretflow_task.broker.keys import (
    LEASE_PREFIX,
    NODES,
    RECORD_SECONDS,
    cancel_key,
    lease_key,
    record_key,
    taken_key,
)
from secretflow_task.contract.requests import TaskRequest
from secretflow_task.node import lua
from secretflow_task.utils.log import get_logger

LEASE_SECONDS = 15
RENEWAL_SECONDS = 5.0
_DEAD_SECONDS = 20  # a lease and a renewal
_RETRY_SECONDS = 0.5
_AWAY_SECONDS = 2.0

log = get_logger()


Running = Mapping[str, tuple[TaskRequest, list[str]]]  # by execution, with its parties at this node


class Verdict(Enum):
    """What a node does with a delivered request."""

    RUN = "run"
    DROP = "drop"  # another live node has it, or it has ended
    OWN = "own"  # this node has it, or had it when it was killed
    LOST = "lost"  # the node that had it is gone
    # Its node may be gone, which a node that was out of touch with Redis itself cannot know.
    WAIT = "wait"
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class Claim:
    """The answer to a claim.

    Attributes:
        epoch: how often the execution was taken; its events carry it.
        seqs: number of the last event of each party, where an earlier owner sent some.
    """

    verdict: Verdict
    epoch: int = 1
    seqs: Mapping[str, int] = field(default_factory=dict)


class Ownership(Protocol):
    """Decides which node runs an execution."""

    def claim(self, request: TaskRequest, parties: list[str], only_lost: bool = False) -> Claim:
        """Take an execution for these parties, if nobody else has it.

        Args:
            only_lost: drop what no other node has had.

        Raises:
            NodeStopping: nothing is taken any more.
        """

    def release(self, request: TaskRequest, parties: list[str]) -> None:
        """Give back what was just taken and not begun."""

    def holds(self, execution_id: str, parties: list[str], epoch: int) -> bool | None:
        """Whether an execution was not taken over since this node took it; None: that cannot be
        known now.
        """

    def stop(self) -> None:
        """Let no claim wait any longer."""


class SoleOwnership:
    """`Ownership` of a node that shares its requests with nobody: its own store is enough."""

    def claim(self, request: TaskRequest, parties: list[str], only_lost: bool = False) -> Claim:
        """Take an execution."""
        del request, parties, only_lost
        return Claim(Verdict.RUN)

    def release(self, request: TaskRequest, parties: list[str]) -> None:
        """Nobody else would take it."""

    def holds(self, execution_id: str, parties: list[str], epoch: int) -> bool | None:
        """There is nobody else."""
        del execution_id, parties, epoch
        return True

    def stop(self) -> None:
        """No claim waits."""


class LeaseHolder(Protocol):
    """The node, as its lease sees it."""

    def running(self) -> Running:
        """The executions that it runs now."""

    def cancel(self, execution_id: str) -> object:
        """End one of them, since its cancel key appeared."""

    def settle_lost(self, request: TaskRequest, parties: list[str]) -> object:
        """Say how a request ended that a dead node had taken, at these parties, which had not
        ended.
        """

    def describe(self) -> Mapping[str, Any]:
        """How the node is; stands in its lease, for `broker.nodes`."""


class RedisOwnership:
    """`Ownership` shared by all nodes on one Redis, as long as a `Lease` is renewed."""

    def __init__(self, redis: Any, node_id: str) -> None:
        self._redis = redis
        self._node_id = node_id
        self._claim_script = redis.register_script(lua.script("claim"))
        self._note_script = redis.register_script(lua.script("note"))
        self._release_script = redis.register_script(lua.script("release"))
        self._renew_script = redis.register_script(lua.script("renew"))
        self._in_touch_since: float | None = None
        self._stopping = threading.Event()

    def stop(self) -> None:
        """Let no claim wait any longer."""
        self._stopping.set()

    def claim(self, request: TaskRequest, parties: list[str], only_lost: bool = False) -> Claim:
        """Take an execution; while Redis is away nobody else can get the request, so that it is
        taken too.

        A Redis that answers and refuses, since it is full or loading, is asked until it takes the
        claim.

        Raises:
            NodeStopping: `stop` was called meanwhile.
            redis.RedisError: only with ``only_lost``.
        """
        keys = [cancel_key(request.execution_id), *self._keys(request.execution_id, parties)]
        values = [self._node_id, RECORD_SECONDS, LEASE_PREFIX, _as_text(request)]
        away_since, name = None, uuid.uuid4().hex
        while not self._stopping.is_set():
            try:
                how = [int(self.knows_the_dead()), int(only_lost), name]
                verdict, epoch, *seqs = self._claim_script(keys, [*values, *how])
                claim = Claim(
                    Verdict(_text(verdict)), int(epoch), dict(zip(parties, map(int, seqs)))
                )
                if claim.verdict is not Verdict.WAIT:
                    return claim
            except RedisError as error:
                if only_lost:
                    raise
                problem = type(error).__name__
                away_since = away_since or time.monotonic()
                if _is_away(error) and time.monotonic() - away_since > _AWAY_SECONDS:
                    log.warning(
                        "A request is taken without Redis.", action="claim_alone", problem=problem
                    )
                    return Claim(Verdict.RUN)
            self._stopping.wait(_RETRY_SECONDS)
        raise NodeStopping

    def release(self, request: TaskRequest, parties: list[str]) -> None:
        """Give back what was just taken, not begun; without Redis it later ends as `NodeLost`."""
        with suppress(RedisError):
            self._release_script(self._keys(request.execution_id, parties), [self._node_id])

    def holds(self, execution_id: str, parties: list[str], epoch: int) -> bool | None:
        """Whether this node still owns an execution that it took; None when Redis is away."""
        try:
            with self._redis.pipeline(transaction=False) as pipeline:
                for party in parties:
                    pipeline.hmget(record_key(execution_id, party), "node", "epoch")
                known = pipeline.execute()
        except RedisError:
            return None
        return all(
            node is None or (_text(node) == self._node_id and int(newest) <= epoch)
            for node, newest in known
        )

    def _keys(self, execution_id: str, parties: list[str]) -> list[str]:
        return [taken_key(self._node_id), *(record_key(execution_id, party) for party in parties)]

    def renew(self, description: Mapping[str, Any]) -> list[str]:
        """Renew the lease; returns the nodes that have died, as far as this one can know."""
        keys = [lease_key(self._node_id), NODES]
        values = [self._node_id, LEASE_SECONDS, _DEAD_SECONDS, json.dumps(description)]
        dead = self._renew_script(keys, values)
        self._in_touch_since = self._in_touch_since or time.monotonic()
        return [_text(node_id) for node_id in dead]

    def out_of_touch(self) -> None:
        """Note that Redis was silent: after that all nodes look dead."""
        self._in_touch_since = None

    def knows_the_dead(self) -> bool:
        """Whether each node that lives has renewed its lease since Redis was silent."""
        since = self._in_touch_since
        return since is not None and time.monotonic() - since > LEASE_SECONDS

    def is_cancelled(self, execution_id: str) -> bool:
        """Whether the submitter has asked for the end of an execution."""
        return bool(self._redis.exists(cancel_key(execution_id)))

    def note(self, request: TaskRequest, parties: list[str]) -> None:
        """Write down what runs, also for a Redis that has lost it."""
        values = [self._node_id, RECORD_SECONDS, _as_text(request)]
        self._note_script(self._keys(request.execution_id, parties), values)

    def left_by(self, node_id: str) -> Iterator[tuple[TaskRequest, list[str]]]:
        """What a dead node had taken, with its parties; each is forgotten when the next is asked
        for.
        """
        requests: dict[str, list[str]] = {}
        for record, body in self._redis.hgetall(taken_key(node_id)).items():
            requests.setdefault(_text(body), []).append(_text(record))
        for body, records in requests.items():
            parties = sorted(record.rpartition(":")[2] for record in records)
            yield TaskRequest(**json.loads(body)), parties
            self._redis.hdel(taken_key(node_id), *records)

    def bury(self, node_id: str) -> None:
        """Forget a dead node, when all that it left is settled."""
        self._redis.zrem(NODES, node_id)

    def leave(self) -> None:
        """End the own lease; what is still taken is settled by others, if this node stays away."""
        with suppress(RedisError):
            self._redis.delete(lease_key(self._node_id))
            if not self._redis.exists(taken_key(self._node_id)):
                self._redis.zrem(NODES, self._node_id)


class Lease:
    """The thread that says that this node lives, and inherits from nodes that do not; a context
    manager.

    Args:
        inherit: called with the id of a node that died; at one survivor or more, until one has done
            it.
    """

    def __init__(
        self, ownership: RedisOwnership, holder: LeaseHolder, inherit: Callable[[str], object]
    ) -> None:
        self._ownership = ownership
        self._holder = holder
        self._inherit = inherit
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="lease", daemon=True)

    def __enter__(self) -> Lease:
        self._try_to_renew()
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._ownership.stop()
        self._closing.set()
        self._thread.join(5.0)
        self._ownership.leave()

    def renew(self) -> None:
        """Renew the lease, look for cancelled executions, and inherit from dead nodes."""
        ownership, holder = self._ownership, self._holder
        dead = ownership.renew(holder.describe())
        running = holder.running()
        for execution_id in running:
            if ownership.is_cancelled(execution_id):
                holder.cancel(execution_id)
        for request, parties in running.values():
            ownership.note(request, parties)
        if not ownership.knows_the_dead():
            return
        for node_id in dead:
            log.warning("A node has died.", action="node_died", node_id=node_id)
            self._inherit(node_id)
            for request, parties in ownership.left_by(node_id):
                holder.settle_lost(request, parties)
            ownership.bury(node_id)  # afterwards: who fails here is followed by another

    def _loop(self) -> None:
        while not self._closing.wait(RENEWAL_SECONDS):
            self._try_to_renew()

    def _try_to_renew(self) -> None:
        try:
            self.renew()
        except Exception as error:  # pylint: disable=broad-exception-caught  # no thread, no lease
            self._ownership.out_of_touch()
            log.warning(
                "The lease cannot be renewed.", action="lease_waits", problem=type(error).__name__
            )


def _is_away(error: RedisError) -> bool:
    """Whether Redis does not answer; one that answers may refuse, since it is full, loading or
    locked.
    """
    refuses = isinstance(error, (AuthenticationError, BusyLoadingError))
    return isinstance(error, (ConnectionError, TimeoutError)) and not refuses


def _as_text(request: TaskRequest) -> str:
    return json.dumps(asdict(request))


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
