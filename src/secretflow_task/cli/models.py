"""`sfworker models`: what can be done with trained models outside a request."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from secretflow_task.cli.exits import Exit, guarded

app = typer.Typer(name="models", help="Care for trained models.", no_args_is_help=True)

_MANIFEST = "manifest.json"
_CONVERTER = "secretflow_task.engine.earlier_models"


@app.callback()
def _options() -> None:
    """Make `convert` a command of its own, though it is the only one."""


@app.command()
@guarded
def convert(
    folder: Annotated[
        Path, typer.Argument(help="A model's folder, or one with models below it.", exists=True)
    ],
) -> None:
    """Rewrite models of earlier versions.

    Each party does it with its own part. Each old folder stays beside the new one as NAME.earlier.
    """
    from secretflow_task.contract.errors import BadSetting

    folders = sorted(path.parent for path in folder.rglob(_MANIFEST))
    models = [str(model) for model in folders if model.suffix not in (".earlier", ".new")]
    if not models:
        raise BadSetting(
            f"{folder} holds no model.", hint=f"Name a folder that has a {_MANIFEST} below it."
        )
    done = subprocess.run([sys.executable, "-m", _CONVERTER, *models], check=False)
    raise typer.Exit(Exit.FAILED if done.returncode else Exit.OK)
