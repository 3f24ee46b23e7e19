"""What a command reads from its environment: the settings, and where its log goes."""

from __future__ import annotations

import os
import re
from pathlib import Path

from pydantic import ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import SettingsError

from secretflow_task.cli.exits import complain
from secretflow_task.config.settings import Settings
from secretflow_task.contract.errors import BadSetting
from secretflow_task.utils import log
from secretflow_task.utils.spelling import did_you_mean


def settings(secrets: Path = Path("/run/secrets")) -> Settings:
    """The settings of this process, from its environment and from a container engine's secrets.

    Args:
        secrets: may hold files such as ``sfworker_redis_url``.

    Raises:
        BadSetting: one is wrong; it names the variable.
    """
    _warn_of_misspelt_settings(secrets)
    try:
        return Settings(_secrets_dir=secrets if secrets.is_dir() else None)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)
        raise BadSetting("; ".join(map(_explain, found)) + ".") from None
    except SettingsError as error:
        # A file's. The text names the field; the text of the cause might quote the secret.
        fields = re.findall(r'field "(\w+)"', str(error))
        names = " ".join(f"SFWORKER_{field.upper()}" for field in fields)
        reason = getattr(error.__cause__, "strerror", None) or "it is not readable text"
        raise BadSetting(f"{names}: the file in {secrets}: {reason}.") from None


def _explain(problem: ErrorDetails) -> str:
    reason = problem["msg"].removeprefix("Value error, ")
    if not problem["loc"]:  # of several settings, which it names
        return reason
    name = "_".join(map(str, problem["loc"]))
    return f"SFWORKER_{name.upper()}: {reason[0].lower()}{reason[1:]}"


def _warn_of_misspelt_settings(secrets: Path) -> None:
    """Not an error: container platforms set variables of the same prefix for their own ends."""
    known = [f"SFWORKER_{name.upper()}" for name in Settings.model_fields]
    given_names = {name: name for name in os.environ}
    given_names |= {str(path): path.name.upper() for path in secrets.glob("*")}
    for given, name in sorted(given_names.items()):
        if name.startswith("SFWORKER_") and name not in known:
            if guess := did_you_mean(name, known, likeness=0.85):
                complain("UnknownSetting", f"{given} is ignored{guess}")


def open_log(chosen: Settings) -> None:
    """Send this process's log where the settings say; raises `BadSetting` if that cannot be."""
    handler = None
    if chosen.log_file:
        try:
            handler = log.rotating_file(
                chosen.log_file, chosen.log_file_bytes, chosen.log_file_count
            )
        except OSError as error:
            raise BadSetting(f"SFWORKER_LOG_FILE: {error.strerror}.") from None
    log.configure(chosen.log_level, chosen.log_json, handler)
