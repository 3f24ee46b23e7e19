"""The command line.

This module declares the commands, and imports no more than their help needs. What a command needs
is imported when it runs.
"""

from __future__ import annotations

import os
import re
import sys
import uuid
from pathlib import Path
from typing import Annotated, Optional

import typer

from secretflow_task import __version__
from secretflow_task.cli import models, node
from secretflow_task.cli.exits import Exit, guarded
from secretflow_task.contract.messages import Status

app = typer.Typer(
    name="sfworker",
    help="Private multi-party computation behind a task queue: "
    "SecretFlow as a supervised Celery worker.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 success, 1 the execution failed, 2 usage, 3 the request is wrong, "
    "4 something is not available here, 5 the end was not seen in time.",
)
app.add_typer(node.app)
app.add_typer(models.app)
RequestFile = Annotated[Path, typer.Argument(help="The request, YAML or JSON.", metavar="FILE")]
Json = Annotated[bool, typer.Option("--json", help="Print the terminal events as JSON only.")]
Timeout = Annotated[float, typer.Option("--timeout", help="Seconds to wait for the end.", min=1)]


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"sfworker {__version__}")
        raise typer.Exit()


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it.")
    ] = False,
) -> None:
    """Options of every command."""


@app.command()
@guarded
def start() -> None:
    """Run the node: take requests from the queue until SIGTERM.

    Settings come from SFWORKER_* variables.
    """
    if os.environ.get("_SFWORKER_NODE") != "1":
        # Again with the plain main module: every job process imports the main module of its node.
        os.environ["_SFWORKER_NODE"] = "1"
        os.execv(sys.executable, [sys.executable, "-m", "secretflow_task", "start"])
    from secretflow_task.cli import environment
    from secretflow_task.node.service import serve

    settings = environment.settings()
    environment.open_log(settings)
    raise typer.Exit(serve(settings))


@app.command()
@guarded
def run(
    file: RequestFile,
    as_json: Json = False,
) -> None:
    """Run one request on this machine, with all its parties as local processes and no broker."""
    from secretflow_task.cli.files import read_request
    from secretflow_task.cli.local import run_here

    raise typer.Exit(run_here(read_request(file), as_json))


@app.command()
@guarded
def submit(
    file: RequestFile,
    queue: Annotated[
        Optional[str], typer.Option(help="The queue; by default the first of SFWORKER_QUEUES.")
    ] = None,
    execution_id: Annotated[
        Optional[str],
        typer.Option(
            "--id",
            help="The execution id, the same at every party; by default the file's execution_id, "
            "or else a new one.",
        ),
    ] = None,
    follow: Annotated[
        bool, typer.Option("--watch/--no-watch", help="Wait until the execution has ended.")
    ] = True,
    timeout: Timeout = 3600.0,
    as_json: Json = False,
) -> None:
    """Send a request to the nodes through Redis.

    Linked parties each send it to their own Redis, with the same id.
    """
    from secretflow_task.cli.files import read_execution
    from secretflow_task.cli.remote import submit_and_follow

    request = read_execution(file, execution_id)
    raise typer.Exit(submit_and_follow(request, queue, follow, timeout, as_json))


@app.command()
@guarded
def watch(
    execution_id: Annotated[str, typer.Argument(help="The execution id, as `submit` prints it.")],
    timeout: Timeout = 3600.0,
    as_json: Json = False,
) -> None:
    """Follow an execution, from its first event to its end."""
    from secretflow_task.cli.remote import follow_execution

    raise typer.Exit(follow_execution(execution_id, "0", timeout, as_json))


@app.command()
@guarded
def cancel(
    execution_id: Annotated[str, typer.Argument(help="The execution id, as `submit` prints it.")],
) -> None:
    """Cancel an execution that runs or waits in the queue."""
    from secretflow_task.cli.remote import cancel_execution

    raise typer.Exit(cancel_execution(execution_id))


@app.command()
@guarded
def rejected(
    entry: Annotated[
        Optional[str], typer.Argument(help="Show this entry, as the list names it.")
    ] = None,
    remove: Annotated[bool, typer.Option("--delete", help="Delete this entry, or all.")] = False,
) -> None:
    """List what lay in the queues and is no request: the quarantine of SFWORKER_QUEUES."""
    from secretflow_task.cli.rejected import print_rejected

    print_rejected(entry, remove)


@app.command()
@guarded
def queue(
    name: Annotated[
        Optional[str], typer.Argument(help="The queue; by default the first of SFWORKER_QUEUES.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON only.")] = False,
) -> None:
    """List the requests that wait for a node: in which place, since when, and what they are.

    The node of this machine is asked where Redis cannot be reached.
    """
    from secretflow_task.cli.queue import print_queue

    print_queue(name, as_json)


@app.command()
@guarded
def listen(
    from_start: Annotated[
        bool,
        typer.Option(
            "--from-start",
            help="Read all that Redis still holds; events that are written already stay as "
            "they are.",
        ),
    ] = False,
) -> None:
    """Write the status events to a database until SIGTERM. SFWORKER_DATABASE_URL names it.

    A new database begins with all events that Redis still holds.
    """
    from secretflow_task.cli import environment
    from secretflow_task.listener.task_status_listener import listen as serve_database

    settings = environment.settings()
    environment.open_log(settings)
    serve_database(settings, from_start)


@app.command()
@guarded
def listeners(
    group: Annotated[
        Optional[str],
        typer.Option(
            "--remove", metavar="GROUP", help="Remove the group of a database that is gone."
        ),
    ] = None,
) -> None:
    """List the databases that are written from Redis, each by its consumer group.

    Which listeners read for it, how many events these have in hand, and how far behind it is.
    """
    from secretflow_task.cli.listeners import print_groups, remove_group

    if group is None:
        print_groups()
    else:
        remove_group(group)


@app.command()
@guarded
def jobs(
    status: Annotated[
        Optional[Status], typer.Option(help="Only executions with this status.")
    ] = None,
    task_type: Annotated[
        Optional[str], typer.Option("--task", help="Only executions of this task type.")
    ] = None,
    party: Annotated[Optional[str], typer.Option(help="Only executions of this party.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many to list at most.")] = 20,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print all columns, as JSON only.")
    ] = False,
) -> None:
    """List the latest executions, from the database of `sfworker listen`."""
    from secretflow_task.cli.history import print_jobs

    wanted = status.value if status else None
    print_jobs(limit, as_json, status=wanted, task_type=task_type, party=party)


@app.command()
@guarded
def show(
    execution_id: Annotated[str, typer.Argument(help="The execution id, as `submit` prints it.")],
    as_json: Annotated[
        bool, typer.Option("--json", help="Print everything, as JSON only.")
    ] = False,
) -> None:
    """Show one execution from the database of `sfworker listen`.

    Its parties, their events, and the result or error of each.
    """
    from secretflow_task.cli.history import print_execution

    print_execution(execution_id, as_json)


@app.command()
@guarded
def result(
    execution_id: Annotated[str, typer.Argument(help="The execution id, as `submit` prints it.")],
    party: Annotated[Optional[str], typer.Option(help="Only the result of this party.")] = None,
) -> None:
    """Print the whole result of an execution as JSON, at the node that ran it.

    Also where it was too large for its event.
    """
    from secretflow_task.cli.result import print_result

    raise typer.Exit(print_result(execution_id, party))


@app.command()
@guarded
def logs(
    execution_id: Annotated[str, typer.Argument(help="The execution id, as `submit` prints it.")],
    party: Annotated[Optional[str], typer.Option(help="Only the log of this party's job.")] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Keep printing until the execution has ended.")
    ] = False,
    of_node: Annotated[
        bool,
        typer.Option(
            "--node", help="Print what the node logged about it; needs SFWORKER_LOG_FILE."
        ),
    ] = False,
) -> None:
    """Print what the jobs of an execution wrote at this node, from the state folder."""
    from secretflow_task.cli.logs import print_logs, print_node_log

    if of_node and party:
        raise typer.BadParameter(
            "the node has one log for all parties: leave out --party or --node"
        )
    if of_node:
        print_node_log(execution_id, follow)
    else:
        print_logs(execution_id, party, follow)


@app.command()
@guarded
def tasks(
    task_type: Annotated[
        Optional[str], typer.Argument(help="A task type, to show its request.")
    ] = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print its JSON Schema.")] = False,
    example: Annotated[
        bool, typer.Option("--example", help="Print a request to start from.")
    ] = False,
) -> None:
    """List the task types, or show what one takes."""
    if task_type is None and (schema or example):
        raise typer.BadParameter("name a task type: sfworker tasks TYPE --schema")
    from secretflow_task.cli.tasks import print_example, print_schema, print_task, print_tasks

    if task_type is None:
        print_tasks()
    elif schema:
        print_schema(task_type)
    elif example:
        print_example(task_type)
    else:
        print_task(task_type)


@app.command()
@guarded
def check(file: RequestFile) -> None:
    """Validate a request without running it: what it reads and writes, and who learns what."""
    from secretflow_task.cli import environment
    from secretflow_task.cli.check import print_plan
    from secretflow_task.cli.files import read_request

    print_plan(read_request(file), environment.settings())


@app.command()
@guarded
def certs(
    party: Annotated[str, typer.Argument(help="The party that the certificate identifies.")],
    folder: Annotated[Path, typer.Option("--out", help="Folder for the two files.")] = Path(
        "certs"
    ),
    days: Annotated[
        int, typer.Option(min=1, max=3650, help="Days that the certificate is valid.")
    ] = 825,
) -> None:
    """Make a key and a self-signed certificate for a node.

    Prints the fingerprint that its peers pin.
    """
    from secretflow_task.cli.certs import make

    make(party, folder, days)


@app.command()
@guarded
def doctor(
    peer: Annotated[
        Optional[str],
        typer.Option(
            metavar="PARTY", help="Test the connection to this party's node, in both directions."
        ),
    ] = None,
) -> None:
    """Check what a node needs here, and say how to fix what is wrong.

    Python, SecretFlow, Redis, ports, folders, disk and clock.
    """
    from secretflow_task.cli import environment
    from secretflow_task.cli.doctor import examine
    from secretflow_task.cli.doctor_peer import examine_peer

    settings = environment.settings()
    if peer is None:
        well = examine(settings)
    else:
        well = examine_peer(settings, peer)
    raise typer.Exit(Exit.OK if well else Exit.UNAVAILABLE)


@app.command()
@guarded
def smoke(
    parties: Annotated[
        Optional[list[str]],
        typer.Argument(
            metavar="PARTY", help="The parties to test; by default all in the settings."
        ),
    ] = None,
    execution_id: Annotated[
        Optional[str],
        typer.Option("--id", help="The id that the other party's `sfworker smoke` printed."),
    ] = None,
    timeout: Timeout = 180.0,
) -> None:
    """Send the node a small intersection whose result is known.

    Each of two linked parties runs it, with the same id.
    """
    from secretflow_task.cli import environment
    from secretflow_task.cli.smoke import Trial, run_smoke

    if execution_id and not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", execution_id):
        raise typer.BadParameter("up to 64 letters, digits, _ and -", param_hint="--id")
    settings = environment.settings()
    trial = Trial.of(execution_id or f"smoke-{uuid.uuid4().hex[:12]}", settings, parties or ())
    raise typer.Exit(run_smoke(trial, settings, timeout))


@app.command()
@guarded
def demo(
    folder: Annotated[Path, typer.Option(help="Folder for data and outputs.")] = Path(
        "sfworker-demo"
    ),
    one_node: Annotated[
        bool, typer.Option("--one-node", help="One node hosts both parties.")
    ] = False,
) -> None:
    """Two parties find their common customers and train a model that neither could train alone."""
    from secretflow_task.cli.demo import run_demo

    raise typer.Exit(run_demo(folder, one_node))
