"""A party learns of another's table exactly what `reveals()` lists.

What a party learns is all that its process got from its peers (the listener in `preload` writes
it), its result, its events, its log and its files. The laws hold for every case of `CASES`; the
tables of `world` have no value that a process could show by chance.
"""

from __future__ import annotations

import json
import re
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Iterator, Mapping, Sequence

import numpy as np
import pytest

from secretflow_task.contract.task_config import TaskConfig
from secretflow_task.contract.task_dispatcher import TaskDispatcher
from tests.data.tables import Table, overlapping
from tests.integration.bench import Execution, Workspace, read_csv
from tests.integration.cases import CASES, Finished, Runs, world
from tests.integration.probes import LEAKS, TASKS
from tests.integration.test_psi import psi

pytestmark = pytest.mark.engine

Array = np.ndarray[Any, np.dtype[np.float64]]
_NUMBER = re.compile(r"(?<![\w.])-?\d+\.\d+(?:e[-+]?\d+)?")
_CLOSE = 3e-7  # float32 and fixed-point numbers with 26 fraction bits come this close


@dataclass
class Knowledge:
    """What one party learned in one execution.

    Attributes:
        numbers: every number.
        sequences: numbers that came together and may be a column, those of tables and matrices too.
        text: every text, one after the other; and all bytes in ``raw``.
        facts: ``{party: facts}`` that were agreed on.
        sources: how something came: "message", "from shares", "from ciphertext", or the name of a
            file.
    """

    party: str
    result: dict[str, Any]
    numbers: list[float] = field(default_factory=list)
    sequences: list[list[Any]] = field(default_factory=list)
    text: str = ""
    raw: bytes = b""
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    sources: dict[str, int] = field(default_factory=dict)

    @staticmethod
    def of(case: Finished, execution: Execution, party: str) -> Knowledge:
        """All that a party learned in an execution."""
        known = Knowledge(party, execution.results[party])
        log = case.workspace.bench.node.settings.state_dir / "logs" / f"{execution.id}.{party}.log"
        for line in log.with_name(f"{log.name}.received").read_text().splitlines():
            known.add_received(json.loads(line))
        for event in execution.events[party]:
            known.add("event", event.data)
        known.add_text("log", log.read_text(errors="replace"))
        for path in sorted(case.workspace.path(party, "").rglob("*")):
            if path.is_file() and path.name != "in.csv":
                known.add_file(path)
        return known

    def add_received(self, line: Mapping[str, Any]) -> None:
        """Take what the listener wrote."""
        for kind, value in line["atoms"]:
            if line["how"] == "facts":
                self.facts |= json.loads(value)
                self.add(
                    "facts",
                    [facts for party, facts in json.loads(value).items() if party != self.party],
                )
            elif kind == "bytes":
                self.add_bytes(line["how"], bytes.fromhex(value))
            else:
                self.add(line["how"], value)

    def add_file(self, path: Path) -> None:
        """Take an output; the files of a model as text."""
        if path.suffix == ".csv":
            for name, cells in read_csv(path).items():
                self.add(f"{path.name} {name}", cells)
        elif path.suffix == ".json":
            self.add(path.name, json.loads(path.read_text()))
        else:
            self.add_bytes(path.name, path.read_bytes())

    def add(self, source: str, value: Any) -> None:
        """Take a nested value."""
        self.sources[source] = self.sources.get(source, 0) + 1
        if isinstance(value, Mapping):
            self.add(source, list(value))
            for item in value.values():
                self.add(source, item)
        elif isinstance(value, (list, tuple)):
            self.sequences += [
                list(value),
                *map(list, zip(*(row for row in value if isinstance(row, list)))),
            ]
            for item in value:
                self.add(source, item)
        elif isinstance(value, (int, float)):
            self.numbers.append(float(value))
        elif value is not None:
            self.add_text(source, str(value))

    def add_text(self, source: str, text: str) -> None:
        """Take a text and the fractions in it."""
        self.sources[source] = self.sources.get(source, 0) + 1
        self.text += f"{text}\n"
        self.numbers += map(float, _NUMBER.findall(text))

    def add_bytes(self, source: str, data: bytes) -> None:
        """Take bytes, which may hold texts and doubles."""
        self.sources[source] = self.sources.get(source, 0) + 1
        self.raw += data

    def has(self, value: float) -> bool:
        """Whether a number was seen, but for rounding."""
        seen = np.array(self.numbers)
        near = bool((np.abs(seen - value) <= _CLOSE * max(1.0, abs(value))).any())
        return near or struct.pack("<d", value) in self.raw

    def findings(self, others: Mapping[str, Table], own: Table) -> Iterator[tuple[str, str]]:
        """``(what, column)`` for all that is in, or follows from, a column of the others."""
        for table in others.values():
            for name, cells in table.items():
                yield from self._findings_in(name, cells, own.get(name, []))

    def _findings_in(
        self, name: str, cells: Sequence[str], own: Sequence[str]
    ) -> Iterator[tuple[str, str]]:
        values = _numbers(cells)
        foreign = set(cells) - set(own)
        if values is None:
            if any(cell in self.text or cell.encode() in self.raw for cell in foreign):
                yield "text", name
        elif len(foreign) > 10 and any(self.has(value) for value in values):
            yield "cell", name
        if values is not None:
            figures = {"mean": np.mean, "std": np.std, "median": np.median, "sum": np.sum}
            figures |= {"sample std": lambda x: np.std(x, ddof=1), "variance": np.var}
            for what, figure in figures.items():
                value = float(figure(values))
                if value != round(value, 1) and self.has(value):
                    yield what, name
        if foreign and any(_is_column(sequence, cells, values) for sequence in self.sequences):
            yield "column", name


def _numbers(cells: Sequence[Any]) -> Array | None:
    try:
        return np.array([float(cell) for cell in cells])
    except (TypeError, ValueError):
        return None


def _is_column(sequence: Sequence[Any], cells: Sequence[str], values: Array | None) -> bool:
    """Whether a sequence is a column: with other units, or with other names for its values."""
    if len(sequence) != len(cells) or any(isinstance(item, (list, dict)) for item in sequence):
        return False
    pairs = len(set(zip(sequence, cells)))
    if pairs == len(set(sequence)) == len(set(cells)) and 1 < pairs < len(cells):
        return True
    seen = _numbers(sequence)
    if (
        seen is None
        or values is None
        or not seen.std()
        or not values.std()
        or not np.isfinite(seen).all()
    ):
        return False
    return abs(float(np.corrcoef(seen, values)[0, 1])) > 0.9999


@dataclass(frozen=True)
class Grant:
    """What a value of `reveals()` lets a party know.

    Attributes:
        seen: whether the party has learned it: what is listed and never seen is listed wrongly.
        facts: the facts of other parties that it stands for.
        findings: what of `Knowledge.findings` it stands for.
    """

    seen: Callable[[Knowledge], bool]
    facts: frozenset[str] = frozenset()
    findings: frozenset[str] = frozenset()


def told(*names: str) -> Grant:
    """Facts about the others' tables."""
    return Grant(
        lambda known: all(
            set(names) <= {*facts} for party, facts in known.facts.items() if party != known.party
        ),
        frozenset(names) | {"has_label"},
    )


def came(*sources: str, findings: Sequence[str] = ()) -> Grant:
    """Something that comes in one of these ways."""
    return Grant(
        lambda known: any(source in known.sources for source in sources),
        findings=frozenset(findings),
    )


def stands_in_result(name: str) -> Grant:
    """Something in the result."""
    return Grant(lambda known: name in known.result)


_NAMES_AND_ROWS = told("features", "rows")
# What each text of `reveals()` stands for. A text that is not here fails the test of its task.
GRANTS = {
    "number of rows": told("rows"),
    "names of the transformed columns, number of rows": _NAMES_AND_ROWS,
    "names of the columns, number of rows": _NAMES_AND_ROWS,
    "names of the features, number of rows": _NAMES_AND_ROWS,
    "names of the columns": told("features"),
    "which of its own rows the other parties have too, and their number": stands_in_result(
        "intersection_count"
    ),
    "how many keys each of the others has": Grant(lambda known: "item_size=" in known.text),
    "which rows are for training, drawn in private within the groups of the label": came("message"),
    "the prediction for every row": came("out.csv prediction"),
    "the prediction for every row, and which leaves each party's splits let it reach": came(
        "message"
    ),
    "the cluster of every row, the sizes of the clusters": came("out.csv cluster"),
    "after how many iterations each start stopped": came("from shares"),
    "whether the features are linearly dependent, after how many epochs training stopped": came(
        "from shares"
    ),
    "whether a row's mean leaves the range of the link": came("from shares"),
    "for every node of the trees: which party splits it, and the number of the bin": came(
        "from shares"
    ),
    "which rows lie in which node of every tree, and whose feature splits it": came("message"),
    "sums of its own gradients over the others' bins, in shuffled order": came("from ciphertext"),
    "the correlation of every two columns, of all parties": came("from shares"),
    "the VIF of every column": stands_in_result("vif"),
    "how many bins the columns of a party have": told("bins"),
    "how many rows of every bin of the column are positive": stands_in_result("woe"),
    "the information value of every column": stands_in_result("iv"),
}
ALWAYS = {"model"}  # a digest of what all parties have: the manifest


def received(workspace: Workspace, execution: Execution, party: str) -> set[str]:
    """The kinds of what a party's process got from its peers: the start of each one's text."""
    log = workspace.bench.log_of(execution, party)
    return {
        re.split(r"[ (\[]|<class|['\"]|0x", found, maxsplit=1)[0]
        for found in re.findall(r"RECEIVED (\S+)", log)
    }


def granted(case: Finished, party: str) -> list[Grant]:
    """What `reveals()` lets a party know."""
    config: TaskConfig = TaskDispatcher.get(case.config["task_type"]).parse(case.config)
    parties = sorted(case.tables)
    grants = []
    for reveal in config.reveals():
        learners = reveal.learners(parties, label_party="alice", owners=parties)
        if party in (learners or ()):
            grants.append(GRANTS[reveal.what])
    return grants


def test_every_task_has_a_case() -> None:
    assert set(TaskDispatcher.list_supported_tasks()) - set(TASKS) == set(CASES)


@pytest.mark.parametrize("party, other", [("alice", "bob"), ("bob", "alice")])
@pytest.mark.parametrize("task_type", CASES)
def test_a_party_learns_what_reveals_lists_and_nothing_else(
    runs: Runs, task_type: str, party: str, other: str
) -> None:
    case = runs[task_type]
    assert case.execution
    if party not in case.execution.results:
        pytest.skip(f"{party} has no part in it")
    known, grants = Knowledge.of(case, case.execution, party), granted(case, party)
    allowed = ALWAYS.union(*(grant.facts for grant in grants))
    assert {name for name, value in known.facts.get(other, {}).items() if value} <= allowed
    others = {other: case.tables[other]} if other in case.tables else {}
    found = list(known.findings(others, case.tables[party]))
    excused = frozenset().union(*(grant.findings for grant in grants))
    assert [finding for finding in found if finding[0] not in excused] == []
    assert all(grant.seen(known) for grant in grants), known.sources


@pytest.mark.parametrize("how", LEAKS)
def test_what_a_task_shows_by_mistake_is_found(workspace: Workspace, how: str) -> None:
    tables = {
        party: {name: [*map(str, cells)] for name, cells in table.items()}
        for party, table in world().items()
    }
    config = {"task_type": "leak", "where": workspace.write("in.csv", tables), "how": how}
    case = Finished(workspace, config, tables).run()
    assert case.execution
    found = {
        party: set(
            Knowledge.of(case, case.execution, party).findings(
                {other: tables[other]}, tables[party]
            )
        )
        for party, other in (("alice", "bob"), ("bob", "alice"))
    }
    assert LEAKS[how][1] in found["alice"]
    assert {column for _, column in found["alice"]} == {LEAKS[how][1][1]}
    assert found["bob"] == set()


@pytest.mark.parametrize(
    "task_type, receivers",
    [("standard_scaler", set()), ("ss_lr", set()), ("ss_lr_predict", {"alice"})],
)
def test_nothing_becomes_plain_but_a_prediction_at_its_receiver(
    runs: Runs, task_type: str, receivers: set[str]
) -> None:
    case = runs[task_type]
    assert case.execution
    for party in ("alice", "bob"):
        plain = {"from shares", "from ciphertext"} & set(
            Knowledge.of(case, case.execution, party).sources
        )
        assert plain == ({"from shares"} if party in receivers else set())


@pytest.mark.parametrize("receiver, other", [("alice", "bob"), ("bob", "alice")])
@pytest.mark.parametrize("protocol", ["RR22", "ECDH", "KKRT"])
def test_without_broadcast_the_other_party_never_gets_the_count(
    workspace: Workspace, protocol: str, receiver: str, other: str
) -> None:
    first, second = overlapping(200, 137)
    request = psi(workspace, {"alice": first, "bob": second}, protocol=protocol, receiver=receiver)
    request |= {"broadcast_result": False, "output_paths": {receiver: workspace.text("out.csv")}}
    execution = workspace.run(request)
    assert execution.results[receiver]["intersection_count"] == 137
    assert set(execution.results[other]) == {
        "psi_protocol", "original_count", "columns_used", "protocol", "field", "protocol_note",
        "timings"
    }  # fmt: skip
    log = workspace.bench.log_of(execution, other)
    assert "RECEIVED" in log  # the listener was there
    without_times = re.sub(
        r"\d\d:\d\d:\d\d\.\d+|\[\d+\.\d+\]|\"timestamp\": \"[^\"]*\"|/tmp/\S+|[.\d]+ s", "", log
    )
    assert not re.search(r"\b137\b", without_times)
    assert "Join stat" not in log
    assert not workspace.exists(other, "out.csv")


@pytest.mark.parametrize("protocol", ["RR22", "ECDH", "KKRT"])
def test_a_party_without_result_does_not_learn_that_the_key_sets_are_equal(
    workspace: Workspace, protocol: str
) -> None:
    first, second = overlapping(50, 50)
    request = psi(workspace, {"alice": first, "bob": second}, protocol=protocol)
    execution = workspace.run(request | {"broadcast_result": False})
    assert execution.results["alice"]["intersection_count"] == 50
    for party in ("alice", "bob"):
        assert "share the same set" not in workspace.bench.log_of(execution, party)


def test_the_events_of_a_failure_hold_no_cell_of_the_table(workspace: Workspace) -> None:
    tables = {"alice": {"a": ["1", "secret-4711", "3"]}, "bob": {"b": ["1", "2", "3"]}}
    request = {
        "task_type": "standard_scaler",
        "input_data": workspace.write("in.csv", tables),
        "output_data": workspace.paths("out.csv"),
        "columns": ["a", "b"],
    }
    execution = workspace.fail(request, "BadColumnType", "alice")
    assert "secret-4711" in workspace.bench.log_of(
        execution, "alice"
    )  # its owner may see what is wrong
    assert "secret-4711" not in workspace.bench.log_of(execution, "bob")
    assert "secret-4711" not in "".join(
        event.to_json() for events in execution.events.values() for event in events
    )
