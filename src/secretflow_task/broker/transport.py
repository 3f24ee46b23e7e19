"""kombu's transport for a node: from the queue comes what was understood, and nothing else.

kombu pops an entry, decodes it and hands it on; whatever it stumbles over ends the node, and what
it has popped when the node dies is lost. Here Redis itself looks at the size of an entry, gives it
out and writes that down in one step; `read_entry` reads it, and what is no request goes into a
quarantine.

To wait without popping, a connection per list asks Redis to move the last entry of the list to
where it is, which takes until there is one, and not to answer to that.
"""

# kombu's transports are derived from each other, by methods that its names call private.
# pylint: disable=protected-access,abstract-method,arguments-renamed

from __future__ import annotations

import hashlib
import json
import re
import time
import uuid
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from queue import Empty
from typing import Any, Callable, ClassVar, Iterator, NamedTuple

from kombu.message import Message
from kombu.transport import redis, virtual
from kombu.utils import json as kombu_json
from kombu.utils.encoding import bytes_to_str
from redis import ReadOnlyError, ResponseError

from secretflow_task.broker import lua
from secretflow_task.broker.channel import Channel as PlainChannel
from secretflow_task.broker.channel import QoS as PlainQoS
from secretflow_task.broker.channel import Transport as PlainTransport
from secretflow_task.broker.commands import read_command
from secretflow_task.broker.entry import (
    KEPT_BYTES,
    REJECTED,
    EXPIRES_AT,
    SENT_AT,
    TASK_NAME,
    Delivery,
    NotARequest,
    Reason,
    read_entry,
    replacement,
    told_of,
)
from secretflow_task.broker.keys import MOST_REJECTED, rejected_key
from secretflow_task.contract.errors import InvalidTaskConfig
from secretflow_task.utils.log import get_logger

log = get_logger()

_RING_SECONDS = 1  # after which a bell rings without an entry
_REST_SECONDS = 1.0  # after Redis has refused a call
_MOST_IN_VAIN = 20  # else Redis does not let the node wait, and does not say so
_MOST_HELD = 1000  # requests of a node that wait for their start


@dataclass(frozen=True)
class Gate:
    """What a node lets in, and to whom it tells what it keeps out.

    Attributes:
        limit_bytes: largest entry of a queue that is taken.
        commands: of Celery's remote control, those that are obeyed.
        set_aside: called with the reason of each entry that goes into the quarantine.
        ignored: called for each command that is not obeyed.
    """

    limit_bytes: int
    commands: frozenset[str]
    set_aside: Callable[[str], object] = lambda reason: None
    ignored: Callable[[], object] = lambda: None


class _Place(NamedTuple):
    """Where an entry is: in a list of a queue, or taken by this node from the queue."""

    queue: str
    list: str = ""


class _Shown(NamedTuple):
    """What is shown of an entry that is set aside."""

    head: bytes
    size: int
    tail: bytes
    digest: str = ""


class ReadMessage(Message):  # type: ignore[misc]  # kombu has no types
    """A message whose body has been decoded."""

    def __init__(self, fields: dict[str, Any], channel: Any = None) -> None:
        properties = fields["properties"]
        super().__init__(
            body=fields["body"],
            channel=channel,
            delivery_tag=properties["delivery_tag"],
            headers=fields["headers"],
            properties=properties,
            delivery_info=properties["delivery_info"],
        )

    def decode(self) -> Any:
        """The body."""
        return self.body

    @property
    def payload(self) -> Any:
        """The body."""
        return self.body


class QoS(PlainQoS):
    """What is delivered and not acknowledged; the script that takes an entry writes it down."""

    def append(self, message: ReadMessage, delivery_tag: str) -> None:
        """Count a message that was taken."""
        virtual.QoS.append(self, message, delivery_tag)

    def restore_by_tag(self, tag: str, client: Any = None, leftmost: bool = False) -> None:
        """Put an entry back into its queue, or into the quarantine where that cannot be."""
        with self.channel.conn_or_acquire(client) as connected:
            record = connected.hget(self.unacked_key, tag)
            if record is None or self.channel.can_restore(record):
                super().restore_by_tag(tag, connected, leftmost)
                return
            self.channel.set_aside(tag, Reason.NO_MESSAGE, _queue_of(record), record, None)


class _Bell:
    """A connection that hears when a list has an entry."""

    def __init__(self, channel: Channel, name: str) -> None:
        self.name = name
        self.client = channel._create_client(asynchronous=True)
        self.rings = False  # Redis was asked, and has not answered
        self._asked_at = 0.0

    def start(self) -> None:
        """Ask Redis to answer when the list has an entry, or after some time."""
        connection = self.client.connection
        move = ("BLMOVE", self.name, self.name, "RIGHT", "RIGHT", _RING_SECONDS)
        commands = [("CLIENT", "REPLY", "SKIP"), move, ("PING",)]
        connection.send_packed_command(connection.pack_commands(commands))
        self.rings = True
        self._asked_at = time.monotonic()

    def hear(self) -> bool:
        """Read the answer; whether it came before its time, as it does when there is an entry."""
        self.rings = False
        self.client.connection.read_response()
        return time.monotonic() - self._asked_at < _RING_SECONDS / 2


class Channel(PlainChannel):
    """A channel through which requests and commands come that were understood.

    Attributes:
        gate: what it lets in.
    """

    QoS = QoS
    Message = ReadMessage
    gate = Gate(0, frozenset())
    from_transport_options: ClassVar[tuple[str, ...]] = (
        *PlainChannel.from_transport_options,
        "gate",
    )

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._bells: dict[str, _Bell] = {}
        self._rests_until = 0.0
        self._in_vain = 0  # bells in a row that rang early, with nothing to be taken
        self._take_script = self.client.register_script(lua.script("take"))
        self._set_aside_script = self.client.register_script(lua.script("set_aside"))

    def bells(self) -> Iterator[_Bell]:
        """A bell for each list of the queues that are consumed; none after Redis has refused."""
        if time.monotonic() < self._rests_until:
            return
        for _, name in self._lists():
            if name not in self._bells:
                self._bells[name] = _Bell(self, name)
                self.handlers[name] = partial(self._rung, name)
            yield self._bells[name]

    def _lists(self) -> list[tuple[str, str]]:
        """Queue and name of each list, those of the highest priority first."""
        queues = self._queue_cycle.consume(len(self.active_queues))
        return [
            (queue, self._q_for_pri(queue, priority))
            for priority in self.priority_steps
            for queue in queues
        ]

    def _rung(self, name: str) -> bool:
        try:
            early = self._bells[name].hear()
        except ResponseError:  # the node's user may not wait: Celery connects again
            time.sleep(_REST_SECONDS)
            raise
        if not self.qos.can_consume() or time.monotonic() < self._rests_until:
            raise Empty
        try:
            taken = self._take()
        except ReadOnlyError:  # another Redis is the master now
            raise
        except ResponseError as error:
            self._rest(str(error).partition(" ")[0])
            raise Empty from None
        self._in_vain = 0 if taken or not early else self._in_vain + 1
        if self._in_vain >= _MOST_IN_VAIN:
            self._rest("BLMOVE")
        if not taken:
            raise Empty
        return True

    def _rest(self, problem: str) -> None:
        log.warning("Redis gives no requests.", action="queue_refused", problem=problem)
        self._rests_until = time.monotonic() + _REST_SECONDS

    def _take(self) -> bool:
        """Take an entry; whether there was one."""
        lists = self._lists()
        tag = uuid.uuid4().hex
        ends = [f',"",{json.dumps(queue)}]' for queue, _ in lists]
        taken = self._take_script(
            [self.unacked_key, self.unacked_index_key, *(name for _, name in lists)],
            [tag, time.time(), self.gate.limit_bytes, KEPT_BYTES, *ends],
        )
        if not taken:
            return False
        number, entry, size, *tail = taken
        queue, name = lists[number - 1]
        self._queue_cycle.rotate(queue)
        if tail:
            delivery = self._cut(tag, _Place(queue, name), _Shown(entry, size, tail[0]))
        else:
            delivery = self._read(tag, queue, entry)
        if delivery is None:
            return True
        self.connection._deliver(self._message(tag, queue, delivery), queue)
        return True

    def _read(self, tag: str, queue: str, entry: bytes) -> Delivery | None:
        try:
            delivery = read_entry(entry, self.gate.limit_bytes)
        except NotARequest as error:
            self.set_aside(tag, error.reason, queue, entry, error.told)
            return error.told
        except Exception as error:  # pylint: disable=broad-exception-caught  # no entry ends a node
            problem = type(error).__name__
            log.error("An entry cannot be read.", action="entry_unreadable", problem=problem)
            self.set_aside(tag, Reason.NO_MESSAGE, queue, entry, None)
            return None
        if delivery.start_at is None or len(self.qos._delivered) < _MOST_HELD:
            return delivery
        refusal = InvalidTaskConfig(
            "Too many requests of the queue wait for their start (eta, countdown).",
            hint="Send it when it is to start.",
        )
        return Delivery(delivery.celery_id, delivery.arguments, delivery.keywords, refusal=refusal)

    def _cut(self, tag: str, where: _Place, shown: _Shown) -> Delivery | None:
        """Set aside what is too large to be taken, and lies in its list."""
        told = told_of(shown.head, shown.tail, Reason.TOO_LARGE)
        if not self._move_aside(tag, where, Reason.TOO_LARGE, shown, told):
            return None  # another node has
        return told

    def set_aside(
        self, tag: str, reason: Reason, queue: str, entry: bytes, told: Delivery | None
    ) -> None:
        """Set aside what was taken; what is to be told of it takes its place."""
        digest = hashlib.sha1(entry, usedforsecurity=False).hexdigest()
        tail = entry[KEPT_BYTES:][-KEPT_BYTES:]
        shown = _Shown(entry[:KEPT_BYTES], len(entry), tail, digest)
        self._move_aside(tag, _Place(queue), reason, shown, told)

    def _move_aside(
        self, tag: str, where: _Place, reason: Reason, shown: _Shown, told: Delivery | None
    ) -> bool:
        """Move an entry into the quarantine; False when it is no longer where it was."""
        record = b""
        if told:
            queue = json.dumps(where.queue).encode()
            record = b'[%b,"",%b]' % (replacement(told, reason), queue)
        keys = [rejected_key(where.queue), self.unacked_key, self.unacked_index_key]
        if where.list:
            keys.append(where.list)
        how = [shown.size, shown.head, shown.tail, reason.value, shown.digest]
        if not self._set_aside_script(keys, [tag, time.time(), MOST_REJECTED, record, *how]):
            return False
        self._say(reason, where.queue, shown.size)
        return True

    def _say(self, reason: Reason, queue: str, size: int) -> None:
        self.gate.set_aside(reason.value)
        log.warning(
            "An entry of the queue is no request, and lies in the quarantine.",
            action="entry_rejected",
            queue=queue,
            reason=reason.value,
            bytes=size,
        )

    def _message(self, tag: str, queue: str, delivery: Delivery) -> dict[str, Any]:
        """A message as Celery takes it."""
        start_at = delivery.start_at
        headers = {
            **delivery.headers,
            "lang": "py",
            "task": TASK_NAME,
            "id": delivery.celery_id,
            "retries": 0,
            "argsrepr": "(...)",
            "kwargsrepr": "{}",
            "eta": None if start_at is None else _iso(start_at),
            SENT_AT: delivery.sent_at,
            REJECTED: delivery.refusal,
            EXPIRES_AT: delivery.expires_at,
        }
        where = {"exchange": "", "routing_key": queue, "redelivered": delivery.redelivered}
        properties = {**delivery.properties, "delivery_tag": tag, "delivery_info": where}
        body = (list(delivery.arguments), dict(delivery.keywords), dict(delivery.embedded))
        return {"body": body, "headers": headers, "properties": properties}

    def can_restore(self, record: bytes) -> bool:
        """Whether kombu can put back what was written down when an entry was taken."""
        try:
            message, exchange, routing_key = kombu_json.loads(record.decode("utf-8"))
            self._get_message_priority(message)
            headers, info = message["headers"], message["properties"]["delivery_info"]
        except Exception:  # pylint: disable=broad-exception-caught  # kombu makes objects of it
            return False
        texts = isinstance(exchange, str) and isinstance(routing_key, str)
        return texts and isinstance(headers, dict) and isinstance(info, dict)

    def _receive_one(self, client: Any) -> bool:
        """Read one message of the channel of commands."""
        try:
            response = client.parse_response()
        except self.connection_errors:
            self._in_listen = None
            raise
        if not isinstance(response, (list, tuple)):
            return False
        said = self._handle_message(client, response)
        if not said or not bytes_to_str(said["type"]).endswith("message"):
            return False
        exchange = bytes_to_str(said["channel"]).partition(".")[2]  # after the database
        queue = self._fanout_to_queue.get(exchange)
        command = read_command(said["data"], self.gate.commands, self.gate.ignored)
        if queue is None or command is None:
            return False
        where = {"exchange": "", "routing_key": queue}
        properties = {"delivery_tag": uuid.uuid4().hex, "delivery_info": where}
        message = {"body": command, "headers": {}, "properties": properties}
        self.connection._deliver(message, queue)
        return True

    def _poll_error(self, kind: str, **options: Any) -> None:
        if kind not in self._bells:
            super()._poll_error(kind, **options)
            return
        self._bells[kind].hear()


class _Poller(redis.MultiChannelPoller):  # type: ignore[misc]
    """Waits for the bells of all channels."""

    def _register_BRPOP(self, channel: Channel) -> None:  # pylint: disable=invalid-name
        for bell in channel.bells():
            if not self._client_registered(channel, bell.client, bell.name):
                bell.rings = False
                self._register(channel, bell.client, bell.name)
            if not bell.rings:
                bell.start()

    def on_readable(self, fileno: int) -> None:
        """Hear a bell, also while nothing more is taken, or read a command."""
        channel, kind = self._fd_to_chan[fileno]
        channel.handlers[kind]()


class Transport(PlainTransport):
    """The transport of a node."""

    Channel = Channel

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.cycle = _Poller()


def _queue_of(record: bytes) -> str:
    """The queue to which the record of a taken entry belongs."""
    found = re.search(rb',"",("(?:[^"\\]|\\.)*")\]$', record)
    return str(json.loads(found[1])) if found else "secretflow_queue"


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat()
