"""What would end the process is found in the source of a plugin, however it is imported."""

from __future__ import annotations

from pathlib import Path

import pytest

from sidecar.lethal import lethal, source_of


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("import os\nos._exit(1)", "os._exit"),
        ("import os as o\no.abort()", "os.abort"),
        ("import os.path\nos.kill(0, 9)", "os.kill"),
        ("from os import _exit as leave\nleave(0)", "os._exit"),
        ("import signal\nclass P:\n  def f(self): signal.raise_signal(9)", "signal.raise_signal"),
        ("import os\nstop = os.fork", "os.fork"),
        ("import ctypes\nctypes.string_at(0)", "ctypes.string_at"),
        ("def f():\n  from os import execv\n  execv('/bin/sh', [])", "os.execv"),
    ],
)
def test_it_is_named_with_its_place(source: str, name: str) -> None:
    [told] = lethal(source, "p.py")
    line = 3 if source.startswith("def") or "class" in source else 2
    assert told.startswith(f"{name} ")
    assert told.endswith(f" at p.py:{line}")


@pytest.mark.parametrize(
    "source",
    [
        "import os\nos.environ['_exit']",
        "class os:\n  _exit = 1\nos._exit",
        "import sys\nsys.exit(1)",
        "not Python (",
        "",
    ],
)
def test_what_can_be_contained_or_is_something_else_is_left_alone(source: str) -> None:
    assert lethal(source, "p.py") == []


def test_the_source_is_found_by_file_and_by_module(tmp_path: Path) -> None:
    (tmp_path / "p.py").write_text("x = 1")
    assert source_of("p.py:Class", tmp_path) == ("x = 1", "p.py")
    assert source_of("sidecar.plugins.stamp:Stamp")[1] == "stamp.py"
    assert source_of("no.such.module:Class") == source_of("none.py", tmp_path) == ("", "")
