"""One oracle case of every extended task; each family's own file has the rest."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.engine
