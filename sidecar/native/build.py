"""Builds the dynamic module for this interpreter and Envoy, once, into a cache folder; says clearly when it cannot.

Nothing here is needed to install headgate: without a compiler plugins run by ext_proc.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NAME = "headgate_python"
ABI = "v0.2.0"
ENVOY = "1.40"  # whose ABI this is; Envoy promises no more than the next minor version
FALLBACK = "use ext_proc (plugins: host: ext_proc)"

_HERE = Path(__file__).parent
_SOURCES = ("headgate_python.c", "envoy_abi.h")


class NativeError(Exception):
    """The module cannot be built or used here; the message says why and what to use instead."""


@dataclass(frozen=True, slots=True)
class Module:
    """A module that is built."""

    path: Path

    @property
    def environment(self) -> dict[str, str]:
        """What Envoy has to be started with."""
        return {"ENVOY_DYNAMIC_MODULES_SEARCH_PATH": str(self.path.parent)}


def build(*, cache: Path | None = None, python: Path | None = None, compiler: str = "") -> Module:
    """The module for an interpreter, this one by default: from the cache, or compiled now."""
    python = python or Path(sys.executable)
    include, library = _headers(), _library()
    compiler = compiler or os.environ.get("CC") or next(filter(shutil.which, ("cc", "gcc", "clang")), "")
    command = shlex.split(compiler)
    path = (cache or _cache()) / _key(python) / f"lib{NAME}.so"
    if path.exists():
        return Module(path)
    if not command or shutil.which(command[0]) is None:
        raise NativeError(f"there is no C compiler ({compiler or 'cc, gcc or clang'}): install one, or {FALLBACK}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        fresh = Path(folder) / path.name
        arguments = [
            *(*command, "-shared", "-fPIC", "-O2", "-fvisibility=hidden", f"-I{include}"),
            f'-DHEADGATE_PYTHON="{_quoted(str(python))}"',
            *(str(_HERE / "headgate_python.c"), "-o", str(fresh)),
            *(f"-L{library.parent}", f"-l{_short(library)}", f"-Wl,-rpath,{library.parent}", "-lpthread"),
        ]
        done = subprocess.run(arguments, capture_output=True, text=True, check=False)
        if done.returncode:
            raise NativeError(f"the compiler refused the module: {_first_error(done.stderr)}; {FALLBACK}")
        fresh.replace(path)
    return Module(path)


def check(envoy: Path) -> str:
    """The version of an Envoy that speaks our ABI, or NativeError."""
    try:
        told = subprocess.run([str(envoy), "--version"], capture_output=True, text=True, check=True, timeout=30).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise NativeError(f"cannot ask {envoy} for its version: {error}") from None
    return check_version(told, str(envoy))


def check_version(told: str, envoy: str = "Envoy") -> str:
    """The version in what an Envoy tells of itself (1.40.0, or commit/1.40.0/...), if it speaks our ABI."""
    found = re.search(r"(?<![\d.])(\d+\.\d+)\.\d+", told)
    if found is None:
        raise NativeError(f"{envoy} tells no version: {told.strip()[:200]!r}; {FALLBACK}")
    if found[1] != ENVOY:
        raise NativeError(f"Envoy {found[0]} speaks another ABI than {ABI} of Envoy {ENVOY}: {FALLBACK}")
    return found[0]


def http_filter(config: Mapping[str, Any], name: str = "headgate") -> dict[str, Any]:
    """The HTTP filter for a listener, as protojson. `config` is what `sidecar.embedded.EmbeddedSpec` describes."""
    import json

    return {
        "name": "headgate.plugins",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.dynamic_modules.v3.DynamicModuleFilter",
            # Loaded for all to see, because Python's own extension modules look for libpython's symbols there;
            # never closed, because Python cannot be loaded twice.
            "dynamic_module_config": {"name": NAME, "do_not_close": True, "load_globally": True},
            "filter_name": name,
            "filter_config": {
                "@type": "type.googleapis.com/google.protobuf.StringValue",
                "value": json.dumps(config, separators=(",", ":")),
            },
        },
    }


def _cache() -> Path:
    base = os.environ.get("HEADGATE_CACHE") or os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "headgate" / "native"


def _key(python: Path) -> str:
    """Another source, interpreter or place is another module."""
    digest = hashlib.sha256("\0".join((sys.version, sysconfig.get_platform(), str(python))).encode())
    for name in _SOURCES:
        digest.update((_HERE / name).read_bytes())
    return f"cp{sys.version_info.major}{sys.version_info.minor}-{digest.hexdigest()[:16]}"


def _headers() -> Path:
    include = Path(sysconfig.get_paths()["include"])
    if not (include / "Python.h").exists():
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        raise NativeError(f"Python's headers are not there ({include}): install python{version}-dev, or {FALLBACK}")
    return include


def _library() -> Path:
    if sys.platform != "linux":
        raise NativeError(f"plugins run inside Envoy on Linux only: {FALLBACK}")
    name = sysconfig.get_config_var("LDLIBRARY") or ""
    places = (sysconfig.get_config_var("LIBDIR"), sysconfig.get_config_var("LIBPL"), f"{sys.base_prefix}/lib")
    for place in places:
        for found in (Path(place or "/") / name, Path(place or "/") / f"{name}.1.0"):
            if name.endswith(".so") and found.exists():
                return found
    raise NativeError(f"this Python has no shared library (it was built without --enable-shared): {FALLBACK}")


def _short(library: Path) -> str:
    return library.name.removeprefix("lib").split(".so")[0]


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


def _first_error(text: str) -> str:
    lines = [line for line in text.splitlines() if "error" in line] or text.splitlines() or ["it gave no reason"]
    return lines[0].strip()
