"""No line of a file that grows is missed, whatever becomes of the file."""

from __future__ import annotations

from pathlib import Path

from secretflow_task.cli.tail import Tail
from secretflow_task.node.job.logs import trim


def test_lines_come_when_they_are_whole(tmp_path: Path) -> None:
    tail = Tail(tmp_path / "log")
    assert not list(tail.lines())
    with (tmp_path / "log").open("w") as log:
        for text, lines in (("a\nb", ["a"]), ("c", []), ("\n\nd", ["bc", ""])):
            log.write(text)
            log.flush()
            assert list(tail.lines()) == lines
    assert list(tail.rest()) == ["d"]
    assert not list(Tail(tmp_path / "none").rest())


def test_a_file_that_is_renamed_is_read_to_its_end_and_then_the_next(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("1\n")
    tail = Tail(path)
    assert list(tail.lines()) == ["1"]
    with path.open("a") as log:
        log.write("2\n")
    path.rename(tmp_path / "log.1")
    assert list(tail.lines()) == ["2"]
    path.write_text("3\n")
    assert list(tail.lines()) == ["3"]
    tail.close()


def test_a_log_that_was_trimmed_is_read_from_the_note_on(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("x" * 99 + "\n")
    with path.open("a") as log:
        log.writelines(f"{number:9}\n" for number in range(200_000))
    tail = Tail(path)
    assert len(list(tail.lines())) == 200_001
    trim(path, 1_500_000)
    again = list(tail.lines())
    assert again[0] == "[1000100 bytes dropped]" and again[-1].strip() == "199999"
    tail.close()


def test_what_is_no_text_is_shown_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"\xff\xfe ok\n")
    tail = Tail(tmp_path / "log")
    assert list(tail.lines()) == ["\ufffd\ufffd ok"]
    tail.close()
