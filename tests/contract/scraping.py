"""Reading what a node says of itself over HTTP."""

from __future__ import annotations

import json
import urllib.error
import urllib.request

from prometheus_client.parser import text_string_to_metric_families


def ask(port: int, path: str) -> tuple[int, str]:
    """Status and body of an answer."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def reasons(port: int, path: str) -> list[str]:
    """Why a check fails; none when it does not."""
    status, body = ask(port, path)
    said = json.loads(body)
    assert (status, said["ok"]) == ((503, False) if said["reasons"] else (200, True))
    return list(said["reasons"])


def scrape(port: int) -> dict[tuple[str, str], float]:
    """Every series of the worker: its name without the prefix, and the values of its labels."""
    status, body = ask(port, "/metrics")
    assert status == 200
    return {
        (sample.name.removeprefix("sfworker_"), " ".join(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(body)
        for sample in family.samples
    }


def described(port: int) -> dict[str, tuple[str, frozenset[str]]]:
    """Type and labels of every metric that is exposed."""
    found: dict[str, tuple[str, frozenset[str]]] = {}
    for family in text_string_to_metric_families(ask(port, "/metrics")[1]):
        for sample in family.samples:
            name = family.name if family.type == "histogram" else sample.name
            what = (family.type, frozenset(sample.labels) - {"le"})
            assert found.setdefault(name, what) == what
    return found
