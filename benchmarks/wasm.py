"""The Wasm filter of `plugins.py`: built at run time from wasm_samples.c, where there is a compiler for it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

_SOURCE = Path(__file__).with_name("wasm_samples.c")
_FLAGS = ("--target=wasm32", "-O2", "-nostdlib", "-Wl,--no-entry")
_WASM = "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm"
_TEXT = "type.googleapis.com/google.protobuf.StringValue"


def missing() -> str:
    """What has to be installed first, "" when nothing."""
    absent = [tool for tool in ("clang", "wasm-ld") if shutil.which(tool) is None]
    return f"no {' and no '.join(absent)} (Debian: apt-get install clang lld)" if absent else ""


def build(folder: Path) -> Path:
    """Compile; RuntimeError with the compiler's words when it refuses."""
    module = folder / "wasm_samples.wasm"
    done = subprocess.run(["clang", *_FLAGS, "-o", str(module), str(_SOURCE)], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"clang did not compile {_SOURCE.name}: {done.stderr}")
    return module


def wasm_filter(module: Path, kind: str) -> dict[str, Any]:
    """The HTTP filter; `kind` is "headers" or "bodies"."""
    return {
        "name": "wasm",
        "typed_config": {
            "@type": _WASM,
            "config": {
                "name": kind,
                "configuration": {"@type": _TEXT, "value": kind},
                "vm_config": {
                    "vm_id": kind,
                    "runtime": "envoy.wasm.runtime.v8",
                    "code": {"local": {"filename": str(module)}},
                },
            },
        },
    }
