"""The table that the fault suite prints: what was done, how often, and how it ended."""

from __future__ import annotations

from dataclasses import dataclass, field

from rich.table import Table

HEADER = ("fault", "times", "executions", "terminal events", "slowest end (s)", "leftovers")


@dataclass
class Row:
    """All injections of one fault.

    Attributes:
        executions: how many executions it met, counted once per party.
        terminal: how many terminal events they ended with.
        seconds: from the fault to the last terminal event, of each injection.
        leftovers: processes, ports and files that were found afterwards.
    """

    fault: str
    times: int = 0
    executions: int = 0
    terminal: int = 0
    seconds: list[float] = field(default_factory=list)
    leftovers: list[str] = field(default_factory=list)

    def cells(self) -> tuple[str, ...]:
        """The row as text."""
        slowest = f"{max(self.seconds):.1f}" if self.seconds else "-"
        numbers = (self.times, self.executions, self.terminal, slowest, len(self.leftovers))
        return (self.fault, *map(str, numbers))


class Report:
    """Rows in the order in which their faults were first injected."""

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {}

    def add(
        self, fault: str, *, executions: int, terminal: int, seconds: float, leftovers: list[str]
    ) -> None:
        """Note one injection."""
        row = self.rows.setdefault(fault, Row(fault))
        row.times += 1
        row.executions += executions
        row.terminal += terminal
        row.seconds.append(seconds)
        row.leftovers += leftovers

    def table(self) -> Table:
        """For the terminal."""
        table = Table(*HEADER)
        for row in self.rows.values():
            table.add_row(*row.cells())
        return table

    def markdown(self) -> str:
        """For the documents."""
        lines = [HEADER, tuple("---" for _ in HEADER), *(row.cells() for row in self.rows.values())]
        return "".join(f"| {' | '.join(line)} |\n" for line in lines)
