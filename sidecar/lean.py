"""A request whose plugins look at headers only: the hooks are called one after the other, and no chain is made.

As soon as a hook does anything but let the message go on, a `Chain` is made, in the state in which it would be, and
takes over. Until then the request stands in for it: contexts find in it what they look for in their chain.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from threading import get_ident
from time import monotonic
from typing import TYPE_CHECKING, Any

from sidecar.chain import Chain, Out, Step
from sidecar.headers import HeaderList, Headers
from sidecar.plugin import CONTINUE, Call, HeadersOnly, HttpContext, Plugin
from sidecar.watch import WATCH

if TYPE_CHECKING:
    from sidecar.host import Host
    from sidecar.pipeline import Bound, Pipeline

_NONE = HeaderList()
_RUNNING, _FIRED = WATCH._running, WATCH._fired


class _Place:
    """Stands for a step of the chain that has not been made."""

    __slots__ = ("at", "end", "response")

    def __init__(self, at: int, response: bool, end: bool) -> None:
        self.at, self.response, self.end = at, response, end


_Hook = tuple[int, str, float, Callable[[Plugin], HttpContext[Any]], Plugin, tuple[_Place, _Place]]


class Lane:
    """A pipeline's hooks in the order in which they are called, looked up once."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        self.healths = tuple(one.health for one in pipeline.plugins)
        self.request = tuple(_hook(at, one, False) for at, one in enumerate(pipeline.request) if one.request.headers)
        self.response = tuple(_hook(at, one, True) for at, one in enumerate(pipeline.response) if one.response.headers)
        self.empty: list[HttpContext[Any] | None] = [None] * len(pipeline.plugins)
        self._passed = array("Q", (0,))  # requests that the C module gave to the plugins

    @property
    def spoken(self) -> tuple[Any, ...]:
        """As the C module reads it."""
        return _FIRED, CONTINUE, HttpContext.__init__, self._passed, self.healths, self.request, self.response

    def count(self) -> None:
        """Tell the plugins' healths of the requests that the C module gave to them."""
        for health in self.healths:
            health.passed = self._passed[0]

    @staticmethod
    def fits(pipeline: Pipeline) -> bool:
        """Whether no plugin wants bodies or trailers, and all make their contexts in the usual way."""
        return not (
            pipeline.wants_request_trailers
            or pipeline.wants_response_trailers
            or not isinstance(pipeline.request_need, HeadersOnly)
            or not isinstance(pipeline.response_need, HeadersOnly)
            or any(type(one.plugin).create_context is not Plugin.create_context for one in pipeline.plugins)
        )


def _hook(at: int, bound: Bound, response: bool) -> _Hook:
    name = bound.response.headers if response else bound.request.headers
    places = _Place(at, response, False), _Place(at, response, True)
    return bound.index, name, bound.budget, bound.make or bound.plugin.context, bound.plugin, places


class Lean:
    """To be mixed into a `Host`. `quick_*` answer None when the headers go on, and else what the chain says."""

    lane: Lane
    # The C module's.
    chain: Chain | None
    began: float
    contexts: list[HttpContext[Any] | None] | None
    request_headers_seen: Headers
    response_headers_seen: Headers

    def quick_request(self, headers: Headers, end: bool, thread: int) -> Out | None:
        lane = self.lane
        now = self.began = monotonic()
        for health in lane.healths:
            if health.suspended_until > now:
                return self.whole().request_headers(headers, end)
        for health in lane.healths:
            health.requests += 1
        self.contexts = lane.empty.copy()
        self.request_headers_seen = headers
        self.response_headers_seen = _NONE
        return self._quick(lane.request, headers, end, now, thread)

    def quick_response(self, headers: Headers, end: bool, thread: int) -> Out | None:
        if self.chain is not None:
            return self.chain.response_headers(headers, end)
        self.response_headers_seen = headers
        return self._quick(self.lane.response, headers, end, monotonic(), thread)

    def _answered(self) -> Headers:
        """The headers of the response, none as long as there are none."""
        if self.chain is None and self.contexts is not None:
            return self.response_headers_seen
        later: Headers = super()._answered()  # type: ignore[misc]  # the host's
        return later

    def whole(self) -> Chain:
        """The chain, made now if there is none."""
        chain = self.chain
        if chain is None:
            chain = self.chain = Chain(self.lane.pipeline, self.host)
            if self.contexts is not None:
                chain.request_headers_seen = self.request_headers_seen
                chain.response_headers_seen = self.response_headers_seen
                chain._contexts = self.contexts
                for context in self.contexts:
                    if context is not None:
                        context._chain = chain
        return chain

    def _quick(self, hooks: tuple[_Hook, ...], headers: Headers, end: bool, now: float, thread: int) -> Out | None:
        contexts = self.contexts
        assert contexts is not None
        for index, name, budget, make, plugin, places in hooks:
            # What WATCH.enter and WATCH.leave do, in fewer words.
            _RUNNING[thread] = (now + budget, name)
            try:
                context = contexts[index]
                if context is None:
                    context = contexts[index] = make(plugin)
                    context._chain = self  # type: ignore[assignment]
                context._step = places[end]  # type: ignore[assignment]
                result: Any = getattr(context, name)(headers)
                del _RUNNING[thread]
            except BaseException as error:
                WATCH.leave(thread)
                return self._go_whole(places[end], headers, _raises(error))
            if _FIRED:
                WATCH.leave(thread)
            if (result is not CONTINUE and result is not None) or self.chain is not None:
                return self._go_whole(places[end], headers, _returns(result))
        return None

    def failed(self, place: _Place, headers: Headers, error: BaseException) -> Out:
        """A hook called by the C module raised."""
        WATCH.leave(get_ident())
        return self._go_whole(place, headers, _raises(error))

    def took(self, place: _Place, headers: Headers, result: Any) -> Out:
        """A hook called by the C module returned something else than CONTINUE, or has begun a call, or was late."""
        if _FIRED:
            WATCH.leave(get_ident())
        return self._go_whole(place, headers, _returns(result))

    def _go_whole(self, place: _Place, headers: Headers, hook: Callable[[Any], Any]) -> Out:
        """Let the chain go on after this hook, which `hook` does again in effect."""
        chain, step = self.whole(), self._step(place)
        outcome = chain._run(step, step.direction.headers, hook, headers)
        if outcome == "continue":
            step.passed = True
            chain._headers(step.flow, step.at + 1, headers, place.end)
        elif outcome != "closed":
            chain._block(step, "headers", headers, place.end)
        return chain.take_response() if place.response else chain.take_request()

    def _step(self, place: _Place) -> Step:
        """The step of the chain that a place stood for."""
        chain = self.whole()
        if place.response and chain._response is None:
            make = type(chain._request)
            chain._response = make([(one, one.response) for one in chain.pipeline.response])
        flow = chain._response if place.response else chain._request
        assert flow is not None
        for before in flow.steps[: place.at]:
            before.passed = True
        step = flow.steps[place.at]
        step.end = place.end
        return step

    # What contexts look for in their chain

    @property
    def host(self) -> Host:
        return self  # type: ignore[return-value]

    def begin_call(self, place: Any, call: Call) -> None:
        self.whole().begin_call(self._step(place), call)

    def wish_resume(self, context: HttpContext[Any]) -> None:
        """Nothing is paused yet."""


def untie(chain: Chain) -> None:
    """Cut the circles in which a chain that is over holds itself: nothing is left to the garbage collector."""
    chain._contexts.clear()
    for flow in (chain._request, chain._response):
        if flow is not None:
            for step in flow.steps:
                del step.flow
            flow.steps.clear()


def _raises(error: BaseException) -> Callable[[Any], Any]:
    def hook(_: Any) -> Any:
        raise error

    return hook


def _returns(result: Any) -> Callable[[Any], Any]:
    return lambda _: result
