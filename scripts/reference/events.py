"""The reference of status events, from their class, the source and events that are made."""

from __future__ import annotations

import inspect
import json
import re
from dataclasses import fields
from typing import Any, Iterator, Mapping

from scripts.reference.markdown import code, table
from scripts.reference.source import calls, text
from secretflow_task.broker.celery_app import TASK_NAME
from secretflow_task.contract.errors import MissingColumn
from secretflow_task.contract.messages import (
    ACCEPTED,
    WAITING_FOR_PEER,
    Stage,
    Status,
    StatusEvent,
)
from secretflow_task.node.job.ending import Ending, success
from secretflow_task.node.job.usage import Usage

_HEAD = f"""\
# Status events

`make reference` writes this page from the class of the events and from the source; a test compares
them, and others hold real events against it.

Events are on the Redis stream `task_status_stream` (one field, `event`: the JSON below), live on
the channel `task_status_events`, and, with `SFWORKER_STATUS_LIST`, on the list
`task_status_queue`. Per execution and party come any number of `{Status.RUNNING.value}` and then
exactly one `{Status.SUCCESS.value}` or `{Status.FAILURE.value}`.

No event is much larger than `SFWORKER_EVENT_LIMIT_BYTES`. A result that is has only its head in the
event, with `truncated` true, and `size_bytes` and `sha256` of the whole, which
[`sfworker result`](commands.md) prints at its party. Other `data` that is too large is cut, and has
`truncated` true.
"""
# What `data` holds, by status.
DATA: dict[Status, dict[str, str]] = {
    Status.RUNNING: {
        "stage": "Where the execution is; the stages are below.",
        "progress": "The share that is done, 0 to 1; it never falls.",
        "waiting_for": "With `waiting_for_peer`: the other parties, whose nodes have not joined "
        "yet.",
        "step": "In a `workflow`: the name of the step.",
        "epoch": "How many passes over the rows are done.",
        "epochs": "How many there are at most.",
        "tree": "How many trees are done.",
        "trees": "How many there are.",
        "start": "Which start of the clustering it is, from 0.",
        "iteration": "Which iteration of that start it is, from 0.",
    },
    Status.SUCCESS: {
        "stage": "`SUCCESS`.",
        "progress": "1.",
        "result": "What the task gives this party, or the head of it; "
        "[the user guide](../user_guide/index.md) has the keys. All have `timings`: "
        "the seconds of `prepare` (the own input, and waiting "
        "for the others'), `cluster_init`, `device_creation`, `task_execution` and, within "
        "that, of each step of a `workflow` "
        "and of the `alignment` of a `psi`, at a party that gets its rows.",
    },
    Status.FAILURE: {
        "progress": "How far it was.",
        "timings": "The seconds of each stage of this party's job that had ended.",
        "error": "What was wrong, for every party to read.",
        "error_type": "The family of the error.",
        "error_code": "The error; [all errors](errors.md).",
        "hint": "What to do next.",
        "retryable": "Whether the same request may succeed when it is sent again.",
        "failed_party": "The party where it began, or null.",
        "cancelled": "True where somebody cancelled it (`TaskCancelled`); absent otherwise.",
        "step": "In a `workflow`: the step that failed.",
    },
}
STAGES: dict[str, str] = {
    ACCEPTED: "The node has taken the request from the queue.",
    WAITING_FOR_PEER: "The node waits for the nodes of the parties in `waiting_for`.",
    Stage.CLUSTER_INIT.value: "The parties' processes are connected.",
    Stage.DEVICE_CREATION.value: "The secure devices are there.",
    Stage.TASK_EXECUTION.value: "The task begins.",
    "started": "A step of a `workflow` begins.",
    "intersection": "`psi` compares the keys.",
    "alignment": "`psi` brings the rows into the same order at all parties.",
    "training": "A model is trained.",
    "prediction": "Predictions are computed.",
    "correlation": "Columns are correlated.",
    "counting": "The rows of the bins are counted.",
    "settling": "This party has its result, and waits for what the others say.",
}


def page() -> str:
    """The reference of status events as Markdown."""
    meanings = _meanings()
    rows = [(code(field.name), meanings[field.name]) for field in fields(StatusEvent)]
    stages = [(code(stage), _progress(stage), meaning) for stage, meaning in STAGES.items()]
    return "\n".join(
        [
            _HEAD,
            "## Fields\n",
            *table("field | meaning", rows),
            *(line for status in Status for line in _of_status(status)),
            "\n## Stages\n",
            *table("stage | progress | meaning", stages),
            "",
        ]
    )


def reported() -> tuple[set[str], set[str]]:
    """The stages that tasks report in the source, and what they add to `data`."""
    stages, details = set(), set()
    for _, call in calls("progress"):
        stage = call.args[1]
        if not hasattr(stage, "id"):  # in `Run` itself it is a parameter
            stages.add(text(stage))
        details |= {str(keyword.arg) for keyword in call.keywords}
    return stages, details


def _meanings() -> dict[str, str]:
    """What the class says of its fields."""
    said = inspect.cleandoc(StatusEvent.__doc__ or "").partition("Attributes:\n")[2]
    return dict(re.findall(r"^ *(\w+): (.+)$", said, re.MULTILINE))


def _progress(stage: str) -> str:
    known = {each.value: f"{each.progress:g}" for each in Stage}
    known |= {ACCEPTED: "0", WAITING_FOR_PEER: "0", "settling": "0.999"}
    return known.get(stage, "0.5 to 0.999")


def _of_status(status: Status) -> Iterator[str]:
    yield f"\n## `data` of {status.value}\n"
    yield from table(
        "key | meaning", [(code(key), meaning) for key, meaning in DATA[status].items()]
    )
    yield f"\n```json\n{json.dumps(json.loads(_example(status).to_json()), indent=2)}\n```"


def _example(status: Status) -> StatusEvent:
    error = MissingColumn(
        "bob: the file of train_data has no column 'y'.", party="bob", step="train"
    )
    usage = Usage(pid=0)
    usage.stages |= {"prepare": 0.021, "cluster_init": 0.046, "device_creation": 0.009}
    result = {
        "intersection_count": 3,
        "rows": 3,
        "timings": usage.stages | {"task_execution": 0.387},
    }
    data: dict[Status, Mapping[str, Any]] = {
        Status.RUNNING: {
            "stage": "training",
            "progress": 0.75,
            "step": "train",
            "epoch": 5,
            "epochs": 10,
        },
        Status.SUCCESS: success(result),
        Status.FAILURE: Ending.of(error, Stage.TASK_EXECUTION.progress, usage).data,
    }
    seq = list(Status).index(status) + 4
    return StatusEvent(
        execution_id="march-1",
        task_request_id="web-0001",
        party="alice",
        status=status,
        data=data[status],
        worker_container="node-1",
        task_name=TASK_NAME,
        seq=seq,
        task_type="psi" if status is Status.SUCCESS else "workflow",
        timestamp=f"2026-03-01T12:00:0{seq}.000000+00:00",
        event_id=f"{seq:032x}",
    )
