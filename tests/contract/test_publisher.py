"""Events on a real Redis: once, in order, in all the forms that web applications read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest
from redis import RedisError
from structlog.testing import capture_logs

from secretflow_task.contract.messages import Status, StatusEvent
from secretflow_task.node.publisher import Publisher, Unsent
from secretflow_task.node.store.event_store import EventStore
from secretflow_task.testing import MemoryOutbox
from tests.bench.redis import RedisServer
from tests.bench.waiting import wait_for
from tests.contract.conftest import AnyOutbox
from tests.contract.events import event, request


def stream(redis: Any) -> list[StatusEvent]:
    """What the stream holds; every entry has one field, `event`."""
    entries = redis.xrange("task_status_stream")
    assert all(list(fields) == ["event"] for _, fields in entries)
    return [StatusEvent.from_json(fields["event"]) for _, fields in entries]


def fill(
    outbox: AnyOutbox, count: int, party: str = "alice", execution_id: str = "e-1"
) -> list[StatusEvent]:
    """Take an execution and store so many events, the last a SUCCESS."""
    outbox.claim(request(execution_id), party)
    stored = [
        outbox.append(
            event(
                Status.RUNNING if step < count - 1 else Status.SUCCESS,
                party,
                execution_id,
                step=step,
            )
        )
        for step in range(count)
    ]
    return [item for item in stored if item]


@pytest.fixture
def publisher(outbox: AnyOutbox, redis: Any) -> Publisher:
    """A publisher whose thread is not started."""
    return Publisher(outbox, redis, maxlen=1000)


@pytest.fixture
def listener(redis: Any) -> Iterator[Callable[[], list[StatusEvent]]]:
    """Returns what the channel has carried since the test began."""
    with redis.pubsub(ignore_subscribe_messages=True) as channel:
        channel.subscribe("task_status_events")
        channel.get_message(timeout=1)

        def heard() -> list[StatusEvent]:
            messages = iter(lambda: channel.get_message(timeout=0.05), None)
            return [StatusEvent.from_json(message["data"]) for message in messages]

        yield heard


def test_redis_is_no_newer_than_what_we_support(redis: Any) -> None:
    assert redis.info("server")["redis_version"].startswith("6.2.")


def test_events_arrive_in_order_on_stream_and_channel(
    publisher: Publisher, outbox: AnyOutbox, redis: Any, listener: Callable[[], list[StatusEvent]]
) -> None:
    sent = [*fill(outbox, 5), *fill(outbox, 3, "bob"), *fill(outbox, 2, execution_id="e-2")]
    assert publisher.send_batch() == 10
    assert stream(redis) == sent
    assert listener() == sent
    assert outbox.unsent(10) == [] and publisher.send_batch() == 0
    assert not redis.exists("task_status_queue")


def test_the_list_is_for_those_who_ask_for_it_and_is_read_from_its_other_end(
    outbox: AnyOutbox, redis: Any
) -> None:
    sent = fill(outbox, 4)
    Publisher(outbox, redis, maxlen=1000, also_list=True).send_batch()
    read = [StatusEvent.from_json(redis.brpop(["task_status_queue"], 1)[1]) for _ in sent]
    assert read == stream(redis) == sent


def test_an_event_is_what_the_plan_says(
    publisher: Publisher, outbox: AnyOutbox, redis: Any
) -> None:
    fill(outbox, 1)
    publisher.send_batch()
    ((_, fields),) = redis.xrange("task_status_stream")
    read = json.loads(fields["event"])
    assert (read["task_request_id"], read["status"], read["data"]) == (
        "r-1",
        "SUCCESS",
        {"step": 0},
    )
    assert (read["worker_container"], read["task_name"]) == (
        "node-1",
        "tasks.secretflow.execute_task",
    )
    assert (read["execution_id"], read["party"], read["seq"]) == ("e-1", "alice", 1)


class ForgetfulOutbox:
    """An outbox whose node dies after sending and before it notes that."""

    def __init__(self, outbox: AnyOutbox) -> None:
        self._outbox = outbox

    @property
    def node_id(self) -> str:
        """The node."""
        return self._outbox.node_id

    def rewind(self) -> int:
        """As the real one."""
        return self._outbox.rewind()

    def unsent(self, limit: int) -> list[Unsent]:
        """What the real one says."""
        return self._outbox.unsent(limit)

    def mark_sent(self, numbers: Any) -> None:
        """Die."""
        raise KeyboardInterrupt


def test_nothing_arrives_twice_when_the_node_dies_before_it_notes_what_it_sent(
    outbox: AnyOutbox, redis: Any, listener: Callable[[], list[StatusEvent]]
) -> None:
    sent = fill(outbox, 3)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            Publisher(ForgetfulOutbox(outbox), redis, maxlen=1000, also_list=True).send_batch()
    assert stream(redis) == sent[:1]
    Publisher(outbox, redis, maxlen=1000, also_list=True).send_batch()
    assert stream(redis) == listener() == sent
    assert redis.llen("task_status_queue") == 3


def test_an_event_is_told_as_sent_once_though_it_is_sent_again(
    outbox: AnyOutbox, redis: Any
) -> None:
    told: list[StatusEvent] = []
    publisher = Publisher(outbox, redis, maxlen=1000, on_sent=told.append)
    sent = fill(outbox, 3)
    publisher.send_batch()
    outbox.rewind()
    assert publisher.send_batch() == 3
    assert told == sent and publisher.failures == 0


def test_executions_and_parties_do_not_hold_each_other_back(
    publisher: Publisher, outbox: AnyOutbox, redis: Any
) -> None:
    first = fill(outbox, 5)
    publisher.send_batch()
    others = [*fill(outbox, 2, "bob"), *fill(outbox, 2, execution_id="e-2")]
    publisher.send_batch()
    assert stream(redis) == [*first, *others]


def test_the_stream_is_trimmed_to_about_its_length(outbox: AnyOutbox, redis: Any) -> None:
    publisher = Publisher(outbox, redis, maxlen=100)
    sent = fill(outbox, 400)
    while publisher.send_batch():
        pass
    kept = stream(redis)
    assert 100 <= len(kept) <= 200 and kept == sent[-len(kept) :]


def size_of(redis: Any) -> int:
    """How many bytes of events the stream holds."""
    return sum(len(each.to_json().encode()) for each in stream(redis))


@pytest.mark.parametrize("kilobytes", [5, 80])
def test_the_stream_is_trimmed_to_about_its_size_and_keeps_the_newest(
    kilobytes: int, outbox: AnyOutbox, redis: Any
) -> None:
    limit = 200_000
    publisher = Publisher(outbox, redis, maxlen=1_000_000, limit_bytes=limit)
    outbox.claim(request(), "alice")
    sent = []
    for _ in range(5):
        for _ in range(120 // kilobytes + 1):
            sent.append(outbox.append(event(text="x" * 1000 * kilobytes)))
        while publisher.send_batch():
            pass
        assert size_of(redis) < limit + limit // 32 + 1000 * (kilobytes + 1)
    kept = stream(redis)
    assert kept == sent[-len(kept) :] and size_of(redis) > limit - limit // 32 - 2000 * kilobytes
    assert redis.llen("sfworker:stream:marks") == 32


def test_an_event_larger_than_the_stream_may_be_is_there_until_the_next(
    outbox: AnyOutbox, redis: Any
) -> None:
    publisher = Publisher(outbox, redis, maxlen=1000, limit_bytes=100_000)
    outbox.claim(request(), "alice")
    for _ in range(3):
        large = outbox.append(event(text="x" * 500_000))
        publisher.send_batch()
        assert stream(redis) == [large]


def test_a_stream_that_somebody_has_emptied_grows_to_its_size_again(
    outbox: AnyOutbox, redis: Any
) -> None:
    publisher = Publisher(outbox, redis, maxlen=1000, limit_bytes=100_000)
    outbox.claim(request(), "alice")
    for round_ in range(2):
        sent = [outbox.append(event(text="x" * 1000)) for _ in range(60)]
        while publisher.send_batch():
            pass
        assert stream(redis) == sent
        if not round_:
            redis.delete("task_status_stream")


def test_the_list_that_nobody_reads_holds_no_more_than_the_stream(
    outbox: AnyOutbox, redis: Any
) -> None:
    publisher = Publisher(outbox, redis, maxlen=1000, limit_bytes=100_000, also_list=True)
    outbox.claim(request(), "alice")
    for _ in range(100):
        outbox.append(event(text="x" * 3000))
    while publisher.send_batch():
        pass
    kept = [StatusEvent.from_json(text) for text in redis.lrange("task_status_queue", 0, -1)]
    assert kept[::-1] == stream(redis) and 20 < len(kept) < 40


def test_what_the_script_remembers_goes_away_by_itself(
    publisher: Publisher, outbox: AnyOutbox, redis: Any
) -> None:
    fill(outbox, 2)
    publisher.send_batch()
    (key,) = redis.keys("sfworker:execution:*")
    assert redis.hget(key, "seq") == "2" and 0 < redis.ttl(key) <= 7 * 24 * 3600


def test_the_thread_sends_what_it_is_woken_for(
    publisher: Publisher, outbox: AnyOutbox, redis: Any
) -> None:
    with publisher:
        for number in range(3):
            sent = fill(outbox, 2, execution_id=f"e-{number}")
            publisher.wake()
            wait_for(lambda: stream(redis)[-2:] == sent)


def test_the_thread_sends_also_what_nobody_woke_it_for(redis: Any) -> None:
    outbox = MemoryOutbox()
    with Publisher(outbox, redis, maxlen=1000):
        sent = fill(outbox, 2)
        wait_for(lambda: stream(redis) == sent)


def test_redis_away_and_back_all_events_arrive_once_and_in_order(
    outbox: AnyOutbox, redis: Any, redis_server: RedisServer
) -> None:
    outbox.claim(request(), "alice")
    sent: list[StatusEvent | None] = []
    with (
        capture_logs() as records,
        Publisher(outbox, redis_server.client(), maxlen=1000, also_list=True) as publisher,
    ):

        def report(count: int) -> None:
            for _ in range(count):
                sent.append(outbox.append(event(step=len(sent))))
                publisher.wake()

        report(3)
        wait_for(lambda: stream(redis) == sent)
        redis_server.stop()
        report(5)
        with pytest.raises(RedisError):
            redis.ping()
        wait_for(lambda: bool(records))
        assert [unsent.event for unsent in outbox.unsent(10)] == sent[3:]
        redis_server.start()
        report(3)
        sent.append(outbox.append(event(Status.SUCCESS)))
        publisher.wake()
        wait_for(lambda: stream(redis) == sent)
    assert stream(redis) == sent
    assert [item.seq for item in stream(redis)] == list(range(1, 13))
    assert redis.llen("task_status_queue") == 12
    assert outbox.unsent(10) == []
    assert [record["action"] for record in records] == ["outbox_waits", "outbox_goes_on"]
    assert records[-1]["dropped_in_all"] == 0


def test_redis_restarted_without_its_scripts_takes_events_all_the_same(
    publisher: Publisher, outbox: AnyOutbox, redis: Any
) -> None:
    first = fill(outbox, 1)
    publisher.send_batch()
    redis.script_flush()
    second = fill(outbox, 1, "bob")
    publisher.send_batch()
    assert stream(redis) == [*first, *second]


@pytest.mark.parametrize("key", ["task_status_stream", "task_status_queue"])
def test_an_event_that_redis_refuses_is_neither_lost_nor_doubled(
    key: str, outbox: AnyOutbox, redis: Any
) -> None:
    publisher = Publisher(outbox, redis, maxlen=1000, also_list=True)
    sent = fill(outbox, 2)
    redis.set(key, "of another kind")
    with pytest.raises(RedisError, match=f"{key} is no"):
        publisher.send_batch()
    redis.delete(key)
    assert publisher.send_batch() == 2
    assert stream(redis) == sent
    assert redis.llen("task_status_queue") == 2


def test_a_redis_that_comes_back_empty_gets_the_events_of_the_last_minutes_again(
    publisher: Publisher, outbox: AnyOutbox, redis: Any
) -> None:
    ended = fill(outbox, 3)
    outbox.claim(request("e-2"), "alice")
    running = [outbox.append(event(execution_id="e-2", step=step)) for step in range(2)]
    publisher.send_batch()
    redis.flushall()
    running.append(outbox.append(event(execution_id="e-2")))
    publisher.send_batch()
    assert stream(redis) == [*ended, *running]
    redis.flushall()
    publisher.check()  # as the thread does when there is nothing new
    publisher.send_batch()
    assert stream(redis) == [*ended, *running]


def test_a_redis_that_comes_back_from_an_older_file_gets_what_it_lacks(
    publisher: Publisher, outbox: AnyOutbox, redis: Any
) -> None:
    outbox.claim(request(), "alice")
    sent = [outbox.append(event(step=step)) for step in range(4)]
    publisher.send_batch()
    older = {"node": outbox.node_id, "epoch": 1, "seq": 2, "ended": 0}
    redis.hset("sfworker:execution:e-1:alice", mapping=older)
    redis.xtrim("task_status_stream", maxlen=0, approximate=False)
    sent.append(outbox.append(event(Status.SUCCESS)))
    publisher.send_batch()
    assert stream(redis) == sent[2:]


def test_a_redis_that_comes_back_from_an_older_file_gets_also_the_last_terminal_event(
    publisher: Publisher, outbox: AnyOutbox, redis: Any
) -> None:
    outbox.claim(request(), "alice")
    sent = [outbox.append(event())]
    publisher.send_batch()
    older = {key: redis.dump(key) for key in redis.keys("*")}
    sent.append(outbox.append(event(Status.SUCCESS)))
    publisher.send_batch()
    assert stream(redis) == sent
    redis.flushall()
    for key, value in older.items():
        redis.restore(key, 0, value)
    assert publisher.send_batch() == 0
    publisher.check()  # as the thread does when there is nothing new
    publisher.send_batch()
    assert stream(redis) == sent


def test_a_node_that_starts_on_an_older_redis_file_sends_what_it_lacks(
    outbox: AnyOutbox, redis: Any
) -> None:
    outbox.claim(request(), "alice")
    sent = [outbox.append(event())]
    publisher = Publisher(outbox, redis, maxlen=1000)
    publisher.send_batch()
    older = {key: redis.dump(key) for key in redis.keys("*")}
    sent.append(outbox.append(event(Status.SUCCESS)))
    publisher.send_batch()
    redis.flushall()
    for key, value in older.items():
        redis.restore(key, 0, value)
    Publisher(outbox, redis, maxlen=1000).send_batch()  # of another process of the node
    assert stream(redis) == sent


@pytest.mark.parametrize("limit", [100, 4, 3])
def test_the_terminal_events_of_an_execution_go_out_together_or_not_at_all(
    limit: int, outbox: AnyOutbox, redis: Any
) -> None:
    parties = ["alice", "bob"]
    outbox.claim(request(), *parties)
    sent = [outbox.append(event(party=party)) for party in parties]
    sent += outbox.append_all([event(Status.SUCCESS, party) for party in parties])
    publisher = Publisher(outbox, redis, maxlen=1000)
    publisher.send_batch(limit)
    while publisher.send_batch(limit):
        pass
    assert stream(redis) == sent
    redis.delete("task_status_stream")
    redis.hset("sfworker:execution:e-1:alice", mapping={"seq": 1, "ended": 0})
    redis.hset("sfworker:execution:e-1:bob", mapping={"seq": 0, "ended": 0})
    outbox.rewind()
    publisher._rewound_to = 0
    ends = [unsent for unsent in outbox.unsent(10) if unsent.event.status.terminal]
    assert len(ends) == 2 and publisher._send(ends) == ["behind"] and stream(redis) == []


def test_events_that_are_gone_for_good_do_not_hold_up_the_later_ones(
    redis: Any, tmp_path: Path
) -> None:
    with EventStore(tmp_path) as store:
        publisher = Publisher(store, redis, maxlen=1000)
        store.claim(request(), "alice", seqs={"alice": 7})
        sent = [store.append(event()), store.append(event(Status.SUCCESS))]
        publisher.send_batch()
        assert stream(redis) == sent and store.waiting() == 0


def test_the_events_of_a_node_that_was_taken_over_are_not_let_through(
    outbox: AnyOutbox, redis: Any
) -> None:
    stale: list[Unsent] = []
    late = Publisher(outbox, redis, maxlen=1000, on_stale=stale.append)
    outbox.claim(request(), "alice")
    first = outbox.append(event())
    late.send_batch()
    heir = MemoryOutbox()
    heir.claim(request(), "alice", epoch=2, seqs={"alice": 1})
    ending = heir.append(event(Status.FAILURE))
    outbox.append(event(Status.SUCCESS))
    Publisher(heir, redis, maxlen=1000).send_batch()
    late.send_batch()
    assert stream(redis) == [first, ending]
    assert [item.event.status for item in stale] == [Status.SUCCESS] and outbox.unsent(10) == []


def test_nothing_follows_a_terminal_event_in_redis(outbox: AnyOutbox, redis: Any) -> None:
    sent = fill(outbox, 2)
    Publisher(outbox, redis, maxlen=1000).send_batch()
    forgetful = MemoryOutbox()
    forgetful.claim(request(), "alice", seqs={"alice": 2})
    forgetful.append(event(Status.FAILURE))
    Publisher(forgetful, redis, maxlen=1000).send_batch()
    assert stream(redis) == sent and forgetful.unsent(10) == []


def giving_up(outbox: AnyOutbox) -> Callable[[Unsent], None]:
    """What a node does with what was taken over."""
    return lambda stale: outbox.give_up(stale.event.execution_id, stale.event.party, stale.epoch)


def test_what_is_stale_takes_nothing_newer_with_it(outbox: AnyOutbox, redis: Any) -> None:
    publisher = Publisher(
        outbox,
        redis,
        maxlen=1000,
        on_stale=giving_up(outbox),
    )
    outbox.claim(request(), "alice")
    first = outbox.append(event())
    publisher.send_batch()
    for _ in range(5):
        outbox.append(event())
    redis.hset("sfworker:execution:e-1:alice", mapping={"epoch": 3})  # taken over, twice
    outbox.claim(request(), "alice", epoch=3, seqs={"alice": 1}, again=True)
    last = outbox.append(event(Status.FAILURE))
    while publisher.send_batch(3):
        pass
    assert stream(redis) == [first, last]


def test_what_was_not_let_through_is_forgotten_also_for_a_redis_that_comes_back_empty(
    outbox: AnyOutbox, redis: Any
) -> None:
    late = Publisher(
        outbox,
        redis,
        maxlen=1000,
        on_stale=giving_up(outbox),
    )
    outbox.claim(request(), "alice")
    outbox.append(event())
    late.send_batch()
    heir = MemoryOutbox()
    heir.claim(request(), "alice", epoch=2, seqs={"alice": 1})
    heir.append(event(Status.FAILURE))
    outbox.append(event(Status.SUCCESS))
    Publisher(heir, redis, maxlen=1000).send_batch()
    late.send_batch()
    redis.flushall()
    late.check()
    late.send_batch()
    assert stream(redis) == [] and outbox.unsent(10) == []
