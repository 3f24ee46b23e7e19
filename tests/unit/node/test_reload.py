"""SIGHUP: a new address book is taken or refused, which the log says; the template is renewed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from secretflow_task.contract.errors import BadSetting, EngineUnavailable
from secretflow_task.node.link.peer.certificates import make_certificate
from secretflow_task.node.node import Node
from tests.unit.node.test_node import Bench
from tests.unit.node.test_two_nodes import Pair

BROKEN = {
    "no file": None,
    "no text": b"\xff\xfe\x00",
    "no YAML": b"bob: [",
    "no mapping": b"- bob",
    "nothing": b"",
    "nobody": b"{}",
    "a date that is none": b"bob: 2021-13-45",
    "too deep": b"[" * 5000,
    "a recursive one": b"bob: &bob [*bob]",
    "no party's name": b"9bob: {}",
    "an entry with a gap": b"bob: {host: 127.0.0.1, port: 1}",
    "no certificate": b"bob: {host: h, port: 1, certificate: none.crt, fingerprints: [%s]}"
    % (b"0" * 64),
}


def hang_up(node: Node) -> list[dict[str, Any]]:
    """What the node logs when it gets SIGHUP."""
    with capture_logs() as records:
        node.hang_up()
    return [dict(record) for record in records]


def actions(records: list[dict[str, Any]]) -> list[str]:
    """What was done."""
    return [record["action"] for record in records]


def test_a_broken_address_book_is_refused_and_the_template_renewed_all_the_same(
    pair: Pair,
) -> None:
    with pair.node("alice") as node:
        book = node.settings.peers_file
        assert book is not None
        good = book.read_bytes()
        for name, content in BROKEN.items():
            if content is None:
                book.unlink()
            else:
                book.write_bytes(content)
            records = hang_up(node)
            assert actions(records) == ["address_book_refused", "template_renewed"], name
            assert records[0]["problem"].endswith("."), name
            assert node._hub is not None and node._hub.knows("bob"), name
            with pytest.raises(BadSetting):
                node.reload()
        assert pair.templates["alice"].renewals == len(BROKEN)
        book.write_bytes(good)
        assert actions(hang_up(node)) == ["address_book_reloaded", "template_renewed"]


def test_a_new_address_book_is_told_by_what_has_changed(pair: Pair, tmp_path: Path) -> None:
    identity, digest = make_certificate("carol", tmp_path / "carol")
    carol = (
        f"carol: {{host: 127.0.0.1, port: 1, certificate: {identity.certificate},"
        f" fingerprints: [{digest}]}}\n"
    )
    with pair.node("alice") as node:
        book = node.settings.peers_file
        assert book is not None
        both = book.read_text(encoding="utf-8") + carol
        unchanged: dict[str, list[str]] = {"added": [], "removed": [], "changed": []}
        for content, changes in (
            (both, {"added": ["carol"]}),
            (both, {}),
            (both.replace("port: 1,", "port: 2,"), {"changed": ["carol"]}),
            (carol, {"removed": ["bob"], "changed": ["carol"]}),
        ):
            book.write_text(content, encoding="utf-8")
            record = hang_up(node)[0]
            told = {name: record[name] for name in unchanged}
            assert told == unchanged | changes
        assert node._hub is not None and not node._hub.knows("bob")


def test_a_template_that_cannot_be_renewed_stays_and_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> int:
        raise EngineUnavailable("SecretFlow was not imported in time.")

    bench = Bench(tmp_path)
    with bench.node() as node:
        assert actions(hang_up(node)) == ["template_renewed"]
        monkeypatch.setattr(bench.template, "renew", fail)
        (record,) = hang_up(node)
        assert (record["action"], record["log_level"]) == ("template_not_renewed", "error")
        with pytest.raises(EngineUnavailable):
            node.renew()
