"""Fixtures of the engine's unit tests."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest

from secretflow_task.engine import executor
from secretflow_task.engine.devices import Devices
from secretflow_task.engine.run import Run


@pytest.fixture
def without_secretflow(monkeypatch: pytest.MonkeyPatch) -> None:
    """An execution makes no cluster and no devices of SecretFlow, which unit tests do not load."""

    def no_devices(run: Run, *_arguments: Any) -> Devices:
        return Devices(run)

    monkeypatch.setattr(executor, "cluster", lambda *arguments: nullcontext())
    monkeypatch.setattr(executor, "create_devices", no_devices)
