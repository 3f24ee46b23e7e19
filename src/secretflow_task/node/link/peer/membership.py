"""How a node takes part in an execution that another coordinates: it joins, listens, asks."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from secretflow_task.contract.errors import PeerUnreachable, SettlementUnknown, WorkerError
from secretflow_task.node.link.peer.conversation import Pace, converse
from secretflow_task.node.link.peer.dial import Dialler
from secretflow_task.node.link.peer.member import Member
from secretflow_task.node.link.peer.outcome import checked_outcome, read_error
from secretflow_task.node.link.peer.wire import Garbled, Message, Wire, WireClosed
from secretflow_task.utils.log import get_logger

log = get_logger()

_FIRST_RETRY_SECONDS = 0.05
_RETRY_SECONDS = 0.5
_ASK_SECONDS = 1.0


@dataclass(frozen=True)
class Deadlines:
    """How long the coordinator is waited for: to join, and for its decision."""

    join_seconds: float
    settle_seconds: float


async def take_part(member: Member, dialler: Dialler, pace: Pace, deadlines: Deadlines) -> None:
    """Join the execution at its coordinator and stay until its end is known."""
    try:
        await _take_part(member, dialler, pace, deadlines)
    except Exception:  # pylint: disable=broad-exception-caught  # the parties wait for this task
        log.exception("The link to the coordinator failed.", action="link_failed")
    finally:
        if not member.done:
            member.left_alone()


async def _take_part(member: Member, dialler: Dialler, pace: Pace, deadlines: Deadlines) -> None:
    coordinator = member.agenda.coordinator
    wire = await _join(member, dialler, deadlines.join_seconds)
    if wire is None:
        return
    await converse(wire, member, coordinator, pace)
    if member.uncertain:
        await _ask_for_the_decision(member, dialler, deadlines.settle_seconds)


async def _ask_for_the_decision(member: Member, dialler: Dialler, seconds: float) -> None:
    coordinator, execution_id = member.agenda.coordinator, member.agenda.execution_id
    log.warning(
        "The decision is not known; the coordinator is asked for it.",
        action="settlement_waits",
        execution_id=execution_id,
    )
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        outcome = await ask(dialler, coordinator, execution_id)
        if outcome:
            member.learn(outcome)
        if not member.uncertain:
            return
        await asyncio.sleep(_ASK_SECONDS)
    member.give_up(SettlementUnknown(party=coordinator))


async def _join(member: Member, dialler: Dialler, seconds: float) -> Wire | None:
    """The connection on which the coordinator has let the parties in; None if the end is known."""
    coordinator = member.agenda.coordinator
    deadline = time.monotonic() + seconds
    pause = _FIRST_RETRY_SECONDS
    problem: WorkerError = PeerUnreachable(party=coordinator)
    while time.monotonic() < deadline:
        try:
            wire = await _knock(member, dialler)
            if wire:
                return wire
            problem = _not_yet(coordinator, seconds)
        except PeerUnreachable as error:
            problem = error
        except WorkerError as error:
            member.give_up(error)
            return None
        except WireClosed:
            problem = dialler.hung_up(coordinator)
        except (Garbled, KeyError, TypeError, ValueError, AttributeError):
            pass  # what is at that address may be replaced by a node
        await asyncio.sleep(min(pause, max(0.0, deadline - time.monotonic())))
        pause = min(2 * pause, _RETRY_SECONDS)
    member.give_up(problem)
    return None


async def _knock(member: Member, dialler: Dialler) -> Wire | None:
    """The connection if the coordinator lets the parties in; None if it knows of no execution yet.

    Raises:
        WorkerError: it refuses, the execution has ended, or there is no way to it.
        WireClosed: it hung up.
        Garbled, KeyError, TypeError, ValueError, AttributeError: its answer makes no sense.
    """
    wire, answer = await dialler.request(member.agenda.coordinator, member.introduction)
    if answer["kind"] == "welcome":
        try:
            member.attach(answer["session"])
        except (KeyError, ValueError):
            await wire.close()
            raise
        return wire
    await wire.close()
    if answer["kind"] == "refused":
        raise read_error(answer["error"])
    if answer["kind"] == "outcome":
        if answer["status"] == "FAILURE":
            raise read_error(answer["error"])
        raise SettlementUnknown()
    return None


def _not_yet(coordinator: str, seconds: float) -> WorkerError:
    return PeerUnreachable(
        f"The request did not reach {coordinator} within {seconds:g} s.",
        hint=f"Send the same request to {coordinator} too.",
        party=coordinator,
    )


async def ask(dialler: Dialler, party: str, execution_id: str) -> Message | None:
    """What a party's node knows of how an execution ended; None when it cannot be asked."""
    question = {"kind": "ask", "execution": execution_id}
    try:
        wire, answer = await dialler.request(party, lambda: question)
        await wire.close()
    except (WorkerError, WireClosed, Garbled):
        return None
    return checked_outcome(answer)
