"""The pages of docs/reference, each generated from what it describes; a test compares them."""

from __future__ import annotations

from typing import Callable

from scripts.reference import requests

PAGES: dict[str, Callable[[], str]] = {"requests": requests.page}
