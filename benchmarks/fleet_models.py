"""The model that the fan-out benchmark changes: a hundred header routes, a RouteConfiguration of 17.7 kB."""

from __future__ import annotations

from dataclasses import replace

from xds.ir import (
    WEIGHT_TOTAL,
    Backend,
    Endpoint,
    Gateway,
    HeaderMatch,
    Listener,
    Match,
    ModelPlan,
    Route,
    StringMatch,
    Target,
)

GATEWAY = "default"
MODEL = "default/busy"


def gateway(port: int = 10_000, on_demand_above: int = 2_000) -> Gateway:
    return Gateway(GATEWAY, (Listener("http", "127.0.0.1", port),), on_demand_above)


def plan(routes: int, weight: int) -> ModelPlan:
    """`routes` header routes above a split; only the split's weight differs between two pushes."""
    arms = tuple(
        Target(f"{MODEL}/v{n}", share, f"v{n}", set_response_headers=(("app-version", f"v{n}"),))
        for n, share in ((1, WEIGHT_TOTAL - weight), (2, weight))
    )
    split = Route("split", Match(), arms)
    even = tuple(replace(arm, weight=WEIGHT_TOTAL // 2) for arm in arms)
    testers = tuple(
        Route(
            f"tester-{n:04d}",
            Match(headers=(HeaderMatch("x-tester", StringMatch.EXACT, f"tester-number-{n:04d}"),)),
            even,
        )
        for n in range(routes - 1)
    )
    backends = tuple(Backend(arm.backend, (Endpoint("127.0.0.1", 9_000 + n),)) for n, arm in enumerate(arms))
    return ModelPlan(MODEL, GATEWAY, ("busy.example",), (*testers, split), backends)
