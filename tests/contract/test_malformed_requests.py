"""The README's client, which has no result backend, hears how each malformed request ended."""

from __future__ import annotations

import json
from typing import Any, Iterator

import pytest
from celery import Celery
from redis import Redis

from secretflow_task.broker.celery_app import TASK_NAME
from secretflow_task.broker.keys import STREAM
from secretflow_task.utils.network import free_ports
from tests.bench.redis import RedisServer
from tests.bench.stand_in import COMMAND, PSI
from tests.bench.waiting import wait_for
from tests.e2e.nodes import PARTIES, RunningNode, running_node

QUEUE = "secretflow_queue"
FORMS = "The task takes [task_request_id, params] or [params], params an object; "
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
    with running_node(root, server.url, COMMAND, SFWORKER_CONCURRENCY="4") as running:
        yield running


class WebApplication:
    """What the README's client does: sends with Celery, and reads the stream."""

    def __init__(self, server: RedisServer) -> None:
        self.app = Celery(broker=server.url, set_as_current=False)
        self.redis: Redis = server.client()

    def send(self, arguments: list[Any], **options: Any) -> str:
        """Send a request; returns the Celery id."""
        sent = self.app.send_task(TASK_NAME, args=arguments, queue=QUEUE, **options)
        return str(sent.id)

    def ends(self, task_request_id: str) -> dict[str, list[dict[str, Any]]]:
        """All events of a request by party, when each party has its terminal one."""
        wait_for(lambda: self._ended(task_request_id) >= set(PARTIES))
        return self._told(task_request_id)

    def _ended(self, task_request_id: str) -> set[str]:
        told = self._told(task_request_id)
        return {party for party, events in told.items() if events[-1]["status"] != "RUNNING"}

    def _told(self, task_request_id: str) -> dict[str, list[dict[str, Any]]]:
        told: dict[str, list[dict[str, Any]]] = {}
        for _, fields in self.redis.xrange(STREAM):
            event = json.loads(fields["event"])
            if event["task_request_id"] == task_request_id:
                told.setdefault(event["party"], []).append(event)
        return told


@pytest.fixture(scope="module")
def web(server: RedisServer, node: RunningNode) -> Iterator[WebApplication]:
    """A web application beside the node."""
    del node  # it takes requests
    application = WebApplication(server)
    yield application
    application.app.close()
    application.redis.close()


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
        for events in web.ends(task_request_id).values():
            assert [event["status"] for event in events] == ["SUCCESS"]


def test_a_message_that_comes_twice_is_told_of_once(web: WebApplication) -> None:
    for _ in range(2):
        web.send(["only-id-twice"], task_id="0cda6e0d-f6ad-4f6b-a0a3-4b4cc2b0a2d1")
        web.send([None], task_id="not/an id")
    web.send(["afterwards", PSI])
    web.ends("afterwards")
    assert_refused(web.ends("only-id-twice"), "InvalidTaskConfig", "an id without params.")
    assert_refused(web.ends("not/an id"), "InvalidTaskConfig", "params is null.")
