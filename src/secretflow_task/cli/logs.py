"""`sfworker logs`: what the jobs of an execution wrote, or what their node wrote about it."""

from __future__ import annotations

import json
import re
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Iterable, Iterator

from secretflow_task.cli import environment
from secretflow_task.cli.tail import Tail
from secretflow_task.config.settings import Settings
from secretflow_task.contract.errors import BadSetting, UnknownExecution
from secretflow_task.node.link.peer.address_book import AddressBook
from secretflow_task.node.store.reader import StateFolder
from secretflow_task.utils.spelling import did_you_mean

_LOOK_SECONDS = 0.2
_BEGIN = re.compile(
    r"\d{4}-\d\d-\d\dT|\{"
)  # of a record; a line without it goes on with the one above


def print_logs(execution_id: str, party: str | None, follow: bool) -> None:
    """Print the logs of an execution's jobs at this node, or of one party's job.

    Args:
        follow: go on until the execution has ended.

    Raises:
        UnknownExecution: this node does not know it, or has no log of the party.
    """
    execution = _Execution.of(execution_id, environment.settings())
    logs = execution.logs(party)
    for name, line in _lines(
        [(name, Tail(log)) for name, log in logs.items()], execution.runs, follow
    ):
        print(f"{name} | {line}" if len(logs) > 1 else line, flush=follow)
    for name, log in logs.items():
        if not log.exists():
            _note(f"{name} has no log: its job was not started, or long ago.")
    for stranger in execution.strangers() if party is None else []:
        _note(f"{stranger} is elsewhere. {execution.whom_to_ask(stranger)}")


def print_node_log(execution_id: str, follow: bool) -> None:
    """Print what the node has logged about an execution, if told so until its end.

    Raises:
        UnknownExecution: nothing is known here of the execution.
        BadSetting: the node's log is in no file.
    """
    settings = environment.settings()
    execution = _Execution.of(execution_id, settings)
    if settings.log_file is None:
        raise BadSetting(
            "The node's log is in no file.",
            hint="Set SFWORKER_LOG_FILE for the node and for this command, "
            "or look where its standard error goes.",
        )
    for line in _about(execution_id, _node_lines(settings.log_file, execution.runs, follow)):
        print(line, flush=follow)


@dataclass(frozen=True)
class _Execution:
    """An execution that the state folder knows about."""

    execution_id: str
    folder: StateFolder
    settings: Settings

    @staticmethod
    def of(execution_id: str, settings: Settings) -> _Execution:
        """Find it, or raise `UnknownExecution` with the nearest id."""
        folder = StateFolder.holding(execution_id, settings.state_dir)
        if not folder.logs(execution_id):
            known = StateFolder(settings.state_dir).execution_ids()
            guess = did_you_mean(execution_id, known) or "."
            raise UnknownExecution(
                f"This node knows no execution {execution_id!r}{guess}",
                hint="SFWORKER_STATE_DIR names the state folder of the node that is asked.",
            )
        return _Execution(execution_id, folder, settings)

    def logs(self, party: str | None) -> dict[str, Path]:
        """The logs of all parties here, or of one."""
        logs = self.folder.logs(self.execution_id)
        if party is None:
            return logs
        if party in logs:
            return {party: logs[party]}
        if party in self.strangers():
            raise UnknownExecution(f"The log of {party} is not here.", hint=self.whom_to_ask(party))
        everyone = sorted({*logs, *self.strangers()})
        raise UnknownExecution(
            f"The execution has no party {party}.", hint=f"Its parties are {', '.join(everyone)}."
        )

    def strangers(self) -> list[str]:
        """The parties at other nodes."""
        here = self.folder.logs(self.execution_id)
        return [party for party in self.folder.parties(self.execution_id) if party not in here]

    def runs(self) -> bool:
        """Whether it has not ended here."""
        return self.folder.runs(self.execution_id)

    def whom_to_ask(self, party: str) -> str:
        """Who can print the log of a party at another node."""
        where = ""
        with suppress(BadSetting, KeyError):
            if self.settings.peers_file:
                where = f" ({AddressBook.read(self.settings.peers_file).peers[party].host})"
        return (
            f"Ask who runs its node{where} for `sfworker logs {self.execution_id} --party {party}`."
        )


def _lines(
    tails: list[tuple[str, Tail]], runs: Callable[[], bool], follow: bool
) -> Iterator[tuple[str, str]]:
    """The lines of each file by its name, and those that come until the execution has ended."""
    goes_on = True
    while goes_on:
        goes_on = follow and runs()
        if follow:
            time.sleep(
                _LOOK_SECONDS
            )  # also after the end, which the node writes down before it logs it
        for name, tail in tails:
            yield from ((name, line) for line in tail.lines())
    for name, tail in tails:
        yield from ((name, line) for line in tail.rest())


def _node_lines(log_file: Path, runs: Callable[[], bool], follow: bool) -> Iterator[str]:
    """The lines of the renamed files, which no longer grow, and then those of the log itself."""
    for path in _renamed(log_file):
        with (
            suppress(FileNotFoundError),
            path.open(encoding="utf-8", errors="replace", newline="\n") as file,
        ):
            yield from (line.removesuffix("\n") for line in file)
    yield from (line for _, line in _lines([("", Tail(log_file))], runs, follow))


def _renamed(log_file: Path) -> list[Path]:
    """The older files of a log, the oldest first."""
    older = {
        path.name.rpartition(".")[2]: path for path in log_file.parent.glob(f"{log_file.name}.*")
    }
    return [older[number] for number in sorted(filter(str.isdigit, older), key=int, reverse=True)]


def _about(execution_id: str, lines: Iterable[str]) -> Iterator[str]:
    """The records about an execution, with the tracebacks below them."""
    named = re.compile(rf" execution_id={re.escape(execution_id)}(?!\S)")
    is_about = False
    for line in lines:
        if _BEGIN.match(line):
            is_about = (
                _id_of(line) == execution_id if line.startswith("{") else bool(named.search(line))
            )
        if is_about:
            yield line


def _id_of(line: str) -> object:
    with suppress(ValueError):
        record = json.loads(line)
        return record.get("execution_id") if isinstance(record, dict) else None
    return None


def _note(text: str) -> None:
    print(text, file=sys.stderr)
