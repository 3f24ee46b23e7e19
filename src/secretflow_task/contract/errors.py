"""Every error that a user can meet, in one tree.

    WorkerError
      RequestError        the request itself is wrong
        UnknownTaskType, InvalidTaskConfig, RequestTooLarge, MalformedMessage, BadSetting,
        UnsupportedProtocol, PathNotAllowed, RequestMismatch, VersionMismatch, DuplicateExecution,
        UnknownExecution, BadCommand, DoorRefused, ResultNotHere
      DataError           a party's input does not fit the request
        MissingFile, UnreadableFile, UnsupportedFormat, EmptyInput, DuplicateColumn, MissingColumn,
        AmbiguousColumn, BadColumnType, MissingValues, NonFiniteValues, ConstantColumn, EmptyColumn,
        UnseenCategory, TooManyCategories, BadLabel, FeatureRange, CollinearFeatures, LinkMismatch,
        ValueRange, TooFewRows, RowCountMismatch, DuplicateKeys, MissingKeys, ModelMismatch,
        ModelDamaged, ModelFormat, OutputNotWritable
      RuntimeUnavailable  the machine or a peer cannot run it now
        ClusterInitError, DeviceInitError, EngineUnavailable, PeerUnreachable, PeerRefused,
        ClockSkew, PortUnavailable, DatabaseUnavailable, NodeUnreachable
      ExecutionStopped    it ran and was ended from outside
        TaskTimeout, TaskCancelled, RequestExpired, PeerLost, NodeLost, SettlementUnknown,
        MemoryLimitExceeded, JobProcessDied
      AlgorithmError      the computation itself failed
        ProgramMismatch, Misaligned

An error has two faces. ``message`` and ``hint`` are public: they travel to every party and name
request keys, columns that the request names and parties, never a data value, a path or the text of
a foreign exception. ``detail`` is private: it goes to the log of the job where the error was
raised and nowhere else.
"""

from __future__ import annotations

import inspect
from typing import Any, ClassVar, Mapping


class WorkerError(Exception):
    """The execution failed."""

    retryable: ClassVar[bool] = False
    default_hint: ClassVar[str] = "Read the job's log at the party where the failure began."

    def __init__(
        self,
        message: str | None = None,
        *,
        hint: str | None = None,
        party: str | None = None,
        step: str | None = None,
        detail: str | None = None,
    ) -> None:
        self.message = message or inspect.cleandoc(type(self).__doc__ or "").splitlines()[0]
        self.hint = hint or self.default_hint
        self.party = party
        self.step = step
        self.detail = detail
        super().__init__(self.message)

    @property
    def code(self) -> str:
        """Stable name of the error, such as ``MissingColumn``."""
        return type(self).__name__

    @property
    def family(self) -> str:
        """The branch of the tree that the error belongs to, such as ``DataError``."""
        classes = type(self).__mro__
        return classes[max(classes.index(WorkerError) - 1, 0)].__name__

    @property
    def public_message(self) -> str:
        """What every party may read, with the workflow step in front where there is one."""
        return f"Step {self.step!r}: {self.message}" if self.step else self.message

    def to_dict(self) -> dict[str, Any]:
        """The public face as JSON; ``detail`` stays behind."""
        fields = {"code": self.code, "message": self.message, "hint": self.hint}
        return fields | {"party": self.party, "step": self.step}

    @staticmethod
    def from_dict(fields: dict[str, Any]) -> "WorkerError":
        """Rebuild an error from `to_dict`; an unknown code becomes a plain `WorkerError`."""
        kind = error_classes().get(str(fields.get("code")), WorkerError)
        return kind(
            fields.get("message"),
            hint=fields.get("hint"),
            party=fields.get("party"),
            step=fields.get("step"),
        )

    @staticmethod
    def from_event_data(data: Mapping[str, Any]) -> "WorkerError":
        """Rebuild an error from `as_event_data`."""
        step = data.get("step")
        message = str(data["error"]).removeprefix(f"Step {step!r}: ")
        fields = {"code": data["error_code"], "message": message, "hint": data["hint"]}
        return WorkerError.from_dict(fields | {"party": data["failed_party"], "step": step})

    def as_event_data(self) -> dict[str, Any]:
        """The ``data`` of a FAILURE event."""
        data = {
            "error": self.public_message,
            "error_type": self.family,
            "error_code": self.code,
            "hint": self.hint,
            "retryable": self.retryable,
            "failed_party": self.party,
        }
        return data | ({"step": self.step} if self.step else {})


class RequestError(WorkerError):
    """The request cannot be carried out as it stands."""

    default_hint = "Correct the request; `sfworker check FILE` checks it without running it."


class UnknownTaskType(RequestError):
    """The request names a task type that this worker does not have."""

    default_hint = "`sfworker tasks` lists the task types."


class InvalidTaskConfig(RequestError):
    """The request has a key or a value that the task does not take."""


class RequestTooLarge(RequestError):
    """The request has more bytes or values, or is nested deeper, than a node takes."""

    default_hint = "Put rows into files and name those; SFWORKER_REQUEST_LIMIT_BYTES sets the size."


class MalformedMessage(RequestError):
    """What lay in the queue is no message with a request for this worker."""

    default_hint = (
        "Send JSON with Celery to the task tasks.secretflow.execute_task; "
        "`sfworker rejected` shows what came."
    )


class UnsupportedProtocol(RequestError):
    """The SPU protocol or field does not exist or cannot do what the request asks."""

    default_hint = (
        "Use SEMI2K (2 or more parties on one node), CHEETAH (2 parties) or ABY3 (3 parties)."
    )


class BadSetting(RequestError):
    """An SFWORKER_* variable has a value that cannot be used."""

    default_hint = "`sfworker doctor` shows the settings in force."


class PathNotAllowed(RequestError):
    """A path of the request lies outside the folders that its party allows."""

    default_hint = (
        "Use a path below the party's data root, or add its folder to SFWORKER_ALLOWED_ROOTS there."
    )


class RequestMismatch(RequestError):
    """The parties received different requests under the same execution id."""

    default_hint = "Send the same request to every party."


class VersionMismatch(RequestError):
    """The parties' nodes run different versions."""

    default_hint = "Install the same version of the worker and of SecretFlow at every party."


class DuplicateExecution(RequestError):
    """A request with this execution id was sent before, and an id is run once."""

    default_hint = "`sfworker watch ID` shows that one; to run the request again, give another id."


class UnknownExecution(RequestError):
    """The execution was not found."""

    default_hint = "`sfworker jobs` lists the latest executions."


class BadCommand(RequestError):
    """The node's door does not take the command, or not with these arguments."""

    default_hint = "`sfworker node --help` lists the commands; use the `sfworker` of the node."


class DoorRefused(RequestError):
    """The node's door is for the user that the node runs as, and for root."""

    default_hint = "Run the command as that user, such as with `sudo -u`."


class ResultNotHere(RequestError):
    """The whole result is in the state folder of another node, or was kept too long ago."""

    default_hint = (
        "Run `sfworker result ID` at that node, with its SFWORKER_STATE_DIR, "
        "within SFWORKER_RESULT_DAYS."
    )


class DataError(WorkerError):
    """A party's input does not fit the request."""

    default_hint = "Correct the input at that party and send the request again."


class MissingFile(DataError):
    """An input file does not exist."""


class UnreadableFile(DataError):
    """An input file cannot be read as a table."""

    default_hint = (
        "Write it as UTF-8 CSV with a header and rows of equal length, or as flat Parquet."
    )


class UnsupportedFormat(DataError):
    """A file name has an ending that is neither .csv nor .parquet."""

    default_hint = "Name the file .csv or .parquet."


class EmptyInput(DataError):
    """An input has no rows."""


class DuplicateColumn(DataError):
    """An input has two columns with the same name."""

    default_hint = "Give every column its own name."


class MissingColumn(DataError):
    """An input lacks a column that the request or the model needs."""

    default_hint = "Check the spelling and the header of the file at that party."


class AmbiguousColumn(DataError):
    """A column that the request names exists at more than one party."""

    default_hint = "Rename it at one of the parties, or list it under `ids` if it is an id."


class BadColumnType(DataError):
    """A column that must be numeric holds text."""

    default_hint = "Remove the text, encode the column first, or leave it out of the columns."


class MissingValues(DataError):
    """A column that must be complete has empty or NaN cells."""

    default_hint = "Fill them first (task type `fillna`) or drop the rows before the intersection."


class NonFiniteValues(DataError):
    """A column holds infinite values."""


class ConstantColumn(DataError):
    """A column has a single value, so the task has nothing to work with."""

    default_hint = "Leave the column out of the columns."


class EmptyColumn(DataError):
    """Every cell of a column is empty, so the task has nothing to work with."""

    default_hint = "Leave the column out, or fill it with a constant first (task type `fillna`)."


class UnseenCategory(DataError):
    """A column holds a category that the encoder was not fitted on."""

    default_hint = (
        "Fit on data with all categories, or use `onehot_encoder` with handle_unknown: ignore."
    )


class TooManyCategories(DataError):
    """A column has more categories than the task may turn into columns."""

    default_hint = (
        "Set max_categories or min_frequency, or leave the column out: an id is not a category."
    )


class BadLabel(DataError):
    """The label column does not suit the task."""

    default_hint = "A classification label must be 0 or 1 in every row, with both values present."


class FeatureRange(DataError):
    """A feature is not scaled; gradient training would give wrong weights."""

    default_hint = (
        "Run `standard_scaler` first, or set params.allow_unscaled if you know that it converges."
    )


class CollinearFeatures(DataError):
    """Some features are linear combinations of others, so the coefficients are not determined."""

    default_hint = "Leave one of them out (task type `vif` finds them), or set params.l2_lambda."


class LinkMismatch(DataError):
    """The link does not suit the data: the predicted means of some rows are outside its range."""

    default_hint = (
        "Use the link Log, whose means are always positive, or look for extreme feature values."
    )


class ValueRange(DataError):
    """A column holds values that the task's numbers cannot represent."""


class TooFewRows(DataError):
    """There are not enough rows for the task."""


class RowCountMismatch(DataError):
    """The parties' inputs have different numbers of rows, so they are not aligned."""

    default_hint = "Use the outputs of `psi`, which are aligned."


class DuplicateKeys(DataError):
    """The key columns of an input are not unique."""

    default_hint = "Remove the duplicates, or set allow_duplicates to join every pair."


class MissingKeys(DataError):
    """Some rows have no key."""

    default_hint = "Remove the rows whose key cells are empty."


class ModelMismatch(DataError):
    """The model does not belong to this request."""

    default_hint = "Predict with the parties, protocol and field that the model was trained with."


class ModelDamaged(DataError):
    """A file of the model was changed or is incomplete."""

    default_hint = "Restore the model folder from a backup, or train the model again."


class ModelFormat(DataError):
    """An earlier version of the worker wrote the model."""

    default_hint = "Run `sfworker models convert FOLDER` at each party, or train the model again."


class OutputNotWritable(DataError):
    """An output cannot be written."""

    default_hint = "Check the permissions and the free space of the folder at that party."


class RuntimeUnavailable(WorkerError):
    """The execution cannot be run at the moment."""

    retryable = True
    default_hint = "Send the request again; if it still fails, run `sfworker doctor` at that party."


class ClusterInitError(RuntimeUnavailable):
    """The parties' processes could not connect to each other."""


class DeviceInitError(RuntimeUnavailable):
    """A secure device could not be created."""


class EngineUnavailable(RuntimeUnavailable):
    """SecretFlow is not installed or does not start at this node."""

    default_hint = "Install the extra `engine` on Python 3.10 and run `sfworker doctor`."


class PeerUnreachable(RuntimeUnavailable):
    """A party of the request is neither hosted by this node nor linked to it."""

    default_hint = (
        "List the party in SFWORKER_PARTIES, in sf_init_config.parties or in SFWORKER_PEERS_FILE."
    )


class PeerRefused(RuntimeUnavailable):
    """A node did not accept another party's node."""

    default_hint = (
        "`sfworker doctor --peer PARTY` at both parties shows which certificate is not accepted."
    )


class ClockSkew(RuntimeUnavailable):
    """The clocks of the parties' nodes differ too much."""

    default_hint = "Synchronise the clocks (NTP) at every party."


class PortUnavailable(RuntimeUnavailable):
    """No port in the node's range is free."""

    default_hint = "Widen SFWORKER_PORT_RANGE or lower SFWORKER_CONCURRENCY."


class DatabaseUnavailable(RuntimeUnavailable):
    """The database of `sfworker listen` cannot be read."""

    default_hint = "Start `sfworker listen`, which creates it, or check SFWORKER_DATABASE_URL."


class NodeUnreachable(RuntimeUnavailable):
    """No node with a door runs with this state folder."""

    default_hint = (
        "Start it, or set SFWORKER_STATE_DIR to that of the node, whose log says `door_shut`"
        " if it has no door."
    )


class ExecutionStopped(WorkerError):
    """The execution was ended from outside."""

    retryable = True
    default_hint = "Send the request again with a new execution id."


class TaskTimeout(ExecutionStopped):
    """The execution took longer than its limit."""

    default_hint = "Raise SFWORKER_JOB_TIMEOUT_SECONDS or make the task smaller."


class TaskCancelled(ExecutionStopped):
    """The execution was cancelled."""

    retryable = False  # a program that retries would run again what a person has stopped
    default_hint = "Somebody asked for its end. If it is still wanted, send it with a new id."

    def as_event_data(self) -> dict[str, Any]:
        """The ``data`` of a FAILURE event, which says that nothing has gone wrong."""
        return super().as_event_data() | {"cancelled": True}


class RequestExpired(ExecutionStopped):
    """The request came to its turn after the time at which its sender let it expire."""

    retryable = False  # its sender has said that it is of no use later
    default_hint = "If it is still wanted, send it with a new id, and with a later `expires`."


class PeerLost(ExecutionStopped):
    """The connection to another party's process broke."""


class NodeLost(ExecutionStopped):
    """The node that ran the execution went away."""


class SettlementUnknown(ExecutionStopped):
    """The other parties could not be asked how the execution ended."""


class MemoryLimitExceeded(ExecutionStopped):
    """The job process used more memory than its limit."""


class JobProcessDied(ExecutionStopped):
    """The job process ended without a result."""

    default_hint = (
        "Send the request again; the job's log at that party has the last output of the process."
    )


class AlgorithmError(WorkerError):
    """The computation failed inside SecretFlow."""


class ProgramMismatch(AlgorithmError):
    """A party would run another program than the others."""

    default_hint = (
        "Compare the versions of the worker at all parties. If they are equal, "
        "ask that party's operator what it runs."
    )


class Misaligned(AlgorithmError):
    """The parties' rows are not aligned; nothing was written."""

    default_hint = (
        "Report this as a defect: the outputs were withheld because they would have been wrong."
    )


def error_classes() -> dict[str, type[WorkerError]]:
    """Every error class by its code."""
    found: dict[str, type[WorkerError]] = {}
    queue = [WorkerError]
    while queue:
        kind = queue.pop()
        found[kind.__name__] = kind
        queue.extend(kind.__subclasses__())
    return found
