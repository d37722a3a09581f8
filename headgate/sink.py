"""Where the router's plans become Envoy resources: a `ModelPlan` in, the gateway's `Cache` changed.

A gateway with many models leaves it to Envoy to ask for a model's route when the first request for it comes
(on-demand scopes): a third of the memory, the same speed. Which of the two holds is decided here, per gateway.

So is whether copies are counted. Envoy forgets what a router filter has counted as soon as another one takes its place,
so counting ends only when the sidecar has long read the last copies, and most of their answers are there.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping

from headgate.config import gateway_owner
from xds.cache import Cache
from xds.ir import Gateway, ModelPlan
from xds.resources import Resource, Resources, Type
from xds.translate import translate, translate_gateway

log = logging.getLogger("headgate.sink")

SLICE = 20
"""Models translated again in one go when a gateway turns to on-demand scopes: a few milliseconds of the loop."""

LINGER = 120.0
"""Seconds that copies are counted after the last mirror is gone, and after a start: Envoys may have mirrors still."""

Translate = Callable[[ModelPlan, bool], Resources]


def _for_envoy(plan: ModelPlan, on_demand: bool) -> Resources:
    return translate(plan, on_demand=on_demand)


class Sink:
    """The engine's way out. It holds every gateway's latest plans, because crossing the threshold concerns them all."""

    def __init__(
        self,
        gateways: Iterable[Gateway],
        translate: Translate = _for_envoy,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.gateways: Mapping[str, Gateway] = {gateway.name: gateway for gateway in gateways}
        self.caches: Mapping[str, Cache] = {name: Cache() for name in self.gateways}
        self._translate = translate
        self._plans: dict[str, dict[str, ModelPlan]] = {name: {} for name in self.gateways}
        self._clock = clock
        self._mirrored: dict[str, set[str]] = {name: set() for name in self.gateways}
        self._counts_until: dict[str, float] = dict.fromkeys(self.gateways, clock() + LINGER)  # without mirrors
        self._secrets: dict[str, Mapping[str, Resource]] = {}
        self._on_demand = {gateway.name for gateway in self.gateways.values() if gateway.on_demand_above == 0}
        self._again: deque[tuple[str, str]] = deque()
        self._wake = asyncio.Event()
        for name in self.gateways:
            self.secrets(name, {})

    def on_demand(self, gateway: str) -> bool:
        """Whether Envoys of this gateway ask for a model's route only when a request needs it."""
        return gateway in self._on_demand

    def models(self, gateway: str) -> int:
        """How many models the gateway serves."""
        return len(self._plans[gateway])

    def secrets(self, gateway: str, secrets: Mapping[str, Resource]) -> None:
        """Publish the gateway's listeners together with the certificates that they need."""
        self._secrets[gateway] = secrets
        self._publish(gateway)

    def _publish(self, gateway: str) -> None:
        counts = bool(self._mirrored[gateway]) or gateway in self._counts_until
        own = dict(translate_gateway(self.gateways[gateway], mirrored=counts))
        if self._secrets[gateway]:
            own[Type.SECRET] = self._secrets[gateway]
        self.caches[gateway].apply(gateway_owner(gateway), own)

    def _mirrors(self, gateway: str, model: str, mirrors: bool) -> None:
        """The first model that is mirrored turns the counting of copies on, some time after the last one it ends."""
        mirrored = self._mirrored[gateway]
        before = bool(mirrored)
        if mirrors:
            mirrored.add(model)
        else:
            mirrored.discard(model)
        if mirrored and not before:
            if self._counts_until.pop(gateway, None) is None:
                self._publish(gateway)
        elif before and not mirrored:
            self._counts_until[gateway] = self._clock() + LINGER
            self._wake.set()

    def stop_counting(self) -> float | None:
        """End it where its time has come. Returns the seconds until it comes elsewhere."""
        now = self._clock()
        for gateway in [name for name, until in self._counts_until.items() if until <= now]:
            del self._counts_until[gateway]
            self._publish(gateway)
        return min(self._counts_until.values()) - now if self._counts_until else None

    def apply(self, plan: ModelPlan) -> None:
        """Publish a model's plan. Raises if it cannot be translated; then the cache keeps what it had."""
        plans = self._plans[plan.gateway]
        demand = plan.gateway in self._on_demand
        resources = self._translate(plan, demand)
        mirrors = any(route.mirrors for route in plan.routes)
        if mirrors:  # so that Envoy counts copies before it makes any
            self._mirrors(plan.gateway, plan.name, True)
        self.caches[plan.gateway].apply(plan.name, resources)
        plans[plan.name] = plan
        if not mirrors:
            self._mirrors(plan.gateway, plan.name, False)
        if not demand and len(plans) > self.gateways[plan.gateway].on_demand_above:
            self._turn(plan.gateway)

    def remove(self, gateway: str, model: str) -> None:
        """Take a model's routes away."""
        if self._plans[gateway].pop(model, None) is not None:
            self.caches[gateway].remove(model)
            self._mirrors(gateway, model, False)

    async def run(self) -> None:
        """Translate again what has to change to on-demand, a slice at a time so that no probe or Envoy waits.

        And end the counting of copies in time.
        """
        while True:
            try:
                async with asyncio.timeout(self.stop_counting()):
                    await self._wake.wait()
            except TimeoutError:
                continue
            self._wake.clear()
            while self._again:
                self.translate_slice()
                await asyncio.sleep(0)

    def translate_slice(self) -> None:
        """Do the next few of the models that still have eager scopes."""
        for _ in range(min(SLICE, len(self._again))):
            gateway, model = self._again.popleft()
            plan = self._plans[gateway].get(model)
            if plan is not None:
                self.caches[gateway].apply(model, self._translate(plan, True))

    def _turn(self, gateway: str) -> None:
        # Never back: a gateway that hovers at the threshold would send everything again and again.
        above = self.gateways[gateway].on_demand_above
        log.info("gateway %s: more than %d models, scopes are on demand from now on", gateway, above)
        self._on_demand.add(gateway)
        self._again.extend((gateway, model) for model in self._plans[gateway])
        self._wake.set()
