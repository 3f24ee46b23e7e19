"""The pages of docs/reference, each generated from what it describes; a test compares them."""

from __future__ import annotations

from typing import Callable

from scripts.reference import (
    alerts,
    api,
    commands,
    errors,
    events,
    index,
    log_actions,
    metrics,
    requests,
    settings,
)

PAGES: dict[str, Callable[[], str]] = {
    module.__name__.rpartition(".")[2]: module.page
    for module in (
        alerts,
        api,
        commands,
        errors,
        events,
        index,
        log_actions,
        metrics,
        requests,
        settings,
    )
}
