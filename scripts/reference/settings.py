"""The reference of all settings, from their fields."""

from __future__ import annotations

from typing import Any

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from scripts.reference.markdown import code, table
from secretflow_task.config.settings import Settings

_HEAD = """\
# All settings

`make reference` writes this page from the settings; a test compares them. A setting is an
environment variable; an empty one counts as absent. A wrong value ends the command with exit code
3 and names the variable. `sfworker doctor` tries what they name.
"""
_OF_THE_MACHINE = {
    "name": "the host name",
    "state_dir": "`$XDG_STATE_HOME/sfworker`, or `~/.local/state/sfworker`",
    "work_dir": "`sfworker-UID` in the temporary folder",
}
_UNITS = {"_seconds": "seconds", "_bytes": "bytes", "_days": "days"}


def page() -> str:
    """The reference of all settings as Markdown."""
    rows = [
        (
            code(f"SFWORKER_{name.upper()}"),
            _default(name, field),
            _unit(name),
            str(field.description),
        )
        for name, field in Settings.model_fields.items()
    ]
    return "\n".join([_HEAD, *table("variable | default | unit | meaning", rows), ""])


def _default(name: str, field: FieldInfo) -> str:
    return _OF_THE_MACHINE.get(name) or code(_shown(field.get_default(call_default_factory=True)))


def _shown(value: Any) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    return (
        ",".join(value) if isinstance(value, tuple) else "" if value in (None, {}) else str(value)
    )


def _unit(name: str) -> str:
    return next((unit for end, unit in _UNITS.items() if name.endswith(end)), "")
