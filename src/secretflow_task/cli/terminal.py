"""Where commands print to."""

from __future__ import annotations

from rich.console import Console

console = Console()


def print_text(text: str) -> None:
    """Print a text that may hold brackets and long paths: no colours, markup or line breaks."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)
