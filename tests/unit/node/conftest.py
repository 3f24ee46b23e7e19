"""What tests of two nodes have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Iterator

import pytest

from secretflow_task.node.ports import leased_ports
from tests.unit.node.test_two_nodes import PARTIES, Pair


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    """The pair, not running."""
    with leased_ports(2, range(27000, 28000)) as ports:
        yield Pair(tmp_path, dict(zip(PARTIES, ports)))
