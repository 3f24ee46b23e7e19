"""`sfworker doctor --peer`: the way to another party's node and back, and how to mend it."""

from __future__ import annotations

import asyncio
from datetime import datetime, timezone

from secretflow_task.cli.doctor import show
from secretflow_task.cli.finding import Finding
from secretflow_task.config.settings import Settings
from secretflow_task.contract.errors import BadSetting, WorkerError
from secretflow_task.node.link.peer.agenda import versions
from secretflow_task.node.link.peer.dial import Dialler
from secretflow_task.node.link.peer.probe import Way, measure
from secretflow_task.node.link.peer.wire import Garbled, WireClosed

_SOON_DAYS = 30
_CLOCK_SECONDS = 5.0
_SLOW_ROUND_TRIP_SECONDS = 0.1
_SLOW_BYTES_PER_SECOND = 10e6 / 8


def examine_peer(settings: Settings, party: str) -> bool:
    """Try the way to the node of ``party`` and print what was found; whether all is well.

    Raises:
        BadSetting: this node has no address book, or the party is not in it.
    """
    dialler = Dialler.of(settings)
    if party not in dialler.book.peers:
        known = ", ".join(sorted(dialler.book.peers)) or "nobody"
        raise BadSetting(
            f"The address book has no {party}; it has {known}.", hint="Add the party to the file."
        )
    findings = {"own certificate": _own_certificate(dialler)}
    peer = dialler.book.peers[party]
    try:
        way = asyncio.run(measure(dialler, party))
    except WorkerError as error:
        findings[f"way to {party}"] = Finding(error.message, _advice(error.code, party, peer.port))
    except (WireClosed, Garbled, asyncio.TimeoutError):
        hung_up = dialler.hung_up(party)
        findings[f"way to {party}"] = Finding(
            hung_up.message, _advice(hung_up.code, party, peer.port)
        )
    else:
        findings[f"way to {party}"] = Finding(f"{peer.host}:{peer.port}, certificate as pinned")
        findings |= _of_the_way(way, party, settings)
    return show(findings)


def _advice(code: str, party: str, port: int) -> str:
    if code == "PeerUnreachable":
        return (
            f"Is the node of {party} running, its address right, "
            f"and port {port} open in both firewalls?"
        )
    return (
        f"Compare fingerprints with {party}: "
        "each needs the other's certificate in its address book."
    )


def _own_certificate(dialler: Dialler) -> Finding:
    left = (dialler.expiry - datetime.now(timezone.utc)).days
    state = f"valid for {left} more days" if left >= 0 else "expired"
    advice = "Make another (`sfworker certs`), let the peers list both, then change over."
    return Finding(state, "" if left > _SOON_DAYS else advice)


def _of_the_way(way: Way, party: str, settings: Settings) -> dict[str, Finding]:
    own, skew, trip = versions(), way.clock_seconds, way.round_trip_seconds
    there, back = (rate * 8 / 1e6 for rate in way.bytes_per_second)
    return {
        f"way back from {party}": Finding(
            way.back or "open",
            (
                f"Is this node running, and its address right in the book of {party}?"
                if way.back
                else ""
            ),
        ),
        "versions": Finding(
            ", ".join(f"{name} {version}" for name, version in way.versions.items()),
            "" if way.versions == own else f"Here: {own}. Install the same at both.",
        ),
        "clocks": Finding(
            f"that of {party} is {skew:+.1f} s ahead",
            (
                f"Synchronise both (NTP); beyond {settings.clock_limit_seconds:g} s no job starts."
                if abs(skew) > _CLOCK_SECONDS
                else ""
            ),
        ),
        "round trip": Finding(
            f"{trip * 1000:.1f} ms",
            (
                "Training takes thousands of round trips: expect hours."
                if trip > _SLOW_ROUND_TRIP_SECONDS
                else ""
            ),
        ),
        "bandwidth": Finding(
            f"{there:.0f} Mbit/s there, {back:.0f} Mbit/s back",
            (
                "Secure training moves gigabytes: use a faster line."
                if min(way.bytes_per_second) < _SLOW_BYTES_PER_SECOND
                else ""
            ),
        ),
    }
