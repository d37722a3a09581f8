"""What every benchmark says at its end: figures beside their targets, the machine's words, and an exit code.

In: measured values. Out: text on stdout, the same as JSON when asked, 0 when every target is met and 1 otherwise.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured value and its promise; no target means that it is only told."""

    name: str
    value: float
    unit: str = ""
    target: float | None = None
    want: Literal["at most", "at least"] = "at most"
    headline: bool = False

    @property
    def passed(self) -> bool:
        """A value that could not be measured (NaN) misses its target."""
        if self.target is None:
            return True
        return self.value <= self.target if self.want == "at most" else self.value >= self.target

    def __str__(self) -> str:
        told = f"{self.name}: {number(self.value)}{unit(self.unit)}"
        if self.target is None:
            return told
        return f"{told} (target {self.want} {number(self.target)}{unit(self.unit)}) {'PASS' if self.passed else 'MISS'}"


@dataclass(slots=True)
class Report:
    """Collects a run; `close` prints the figures last, so that the last lines are what a reader looks for."""

    name: str
    machine: dict[str, Any] = field(default_factory=dict)
    figures: list[Figure] = field(default_factory=list)
    tables: list[dict[str, Any]] = field(default_factory=list)

    def figure(
        self,
        name: str,
        value: float,
        unit: str = "",
        target: float | None = None,
        want: Literal["at most", "at least"] = "at most",
        headline: bool = False,
    ) -> None:
        """Note a figure; a `headline` is told on the last line even when it is met."""
        self.figures.append(Figure(name, value, unit, target, want, headline))

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Print a table at once, and keep it for the JSON."""
        self.tables.append({"title": title, "columns": list(columns), "rows": [list(row) for row in rows]})
        print(f"\n{title}\n{layout(columns, rows)}", flush=True)

    @property
    def passed(self) -> bool:
        return all(figure.passed for figure in self.figures)

    def summary(self) -> str:
        """The last line: what was missed and the headlines, each with its target, and how many more were met."""
        promised = [figure for figure in self.figures if figure.target is not None]
        missed = [figure for figure in promised if not figure.passed]
        headlines = [figure for figure in promised if figure.passed and figure.headline]
        others = len(promised) - len(missed) - len(headlines)
        told = [*map(str, missed), *map(str, headlines)]
        if others:
            told.append(f"{others} other target{'s' if others > 1 else ''} met")
        return f"{self.name} {'PASS' if self.passed else 'MISS'}: " + ("; ".join(told) or "nothing promised")

    def as_json(self) -> dict[str, Any]:
        return {
            "benchmark": self.name,
            "machine": self.machine,
            "passed": self.passed,
            "figures": [
                {
                    "name": f.name,
                    "value": f.value,
                    "unit": f.unit,
                    "target": f.target,
                    "want": f.want,
                    "passed": f.passed,
                }
                for f in self.figures
            ],
            "tables": self.tables,
        }

    def close(self, json_file: Path | None = None) -> int:
        """Print what is left, write the JSON, and give the process's exit code."""
        print()
        for figure in self.figures:
            print(f"  {figure}")
        if self.machine:
            print("  machine: " + ", ".join(f"{key} {value}" for key, value in self.machine.items()))
        if json_file is not None:
            json_file.write_text(json.dumps(_plain(self.as_json()), indent=2, allow_nan=False) + "\n")
        print(self.summary(), flush=True)
        return 0 if self.passed else 1


def _plain(value: Any) -> Any:
    """JSON has no NaN: what could not be measured is null."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and value != value else value


def number(value: float) -> str:
    """Three significant digits, thousands apart; whole numbers stay whole."""
    if value != value:
        return "not measured"
    if abs(value) >= 1000 or value == int(value):
        return f"{value:,.0f}"
    digits = 3 if abs(value) < 1 else 2 if abs(value) < 10 else 1
    return f"{value:.{digits}f}"


def unit(text: str) -> str:
    return "" if not text else text if text in ("x", "%") else f" {text}"


def layout(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A plain table: the first column to the left, the others to the right."""
    cells = [list(columns), *([number(c) if isinstance(c, float) else str(c) for c in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    lines = [
        "  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        for row in cells
    ]
    return "\n".join("  " + line.rstrip() for line in [lines[0], "  ".join("-" * w for w in widths), *lines[1:]])


def machine() -> dict[str, Any]:
    """The words that figures mean nothing without."""
    return {
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "CPU": cpu_model(),
        "Python": platform.python_version(),
        "Envoy": envoy_version(),
        "system": f"{platform.system()} {platform.release()}",
    }


def cpu_model() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found.group(1).strip() if found else platform.processor() or platform.machine()


def envoy_version() -> str:
    """The version in the output of `envoy --version`; the binary is found beside the interpreter or on the PATH."""
    binary = envoy_binary()
    if binary is None:
        return "not installed"
    said = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=20, check=False).stdout
    found = re.search(r"/(\d+\.\d+\.\d+[^/]*)/", said)
    return found.group(1) if found else "unknown"


def envoy_binary() -> str | None:
    beside = Path(sys.executable).parent / "envoy"
    return str(beside) if beside.exists() else shutil.which("envoy")


def arguments(
    doc: str | None, argv: Sequence[str] | None = None, more: Callable[[argparse.ArgumentParser], None] | None = None
) -> argparse.Namespace:
    """`--json FILE` and `--quick`, which every benchmark has; `more` adds a benchmark's own.

    From here on SIGTERM unwinds like Ctrl-C does, so that no child outlives the benchmark.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE as well")
    parser.add_argument("--quick", action="store_true", help="a smaller run of some 40 s; figures are rougher")
    if more is not None:
        more(parser)
    chosen = parser.parse_args(argv)
    if argv is None:  # we are a program
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    return chosen


_started = time.monotonic()


def progress(text: str) -> None:
    """Tell the watcher on stderr; stdout is kept for results."""
    print(f"[{time.monotonic() - _started:6.1f} s] {text}", file=sys.stderr, flush=True)
