"""The chain for plugins that look at headers only: nothing is made for a request that nobody pauses, answers or breaks.

The hooks are called one after the other. As soon as one of them does anything but let the message go on, the request
is handed to the whole machinery of `Chain`, in the state in which it would be.
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Any

from sidecar.chain import Chain, Out, Step
from sidecar.headers import HeaderList, Headers
from sidecar.plugin import CONTINUE, Call, HeadersOnly, HttpContext, Plugin
from sidecar.watch import WATCH

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidecar.chain import _Flow
    from sidecar.host import Host
    from sidecar.pipeline import Bound, Pipeline

_NONE = HeaderList()
_MADE_LATE = frozenset({"_contexts", "_off", "_request", "_calls", "_wakes"})


class _Place:
    """Stands for a step that has not been made."""

    __slots__ = ("end",)

    def __init__(self, end: bool) -> None:
        self.end = end


_OPEN, _AT_END = _Place(False), _Place(True)


class Lane:
    """A pipeline's hooks in the order in which they are called, looked up once."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        self.healths = tuple(one.health for one in pipeline.plugins)
        self.request = tuple(_hook(at, one, one.request.headers) for at, one in enumerate(pipeline.request))
        self.response = tuple(_hook(at, one, one.response.headers) for at, one in enumerate(pipeline.response))
        self.empty: list[HttpContext[Any] | None] = [None] * len(pipeline.plugins)

    @staticmethod
    def fits(pipeline: Pipeline) -> bool:
        """Whether no plugin wants bodies or trailers."""
        if pipeline.wants_request_trailers or pipeline.wants_response_trailers:
            return False
        return isinstance(pipeline.request_need, HeadersOnly) and isinstance(pipeline.response_need, HeadersOnly)

    def open(self, host: Host) -> LeanChain:
        return LeanChain(self, host)


_Hook = tuple[int, int, str, float, "Callable[[], HttpContext[Any]] | None", "Bound"]


def _hook(at: int, bound: Bound, name: str) -> _Hook:
    """Where it is, what it is called, its budget, and how its context is made if nothing can be wrong with that."""
    kind = type(bound.plugin)
    make: Callable[[], HttpContext[Any]] | None = None
    if kind.create_context is Plugin.create_context and issubclass(kind.context, HttpContext):
        context = kind.context
        make = (lambda plugin=bound.plugin: context(plugin)) if context.__init__ is HttpContext.__init__ else None
    return at, bound.index, name, bound.budget, make, bound


class LeanChain(Chain):
    """See the module. `quick_request` and `quick_response` are what makes it lean; all else is `Chain`'s."""

    request_headers_seen: Headers = _NONE
    response_headers_seen: Headers = _NONE
    replied = False
    finished = False
    _response: _Flow | None = None
    _verdict = None
    _grpc_status = None
    _whole = False  # whether it is an ordinary chain by now
    _now: tuple[bool, int] = (False, 0)  # the hook that runs: whether of a response, and its place

    def __init__(self, lane: Lane, host: Host) -> None:
        self.pipeline = lane.pipeline
        self.host = host
        self._lane = lane
        self._contexts = lane.empty.copy()

    def __getattr__(self, name: str) -> Any:
        """What `Chain` has made from the beginning is made here when it is first looked for."""
        if name not in _MADE_LATE:
            raise AttributeError(name)
        contexts, seen = self._contexts, (self.request_headers_seen, self.response_headers_seen)
        super().__init__(self.pipeline, self.host)
        self._contexts = contexts
        self.request_headers_seen, self.response_headers_seen = seen
        return self.__dict__[name]

    def quick_request(self, headers: Headers, end: bool) -> Out | None:
        """As `request_headers`. None: they go on."""
        now = monotonic()
        healths = self._lane.healths
        for health in healths:
            if health.suspended_until > now:
                self._whole = True
                return self.request_headers(headers, end)
        for health in healths:
            health.requests += 1
        self.request_headers_seen = headers
        return self._quick(self._lane.request, headers, end, False)

    def quick_response(self, headers: Headers, end: bool) -> Out | None:
        """As `response_headers`. None: they go on."""
        if self._whole:
            return self.response_headers(headers, end)
        self.response_headers_seen = headers
        return self._quick(self._lane.response, headers, end, True)

    def begin_call(self, step: Step | _Place, call: Call) -> None:
        super().begin_call(self._made(step) if isinstance(step, _Place) else step, call)

    def untie(self) -> None:
        """The request is over: leave nothing for the garbage collector."""
        self._contexts.clear()
        if self._whole:
            untie(self)

    def _quick(self, hooks: tuple[_Hook, ...], headers: Headers, end: bool, response: bool) -> Out | None:
        contexts = self._contexts
        for at, index, name, budget, make, _ in hooks:
            if not name:
                continue
            context = contexts[index]
            if context is None:
                if make is None:
                    return self._go_whole(at, headers, end, response, name)
                context = contexts[index] = make()
                context._chain = self
            context._step = _AT_END if end else _OPEN  # type: ignore[assignment]
            self._now = (response, at)
            thread = WATCH.enter(budget, name)
            try:
                try:
                    result: Any = getattr(context, name)(headers)
                finally:
                    WATCH.leave(thread)
            except BaseException as error:
                return self._go_whole(at, headers, end, response, _raises(error))
            if result is not CONTINUE and result is not None:
                return self._go_whole(at, headers, end, response, _returns(result))
            if self._whole:  # it has begun a call
                return self._go_whole(at, headers, end, response, _returns(result))
        return None

    def _go_whole(self, at: int, headers: Headers, end: bool, response: bool, hook: Any) -> Out:
        """Go on as an ordinary chain from this hook: its name, or something that does what it did."""
        flow = self._flow(response)
        for before in flow.steps[:at]:
            before.passed = True
        step = flow.steps[at]
        step.end = end
        outcome = self._run(step, step.direction.headers, hook, headers)
        if outcome == "continue":
            step.passed = True
            self._headers(flow, at + 1, headers, end)
        elif outcome != "closed":
            self._block(step, "headers", headers, end)
        return self.take_response() if response else self.take_request()

    def _flow(self, response: bool) -> _Flow:
        self._whole = True
        if not response:
            return self._request
        if self._response is None:
            flow = self._response = type(self._request)([(one, one.response) for one in self.pipeline.response])
            return flow
        return self._response

    def _made(self, place: _Place) -> Step:
        response, at = self._now
        step = self._flow(response).steps[at]
        step.end = place.end
        context = self._contexts[step.bound.index]
        if context is not None:
            context._step = step
        return step


def untie(chain: Chain) -> None:
    """Cut the circles in which a chain that is over holds itself."""
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
