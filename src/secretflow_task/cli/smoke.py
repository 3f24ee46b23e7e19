"""`sfworker smoke`: a small intersection through the queue and every part of a deployment."""

from __future__ import annotations

import csv
import shutil
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Iterator, Mapping, Sequence

from secretflow_task.cli.display import print_outcome
from secretflow_task.cli.exits import Exit, complain
from secretflow_task.cli.terminal import print_text
from secretflow_task.client import Client
from secretflow_task.config.settings import Settings
from secretflow_task.contract.errors import BadSetting
from secretflow_task.contract.messages import Status, StatusEvent
from secretflow_task.contract.requests import TaskRequest
from secretflow_task.node.assignment import rules_of
from secretflow_task.node.link.peer.address_book import AddressBook

ROWS = 100
_EITHER = ("alice", "bob")  # of a node that runs whatever parties a request lists


@dataclass(frozen=True)
class Trial:
    """An intersection whose answer is known.

    Attributes:
        parties: sorted; ``hosted`` are those of the node here.
    """

    execution_id: str
    parties: tuple[str, ...]
    hosted: tuple[str, ...]

    @staticmethod
    def of(execution_id: str, settings: Settings, wanted: Sequence[str] = ()) -> Trial:
        """The trial between all parties that the settings name, or the wanted ones of them.

        Raises:
            BadSetting: these are not two, or none of them is here.
        """
        peers = AddressBook.read(settings.peers_file).peers if settings.peers_file else {}
        here = settings.parties or (() if peers else _EITHER)
        strangers = [party for party in wanted if party not in {*here, *peers}]
        if strangers:
            raise BadSetting(f"Neither SFWORKER_PARTIES nor the address book has {strangers[0]}.")
        parties = tuple(sorted(set(wanted) or {*here, *peers}))
        hosted = tuple(party for party in parties if party in here)
        if len(parties) < 2 or not hosted:
            raise BadSetting(
                "A smoke test needs two parties, one of them here.",
                hint="SFWORKER_PARTIES names those of this node, SFWORKER_PEERS_FILE the others.",
            )
        return Trial(execution_id, parties, hosted)

    @property
    def _apart(self) -> int:
        """By how many rows the tables of two neighbours differ; all share half of them or more."""
        return ROWS // (2 * len(self.parties))

    @property
    def common(self) -> list[str]:
        """The ids that all have."""
        return [f"{number:04d}" for number in range(self._apart * (len(self.parties) - 1), ROWS)]

    def ids(self, party: str) -> list[str]:
        """The ids of one party."""
        first = self._apart * self.parties.index(party)
        return [f"{number:04d}" for number in range(first, first + ROWS)]

    def path(self, party: str, name: str, settings: Settings) -> Path:
        """Where the node looks for a file of the request."""
        return rules_of(party, settings).resolve(self._file(party, name), name)

    def _file(self, party: str, name: str) -> str:
        return f"sfworker-smoke-{self.execution_id}/{party}-{name}.csv"

    @property
    def request(self) -> TaskRequest:
        """The same at every party."""
        task_config = {
            "task_type": "psi",
            "keys": {party: ["id"] for party in self.parties},
            "input_paths": {party: self._file(party, "in") for party in self.parties},
            "output_paths": {party: self._file(party, "out") for party in self.parties},
            "receiver": self.parties[0],
        }
        params: dict[str, Any] = {"task_config": task_config}
        if self.hosted == self.parties:
            params["sf_init_config"] = {"parties": list(self.parties)}
        return TaskRequest(self.execution_id, self.execution_id, params)

    @contextmanager
    def tables(self, settings: Settings) -> Iterator[None]:
        """The tables of the parties here; they and what was made of them are gone afterwards.

        Raises:
            BadSetting: the data root cannot be written.
        """
        paths = {party: self.path(party, "in", settings) for party in self.hosted}
        with ExitStack() as stack:
            try:
                for folder in dict.fromkeys(path.parent for path in paths.values()):
                    folder.mkdir()
                    stack.callback(shutil.rmtree, folder, ignore_errors=True)
                for party, path in paths.items():
                    self._write(party, path)
            except OSError as error:
                raise BadSetting(
                    f"The tables cannot be written to SFWORKER_DATA_ROOT: {error.strerror}.",
                    hint="Run this as the node's user, and use an --id once.",
                ) from error
            yield

    def _write(self, party: str, path: Path) -> None:
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(
                [("id", "whose"), *((row_id, party) for row_id in self.ids(party))]
            )

    def is_answered(self, party: str, event: StatusEvent, settings: Settings) -> bool:
        """Whether a party got the rows that all have, and the count of them."""
        with self.path(party, "out", settings).open(encoding="utf-8") as file:
            found = sorted(row["id"] for row in csv.DictReader(file))
        return found == self.common and event.data["result"]["intersection_count"] == len(
            self.common
        )


def run_smoke(trial: Trial, settings: Settings, timeout_seconds: float) -> Exit:
    """Send the request to the node here, and print the verdict; returns the exit code."""
    if trial.hosted != trial.parties:
        others = ", ".join(party for party in trial.parties if party not in trial.hosted)
        command = f"sfworker smoke --id {trial.execution_id}"
        print_text(f"At {others}, within {settings.join_seconds:g} s: {command}")
    with trial.tables(settings), Client(settings) as client:
        began = time.monotonic()
        try:
            last = _ended(client, trial, timeout_seconds)
        except TimeoutError:
            complain(
                "Timeout",
                f"No node has ended {trial.execution_id} within {timeout_seconds:g} s; "
                "it is cancelled.",
                "`sfworker doctor` lists the nodes on this Redis.",
            )
            return Exit.TIMEOUT
        return _verdict(trial, settings, last, time.monotonic() - began)


def _ended(client: Client, trial: Trial, timeout_seconds: float) -> dict[str, StatusEvent]:
    """Send the request; returns the terminal events of the parties here."""
    since = client.position()
    client.submit(trial.request)
    try:
        return client.result(trial.execution_id, trial.hosted, timeout_seconds, since)
    except (TimeoutError, KeyboardInterrupt):
        client.cancel(trial.execution_id)
        raise


def _verdict(
    trial: Trial, settings: Settings, last: Mapping[str, StatusEvent], seconds: float
) -> Exit:
    if any(event.status is Status.FAILURE for event in last.values()):
        return print_outcome(last)
    wrong = [
        party for party, event in last.items() if not trial.is_answered(party, event, settings)
    ]
    expected = f"{len(trial.common)} of {ROWS} rows in common"
    if wrong:
        print_text(f"Wrong: {wrong[0]} has another answer than {expected}; {seconds:.1f} s.")
        return Exit.FAILED
    names = " and ".join(trial.parties)
    print_text(f"Well: {names} have {expected}, as expected; {seconds:.1f} s.")
    return Exit.OK
