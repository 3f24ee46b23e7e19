"""Entries of a queue: as Celery writes them, and spoilt in every way that a test can think of."""

from __future__ import annotations

import base64
import json
import random
import uuid
import zlib
from typing import Any, Callable

from secretflow_task.broker.celery_app import TASK_NAME

QUEUE = "secretflow_queue"


def message(
    arguments: Any,
    *,
    task: Any = TASK_NAME,
    body: bytes | str | None = None,
    headers: dict[str, Any] | None = None,
    properties: dict[str, Any] | None = None,
    **fields: Any,
) -> dict[str, Any]:
    """A message as Celery's client puts it into Redis, with some of its parts replaced."""
    celery_id = str(uuid.uuid4())
    embed = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
    text = json.dumps([arguments, {}, embed]).encode() if body is None else body
    coded = base64.b64encode(text).decode() if isinstance(text, bytes) else text
    return {
        "body": coded,
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {"lang": "py", "task": task, "id": celery_id, "retries": 0} | (headers or {}),
        "properties": {
            "correlation_id": celery_id,
            "reply_to": str(uuid.uuid4()),
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": QUEUE},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": str(uuid.uuid4()),
        }
        | (properties or {}),
    } | fields


def nested(depth: int) -> str:
    """A JSON text of so many lists in each other."""
    return "[" * depth + "]" * depth


class Fuzzer:
    """Entries that no node can run, each another, the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self._dice = random.Random(seed)
        self._kinds: list[Callable[[], bytes]] = [
            self._bytes,
            self._text,
            self._json,
            self._truncated,
            self._flipped,
            self._wrong_types,
            self._wrong_arguments,
            self._of_others,
            self._deep,
            self._encoded,
        ]

    def entry(self) -> bytes:
        """The next one."""
        return self._dice.choice(self._kinds)()

    def _bytes(self) -> bytes:
        return self._dice.randbytes(self._dice.choice((0, 1, 7, 100, 5000)))

    def _text(self) -> bytes:
        words = ("", " ", "null", "hello", "{", "[]", "{}", '""', "0", "-1", "1e999", "NaN", "true")
        return self._dice.choice(words).encode()

    def _value(self) -> Any:
        values: list[Any] = [None, True, 0, -1, 1e308, 10**30, "", "x", "\ud800", "\x00", [], {}]
        values += [[[]], {"a": {}}, "a" * 3000, [1, "b"], float("nan"), {"__type__": "datetime"}]
        return self._dice.choice(values)

    def _json(self) -> bytes:
        keys = ("body", "headers", "properties", "content-type", "task", "id", "args")
        chosen = self._dice.sample(keys, self._dice.randint(0, 5))
        return json.dumps({key: self._value() for key in chosen}).encode()

    def _whole(self, **changes: Any) -> bytes:
        return json.dumps(message([f"f-{self._dice.getrandbits(64):x}", None], **changes)).encode()

    def _truncated(self) -> bytes:
        whole = self._whole()
        return whole[: self._dice.randrange(len(whole))]

    def _flipped(self) -> bytes:
        """A message whose arguments are wrong already, with some bytes changed."""
        whole = bytearray(self._whole())
        for _ in range(self._dice.randint(1, 20)):
            whole[self._dice.randrange(len(whole))] = self._dice.randrange(256)
        return bytes(whole)

    def _wrong_types(self) -> bytes:
        spoilt = json.loads(self._whole())
        for _ in range(self._dice.randint(1, 4)):
            part = self._dice.choice([spoilt, spoilt["headers"], spoilt["properties"]])
            if isinstance(part, dict) and part:
                key = self._dice.choice([*part, "eta", "expires", "compression", "argsrepr"])
                part[key] = self._value()
            if not isinstance(spoilt.get("headers"), dict):
                break
            if not isinstance(spoilt.get("properties"), dict):
                break
        return json.dumps(spoilt).encode()

    def _wrong_arguments(self) -> bytes:
        body = [self._value() for _ in range(self._dice.randint(0, 4))]
        arguments = [self._value() for _ in range(self._dice.randint(0, 4))]
        changes = self._dice.choice([{"body": json.dumps(body).encode()}, {}])
        return json.dumps(message(arguments, **changes)).encode()

    def _of_others(self) -> bytes:
        task = self._dice.choice(["shop.mail", "celery.ping", "celery.backend_cleanup", "", 5])
        return self._whole(task=task)

    def _deep(self) -> bytes:
        text = nested(self._dice.choice((65, 600, 3000, 50_000)))
        whole = self._whole(body=f'[["deep", {text}], {{}}, {{}}]'.encode())
        return self._dice.choice([text.encode(), whole, b'{"headers": ' + text.encode() + b"}"])

    def _encoded(self) -> bytes:
        whole = self._whole()
        ways: list[Callable[[], bytes]] = [
            lambda: whole.decode().encode("utf-16"),
            lambda: whole.decode().encode("utf-32-be"),
            lambda: b"\xef\xbb\xbf" + whole,
            lambda: zlib.compress(whole),
            lambda: base64.b64encode(whole),
            lambda: self._whole(**{"content-type": "application/x-python-serialize"}),
            lambda: self._whole(**{"content-type": "application/x-yaml"}),
            lambda: self._whole(headers={"compression": "application/x-gzip"}),
            lambda: self._whole(body=zlib.compress(b"0" * 10**6), headers={"compression": "zlib"}),
            lambda: self._whole(properties={"body_encoding": self._value()}),
        ]
        return self._dice.choice(ways)()
