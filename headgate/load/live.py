"""What is seen while a load runs: a table that changes on a terminal, and otherwise a line every few seconds."""

from __future__ import annotations

import sys
from types import TracebackType

import click
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from headgate.commands.output import coloured, is_terminal
from loadgen.outcome import Progress
from loadgen.report.facts import label
from loadgen.slo.quantities import digits, duration, share

EVERY = 5.0  # seconds between two lines
_BAR = 60  # characters


class View:
    """Give it each `Progress`. On stderr: stdout is for the result."""

    def __init__(self) -> None:
        self._live: Live | None = None
        self._told = -EVERY
        self._phase = ""
        self._notes: list[str] = []
        self._unseen = False
        if is_terminal(sys.stderr):
            console = Console(stderr=True, no_color=not coloured(sys.stderr), highlight=False)
            self._live = Live(console=console, auto_refresh=False, transient=True)

    def __enter__(self) -> View:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def __call__(self, progress: Progress) -> None:
        if self._unseen:
            return
        try:
            self._tell(progress)
        except OSError:  # whoever read it has gone, or its disk is full: no reason to lose the load
            self._unseen = True

    def _tell(self, progress: Progress) -> None:
        if progress.note and progress.note not in self._notes[-3:]:
            self._notes.append(progress.note)
            if self._live is None:
                click.echo(progress.note, err=True)
        if self._live is not None:
            self._live.update(picture(progress, self._notes[-3:]), refresh=True)
        elif progress.phase != self._phase or progress.at - self._told >= EVERY:
            self._phase, self._told = progress.phase, progress.at
            note = f"  {self._notes[-1]}" if self._notes and progress.phase == "starting" else ""
            click.echo(line(progress) + note, err=True)


def line(progress: Progress) -> str:
    """In one line, as logs have it."""
    if progress.phase == "starting":
        return f"{progress.at:.0f} s  starting"
    parts = [f"{progress.at:.0f} s", progress.phase, f"{digits(progress.rate)}/s{_asked(progress)}"]
    parts += [f"{progress.in_flight:,} in flight", f"lag p99 {duration(progress.lag_p99)}"]
    for row in progress.rows:
        errors = f", {row.errors:,} errors" if row.errors else ""
        version = label(row.version)
        name = version if len({each.scenario for each in progress.rows}) == 1 else f"{row.scenario} {version}"
        parts.append(f"{name}: {row.ended:,}{errors}, p50 {duration(row.p50)}, p99 {duration(row.p99)}")
    return "  ".join(parts)


def _asked(progress: Progress) -> str:
    return "" if progress.asked is None else f" of {digits(progress.asked)}/s"


def picture(progress: Progress, notes: list[str]) -> RenderableType:
    """The view on a terminal."""
    head = Text.assemble(
        (progress.phase, "bold"),
        f"  {progress.at:.0f} s" + (f" of {progress.total:.0f} s" if progress.total else ""),
        f"   {digits(progress.rate)}/s{_asked(progress)}",
        f"   {progress.sent:,} sent, {progress.in_flight:,} in flight",
        f"   lag p99 {duration(progress.lag_p99)}",
        f"   {progress.workers} processes" if progress.workers > 1 else "",
    )
    done = min(progress.at / progress.total, 1.0) if progress.total and progress.phase == "running" else 0.0
    if progress.phase == "draining":
        done = 1.0
    streams = any(row.ttft_p50 is not None for row in progress.rows)
    table = Table(box=None, pad_edge=False, header_style="dim")
    for title in ("scenario", "version"):
        table.add_column(title)
    for title in ("requests", "per second", "errors", "p50", "p99", *(("first token p50",) if streams else ())):
        table.add_column(title, justify="right")
    for row in progress.rows:
        wrong = row.errors / row.ended if row.ended else 0.0
        errors = Text(f"{row.errors:,} ({share(wrong)})", style="red") if row.errors else Text("0")
        cells: list[str | Text] = [f"{row.ended:,}", digits(row.rate), errors, duration(row.p50), duration(row.p99)]
        if streams:
            cells.append(duration(row.ttft_p50))
        table.add_row(row.scenario, label(row.version), *cells)
    full = round(_BAR * done)
    bar = Text.assemble(("━" * full, "green"), ("━" * (_BAR - full), "dim"))
    return Group(head, bar, table, *(Text(note, style="yellow") for note in notes))
