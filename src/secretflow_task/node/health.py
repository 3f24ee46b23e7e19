"""What a node cannot do now, and what its operator does about it: asked in one place.

`/readyz`, the metrics, the node's door and its lease, which `sfworker doctor` reads, all show it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from typing import Callable, Iterator, Mapping

from secretflow_task.node.folders import Folder
from secretflow_task.utils.log import get_logger

log = get_logger()

Holds = Callable[[], bool]


@dataclass(frozen=True)
class Problem:
    """Something that keeps a node from its work.

    Attributes:
        code: stable name, such as ``RedisAway``.
        message: one sentence, without anything of the data.
        hint: what to do next.
    """

    code: str
    message: str
    hint: str

    def to_dict(self) -> dict[str, str]:
        """The problem as JSON."""
        return asdict(self)


NODE_STARTING = Problem(
    "NodeStarting",
    "The node is starting.",
    "Wait until SecretFlow is imported; the node's log says how far it is.",
)
NODE_STOPPING = Problem(
    "NodeStopping",
    "The node is stopping.",
    "Nothing, if that is wanted: what runs is finished first. Else start it again.",
)
NODE_PAUSED = Problem(
    "NodePaused",
    "An operator has paused the node.",
    "`sfworker node resume` lets it take requests again.",
)
TEMPLATE_MISSING = Problem(
    "TemplateMissing",
    "The template has ended; another is started.",
    "Wait a minute. If it lasts, read the node's log: memory or SecretFlow itself is the reason.",
)
REDIS_AWAY = Problem(
    "RedisAway",
    "Redis does not answer.",
    "Start Redis, or correct SFWORKER_REDIS_URL; `sfworker doctor` says more.",
)
NOTHING_TAKEN = Problem(
    "NothingTaken",
    "Requests wait and slots are free, but the node takes nothing.",
    "The node mends it by a new connection. If it lasts a minute, read its log and restart it.",
)
DATA_NOT_WRITABLE = Problem(
    "DataNotWritable",
    "The data root cannot be written.",
    "Make the folder of SFWORKER_DATA_ROOT, let the node's user write there, or mend its disk.",
)
DATA_DISK_FULL = Problem(
    "DataDiskFull",
    "The disk of the data root is nearly full.",
    "Free some space below SFWORKER_DATA_ROOT: outputs and models are written there.",
)
STATE_NOT_WRITABLE = Problem(
    "StateNotWritable",
    "The state folder cannot be written.",
    "Let the node's user write to SFWORKER_STATE_DIR, or mend its disk.",
)
STATE_DISK_FULL = Problem(
    "StateDiskFull",
    "The disk of the state folder is nearly full.",
    "Free some space there, or lower SFWORKER_JOB_LOG_DAYS: the node's store and job logs grow.",
)
WORK_NOT_WRITABLE = Problem(
    "WorkNotWritable",
    "The work folder cannot be written.",
    "Let the node's user write to SFWORKER_WORK_DIR, or mend its disk.",
)
WORK_DISK_FULL = Problem(
    "WorkDiskFull",
    "The disk of the work folder is nearly full.",
    "Free some space there, or set SFWORKER_WORK_DIR to another disk: jobs write caches of GiB.",
)
PROBLEMS = (
    NODE_STARTING,
    NODE_STOPPING,
    NODE_PAUSED,
    TEMPLATE_MISSING,
    REDIS_AWAY,
    NOTHING_TAKEN,
    DATA_NOT_WRITABLE,
    DATA_DISK_FULL,
    STATE_NOT_WRITABLE,
    STATE_DISK_FULL,
    WORK_NOT_WRITABLE,
    WORK_DISK_FULL,
)
_OF_FOLDERS = {
    "data": (DATA_NOT_WRITABLE, DATA_DISK_FULL),
    "state": (STATE_NOT_WRITABLE, STATE_DISK_FULL),
    "work": (WORK_NOT_WRITABLE, WORK_DISK_FULL),
}


class Health:
    """The checks of a node; any part of it adds its own."""

    def __init__(self) -> None:
        self._checks: list[tuple[Problem, Holds]] = []

    def watch(self, problem: Problem, holds: Holds) -> None:
        """Ask ``holds`` whether there is a problem, at every look, from any thread.

        It answers at once: whatever may wait looks by itself, as `Folder` and `RedisGlance` do.
        """
        self._checks.append((problem, holds))

    def watch_folders(self, folders: Mapping[str, Folder]) -> None:
        """Ask whether they can be written, and whether their disks are nearly full."""
        for name, folder in folders.items():
            not_writable, full = _OF_FOLDERS[name]
            self.watch(not_writable, partial(_is_not_writable, folder))
            self.watch(full, partial(_is_nearly_full, folder))

    def states(self) -> Iterator[tuple[Problem, bool]]:
        """Every problem that is watched for, and whether there is one."""
        for problem, holds in self._checks:
            yield problem, _ask(problem, holds)

    def problems(self) -> list[Problem]:
        """What is wrong now."""
        return [problem for problem, there in self.states() if there]


def _ask(problem: Problem, holds: Holds) -> bool:
    try:
        return holds()
    except Exception:  # pylint: disable=broad-exception-caught  # the lease and the scrapes go on
        log.exception(
            "A check of the node failed.", action="health_check_failed", code=problem.code
        )
        return True


def _is_not_writable(folder: Folder) -> bool:
    space = folder.look()
    return space is None or not space.writable


def _is_nearly_full(folder: Folder) -> bool:
    space = folder.look()
    return space is not None and space.nearly_full
