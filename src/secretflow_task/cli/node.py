"""`sfworker node`: what an operator tells the node of this machine, by its door."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from secretflow_task.cli.exits import Exit, guarded

app = typer.Typer(
    name="node",
    help="Speak to the node that runs on this machine with SFWORKER_STATE_DIR.",
    no_args_is_help=True,
)
Json = Annotated[bool, typer.Option("--json", help="Print the answer as JSON only.")]


@app.command()
@guarded
def health(as_json: Json = False) -> None:
    """Say what the node runs and what it cannot do. Exit code 4 if there is a problem."""
    from secretflow_task.cli.terminal import print_text

    told = _ask("health")
    problems = told["problems"]
    if as_json:
        _print_json(told)
    else:
        print_text(f"{told['name']}: {told['running']} running.")
        for problem in problems:
            print_text(f"{problem['code']}: {problem['message']}\n  {problem['hint']}")
    raise typer.Exit(Exit.UNAVAILABLE if problems else Exit.OK)


def _ask(command: str, **arguments: Any) -> dict[str, Any]:
    from secretflow_task.cli import environment
    from secretflow_task.node.door.client import ask

    return ask(environment.settings().state_dir, command, **arguments)


def _print_json(told: dict[str, Any]) -> None:
    import json

    from secretflow_task.cli.terminal import print_text

    print_text(json.dumps(told, ensure_ascii=False))
