"""What `make test` traces while modules are imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

_FOLDER = Path(__file__).parents[1] / "untraced"
_PROGRAM = """
import sys
seen = set()
def tracer(frame, event, argument):
    seen.add((frame.f_globals.get("__name__"), event))
    return tracer
sys.settrace(tracer)
import secretflow_task.utils.spelling
import colorsys
import secretflow_task.utils.network
still = sys.gettrace()
sys.settrace(None)
lines = {name for name, event in seen if event == "line"}
print(sorted(lines.intersection(sys.argv)), still is tracer)
"""


def test_only_our_own_modules_are_traced_while_they_are_imported() -> None:
    ours = ["secretflow_task.utils.network", "secretflow_task.utils.spelling"]
    kept = {key: value for key, value in os.environ.items() if not key.startswith("COVERAGE_")}
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, "colorsys", "difflib", *ours],
        env=kept | {"PYTHONPATH": str(_FOLDER)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"{ours} True\n"
