"""The door lets in the node's user alone, answers whatever comes, and holds up nobody."""

from __future__ import annotations

import json
import os
import socket
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest
from structlog.testing import capture_logs

from secretflow_task.contract.errors import (
    BadCommand,
    DoorRefused,
    NodeUnreachable,
    UnknownExecution,
    WorkerError,
)
from secretflow_task.node.door import address, server
from secretflow_task.node.door.client import ask
from secretflow_task.node.door.protocol import REQUEST_BYTES, VERSION, read_answer
from secretflow_task.node.door.server import Door
from tests.bench.waiting import PATIENCE_SECONDS, wait_for

NOBODY = 65534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


def double(number: int, sign: bool = False) -> dict[str, Any]:
    """A command with arguments."""
    return {"number": (-2 if sign else 2) * number}


def refuse() -> dict[str, Any]:
    """A command that the node refuses."""
    raise UnknownExecution("It was not found.", hint="Look again.")


def break_down() -> dict[str, Any]:
    """A command with a defect."""
    raise ZeroDivisionError("of 4711")


COMMANDS = {"double": double, "refuse": refuse, "break": break_down}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A state folder."""
    path = tmp_path / "state"
    path.mkdir(mode=0o700)
    return path


@pytest.fixture
def door(folder: Path) -> Iterator[Path]:
    """The state folder of a node whose door is open."""
    with Door(folder, COMMANDS):
        yield folder


def visit(folder: Path) -> socket.socket:
    """A connection whose visitor knows no manners."""
    return address.connect(folder, PATIENCE_SECONDS)


def say(folder: Path, *lines: bytes) -> list[Any]:
    """Say some lines at once, and hear what is answered to each."""
    with visit(folder) as connection, connection.makefile("rb") as file:
        connection.sendall(b"".join(line + b"\n" for line in lines))
        return [json.loads(file.readline()) for _ in lines]


def request(**changes: Any) -> bytes:
    """A request that is well but for the changes."""
    message = {"version": VERSION, "command": "double", "arguments": {"number": 4}} | changes
    return json.dumps(message).encode()


def hear_first_line() -> bytes:
    """Connect in the present folder, and hear what is said."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address.NAME)
        with connection.makefile("rb") as file:
            return file.readline()


def as_nobody(folder: Path, action: Callable[[], bytes]) -> bytes:
    """What another user's process in a folder comes to."""
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.chdir(folder)
            os.setuid(NOBODY)
            os.write(theirs, action())
        finally:
            os._exit(0)
    os.close(theirs)
    os.waitpid(child, 0)
    with os.fdopen(ours, "rb") as file:
        return file.read()


def test_a_command_is_carried_out_with_its_arguments(door: Path) -> None:
    assert ask(door, "double", number=4) == {"number": 8}
    assert ask(door, "double", number=4, sign=True) == {"number": -8}


def test_a_visitor_may_say_several_lines(door: Path) -> None:
    found = say(door, request(), b"nonsense", request(arguments={"number": 5}))
    assert [answer.get("result") for answer in found] == [{"number": 8}, None, {"number": 10}]
    assert {answer["version"] for answer in found} == {VERSION}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"", "not JSON"),
        (b"pause", "not JSON"),
        (b"\xff\x00", "not JSON"),
        (b"[" * 60_000, "not JSON"),
        (b"[1]", "not a JSON object"),
        (b"{}", "different versions"),
        (request(version=VERSION + 1), "different versions"),
        (request(command=7), "command: "),
        (request(arguments=[4]), "arguments: "),
        (request(uid=0), "uid: "),
        (request(command="dubble"), "did you mean 'double'?"),
        (request(command="no such thing"), "no such command."),
        (request(arguments={}), "number: "),
        (request(arguments={"number": "4"}), "number: "),
        (request(arguments={"number": 4, "colour": 4}), "colour: "),
        (b" " * (2 * REQUEST_BYTES), "at most"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_whatever_a_line_holds_it_is_answered_and_the_door_stays(
    line: bytes, words: str, door: Path
) -> None:
    (answer,) = say(door, line)
    assert answer["error"]["code"] == "BadCommand" and answer["error"]["hint"]
    assert words in answer["error"]["message"]
    assert ask(door, "double", number=4) == {"number": 8}


def test_an_error_of_the_node_comes_to_the_operator_as_it_is(door: Path) -> None:
    with pytest.raises(UnknownExecution, match="It was not found.") as caught:
        ask(door, "refuse")
    assert caught.value.hint == "Look again."


def test_a_defect_is_logged_and_its_text_stays_at_the_node(door: Path) -> None:
    with capture_logs() as records, pytest.raises(WorkerError) as caught:
        ask(door, "break")
    assert [record["action"] for record in records] == ["door_command_failed"]
    assert "4711" not in str(caught.value.to_dict()) and "log" in caught.value.hint


def test_a_visitor_may_leave_in_the_middle_of_a_line(door: Path) -> None:
    with visit(door) as connection:
        connection.sendall(request()[:10])
    assert ask(door, "double", number=4) == {"number": 8}


def test_only_the_user_may_see_the_socket(door: Path) -> None:
    assert (door / address.NAME).stat().st_mode & 0o777 == 0o600


@needs_root
def test_another_user_is_refused_though_the_modes_let_him_in(door: Path) -> None:
    door.chmod(0o755)
    (door / address.NAME).chmod(0o666)
    answer = json.loads(as_nobody(door, hear_first_line))
    assert answer["error"]["code"] == DoorRefused().code


def test_others_may_look_into_the_folder(folder: Path) -> None:
    folder.chmod(0o755)  # as systemd makes it
    with Door(folder, COMMANDS):
        assert ask(folder, "double", number=4) == {"number": 8}


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702])
def test_in_a_folder_to_which_others_may_write_there_is_no_door(folder: Path, mode: int) -> None:
    folder.chmod(mode)
    with capture_logs() as records, Door(folder, COMMANDS):
        assert list(folder.iterdir()) == []
        with pytest.raises(NodeUnreachable):
            ask(folder, "double", number=4)
    assert [record["action"] for record in records] == ["door_shut"]
    assert "chmod 700" in records[0]["problem"]


def test_the_path_of_a_state_folder_may_be_long(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 40)
    folder.mkdir(mode=0o700)
    with Door(folder, COMMANDS):
        assert ask(folder, "double", number=4) == {"number": 8}


def test_what_a_dead_node_left_is_replaced(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(folder / address.NAME))
    with pytest.raises(NodeUnreachable):
        ask(folder, "double", number=4)
    with Door(folder, COMMANDS):
        assert ask(folder, "double", number=4) == {"number": 8}


def test_where_there_can_be_no_socket_the_node_goes_on(folder: Path) -> None:
    (folder / address.NAME).mkdir()
    with capture_logs() as records, Door(folder, COMMANDS):
        pass
    assert [record["action"] for record in records] == ["door_shut"]


def test_visitors_who_say_nothing_do_not_keep_others_from_an_answer(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_SECONDS", 0.2)
    with Door(folder, COMMANDS), ExitStack() as stack:
        for _ in range(2 * server._AT_ONCE):
            stack.enter_context(visit(folder)).sendall(b"{")
        assert ask(folder, "double", timeout_seconds=PATIENCE_SECONDS, number=4) == {"number": 8}


def test_at_its_end_a_door_waits_for_nobody_and_is_gone(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_SECONDS", 10 * PATIENCE_SECONDS)
    monkeypatch.setattr(server, "_FAREWELL_SECONDS", 0.1)
    with Door(folder, COMMANDS):
        silent = visit(folder)
        assert ask(folder, "double", number=4) == {"number": 8}
    assert list(folder.iterdir()) == []
    with pytest.raises(NodeUnreachable):
        ask(folder, "double", number=4)
    silent.close()


@pytest.mark.parametrize("place", ["", "missing", "file"])
def test_where_no_node_runs_the_operator_is_told_what_to_do(folder: Path, place: str) -> None:
    (folder / "file").touch()
    with pytest.raises(NodeUnreachable) as caught:
        ask(folder / place, "double", number=4)
    assert "SFWORKER_STATE_DIR" in caught.value.hint


def test_a_node_that_does_not_answer_is_not_waited_for(folder: Path) -> None:
    with address.listen(folder), pytest.raises(NodeUnreachable, match="does not answer"):
        ask(folder, "double", timeout_seconds=0.1, number=4)


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (b"", NodeUnreachable),
        (b'{"version": 1, "result": {"num', NodeUnreachable),
        (b'{"version": 2, "result": {"number": 8}}\n', BadCommand),
        (b'{"version": 1}\n', BadCommand),
    ],
)
def test_an_answer_that_is_none_is_an_error(
    line: bytes, error: type[WorkerError], folder: Path
) -> None:
    with address.listen(folder) as listener, visit(folder) as connection:
        other, _ = listener.accept()
        with other:
            other.sendall(line)
        with connection.makefile("rb") as file, pytest.raises(error):
            read_answer(file.readline())


def test_a_door_takes_visitors_again_when_there_are_files_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = iter([RuntimeError("can't start new thread")])
    begin = server.threading.Thread.start

    def start(thread: Any) -> None:
        for failure in failures if thread.name == "door-visitor" else ():
            raise failure
        begin(thread)

    with Door(folder, COMMANDS):
        monkeypatch.setattr(server.threading.Thread, "start", start)
        with pytest.raises(NodeUnreachable):
            ask(folder, "double", number=4)
        wait_for(lambda: ask(folder, "double", number=4) == {"number": 8})
