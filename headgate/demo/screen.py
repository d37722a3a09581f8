"""How the story looks: acts, changed lines and figures on a terminal (live, in colour) or as plain lines elsewhere."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

PLAIN_WIDTH = 110
CHANGE_LINES = 16


@dataclass(frozen=True, slots=True)
class Row:
    """One line of figures; `measured` and `asked` are shares or None, `p50` and `p99` seconds or NaN."""

    version: str
    measured: float | None
    asked: float | None
    count: int
    p50: float
    p99: float
    errors: int | None


class Screen:
    """Writes to standard output. Colours are rich's business: only on a terminal, and not under NO_COLOR."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False, emoji=False)
        if not self.console.is_terminal:
            self.console.width = PLAIN_WIDTH
        self._live: Live | None = None

    def say(self, text: str = "", style: str = "") -> None:
        self.console.print(Text(text, style=style))

    def lines(self, text: str) -> None:
        """Lines to copy: never broken, however narrow the terminal."""
        self.console.print(Text(text), soft_wrap=True)

    def act(self, number: int, of: int, title: str, words: str, changed: Sequence[str]) -> None:
        self.console.print()
        self.say(f"Act {number} of {of}: {title}", "bold")
        self.say(words)
        for line in changed[:CHANGE_LINES]:
            self.say(f"    {line}", "green" if line.startswith("+") else "red")
        if len(changed) > CHANGE_LINES:
            self.say(f"    ... and {len(changed) - CHANGE_LINES} lines more", "dim")

    def figures(self, rows: Sequence[Row]) -> None:
        """Draw the table over the last one; on anything but a terminal only `done` prints."""
        if not self.console.is_terminal:
            return
        if self._live is None:
            self._live = Live(console=self.console, auto_refresh=False, transient=True)
            self._live.start()
        self._live.update(table(rows), refresh=True)

    def done(self, rows: Sequence[Row]) -> None:
        """The act's last figures, to stay."""
        self.close()
        self.console.print(table(rows))

    def close(self) -> None:
        """Give the terminal back, cursor and all."""
        if self._live is not None:
            self._live.stop()
            self._live = None


def table(rows: Sequence[Row]) -> Table:
    drawn = Table(box=None, padding=(0, 2), pad_edge=True, header_style="bold", show_edge=False)
    drawn.add_column("version")
    for name in ("share", "(asked)", "answers", "p50", "p99", "errors"):
        drawn.add_column(name, justify="right")
    for row in rows:
        drawn.add_row(
            row.version,
            "" if row.measured is None else f"{row.measured:.1%}".replace("%", " %"),
            "" if row.asked is None else f"({row.asked * 100:g} %)",
            f"{row.count:,}",
            _milliseconds(row.p50),
            _milliseconds(row.p99),
            "-" if row.errors is None else Text(str(row.errors), style="bold red" if row.errors else ""),
        )
    return drawn


def _milliseconds(seconds: float) -> str:
    return "-" if math.isnan(seconds) else f"{seconds * 1000:.1f} ms"
