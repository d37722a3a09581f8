"""Where on the path of a request a plugin runs, and whether it sees there what it needs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from sidecar.plugin import Plugin

Place = Literal["gateway", "backend", "proxy"]
PLACES: tuple[Place, ...] = get_args(Place)
_TOLD = {
    "gateway": "at a gateway's listeners",
    "backend": "at the backends, with at: backend",
    "proxy": "in the sidecar's proxy",
}


def misplaced(plugin: type[Plugin], place: Place | None) -> str:
    """Why it cannot do its work there; "" if it can, or if nobody knows where it runs."""
    if place is None or place in plugin.places:
        return ""
    why = f": {plugin.elsewhere}" if plugin.elsewhere else ""
    return f"{plugin.__name__} cannot do its work {_TOLD[place].partition(',')[0]}{why}"


def rather(plugin: type[Plugin]) -> str:
    """Where to run it."""
    return "run it " + ", or ".join(_TOLD[one] for one in plugin.places)


def only(plugin: type[Plugin]) -> str:
    """Where alone it can run, "" if it can anywhere."""
    return "" if set(plugin.places) == set(PLACES) else ", or ".join(_TOLD[one] for one in plugin.places)
