"""Why every version gets what it gets, in sentences for people."""

from __future__ import annotations

from collections.abc import Iterator

from router.observe import Observed
from router.policy import Wish, mirrors
from router.schema import ModelRollout
from router.weights import heir, scaled
from xds.ir import WEIGHT_TOTAL


def sentences(
    wanted: tuple[Wish, ...], observed: Observed, points: dict[str, int], rollout: ModelRollout
) -> Iterator[str]:
    primary = rollout.primary.name
    weights = {wish.name: wish.weight for wish in wanted}
    wished = scaled(weights) or {primary: WEIGHT_TOTAL}
    unready = [wish for wish in wanted if wish.name not in observed.ready]
    to = heir(weights, observed.ready, primary)
    if len(unready) == len(wanted):
        reasons = "; ".join(f"{wish.name}: {observed[wish.name].reason}" for wish in wanted)
        yield f"no version is ready ({reasons}): {primary} keeps its route and every configured endpoint is tried"
        unready = []
    for wish in unready:
        start = f"{wish.name} is not ready ({observed[wish.name].reason})"
        yield f"{start}: " + "; ".join(_losses(wish, wished.get(wish.name, 0), to))
    for wish in wanted:
        if wish.name in observed.ready:
            yield from _gains(wish, observed, points)


def _losses(wish: Wish, lost: int, to: str) -> Iterator[str]:
    if lost:
        yield f"its {percent(lost)} goes to {to}"
    if wish.match:
        yield "its header route is off"
    if wish.mirror:
        yield "its mirror is off"
    if not lost and not wish.match and not wish.mirror:
        yield "it would get no traffic anyway"


def _gains(wish: Wish, observed: Observed, points: dict[str, int]) -> Iterator[str]:
    gets = []
    if wish.name in points:
        gets.append(f"{percent(points[wish.name])} of the traffic")
    if wish.match:
        gets.append("the requests that match its header route")
    if mirrors(wish, observed.ready, points) and wish.mirror:
        gets.append(f"a copy of {wish.mirror.percent:g} % of the traffic")
    role = " (primary)" if wish.primary else ""
    reason = observed[wish.name].reason
    ready = "is ready" if reason == "ready" else f"is ready ({reason})"
    yield f"{wish.name}{role} {ready} and gets {' and '.join(gets) or 'no traffic'}"
    if wish.mirror and not mirrors(wish, observed.ready, points):
        yield f"{wish.name} gets no copies while it stands in for the others"


def percent(points: int) -> str:
    """Basis points in words: 50 %, 0.01 %."""
    return f"{points / 100:g} %"
