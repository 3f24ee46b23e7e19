"""What every task's config has in common: strict words, path roles, and the four declarations.

A field that holds paths says so in its type (`Reads`, `Writes`, `LoadsModel`, `SavesModel`);
`inputs`, `outputs` and `models` follow from that, once, for every task. What a task reveals it says
in `reveals`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Iterable, Iterator, Literal, Mapping, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from secretflow_task.contract.errors import InvalidTaskConfig
from secretflow_task.contract.reveals import Reveal
from secretflow_task.utils.spelling import did_you_mean

# Party names become parts of file names and of queue names.
PARTY_NAME = r"^[A-Za-z][A-Za-z0-9_-]{0,31}$"
PartyName = Annotated[str, Field(pattern=PARTY_NAME)]
# How pydantic names, in the place of a problem, the form of a value that may have several.
_FORM = re.compile(r"(list|dict)\[.*\]|constrained-str|str|\[key\]")
_SHOWN = 8  # problems of one request in its error

# Begins the path of a workflow's intermediate file, which lies in the job's own folder.
STEP_PREFIX = "step:"

PathText = Annotated[str, Field(min_length=1)]


@dataclass(frozen=True)
class Use:
    """One party's file or folder in a request.

    Attributes:
        party: who reads or writes.
        path: the path as requested.
        columns: the columns that are used, where the request names them.
        purpose: the request key.
        shared: the same text names every party's own path; a node with several parties tells them
            apart.
    """

    party: str
    path: str
    columns: tuple[str, ...]
    purpose: str
    shared: bool = False


@dataclass(frozen=True)
class PathRole:
    """Marks a field as holding paths.

    Attributes:
        kind: what is done with the path.
        at: the field that names the only party that uses a single path; None means every party.
    """

    kind: Literal["read", "write", "load", "save"]
    at: str | None = None


PartyPaths = dict[PartyName, PathText]
Reads = Annotated[PartyPaths, PathRole("read"), Field(min_length=1)]
Writes = Annotated[PartyPaths, PathRole("write"), Field(min_length=1)]
LoadsModel = Annotated[PathText | PartyPaths, PathRole("load")]
SavesModel = Annotated[PathText | PartyPaths, PathRole("save")]
Report = Annotated[PathText, PathRole("write")]
PartyColumns = dict[PartyName, list[str]]
Share = Annotated[float, Field(gt=0, lt=1)]


def _distinct(names: list[str]) -> list[str]:
    if not names:
        raise ValueError("name one column or more, or leave it out")
    if len(set(names)) < len(names):
        raise ValueError("a column is named twice")
    return names


ColumnNames = Annotated[list[str], AfterValidator(_distinct)]


def check_same_parties(**fields: Iterable[str]) -> None:
    """Raise `ValueError` unless the fields name the same parties; it says who is missing where."""
    everybody = set().union(*fields.values())
    lacking = []
    for name, parties in fields.items():
        absent = sorted(everybody.difference(parties))
        if absent:
            lacking.append(f"{name} lacks {' and '.join(absent)}")
    if lacking:
        *names, last = fields
        raise ValueError(
            f"{', '.join(names)} and {last} must name the same parties: {', '.join(lacking)}"
        )


class Strict(BaseModel):
    """A part of a request: unknown keys, numbers written as text, NaN and infinity are refused."""

    # A model is built when it is first used: who lists the task types uses none of them.
    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, defer_build=True
    )


class ColumnAt(Strict):
    """One column of one party's file."""

    party: PartyName = Field(description="Who has the file.")
    path: PathText = Field(description="The file; in a workflow also what an earlier step wrote.")
    column: str = Field(description="The name of the column.")

    @model_validator(mode="before")
    @classmethod
    def _own_path(cls, value: Any) -> Any:
        """Take the party's own path where a workflow step's whole mapping is given."""
        if isinstance(value, Mapping) and isinstance(value.get("path"), Mapping):
            return {**value, "path": value["path"].get(str(value.get("party")), "")}
        return value


class TaskConfig(Strict):
    """Base of every task's config."""

    feature_key: ClassVar[str] = "columns"

    def parties(self) -> list[str]:
        """The parties that the request names, sorted."""
        named: set[str] = set()
        for _, value, role in self._paths():
            if isinstance(value, Mapping):
                named.update(value)
            if role.at and getattr(self, role.at):
                named.add(getattr(self, role.at))
        for _, at in self._named_columns_at():
            named.add(at.party)
        return sorted(named)

    def inputs(self) -> list[Use]:
        """The files that the task reads."""
        uses = self._uses("read")
        for name, at in self._named_columns_at():
            uses.append(Use(at.party, at.path, (at.column,), name))
        return uses

    def outputs(self) -> list[Use]:
        """The files that the task writes."""
        return self._uses("write")

    def models(self) -> list[Use]:
        """The model folders that the task loads or saves."""
        return self._uses("load") + self._uses("save")

    def reveals(self) -> list[Reveal]:
        """What each party learns about the others' data, beyond that its own outputs exist."""
        return []

    @classmethod
    def output_fields(cls) -> dict[str, PathRole]:
        """The fields that name what the task writes, with their roles."""
        return {
            name: role for name, role in cls.path_fields().items() if role.kind in ("write", "save")
        }

    @classmethod
    def path_fields(cls) -> dict[str, PathRole]:
        """The fields that hold paths, with their roles."""
        roles: dict[str, PathRole] = {}
        for name, field in cls.model_fields.items():
            for item in [*field.metadata, *_metadata(field.annotation)]:
                if isinstance(item, PathRole):
                    roles[name] = item
        return roles

    def _paths(self) -> Iterator[tuple[str, str | Mapping[str, str], PathRole]]:
        for name, role in self.path_fields().items():
            value = getattr(self, name)
            if value is not None:
                yield name, value, role

    def _named_columns_at(self) -> Iterator[tuple[str, ColumnAt]]:
        for name, value in self:
            if isinstance(value, ColumnAt):
                yield name, value

    def _uses(self, kind: str) -> list[Use]:
        uses = []
        columns = tuple(getattr(self, self.feature_key, None) or ())
        for name, value, role in self._paths():
            if role.kind != kind:
                continue
            if isinstance(value, Mapping):
                uses += [Use(party, path, columns, name) for party, path in value.items()]
            elif role.at and getattr(self, role.at):
                uses.append(Use(getattr(self, role.at), value, columns, name))
            else:
                uses += [Use(party, value, columns, name, shared=True) for party in self.parties()]
        return uses


def _metadata(annotation: Any) -> list[Any]:
    """What `Annotated` carries in the members of an optional type."""
    found: list[Any] = []
    for member in get_args(annotation):
        found.extend(getattr(member, "__metadata__", ()))
    return found


def parse(model: type[Strict], value: Any, where: str) -> Any:
    """Validate ``value`` as ``model``.

    Raises:
        InvalidTaskConfig: with the problems, and the nearest known key for an unknown one.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)
        problems: list[str] = []
        for problem in found:
            if _beside(problem, found):
                continue
            text = _explain(problem, model)
            if text not in problems:
                problems.append(text)
        said = "; ".join(problems[:_SHOWN])
        if len(problems) > _SHOWN:
            said += f"; and {len(problems) - _SHOWN} more"
        end = "" if said.endswith("?") else "."
        raise InvalidTaskConfig(f"{where}: {said}{end}") from None


def _beside(problem: ErrorDetails, found: list[ErrorDetails]) -> bool:
    """Whether a problem says only that a value is not of one form, where it was read as another."""
    *above, last = problem["loc"] or ("",)
    if not _FORM.fullmatch(str(last)):
        return False
    forms = [other["loc"] for other in found if list(other["loc"][: len(above)]) == above]
    return any(len(form) > len(above) + 1 for form in forms)


def _explain(problem: ErrorDetails, model: type[BaseModel]) -> str:
    path = tuple(part for part in problem["loc"] if not _FORM.fullmatch(str(part)))
    place = ".".join(str(part) for part in path)
    if problem["type"] == "extra_forbidden":
        known = _keys_at(model, problem["loc"][:-1])
        guess = did_you_mean(str(path[-1]), known) or f" (known: {', '.join(known)})"
        return f"unknown key {place!r}{guess}"
    if problem["type"] == "missing":
        return f"{place!r} is missing"
    text = problem["msg"].removeprefix("Value error, ").rstrip(".")
    if not place:
        return text
    return f"{place}: {text[0].lower()}{text[1:]}"


def _keys_at(model: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    """The keys that a model takes at a place inside it."""
    for part in path:
        field = model.model_fields.get(str(part))
        if field is None:
            continue
        for option in (field.annotation, *get_args(field.annotation)):
            if isinstance(option, type) and issubclass(option, BaseModel):
                model = option
                break
    return list(model.model_fields)
