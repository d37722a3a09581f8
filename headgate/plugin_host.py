"""Where plugins can run on this machine: inside its Envoy, or else beside it, with the reason why not inside."""

from __future__ import annotations

from functools import lru_cache

from headgate.envoy import EnvoyError, find_binary
from sidecar.native.build import Module, NativeError, build, check


@lru_cache(maxsize=1)
def inside() -> Module | str:
    """The module for this machine's Envoy, compiled now if it has to be; or why it cannot be had."""
    try:
        check(find_binary())
        return build()
    except (NativeError, EnvoyError, OSError) as error:
        return str(error)
