"""The README's client, which has no result backend, hears how each malformed request ended."""

from __future__ import annotations

import hashlib
import json
import uuid
import zlib
from typing import Any, Iterator

import pytest

from secretflow_task.broker.celery_app import TASK_NAME
from secretflow_task.utils.network import free_ports
from tests.bench.entries import message, nested
from tests.bench.redis import RedisServer
from tests.bench.stand_in import COMMAND, ENDLESS, PSI
from tests.bench.waiting import wait_for
from tests.bench.web_application import PARTIES, REJECTED, WebApplication, assert_succeeded
from tests.e2e.nodes import RunningNode, running_node

LIMIT_BYTES = 1_000_000
MISFITS: dict[str, tuple[list[Any], dict[str, Any], str, str]] = {
    # arguments, keyword arguments, the id in the events, and how the sentence ends
    "swapped": ([PSI, "swapped"], {}, "swapped", "the two are in the wrong order."),
    "only an id": (["only-id"], {}, "only-id", "it was sent an id without params."),
    "JSON text": (["text", json.dumps(PSI)], {}, "text", "send the object itself."),
    "null": (["null", None], {}, "null", "params is null."),
    "three": (["three", PSI, PSI], {}, "three", "it was sent 3 arguments."),
    "a list": (["list", [PSI]], {}, "list", "params is no object."),
    "another keyword": (["word", PSI], {"queue": "q"}, "word", "it has no argument 'queue'."),
    "one keyword": ([], {"task_request_id": "half"}, "half", "is missing, or is there twice."),
    "twice": (["first", PSI], {"params": PSI}, "first", "is missing, or is there twice."),
    "a space": (["an id", PSI], {}, "an id", "starts with a letter or digit."),
    "a number below 0": ([-7, PSI], {}, "-7", "starts with a letter or digit."),
    "a path": (["../../etc", PSI], {}, "../../etc", "starts with a letter or digit."),
    "too long": (["a" * 129, PSI], {}, "a" * 129, "starts with a letter or digit."),
    "Chinese": (["请求一", PSI], {}, "请求一", "starts with a letter or digit."),
}
# These hold no id: the Celery id names them.
NAMELESS: dict[str, tuple[list[Any], str]] = {
    "nothing": ([], "it was sent none."),
    "params alone": ([PSI], "neither a task_request_id nor an execution_id."),
    "null alone": ([None], "params is null."),
    "a JSON text alone": ([json.dumps(PSI)], "send the object itself."),
    "an id that is an object": ([{"a": 1}, PSI], "starts with a letter or digit."),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis of this module."""
    folder, port = tmp_path_factory.mktemp("redis"), free_ports(1)[0]
    with RedisServer(folder, port).running() as running:
        yield running


@pytest.fixture(scope="module")
def node(server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    """A node whose jobs succeed at once."""
    root = tmp_path_factory.mktemp("node")
    settings = {"SFWORKER_CONCURRENCY": "4", "SFWORKER_REQUEST_LIMIT_BYTES": str(LIMIT_BYTES)}
    with running_node(root, server.url, COMMAND, **settings) as running:
        yield running


@pytest.fixture(scope="module")
def web(server: RedisServer, node: RunningNode) -> Iterator[WebApplication]:
    """A web application beside the node."""
    del node  # it takes requests
    application = WebApplication(server)
    yield application
    application.close()


def assert_refused(told: dict[str, list[dict[str, Any]]], code: str, words: str) -> None:
    """Each party has one event, a FAILURE with this code and sentence, and with a hint."""
    assert sorted(told) == list(PARTIES)
    for events in told.values():
        assert [(event["status"], event["seq"]) for event in events] == [("FAILURE", 1)]
        data = events[0]["data"]
        assert data["error_code"] == code
        assert data["error"].endswith(words)
        assert data["hint"] and data["retryable"] is False


@pytest.mark.parametrize("kind", MISFITS)
def test_arguments_that_do_not_fit_end_in_a_failure_that_says_why(
    kind: str, web: WebApplication
) -> None:
    arguments, keywords, task_request_id, words = MISFITS[kind]
    web.send(arguments, kwargs=keywords)
    assert_refused(web.ends(task_request_id), "InvalidTaskConfig", words)


@pytest.mark.parametrize("kind", NAMELESS)
def test_what_holds_no_id_is_named_after_the_message(kind: str, web: WebApplication) -> None:
    arguments, words = NAMELESS[kind]
    told = web.ends(web.send(arguments))
    assert_refused(told, "InvalidTaskConfig", words)
    assert {event["execution_id"] for [event] in told.values()} == {
        event["task_request_id"] for [event] in told.values()
    }


def test_both_arguments_may_be_given_by_name(web: WebApplication) -> None:
    web.send([], kwargs={"task_request_id": "by-name", "params": PSI})
    web.send([], kwargs={"params": PSI | {"execution_id": "inside"}})
    web.send(["in-front"], kwargs={"params": PSI})
    for task_request_id in ("by-name", "inside", "in-front"):
        assert_succeeded(web.ends(task_request_id))


def test_a_message_that_comes_twice_is_told_of_once(web: WebApplication) -> None:
    for _ in range(2):
        web.send(["only-id-twice"], task_id="0cda6e0d-f6ad-4f6b-a0a3-4b4cc2b0a2d1")
        web.send([None], task_id="not/an id")
    web.send(["afterwards", PSI])
    web.ends("afterwards")
    assert_refused(web.ends("only-id-twice"), "InvalidTaskConfig", "an id without params.")
    assert_refused(web.ends("not/an id"), "InvalidTaskConfig", "params is null.")


NO_MESSAGES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "no_json"),
    "text": (b"hello", "no_json"),
    "bytes": (bytes(range(256)), "no_json"),
    "UTF-16": (json.dumps(message(["utf-16", PSI])).encode("utf-16"), "no_json"),
    "an empty list": (b"[]", "no_message"),
    "null": (b"null", "no_message"),
    "a number": (b"1e999", "no_message"),
    "no envelope": (b'{"task_config": {}}', "no_message"),
    "nothing inside": (b'{"body": "", "headers": {}, "properties": {}}', "no_message"),
    "deep": (nested(100_000).encode(), "too_deep"),
    "open brackets": (b"[" * 500_000, "too_deep"),
    "many values": (b"[" + b"1," * 300_000 + b"1]", "too_deep"),
    "large": (b"x" * (LIMIT_BYTES + 1), "too_large"),
}


@pytest.mark.parametrize("kind", NO_MESSAGES)
def test_what_is_no_message_goes_into_the_quarantine(kind: str, web: WebApplication) -> None:
    entry, reason = NO_MESSAGES[kind]
    web.redis.delete(REJECTED)
    web.put(entry)
    wait_for(web.rejected)
    web.succeeds(f"after {kind}".replace(" ", "-"))
    (rejected,) = web.rejected()
    assert (rejected["reason"], rejected["size"]) == (reason, str(len(entry)))
    assert rejected["digest"] == hashlib.sha1(entry).hexdigest()
    assert len(rejected["head"]) + len(rejected["tail"]) <= 3 * 8192
    wait_for(lambda: web.redis.keys("sfworker:unacked:*") == [])


BROKEN: dict[str, tuple[dict[str, Any], str, str]] = {
    # changes of a message, what the quarantine says, and the error code
    "no base64": ({"body": "!!!"}, "bad_body", "MalformedMessage"),
    "no JSON": ({"body": b"{"}, "bad_body", "MalformedMessage"),
    "not three": ({"body": b"[[], {}]"}, "bad_body", "MalformedMessage"),
    "no list": ({"body": b"[{}, {}, {}]"}, "bad_body", "MalformedMessage"),
    "another coding": ({"properties": {"body_encoding": "hex"}}, "bad_body", "MalformedMessage"),
    "no gzip": ({"headers": {"compression": "application/x-gzip"}}, "bad_body", "MalformedMessage"),
    "another task": ({"task": "shop.mail"}, "other_task", "MalformedMessage"),
    "a task of Celery": ({"task": "celery.backend_cleanup"}, "other_task", "MalformedMessage"),
    "no name": ({"task": None}, "other_task", "MalformedMessage"),
    "a list as name": ({"task": [TASK_NAME]}, "other_task", "MalformedMessage"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_message_goes_into_the_quarantine_and_its_sender_is_told(
    kind: str, web: WebApplication
) -> None:
    changes, reason, code = BROKEN[kind]
    web.redis.delete(REJECTED)
    broken = message([f"broken {kind}", None], **changes)
    web.put(broken)
    read = f"broken {kind}" if kind in ("another coding", "no gzip") else None
    told = web.ends(read or broken["properties"]["correlation_id"])
    assert_refused(told, code, told["alice"][0]["data"]["error"])
    assert [rejected["reason"] for rejected in web.rejected()] == [reason]
    wait_for(lambda: web.redis.keys("sfworker:unacked:*") == [])


def test_a_request_that_was_not_sent_by_celery_is_told(web: WebApplication) -> None:
    web.put({"task_request_id": "bare", **PSI})
    words = "The entry of the queue is no message of Celery."
    assert_refused(web.ends("bare"), "MalformedMessage", words)
    whole = json.dumps(message(["cut off", PSI]))
    web.put(whole[: len(whole) // 2])
    words = "The entry of the queue is no JSON text in UTF-8."
    assert_refused(web.ends("cut off"), "MalformedMessage", words)


def test_a_misspelt_task_is_told_under_the_id_of_the_request(web: WebApplication) -> None:
    web.put(message(["misspelt", PSI], task="tasks.secretflow.execute"))
    words = "for another task than tasks.secretflow.execute_task."
    assert_refused(web.ends("misspelt"), "MalformedMessage", words)


UNFIT: dict[str, tuple[dict[str, Any], str, str]] = {
    "pickle": ({"content-type": "application/x-python-serialize"}, "InvalidTaskConfig", "as JSON."),
    "yaml": ({"content-type": "application/x-yaml"}, "InvalidTaskConfig", "as JSON."),
    "latin-1": ({"content-encoding": "latin-1"}, "InvalidTaskConfig", "as UTF-8."),
    "brotli": ({"headers": {"compression": "application/x-brotli"}}, "InvalidTaskConfig", "know."),
    "bomb": (
        {
            "body": zlib.compress(b"[" + b" " * 50_000_000),
            "headers": {"compression": "application/x-gzip"},
        },
        "RequestTooLarge",
        "SFWORKER_REQUEST_LIMIT_BYTES.",
    ),
    "expired": ({"headers": {"expires": "2020-01-01T00:00:00+00:00"}}, "RequestExpired", "expire."),
    "no time": ({"headers": {"expires": {"a": 1}}}, "InvalidTaskConfig", "writes it (ISO 8601)."),
    "no start": ({"headers": {"eta": "tomorrow"}}, "InvalidTaskConfig", "writes it (ISO 8601)."),
    "far": ({"headers": {"eta": "9999-12-31T23:59:59"}}, "InvalidTaskConfig", "countdown)."),
    "600 deep": ({"body": f'[["d", {nested(600)}], {{}}, {{}}]'.encode()}, "RequestTooLarge", "."),
    "10,000 deep": ({"body": f'[["d", {nested(10_000)}]]'.encode()}, "RequestTooLarge", "values."),
}


@pytest.mark.parametrize("kind", UNFIT)
def test_a_message_that_cannot_be_run_is_refused(kind: str, web: WebApplication) -> None:
    changes, code, words = UNFIT[kind]
    name = f"unfit {kind}"
    shown = {"argsrepr": f"['{name}', {{...}}]"}
    changes = changes | {"headers": changes.get("headers", {}) | shown}
    web.put(message([name, PSI], **changes))
    assert_refused(web.ends(name), code, words)


def test_a_request_of_many_megabytes_is_told_and_never_read(
    web: WebApplication, node: RunningNode
) -> None:
    before = node.process.memory_info().rss
    params = PSI | {"rows": "x" * 15_000_000}
    web.send(["huge", params])
    words = "SFWORKER_REQUEST_LIMIT_BYTES."
    assert_refused(web.ends("huge"), "RequestTooLarge", words)
    web.succeeds("after-huge")
    assert node.process.memory_info().rss - before < 10_000_000
    assert web.rejected()[0]["reason"] == "too_large"


def test_other_ways_to_send_a_good_request_work(web: WebApplication) -> None:
    ways: dict[str, dict[str, Any]] = {
        "gzip": {"compression": "gzip"},
        "bzip2": {"compression": "bzip2"},
        "high": {"priority": 9},
        "low": {"priority": 3},
        "soon": {"countdown": 0.5},
        "expires": {"expires": 3600},
        "retried": {"retries": 3},
        "linked": {"link": web.app.signature("shop.mail", args=["x"], queue="elsewhere")},
    }
    for name, options in ways.items():
        web.send([name, PSI], **options)
    web.put(
        message(
            ["plain", PSI],
            body=json.dumps([["plain", PSI], {}, {}]),
            properties={"body_encoding": None},
        )
    )
    first_protocol = {"task": TASK_NAME, "id": "p-1", "args": ["protocol-1", PSI], "kwargs": {}}
    web.put(message([], body=json.dumps(first_protocol).encode()) | {"headers": {}})
    for name in [*ways, "plain", "protocol-1"]:
        assert_succeeded(web.ends(name))


def test_a_request_that_expires_while_it_waits_is_not_run(web: WebApplication) -> None:
    web.send(["waits", PSI], countdown=1.5, expires=0.7)
    assert_refused(web.ends("waits"), "RequestExpired", "expire.")


@pytest.mark.parametrize("when", ["before it comes", "while it runs"])
def test_revoke_cancels(when: str, web: WebApplication) -> None:
    celery_id = str(uuid.uuid4())
    request = [f"revoked {when}".replace(" ", "-"), ENDLESS]
    if when == "before it comes":
        web.app.control.revoke(celery_id)
        wait_for(lambda: web.redis.exists(f"sfworker:cancelled:{celery_id}"))
    web.send(request, task_id=celery_id)
    if when == "while it runs":
        wait_for(lambda: web.redis.keys("sfworker:taken:*"))
        web.app.control.revoke(celery_id, terminate=True, signal="SIGKILL")
    for events in web.ends(request[0]).values():
        data = events[-1]["data"]
        assert (data["error_code"], data["cancelled"]) == ("TaskCancelled", True)
