"""What a task sees of its execution at its own party: paths, agreement, progress, staging."""

from __future__ import annotations

import json
import os
import time
import typing
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Iterable, Iterator, Mapping

from secretflow_task.contract.errors import (
    InvalidTaskConfig,
    OutputNotWritable,
    PathNotAllowed,
    WorkerError,
)
from secretflow_task.contract.messages import Status
from secretflow_task.contract.paths import PathRules, check_format, folder_beside
from secretflow_task.contract.protocols import HeuConfig, Protocol
from secretflow_task.contract.task_config import STEP_PREFIX, TaskConfig
from secretflow_task.contract.task_dispatcher import Prepared, Task
from secretflow_task.data_loader.table import Table
from secretflow_task.engine.model_store import MANIFEST
from secretflow_task.engine.status import _publish_status


class Channel(typing.Protocol):
    """The job's side of the pipe to its node."""

    def agree(self, facts: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Say ``prepared`` with the own facts; returns every party's facts after ``go``."""

    def stage_ended(self, stage: str, seconds: float) -> None:
        """Say how long a stage took."""


@dataclass
class Run:
    """One execution at one party, in the job process.

    Attributes:
        parties: all parties, sorted.
        protocol: the SPU's protocol and field.
        heu: what the request says about homomorphic encryption.
        staging: name of the folder, beside each target, that outputs wait in until the execution
            succeeds.
        several: the node hosts more than one of the parties, so single paths get the party's name.
    """

    execution_id: str
    task_request_id: str
    party: str
    parties: list[str]
    rules: PathRules
    folder: Path
    staging: str
    channel: Channel
    protocol: Protocol
    several: bool = False
    heu: HeuConfig = HeuConfig()
    outputs: dict[str, str] = field(default_factory=dict)
    timings: dict[str, float] = field(default_factory=dict)
    _span: tuple[float, float] = (0.5, 1.0)
    _step: str | None = None
    _timed: set[str] = field(default_factory=set)

    def prepare(self, task: Task, config: Any) -> Prepared:
        """Check the own input of a task and agree with the peers, ahead of its run."""
        with self.timed("prepare"):
            if isinstance(config, TaskConfig):
                self.check_outputs([config])
            if task.prepare is None:
                self.channel.agree({})
                return Prepared(task, config)
            return Prepared(task, config, task.prepare(self, config))

    def check_outputs(self, configs: Iterable[TaskConfig]) -> None:
        """Refuse, before computing, own outputs that could not be moved to their places.

        Raises:
            OutputNotWritable: something that an output must not replace, or no folder, is in its
                way.
            InvalidTaskConfig: two outputs have one path.
        """
        targets: set[Path] = set()
        for purpose, path, kind in (
            output for config in configs for output in self._own_outputs(config)
        ):
            target = self._free_target(path, purpose, kind)
            if target in targets:
                raise InvalidTaskConfig(f"Two outputs of {self.party} have the path of {purpose}.")
            targets.add(target)

    def check_table_output(self, path: str, purpose: str) -> None:
        """As `check_outputs`, for a table of which only the prepared input tells whose it is."""
        if not path.startswith(STEP_PREFIX):
            self._free_target(path, purpose, "table")

    def _free_target(self, path: str, purpose: str, kind: str) -> Path:
        target = self.rules.resolve(path, purpose)
        if kind == "table":
            check_format(target, self.party, purpose)
        _check_target(target, kind == "folder", self.party, purpose)
        return target

    def _own_outputs(self, config: TaskConfig) -> Iterator[tuple[str, str, str]]:
        """``(request key, path, table, report or folder)`` of every own output that stays."""
        roles = config.output_fields()
        for use in config.outputs() + config.models():
            role = roles.get(use.purpose)
            if role is None or use.party != self.party or use.path.startswith(STEP_PREFIX):
                continue
            if role.at and not getattr(config, role.at):
                continue  # whose it is follows from the model
            value = getattr(config, use.purpose)
            if role.kind == "save":
                yield use.purpose, self.model_path(value), "folder"
            elif use.shared:
                yield use.purpose, self.report_path(use.path), "report"
            else:
                yield use.purpose, use.path, "table"

    def agree(self, **facts: Any) -> dict[str, dict[str, Any]]:
        """Tell the peers facts about the own input and get theirs; all wait for all."""
        return self.channel.agree(facts)

    def read(self, paths: Mapping[str, str], purpose: str) -> Table:
        """Read the own party's file of ``{party: path}``."""
        if self.party not in paths:
            raise InvalidTaskConfig(
                f"{purpose} names no file of {self.party}, which is a party of the request."
            )
        return self.read_path(paths[self.party], purpose)

    def read_path(self, path: str, purpose: str) -> Table:
        """Read one file of the own party."""
        return Table.read(self.source(path, purpose), self.party, purpose)

    def source(self, path: str, purpose: str) -> Path:
        """Where an input of the own party lies; an output of an earlier step is still staged."""
        inside = self._intermediate(path)
        if inside:
            return inside
        target = str(self.rules.resolve(path, purpose))
        return Path(
            next((staged for staged, final in self.outputs.items() if final == target), target)
        )

    def write(self, table: Table, path: str, purpose: str) -> str:
        """Stage a table as an output of the own party; returns the path that it will have."""
        check_format(Path(path), self.party, purpose)
        table.write(self.stage(path, purpose))
        return self.shown(path, purpose)

    def shown(self, path: str, purpose: str) -> str:
        """How a result names an output: where it will be, or an intermediate one's step."""
        return path if path.startswith(STEP_PREFIX) else str(self.rules.resolve(path, purpose))

    def stage_folder(self, path: str, purpose: str) -> Path:
        """Stage an empty folder as an output of the own party."""
        folder = self.stage(path, purpose)
        folder.mkdir(parents=True)
        return folder

    def stage(self, path: str, purpose: str) -> Path:
        """Where to write an own output; the node moves it to ``path`` when all succeed."""
        inside = self._intermediate(path)
        if inside:
            inside.parent.mkdir(parents=True, exist_ok=True)
            return inside
        target = self.rules.resolve(path, purpose)
        folder = folder_beside(target, self.staging)
        folder.mkdir(parents=True, exist_ok=True)
        staged = folder / f"{len(self.outputs)}{target.suffix}"
        self.outputs[str(staged)] = str(target)
        return staged

    def model_path(self, path: str | Mapping[str, str]) -> str:
        """The own folder of a model that is named by one path for all parties or one for each."""
        if isinstance(path, Mapping):
            return path[self.party]
        return f"{path}/{self.party}" if self.several else path

    def report_path(self, path: str) -> str:
        """The own party's path of a report that is named by one path for all parties."""
        stem, suffix = os.path.splitext(path)
        return f"{stem}.{self.party}{suffix}" if self.several else path

    def write_report(self, content: Mapping[str, Any], path: str) -> str:
        """Stage a JSON report of the own party; returns the path that it will have."""
        own_path = self.report_path(path)
        text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
        with self.stage(own_path, "output_report").open("w", encoding="utf-8") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        return self.shown(own_path, "output_report")

    @property
    def model_id(self) -> str:
        """Names what this execution, and in a workflow this step, trains."""
        return f"{self.execution_id}/{self._step}" if self._step else self.execution_id

    @contextmanager
    def step(self, name: str, index: int, count: int) -> Iterator[None]:
        """Run one step of a workflow: its progress fills its share, its errors carry its name."""
        self._span = (0.5 + 0.5 * index / count, 0.5 + 0.5 * (index + 1) / count)
        with self.named_step(name), self.timed(name):
            self.progress(0.0, "started")
            yield

    @contextmanager
    def named_step(self, name: str) -> Iterator[None]:
        """Give the errors and models of the block the name of a workflow's step."""
        self._step = name
        try:
            yield
        except WorkerError as error:
            error.step = error.step or name
            raise
        finally:
            self._step = None

    def progress(self, share: float, stage: str, **detail: Any) -> None:
        """Report that ``share`` (0 to 1) of the task is done."""
        first, last = self._span
        progress = round(min(first + (last - first) * share, 0.999), 3)
        data = {"stage": stage, "progress": progress} | ({"step": self._step} if self._step else {})
        _publish_status(self.task_request_id, Status.RUNNING.value, data | detail)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the seconds that the block takes to the result's ``timings``, and tell the node.

        What is in a block of the same stage, as a workflow prepares its first step, counts with
        that.
        """
        if stage in self._timed:
            yield
            return
        self._timed.add(stage)
        started = time.monotonic()
        try:
            yield
        finally:
            self._timed.remove(stage)
            seconds = round(time.monotonic() - started, 3)
            self.timings[stage] = round(self.timings.get(stage, 0.0) + seconds, 3)
            self.channel.stage_ended(stage, seconds)

    def _intermediate(self, path: str) -> Path | None:
        if not path.startswith(STEP_PREFIX):
            return None
        folder = self.folder / "steps"
        inside = folder / path.removeprefix(STEP_PREFIX)
        if ".." in inside.parts or not inside.is_relative_to(folder):
            raise PathNotAllowed(f"{self.party}: no step writes such a file.", party=self.party)
        return inside


def _check_target(target: Path, is_folder: bool, party: str, purpose: str) -> None:
    above = target.parent
    while not above.exists():
        above = above.parent
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise OutputNotWritable(f"{party}: {purpose} cannot be written to its place.", party=party)
    in_the_way = (
        target.is_dir() if not is_folder else target.exists() and not _may_be_replaced(target)
    )
    if in_the_way:
        what = "is a folder" if not is_folder else "holds something that is not a model"
        raise OutputNotWritable(
            f"{party}: {purpose} {what} and is left as it is.",
            party=party,
            hint="Name another path, or remove it.",
        )


def _may_be_replaced(folder: Path) -> bool:
    return folder.is_dir() and ((folder / MANIFEST).is_file() or not any(folder.iterdir()))
