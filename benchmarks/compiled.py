"""Small C programs of the benchmarks: a client or server in Python would take more than what it is to measure."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).resolve().parent


class NoCompiler(RuntimeError):
    """There is no C compiler on this machine."""


def compiled(name: str, folder: Path) -> Path:
    """Build benchmarks/NAME.c into `folder`, with $CC or the first of cc, gcc and clang. Raises NoCompiler."""
    compiler = os.environ.get("CC") or next((c for c in ("cc", "gcc", "clang") if shutil.which(c)), None)
    if compiler is None:
        raise NoCompiler("this benchmark compiles a small C program: install cc, gcc or clang, or name one in CC")
    binary = folder / name
    subprocess.run([compiler, "-O2", "-o", str(binary), str(HERE / f"{name}.c"), "-lm"], check=True, timeout=120)
    return binary
