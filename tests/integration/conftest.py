"""The node that the integration tests share: its template starts once."""

from __future__ import annotations

from typing import Iterator

import pytest

from tests.integration.bench import Bench, Workspace, start_bench


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """A node that hosts alice, bob and carol."""
    node, bench = start_bench(tmp_path_factory.mktemp("bench"), port_range="21000-21999")
    with node:
        yield bench


@pytest.fixture
def workspace(bench: Bench, request: pytest.FixtureRequest) -> Workspace:
    """A folder per party for one test."""
    return bench.workspace("t")
