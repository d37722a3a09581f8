"""What ends or breaks the process that runs a plugin, found in its source without running it.

Nothing inside a process can contain these: with the plugin inside Envoy they end Envoy. Found is what is written
plainly; what hides (`getattr`, `eval`, a library that does it) is not.
"""

from __future__ import annotations

import ast
from importlib.util import find_spec
from pathlib import Path
from typing import Final

_ENDS: Final = "ends the whole process"
_COPIES: Final = "copies or replaces the whole process"
_TAKES: Final = "takes a signal from the process that the plugin is in"
_BREAKS: Final = "can break the process's memory"
_LETHAL: Final = {
    **dict.fromkeys(("os._exit", "os.abort", "os.kill", "os.killpg", "signal.raise_signal"), _ENDS),
    **dict.fromkeys(("signal.pthread_kill", "posix._exit", "posix.abort", "posix.kill"), _ENDS),
    **dict.fromkeys(("os.fork", "os.forkpty", "posix.fork", "pty.fork"), _COPIES),
    **dict.fromkeys((f"os.exec{form}" for form in ("l", "le", "lp", "lpe", "v", "ve", "vp", "vpe")), _COPIES),
    **dict.fromkeys(("signal.signal", "signal.alarm", "signal.setitimer", "faulthandler.register"), _TAKES),
    **dict.fromkeys(("ctypes.memmove", "ctypes.memset", "ctypes.string_at", "ctypes.cast"), _BREAKS),
    **dict.fromkeys(("ctypes.CDLL", "ctypes.PyDLL", "ctypes.pythonapi", "ctypes.cdll"), _BREAKS),
    **dict.fromkeys(("faulthandler._sigsegv", "faulthandler._sigabrt", "sys.setrecursionlimit"), _BREAKS),
}


def lethal(source: str, file: str) -> list[str]:
    """A sentence for each use, with its place; nothing for what is no Python, which loading tells better."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return []
    known: dict[str, str] = {}  # name here: what it stands for
    for node in ast.walk(tree):
        known |= _brought_in(node)
    found = {
        (node.lineno, name)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute | ast.Name) and (name := _meant(node, known)) in _LETHAL
    }
    return [f"{name} {_LETHAL[name]}, and nothing can contain it at {file}:{line}" for line, name in sorted(found)]


def source_of(plugin: str, folder: Path | None = None) -> tuple[str, str]:
    """The source and the file's name of "module:Class" or a file; empty where there is none to be read."""
    place = plugin.partition(":")[0]
    try:
        if place.endswith(".py"):
            path = Path(place) if folder is None else folder / place
        else:
            spec = find_spec(place)
            if spec is None or spec.origin is None:
                return "", ""
            path = Path(spec.origin)
        return path.read_text("utf-8"), path.name
    except Exception:  # a parent package is imported for its path: whatever it does wrong, loading tells
        return "", ""


def _brought_in(node: ast.AST) -> dict[str, str]:
    """Names that an import makes."""
    if isinstance(node, ast.Import):
        named = {one.asname: one.name for one in node.names if one.asname}
        return named | {top: top for one in node.names if not one.asname and (top := one.name.partition(".")[0])}
    if isinstance(node, ast.ImportFrom) and node.module and not node.level:
        return {one.asname or one.name: f"{node.module}.{one.name}" for one in node.names}
    return {}


def _meant(node: ast.AST, known: dict[str, str]) -> str:
    """The dotted name that an expression stands for, "" when it is none."""
    if isinstance(node, ast.Name):
        return known.get(node.id, "")
    if isinstance(node, ast.Attribute):
        before = _meant(node.value, known)
        return f"{before}.{node.attr}" if before else ""
    return ""
