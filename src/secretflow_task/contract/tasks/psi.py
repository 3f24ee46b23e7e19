"""The declaration of private set intersection."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from secretflow_task.contract.reveals import Fineness, Reveal, Role
from secretflow_task.contract.task_config import (
    PartyColumns,
    PartyName,
    Reads,
    TaskConfig,
    Use,
    Writes,
    check_same_parties,
)
from secretflow_task.contract.task_dispatcher import TaskDispatcher

# Names of older releases, and what runs instead.
_OLDER_PROTOCOLS = {
    "ECDH_PSI_2PC": "ECDH",
    "KKRT_PSI_2PC": "KKRT",
    "BC22_PSI_2PC": "RR22",  # BC22 is gone from SecretFlow
    "ECDH_PSI_3PC": "ECDH",
}


class PsiConfig(TaskConfig):
    """``task_config`` of `psi`."""

    keys: PartyColumns = Field(
        description="The columns to join on, in matching order: {party: [columns]}."
    )
    input_paths: Reads = Field(description="The table of each party.")
    output_paths: Writes = Field(description="Where each party that gets rows writes its own.")
    receiver: PartyName = Field(description="The party that gets the rows in any case.")
    protocol: Literal["RR22", "ECDH", "KKRT"] | None = Field(
        None,
        description="RR22 for two parties and ECDH for more unless set; older names are accepted.",
    )
    broadcast_result: bool = Field(True, description="Whether the other parties get the rows too.")
    join: Literal["inner", "left", "right", "full", "difference"] = Field(
        "inner",
        description=(
            "Which rows are kept; left keeps all of the receiver's, right all of the other "
            "party's."
        ),
    )
    curve: Literal["25519", "fourq", "sm2", "secp256k1"] = Field(
        "fourq", description="Elliptic curve of ECDH."
    )
    allow_duplicates: bool = Field(False, description="Join every pair of rows with equal keys.")

    @field_validator("protocol", mode="before")
    @classmethod
    def _current_name(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        name = value.upper().removeprefix("PROTOCOL_")
        if name == "BC22_PSI_2PC":
            # Here: a command that lists the task types does without the logging library.
            from secretflow_task.utils.log import get_logger

            log = get_logger()
            log.warning(
                "SecretFlow no longer has BC22; RR22 runs instead.", action="psi_protocol_replaced"
            )
        return _OLDER_PROTOCOLS.get(name, name)

    @model_validator(mode="after")
    def _fits_together(self) -> PsiConfig:
        parties = set(self.input_paths)
        getters = parties if self.broadcast_result else {self.receiver}
        if len(parties) < 2:
            raise ValueError(
                f"input_paths names {' '.join(parties)} only; psi takes two parties or more"
            )
        check_same_parties(keys=self.keys, input_paths=parties)
        if len({len(columns) for columns in self.keys.values()}) > 1 or not all(self.keys.values()):
            raise ValueError(
                "keys must name the same number of columns, one or more, for every party"
            )
        if any(len(set(columns)) < len(columns) for columns in self.keys.values()):
            raise ValueError("keys must not name a column twice")
        if self.receiver not in parties:
            raise ValueError(f"receiver is {self.receiver}, who is not in input_paths")
        if not getters <= set(self.output_paths) <= parties:
            raise ValueError(
                f"output_paths must name {' and '.join(sorted(getters))}, who get the rows"
            )
        if len(parties) > 2 and (self.join != "inner" or self.protocol not in (None, "ECDH")):
            raise ValueError("with three or more parties join must be inner and protocol ECDH")
        if len(parties) > 2 and self.allow_duplicates:
            raise ValueError(
                "with three or more parties the keys must be unique: leave allow_duplicates out"
            )
        if self.join != "inner" and not self.broadcast_result:
            raise ValueError(
                "a join other than inner gives rows to both parties: leave broadcast_result true"
            )
        return self

    @property
    def getters(self) -> list[str]:
        """The parties that get rows, sorted."""
        if self.broadcast_result:
            return sorted(self.input_paths)
        return [self.receiver]

    @property
    def used_protocol(self) -> str:
        """The PSI protocol that runs."""
        if self.protocol:
            return self.protocol
        if len(self.input_paths) == 2:
            return "RR22"
        return "ECDH"

    def outputs(self) -> list[Use]:
        """The files that the task writes: only for the parties that get rows."""
        return [use for use in super().outputs() if use.party in self.getters]

    def reveals(self) -> list[Reveal]:
        """To each party that gets rows, which of its own are common; the numbers of keys to all."""
        counted = "how many keys each of the others has"
        what = "which of its own rows the other parties have too, and their number"
        if self.join != "inner":
            what += "; the number of the other party's rows without a match"
        if self.allow_duplicates:
            what += "; how often the other party has each of its keys"
        reveals = []
        for party in self.getters:
            keys = tuple(self.keys[party])
            reveals.append(Reveal(Role.PARTY, what, Fineness.ROW, keys, party))
        return [*reveals, Reveal(Role.EVERYONE, counted, Fineness.COUNT)]


TaskDispatcher.declare(
    "psi",
    PsiConfig,
    needs=("spu",),
    family="intersection",
    summary="Find the rows that the parties have in common, without showing each other the rest.",
    body="secretflow_task.jobs.psi_task",
)
