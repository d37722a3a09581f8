"""The text report on a terminal: verdicts in colour, where there is any. The rim around loadgen/report/text.py."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from loadgen.report import text
from loadgen.report.contents import Report

_COLOURS = {
    r"\bPASS\b": "bold green",
    r"\b(FAIL|INVALID)\b": "bold red",
    r"\b(INCONCLUSIVE|NO_DATA)\b": "bold yellow",
    r"(?m)^(Objectives|Errors|Result|Generator)\b": "bold",
    r"(?m)^ +version .*$": "dim",
    r"(?m)^ +95 % .*$": "dim",
}


def show(report: Report, console: Console) -> None:
    """Print; lines longer than the terminal are not wrapped, so that tables stay tables."""
    shown = Text(text.render(report), no_wrap=True)
    for pattern, style in _COLOURS.items():
        shown.highlight_regex(pattern, style)
    console.print(shown, end="", soft_wrap=True, highlight=False)
