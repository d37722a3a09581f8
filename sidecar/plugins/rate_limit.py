"""No client gets more than its share: a token bucket for each, 429 with `retry-after` when it is empty."""

from __future__ import annotations

import math
from collections import OrderedDict

from pydantic import BaseModel, ConfigDict, Field

from sidecar.plugin import CONTINUE, Headers, HttpContext, Plugin, Reply, Result


class Config(BaseModel):
    model_config = ConfigDict(extra="forbid")

    per_second: float = Field(gt=0)
    burst: int = Field(default=0, ge=0)  # 0: as many as in a second, at least 1
    header: str = ""  # who the client is; without it, or when it is missing, its address
    clients: int = Field(default=10_000, ge=1)  # that are remembered


class Limiting(HttpContext["RateLimit"]):
    def on_request_headers(self, headers: Headers) -> Result:
        header = self.root.settings.header
        client = (header and headers.get(header)) or str(self.get_property("source_address") or "")
        wait = self.root.take(client, self.now())
        if wait <= 0:
            return CONTINUE
        self.root.refused.add()
        return Reply(429, b"too many requests\n", (("retry-after", str(math.ceil(wait))),), grpc_status=8)


class RateLimit(Plugin):
    name = "rate-limit"
    context = Limiting
    properties = ("source_address",)
    config_model = Config

    def on_configure(self, config: Config) -> None:
        self.settings = config
        self.burst = float(config.burst or max(1, round(config.per_second)))
        self.buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # client: tokens, when
        self.refused = self.metrics.counter("refused", "Requests refused because their client had too many.")

    def take(self, client: str, now: float) -> float:
        """Take a token: 0, or in how many seconds there will be one."""
        tokens, then = self.buckets.pop(client, (self.burst, now))
        tokens = min(self.burst, tokens + (now - then) * self.settings.per_second)
        allowed = tokens >= 1
        self.buckets[client] = (tokens - 1 if allowed else tokens, now)
        if len(self.buckets) > self.settings.clients:
            self.buckets.popitem(last=False)  # who has not been seen longest has a full bucket soonest
        return 0.0 if allowed else (1 - tokens) / self.settings.per_second
