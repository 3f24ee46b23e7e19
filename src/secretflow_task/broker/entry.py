"""What lies in a queue: any bytes, of which some are a message of Celery with a request.

Celery stumbles over everything else, and over much of what such a message may hold. So an entry is
read here, within limits, and what goes on to Celery is made anew of what was understood.
"""

from __future__ import annotations

import base64
import binascii
import bz2
import hashlib
import json
import lzma
import re
import zlib
from dataclasses import dataclass, field
from datetime import datetime, timezone
from enum import Enum
from time import time
from typing import Any, Callable, Mapping, Sequence

from secretflow_task.contract.errors import (
    InvalidTaskConfig,
    MalformedMessage,
    RequestExpired,
    RequestTooLarge,
    WorkerError,
)

TASK_NAME = "tasks.secretflow.execute_task"
# Headers of a request: when it was sent, in seconds since 1970, and why it was set aside.
SENT_AT = "sfworker_sent_at"
REJECTED = "sfworker_rejected"
EXPIRES_AT = "sfworker_expires_at"  # in seconds since 1970; only from the transport to the task
MOST_DEPTH = 64  # of lists and objects in each other; a workflow has about ten
MOST_VALUES = 250_000  # in all lists and objects
KEPT_BYTES = 4096  # of the beginning of an entry that is set aside, and of its end

_LONGEST_WAIT_SECONDS = 24 * 3600  # later Redis delivers again what a node holds
_LONGEST_ID = 200
_CORRELATION = re.compile(rb'"correlation_id": ?"([^"\\]{1,200})"')
_NAMED = re.compile(rb'"task": ?"[^"\\]{0,200}", ?"id": ?"([^"\\]{1,200})"')
_BARE = re.compile(rb'"(?:task_request_id|execution_id)": ?"([^"\\]{1,200})"')
_BODY = re.compile(rb'\s*\{\s*"body": ?"([A-Za-z0-9+/]*)')
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_JSON = "application/json"
_CHARSETS = ("utf-8", "utf8", "us-ascii", "ascii", "binary", None)
_UNPACKERS: Mapping[str, Callable[[], Any]] = {
    "application/x-gzip": zlib.decompressobj,
    "application/x-bz2": bz2.BZ2Decompressor,
    "application/x-lzma": lzma.LZMADecompressor,
}
# What of a message's other headers and properties goes on to Celery, where it is a text.
_HEADERS = ("root_id", "parent_id", "group", "origin")
_PROPERTIES = ("reply_to", "correlation_id")


class Reason(str, Enum):
    """Why an entry is set aside."""

    NO_JSON = "no_json"
    NO_MESSAGE = "no_message"
    BAD_BODY = "bad_body"
    OTHER_TASK = "other_task"
    TOO_DEEP = "too_deep"
    TOO_LARGE = "too_large"

    @property
    def sentence(self) -> str:
        """The reason, for people."""
        return _SENTENCES[self]

    @property
    def error(self) -> WorkerError:
        """What its sender is told."""
        if self in (Reason.TOO_DEEP, Reason.TOO_LARGE):
            return RequestTooLarge(self.sentence)
        return MalformedMessage(self.sentence)


_SENTENCES = {
    Reason.NO_JSON: "The entry of the queue is no JSON text in UTF-8.",
    Reason.NO_MESSAGE: "The entry of the queue is no message of Celery.",
    Reason.BAD_BODY: "The body of the message is not what Celery writes.",
    Reason.OTHER_TASK: f"The message is for another task than {TASK_NAME}.",
    Reason.TOO_DEEP: f"The request is nested more than {MOST_DEPTH} deep, "
    f"or holds more than {MOST_VALUES:,} values.",
    Reason.TOO_LARGE: "The request has more bytes than SFWORKER_REQUEST_LIMIT_BYTES.",
}


@dataclass(frozen=True)
class Delivery:
    """A message for Celery's task.

    Attributes:
        celery_id: Celery's id of the task.
        refusal: why the request is not to be run.
        start_at: not before this time, in seconds since 1970.
        expires_at: not after it.
        sent_at: when it was sent, as its sender says.
        redelivered: it was taken before.
    """

    celery_id: str
    arguments: Sequence[Any] = ()
    keywords: Mapping[str, Any] = field(default_factory=dict)
    embedded: Mapping[str, Any] = field(default_factory=dict)
    refusal: WorkerError | None = None
    start_at: float | None = None
    expires_at: float | None = None
    sent_at: object = None
    redelivered: bool = False
    headers: Mapping[str, Any] = field(default_factory=dict)
    properties: Mapping[str, Any] = field(default_factory=dict)


class NotARequest(Exception):
    """The entry is no message, or none for this worker.

    Attributes:
        told: what to tell its sender; None when the entry holds no id.
    """

    def __init__(self, reason: Reason, told: Delivery | None = None) -> None:
        super().__init__(reason.value)
        self.reason = reason
        self.told = told


class _Refused(Exception):
    """The message is for this worker, and its request is not to be run."""

    def __init__(self, error: WorkerError) -> None:
        super().__init__(error.code)
        self.error = error


@dataclass(frozen=True)
class _Envelope:
    """A message as kombu puts it into Redis."""

    headers: dict[str, Any]
    properties: dict[str, Any]
    body: str
    content_type: object
    charset: object

    @property
    def celery_id(self) -> str:
        """Celery's id of the task; empty without one."""
        return _text(self.headers.get("id")) or _text(self.properties.get("correlation_id"))

    @property
    def redelivered(self) -> bool:
        """Whether it was put back into the queue."""
        info = self.properties.get("delivery_info")
        return self.headers.get("redelivered") is True or (
            isinstance(info, dict) and info.get("redelivered") is True
        )


def read_entry(entry: bytes, limit_bytes: int) -> Delivery:
    """Read what lay in the queue.

    Args:
        limit_bytes: largest size of a body that was compressed.

    Raises:
        NotARequest: it is no message, or none for this worker.
    """
    try:
        envelope = _envelope(entry)
        if REJECTED in envelope.headers:
            return _set_aside_before(envelope)
        return _read(envelope, limit_bytes)
    except NotARequest as error:
        told = error.told or told_of(entry[:KEPT_BYTES], entry[-KEPT_BYTES:], error.reason)
        raise NotARequest(error.reason, told) from None


def told_of(head: bytes, tail: bytes, reason: Reason) -> Delivery | None:
    """What to tell of an entry by its beginning and its end; None when they hold no id."""
    named = _CORRELATION.search(tail) or _NAMED.search(head) or _NAMED.search(tail)
    celery_id = named[1].decode("utf-8", "replace") if named else ""
    arguments: list[Any] = []
    if reason is not Reason.OTHER_TASK:  # whose arguments are nobody's business
        arguments = _first_argument(head) or _bare_id(head) or _bare_id(tail)
    if not celery_id and not arguments:
        return None
    celery_id = celery_id or hashlib.sha256(head + tail).hexdigest()[:32]
    return Delivery(celery_id, arguments, refusal=reason.error)


def replacement(told: Delivery, reason: Reason) -> bytes:
    """A message that says the same as a delivery: it stands for an entry that was set aside."""
    headers = {"task": TASK_NAME, "id": told.celery_id, REJECTED: reason.value}
    arguments = [argument for argument in told.arguments if isinstance(argument, (str, int))][:1]
    body = json.dumps([arguments, {}, {}]).encode()
    message = {
        "body": base64.b64encode(body).decode(),
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": headers,
        "properties": {"body_encoding": "base64", "delivery_info": {}, "delivery_tag": ""},
    }
    return json.dumps(message).encode()


def is_too_deep(text: bytes) -> bool:
    """Whether a JSON text is nested too deep, or holds too many values; it is not decoded."""
    unescaped = text.replace(rb"\\", b"").replace(rb"\"", b"")
    bare = re.sub(rb'"[^"]*"', b"", unescaped)
    if bare.count(b",") + bare.count(b"[") + bare.count(b"{") > MOST_VALUES:
        return True
    depth = 0
    for bracket in bare.translate(None, _NO_BRACKETS):
        depth += 1 if bracket in b"[{" else -1
        if depth > MOST_DEPTH:
            return True
    return False


def _first_argument(head: bytes) -> list[Any]:
    """The id in front of the arguments of a message of which the beginning is known."""
    body = _BODY.match(head)
    if not body:
        return []
    begin = base64.b64decode(body[1][: len(body[1]) // 4 * 4])
    found = re.match(rb'\s*\[\s*\[\s*("(?:[^"\\]|\\.){1,500}")\s*,', begin)
    try:
        return [json.loads(found[1])] if found else []
    except ValueError:
        return []


def _bare_id(part: bytes) -> list[Any]:
    """The id of a request that was put into the queue as it is, without Celery."""
    found = _BARE.search(part)
    return [found[1].decode("utf-8", "replace")] if found else []


def _envelope(entry: bytes) -> _Envelope:
    if is_too_deep(entry):
        raise NotARequest(Reason.TOO_DEEP)
    try:
        fields = json.loads(entry.decode("utf-8"))
    except (ValueError, RecursionError):
        raise NotARequest(Reason.NO_JSON) from None
    if not isinstance(fields, dict):
        raise NotARequest(Reason.NO_MESSAGE)
    headers, properties, body = (fields.get(key) for key in ("headers", "properties", "body"))
    if not isinstance(headers, dict) or not isinstance(properties, dict):
        raise NotARequest(Reason.NO_MESSAGE)
    if not isinstance(body, str):
        raise NotARequest(Reason.NO_MESSAGE)
    charset = fields.get("content-encoding")
    return _Envelope(headers, properties, body, fields.get("content-type"), charset)


def _set_aside_before(envelope: _Envelope) -> Delivery:
    """What a `replacement` says that was taken, and not acknowledged."""
    try:
        reason = Reason(envelope.headers[REJECTED])
        arguments = json.loads(base64.b64decode(envelope.body))[0]
    except (ValueError, TypeError, LookupError, RecursionError):
        raise NotARequest(Reason.BAD_BODY) from None
    if not isinstance(arguments, list):
        raise NotARequest(Reason.BAD_BODY)
    return Delivery(envelope.celery_id, arguments, refusal=reason.error, redelivered=True)


def _read(envelope: _Envelope, limit_bytes: int) -> Delivery:
    headers = envelope.headers
    if "task" in headers and headers["task"] != TASK_NAME:
        raise NotARequest(Reason.OTHER_TASK, _of_another_task(envelope, limit_bytes))
    if "task" not in headers and envelope.content_type != _JSON:
        raise NotARequest(Reason.NO_MESSAGE)
    celery_id = envelope.celery_id
    try:
        body = _body(envelope, limit_bytes)
        if "task" not in headers:
            headers, body = _first_protocol(body)
            celery_id = _text(headers.get("id"))
        arguments, keywords, embedded = _three(body)
        start_at, expires_at = _times(headers)
        refusal = None
    except _Refused as refused:
        arguments, keywords, embedded = _shown_arguments(headers), {}, {}
        start_at = expires_at = None
        refusal = refused.error
    return Delivery(
        celery_id or _digest(envelope.body),
        arguments,
        keywords,
        embedded,
        refusal=refusal,
        start_at=start_at,
        expires_at=expires_at,
        sent_at=headers.get(SENT_AT),
        redelivered=envelope.redelivered,
        headers=_texts(headers, _HEADERS),
        properties=_texts(envelope.properties, _PROPERTIES),
    )


def _of_another_task(envelope: _Envelope, limit_bytes: int) -> Delivery | None:
    """What to tell of a message for another task: a misspelt name of ours, maybe.

    What another application sends is nobody's business, so that of its arguments nothing is told.
    """
    try:
        arguments, _, _ = _three(_body(envelope, limit_bytes))
    except (_Refused, NotARequest):
        arguments = []
    ours = any(isinstance(item, dict) and "task_config" in item for item in arguments)
    if not ours and not envelope.celery_id:
        return None
    celery_id = envelope.celery_id or _digest(envelope.body)
    return Delivery(celery_id, arguments if ours else [], refusal=Reason.OTHER_TASK.error)


def _body(envelope: _Envelope, limit_bytes: int) -> Any:
    """The decoded body.

    Raises:
        _Refused: it is written as this worker does not read it, or is too large.
    """
    if envelope.content_type != _JSON:
        raise _Refused(
            InvalidTaskConfig(
                "The request is not serialized as JSON.",
                hint="Let Celery send it with task_serializer='json', which is its default.",
            )
        )
    if envelope.charset not in _CHARSETS:
        raise _Refused(InvalidTaskConfig("The request is not encoded as UTF-8."))
    body = _unpacked(_bytes_of(envelope), envelope.headers.get("compression"), limit_bytes)
    if is_too_deep(body):
        raise _Refused(Reason.TOO_DEEP.error)
    try:
        return json.loads(body.decode("utf-8"))
    except (ValueError, RecursionError):
        raise NotARequest(Reason.BAD_BODY) from None


def _bytes_of(envelope: _Envelope) -> bytes:
    encoding = envelope.properties.get("body_encoding")
    try:
        if encoding == "base64":
            return base64.b64decode(envelope.body, validate=True)
        if encoding in (None, "utf-8"):
            return envelope.body.encode("utf-8")
    except (binascii.Error, UnicodeError, ValueError):
        pass
    raise NotARequest(Reason.BAD_BODY)


def _unpacked(body: bytes, compression: object, limit_bytes: int) -> bytes:
    if compression is None:
        return body
    if not isinstance(compression, str) or compression not in _UNPACKERS:
        raise _Refused(
            InvalidTaskConfig(
                "The request is compressed in a way that the worker does not know.",
                hint="Send it uncompressed, or with Celery's gzip, bzip2 or lzma.",
            )
        )
    unpacker = _UNPACKERS[compression]()
    try:
        unpacked: bytes = unpacker.decompress(body, limit_bytes + 1)
    except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError):
        raise NotARequest(Reason.BAD_BODY) from None
    if len(unpacked) > limit_bytes:
        raise _Refused(Reason.TOO_LARGE.error)
    return unpacked


def _first_protocol(body: Any) -> tuple[dict[str, Any], list[Any]]:
    """Headers and body of a message as Celery 3 writes it."""
    if not isinstance(body, dict) or "task" not in body:
        raise NotARequest(Reason.NO_MESSAGE)
    if body["task"] != TASK_NAME:
        raise NotARequest(Reason.OTHER_TASK)
    headers = {name: value for name, value in body.items() if name not in ("args", "kwargs")}
    return headers, [body.get("args", []), body.get("kwargs", {}), {}]


def _three(body: Any) -> tuple[list[Any], dict[str, Any], dict[str, Any]]:
    """Arguments, keyword arguments, and what else Celery puts into the body."""
    if not isinstance(body, list) or len(body) != 3:
        raise NotARequest(Reason.BAD_BODY)
    arguments, keywords, embedded = body
    if not isinstance(arguments, list) or not isinstance(keywords, dict):
        raise NotARequest(Reason.BAD_BODY)
    if not isinstance(embedded, dict):
        embedded = {}
    kinds = {"callbacks": _are_signatures, "errbacks": _are_signatures, "chain": _are_signatures}
    return (
        arguments,
        keywords,
        {name: embedded[name] for name, fits in kinds.items() if fits(embedded.get(name))},
    )


def _are_signatures(value: object) -> bool:
    """Whether these are what Celery is to send when the task has ended."""
    return isinstance(value, list) and all(
        isinstance(item, dict)
        and isinstance(item.get("task"), str)
        and isinstance(item.get("args", []), list)
        and all(isinstance(item.get(key) or {}, dict) for key in ("kwargs", "options"))
        for item in value
    )


def _times(headers: Mapping[str, Any]) -> tuple[float | None, float | None]:
    """When the request may start, and when it expires."""
    start_at, expires_at = _time(headers, "eta"), _time(headers, "expires")
    now = time()
    if start_at is not None and start_at > now + _LONGEST_WAIT_SECONDS:
        raise _Refused(
            InvalidTaskConfig(
                "The request is to start more than a day from now (eta, countdown).",
                hint="Send it on the day on which it is to start.",
            )
        )
    if expires_at is not None and expires_at < now:
        raise _Refused(RequestExpired())
    return start_at, expires_at


def _time(headers: Mapping[str, Any], name: str) -> float | None:
    """A time of Celery's headers, in seconds since 1970."""
    value = headers.get(name)
    if value is None:
        return None
    try:
        moment = datetime.fromisoformat(value.replace("Z", "+00:00"))
        return moment.replace(tzinfo=moment.tzinfo or timezone.utc).timestamp()
    except (AttributeError, TypeError, ValueError, OverflowError):
        error = InvalidTaskConfig(f"{name} is no time as Celery writes it (ISO 8601).")
        raise _Refused(error) from None


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:32]


def _shown_arguments(headers: Mapping[str, Any]) -> list[str]:
    """The id in front of the arguments as Celery shows them in the headers."""
    found = re.match(r"""[\[(]['"]([^'"\\]{1,200})['"],""", _text(headers.get("argsrepr"), 1000))
    return [found[1]] if found else []


def _texts(values: Mapping[str, Any], names: Sequence[str]) -> dict[str, str]:
    return {name: values[name] for name in names if _text(values.get(name))}


def _text(value: object, longest: int = _LONGEST_ID) -> str:
    """The value if it is a text of some length that UTF-8 can hold, else an empty one."""
    if not isinstance(value, str) or len(value) > longest:
        return ""
    return value if value.isascii() else value.encode("utf-8", "replace").decode("utf-8")
