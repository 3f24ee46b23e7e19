"""`sfworker certs`: the key and the certificate by which the peers know this node."""

from __future__ import annotations

import re
from pathlib import Path

from secretflow_task.cli.terminal import print_text
from secretflow_task.contract.errors import BadSetting
from secretflow_task.contract.task_config import PARTY_NAME
from secretflow_task.node.link.peer.certificates import make_certificate


def make(party: str, folder: Path, days: int) -> None:
    """Write the files and say what to do with them.

    Raises:
        BadSetting: that is not a party name, or the files exist.
    """
    if not re.fullmatch(PARTY_NAME, party):
        raise BadSetting(
            f"{party!r} cannot be a party: up to 32 letters, digits, _ and -, and a letter first.",
            hint="Use the name that requests use.",
        )
    try:
        identity, fingerprint = make_certificate(party, folder, days)
    except FileExistsError as error:
        raise BadSetting(
            f"{error.filename} exists; peers may know it.",
            hint="Name another folder with --out: a rotation needs both certificates for a while.",
        ) from None
    for line in (
        f"Keep secret:        {identity.key}  (SFWORKER_PEER_KEY)",
        f"Give to the peers:  {identity.certificate}  (SFWORKER_PEER_CERTIFICATE)",
        f"Tell them by another way, such as the telephone, its SHA-256 fingerprint:\n{fingerprint}",
    ):
        print_text(line)
