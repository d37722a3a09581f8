"""How far a shadow version agrees with the live one: their answers to the same request, paired by request id.

It runs at the backends (`at: backend`), where both the live request and its mirrored copy (`x-shadow: true`) pass. The
first answer is kept, bounded in number and time, until the second comes; then they are compared: same choice? how far
apart are the scores?
"""

from __future__ import annotations

import json
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from sidecar.plugin import CONTINUE, Body, Buffered, Headers, HttpContext, Plugin, Result

_VALUES = 4096  # of an answer that are compared
_DRIFT = (0.0, 0.0001, 0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 10.0)


class Config(BaseModel):
    model_config = ConfigDict(extra="forbid")

    request_id_header: str = "x-request-id"
    path: str = "outputs.0.data"  # where the scores are in the JSON answer
    tolerance: float = Field(default=1e-6, ge=0)  # single values agree when they are this close
    keep: int = Field(default=10_000, ge=1)  # answers that wait for their partner
    seconds: float = Field(default=30.0, gt=0)


@dataclass(frozen=True, slots=True)
class Answer:
    version: str
    scores: tuple[float, ...]


@dataclass(slots=True)
class Pair:
    since: float
    live: Answer | None = None
    shadows: list[Answer] = field(default_factory=list)
    compared: int = 0


class Watching(HttpContext["Shadow"]):
    request_id = ""

    def on_request_headers(self, headers: Headers) -> Result:
        self.request_id = headers.get(self.root.settings.request_id_header)
        self.is_shadow = headers.get("x-shadow") == "true"
        return CONTINUE

    def on_response_body(self, body: Body) -> Result:
        if self.request_id:
            version = str(self.get_property("version") or "")
            scores = scores_in(body.data, self.root.settings.path)
            self.root.saw(self.request_id, self.is_shadow, Answer(version, scores), self.now())
        return CONTINUE


class Shadow(Plugin):
    name = "shadow"
    context = Watching
    places = ("backend",)
    elsewhere = "only at the backends do both a live request and its mirrored copy go by"
    properties = ("version",)
    response_body = Buffered(1 << 20)
    config_model = Config

    def on_configure(self, config: Config) -> None:
        self.settings = config
        self.pairs: OrderedDict[str, Pair] = OrderedDict()
        labels = ["live", "shadow"]
        self.compared = self.metrics.counter("compared", "Pairs of answers that were compared.", labels)
        self.agreed = self.metrics.counter("agreed", "Pairs of answers that agree.", labels)
        told = "Share of pairs that agree, newer ones count more."
        self.rate = self.metrics.gauge("agreement_ratio", told, labels, joined="mean")
        self.drift = self.metrics.histogram("score_drift", "Mean distance of the scores of a pair.", labels, _DRIFT)
        self.alone = self.metrics.counter("unpaired", "Answers whose partner did not come in time.")
        self._rates: dict[tuple[str, str], float] = {}

    def saw(self, request_id: str, is_shadow: bool, answer: Answer, now: float) -> None:
        """An answer has come; compare it with those to the same request that are there."""
        self._forget(now)
        pair = self.pairs.get(request_id)
        if pair is None:
            pair = self.pairs[request_id] = Pair(now)
        if is_shadow:
            if len(pair.shadows) < 8:
                pair.shadows.append(answer)
        elif pair.live is None:
            pair.live = answer
        if pair.live is not None:
            for shadow in pair.shadows:
                self._compare(pair.live, shadow)
                pair.compared += 1
            pair.shadows.clear()  # another mirror's answer may still come

    def _compare(self, live: Answer, shadow: Answer) -> None:
        labels = {"live": live.version, "shadow": shadow.version}
        agrees = agree(live.scores, shadow.scores, self.settings.tolerance)
        self.compared.add(1, **labels)
        if agrees:
            self.agreed.add(1, **labels)
        if len(live.scores) == len(shadow.scores) > 0:
            apart = sum(abs(a - b) for a, b in zip(live.scores, shadow.scores, strict=True))
            self.drift.observe(apart / len(live.scores), **labels)
        key = (live.version, shadow.version)
        if key in self._rates or len(self._rates) < 1000:
            before = self._rates.get(key, float(agrees))
            self._rates[key] = before + 0.01 * (agrees - before)
            self.rate.set(self._rates[key], **labels)

    def _forget(self, now: float) -> None:
        while self.pairs:
            oldest = next(iter(self.pairs.values()))
            if len(self.pairs) < self.settings.keep and now - oldest.since <= self.settings.seconds:
                return
            self.pairs.popitem(last=False)
            if not oldest.compared:
                self.alone.add()


def agree(live: tuple[float, ...], shadow: tuple[float, ...], tolerance: float) -> bool:
    """One value: close enough. Several, as of a classifier: the same one is the greatest. None: no agreement."""
    if len(live) != len(shadow) or not live:
        return False
    if len(live) == 1:
        return abs(live[0] - shadow[0]) <= tolerance
    return max(range(len(live)), key=live.__getitem__) == max(range(len(shadow)), key=shadow.__getitem__)


def scores_in(body: bytes, path: str) -> tuple[float, ...]:
    """The numbers at a path of a JSON document, such as outputs.0.data; () when there are none."""
    try:
        value: Any = json.loads(body)
        for part in path.split("."):
            value = value[int(part)] if isinstance(value, list) else value[part]
    except (ValueError, KeyError, IndexError, TypeError):
        return ()
    values = value if isinstance(value, list) else [value]
    flat = [one for row in values[:_VALUES] for one in (row if isinstance(row, list) else [row])][:_VALUES]
    if not all(isinstance(one, int | float) for one in flat):
        return ()
    return tuple(float(one) for one in flat)
