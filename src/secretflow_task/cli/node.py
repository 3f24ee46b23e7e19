"""`sfworker node`: what an operator tells the node of this machine, by its door."""

from __future__ import annotations

from typing import Annotated, Any, Optional

import typer

from secretflow_task.cli.exits import Exit, complain, guarded

app = typer.Typer(
    name="node",
    help="Speak to the node that runs on this machine with SFWORKER_STATE_DIR.",
    no_args_is_help=True,
)
Json = Annotated[bool, typer.Option("--json", help="Print the answer as JSON only.")]


@app.command()
@guarded
def pause() -> None:
    """Take no more requests. What runs goes on; a restart leaves the node paused."""
    told = _ask("pause")
    _say(f"The node takes no more requests. {_executions(told['running'])} to the end.")
    _warn_unless_kept(told)


@app.command()
@guarded
def resume() -> None:
    """Take requests again."""
    told = _ask("resume")
    _say("The node takes requests again.")
    _warn_unless_kept(told)


@app.command()
@guarded
def drain(
    seconds: Annotated[
        Optional[float],
        typer.Option(
            help="End what still runs after so many seconds; by default never.",
            min=0,
            max=2_592_000,
        ),
    ] = None,
) -> None:
    """Finish what runs, then end the node. It takes no more requests."""
    told = _ask("drain", seconds=seconds)
    _say(f"The node takes no more requests. {_executions(told['running'])}, then it ends.")


@app.command()
@guarded
def reload() -> None:
    """Read the address book again. The node's certificate, too; a broken one is refused."""
    changes = _ask("reload")["address_book"]
    if not changes:
        _say("The node has no link to other nodes: SFWORKER_PEER_LISTEN is not set.")
    for what, parties in changes.items():
        if parties:
            _say(f"{what}: {', '.join(parties)}")
    if changes and not any(changes.values()):
        _say("The address book names the same parties in the same way.")


@app.command()
@guarded
def renew() -> None:
    """Start the next jobs from a new template. Those that run end with the old one."""
    from secretflow_task.cli import environment

    # The node waits so long for the new template to load SecretFlow, and to answer.
    patience = 2 * environment.settings().template_timeout_seconds
    _ask("renew", timeout_seconds=patience)
    _say("The next jobs start from a new template.")


@app.command()
@guarded
def health(as_json: Json = False) -> None:
    """Say what the node runs and what it cannot do. Exit code 4 if there is a problem."""
    told = _ask("health")
    problems = told["problems"]
    if as_json:
        _print_json(told)
    else:
        _say(f"{told['name']}: {told['running']} running.")
        for problem in problems:
            _say(f"{problem['code']}: {problem['message']}\n  {problem['hint']}")
    raise typer.Exit(Exit.UNAVAILABLE if problems else Exit.OK)


def _ask(command: str, **arguments: Any) -> dict[str, Any]:
    from secretflow_task.cli import environment
    from secretflow_task.node.door.client import ask

    return ask(environment.settings().state_dir, command, **arguments)


def _executions(count: int) -> str:
    if count == 1:
        return "1 execution goes on"
    return f"{count} executions go on"


def _warn_unless_kept(told: dict[str, Any]) -> None:
    if not told["kept"]:
        complain(
            "PauseNotKept",
            "The node could not write that down, and will not know it after a restart.",
            "`sfworker node health` says what is wrong with its state folder.",
        )


def _print_json(told: dict[str, Any]) -> None:
    import json

    _say(json.dumps(told, ensure_ascii=False))


def _say(text: str) -> None:
    from secretflow_task.cli.terminal import print_text

    print_text(text)
