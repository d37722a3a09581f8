"""The plugins of one request, as a state machine without sockets: a message goes in, what may be sent on comes out.

    host                     chain                               host
    request_headers(h) ────► A ─► B ─► C ──► Out(headers, data, trailers, end)   or Out(reply) or Out(abort)
    response_headers(h) ───► C ─► B ─► A ──► Out(...)

The host pushes what it received and sends what it gets back; an empty `Out` means: nothing yet, go on pushing. When a
plugin waits for a call, `request_blocked` or `response_blocked` tells the host to stop reading; `answer`, `wake` and
`check` let things go on, and `take_request` and `take_response` then give what came out.

A plugin that fails is out of this request: what it held goes on as it was (policy open), or the client gets 503
(policy closed); once the response's headers are on their way only an abort is left.
"""

from __future__ import annotations

import itertools
import logging
from collections import deque
from collections.abc import Coroutine
from pathlib import Path
from types import CoroutineType
from typing import TYPE_CHECKING, Any, Final, Literal

from sidecar.headers import HeaderList, Headers
from sidecar.health import Fault, FaultKind
from sidecar.plugin import (
    CONTINUE,
    PAUSE,
    Action,
    Body,
    Buffered,
    Call,
    Entry,
    HttpContext,
    HttpResponse,
    Reply,
    Streamed,
)
from sidecar.watch import WATCH, Overrun

if TYPE_CHECKING:
    from sidecar.host import Host
    from sidecar.pipeline import Bound, Direction, Pipeline

_CALLS_AT_ONCE = 8
_tokens = itertools.count(1)
_NEVER: Final = float("inf")
_Outcome = Literal["continue", "pause", "waits", "closed"]
_Kind = Literal["headers", "data", "trailers"]
_log = logging.getLogger("headgate.plugins")


class Out:
    """What the host may send on now, in this order. `headers` are the object that was pushed, with its changes."""

    __slots__ = ("abort", "data", "end", "headers", "reply", "trailers")

    def __init__(self) -> None:
        self.headers: Headers | None = None
        self.data = b""
        self.trailers: Headers | None = None
        self.end = False  # nothing comes after this
        self.reply: Reply | None = None  # send this to the client, and nothing else
        self.abort = False  # reset the stream

    def __bool__(self) -> bool:
        return bool(self.headers is not None or self.data or self.end or self.reply is not None or self.abort)

    def __repr__(self) -> str:
        return "Out(" + ", ".join(f"{name}={getattr(self, name)!r}" for name in self.__slots__) + ")"


class Step:
    """One plugin in one direction of one request."""

    __slots__ = (
        "at",
        "blocked",
        "body_done",
        "bound",
        "buffer",
        "coroutine",
        "deadline",
        "direction",
        "end",
        "flow",
        "held",
        "passed",
        "pending",
        "queue",
        "size",
    )

    def __init__(self, bound: Bound, direction: Direction, flow: _Flow, at: int) -> None:
        self.bound = bound
        self.direction = direction
        self.flow = flow
        self.at = at
        self.end = False
        self.held: Headers | None = None  # headers that wait for the body
        self.passed = False  # whether the headers are with the next step
        self.buffer: list[bytes] = []
        self.size = 0
        self.body_done = False
        self.blocked = False
        self.pending: tuple[_Kind, Any, Any] | None = None  # what a blocked step was given
        self.queue: deque[tuple[_Kind, Any, bool]] = deque()  # what came since
        self.coroutine: Coroutine[Any, Any, Any] | None = None
        self.deadline = _NEVER


class _Flow:
    __slots__ = ("closed", "given", "is_reply", "out", "steps")

    def __init__(self, bounds: list[tuple[Bound, Direction]], is_reply: bool = False) -> None:
        self.steps = [Step(bound, direction, self, at) for at, (bound, direction) in enumerate(bounds)]
        self.out = Out()
        self.closed = False
        self.given = False  # whether the host has the headers
        self.is_reply = is_reply


class Chain:
    """See the module. Not to be used from several threads at once, and not from inside a `Host`'s methods."""

    def __init__(self, pipeline: Pipeline, host: Host) -> None:
        self.pipeline = pipeline
        self.host = host
        self.request_headers_seen: Headers = _NONE
        self.response_headers_seen: Headers = _NONE
        self.replied = False  # a reply or an abort was given: the host has nothing more to push
        self.finished = False
        self._contexts: list[HttpContext[Any] | None] = [None] * len(pipeline.plugins)
        self._off = bytearray(len(pipeline.plugins))
        self._request = _Flow([(one, one.request) for one in pipeline.request])
        self._response: _Flow | None = None
        self._verdict: Reply | Literal["abort"] | None = None
        self._calls: dict[int, tuple[Step, Call]] = {}
        self._wakes: list[Step] = []
        self._grpc_status: int | None = None

    # What the host pushes

    def request_headers(self, headers: Headers, end: bool = False) -> Out:
        """The request has begun; with `end` it has neither body nor trailers."""
        self.request_headers_seen = headers
        self._admit()
        if not self._request.closed:
            self._headers(self._request, 0, headers, end)
        return self.take_request()

    def request_body(self, data: bytes, end: bool = False) -> Out:
        """A piece of the body."""
        if not self._request.closed:
            self._data(self._request, 0, data, end)
        return self.take_request()

    def request_trailers(self, trailers: Headers) -> Out:
        """The end, with trailers; `end` was not told before."""
        if not self._request.closed:
            self._trailers(self._request, 0, trailers)
        return self.take_request()

    def response_headers(self, headers: Headers, end: bool = False) -> Out:
        """The final response has begun (not one of status 1xx)."""
        if self.replied or self._verdict is not None or self._response is not None:
            return self.take_response()
        self.response_headers_seen = headers
        self._response = _Flow([(one, one.response) for one in self.pipeline.response])
        self._headers(self._response, 0, headers, end)
        return self.take_response()

    def response_body(self, data: bytes, end: bool = False) -> Out:
        """A piece of the response's body."""
        if self._response is not None and not self._response.closed and not self._response.is_reply:
            self._data(self._response, 0, data, end)
        return self.take_response()

    def response_trailers(self, trailers: Headers) -> Out:
        """The end of the response, with trailers."""
        if self._response is not None and not self._response.closed and not self._response.is_reply:
            self._trailers(self._response, 0, trailers)
        return self.take_response()

    def body_over(self, response: bool) -> Out:
        """The body is whole and trailers follow: for a host that gets them only when it has sent on the body."""
        flow = self._response if response else self._request
        if flow is not None and not flow.closed and not flow.is_reply:
            self._trailers(flow, 0, None)
        return self.take_response() if response else self.take_request()

    def answer(self, token: int, response: HttpResponse) -> None:
        """A call is over. Then take what came out, in both directions."""
        step, call = self._calls.pop(token, (None, None))
        if step is None or call is None or self.finished or step.flow.closed or self._off[step.bound.index]:
            return
        coroutine = step.coroutine
        if call.then is None:
            if coroutine is None:
                return
            step.coroutine = None
            outcome = self._run(step, _hook_of(step), None, coroutine, response)
        else:
            outcome = self._run(step, "callback", call.then, response)
        if outcome == "continue" and step.blocked and step.coroutine is None:
            self._go_on(step)
        self._settle()

    def wake(self) -> None:
        """What a plugin wished by `resume` is done. Then take what came out, in both directions."""
        self._settle()

    def check(self, now: float) -> None:
        """To be called when `deadline` has passed. Then take what came out, in both directions."""
        for step in self._blocked_steps():
            if step.deadline <= now and step.blocked:
                if step.coroutine is not None:
                    self._close(step)
                patience = step.bound.patience
                outcome = self._fault(
                    step, _hook_of(step), "never-resumed", f"the message was still paused after {patience:g} s"
                )
                if outcome != "closed":
                    self._go_on(step)
        self._settle()

    def finish(self, entry: Entry | None = None) -> None:
        """The request is over, however it ended. `entry` is what the host knows; plugins add to it and change it."""
        if self.finished:
            return
        self.finished = True
        for token in self._calls:
            self.host.cancel_call(token)
        self._calls.clear()
        for step in self._blocked_steps(closed=True):
            self._close(step)
        if not self.pipeline.loggers and not self.host.wants_log:
            return
        entry = {} if entry is None else entry
        for bound in self.pipeline.loggers:
            if not self._off[bound.index]:
                step = Step(bound, bound.request, self._request, 0)
                self._run(step, "on_log", "on_log", entry)
                self._close(step)
        if self.host.wants_log:
            self.pipeline.edit_log(entry, self.host.now())
            self.host.access_log(entry)

    # What the host asks

    @property
    def request_blocked(self) -> bool:
        """Whether the host should stop reading the request for now."""
        return self._request.closed or any(step.blocked for step in self._request.steps)

    @property
    def response_blocked(self) -> bool:
        """Whether the host should stop reading the response for now."""
        return self._response is not None and any(step.blocked for step in self._response.steps)

    @property
    def deadline(self) -> float:
        """When `check` is to be called on the host's clock; infinity when nothing is paused."""
        return min((step.deadline for step in self._blocked_steps()), default=_NEVER)

    def take_request(self) -> Out:
        """What of the request may be sent on now."""
        return self._take(self._request)

    def take_response(self) -> Out:
        """What of the response may be sent on now."""
        return self._take(self._response if self._response is not None else self._request)

    # What contexts ask

    def begin_call(self, step: Step, call: Call) -> None:
        """Start a call of a plugin."""
        if not hasattr(call.request, "url"):
            raise TypeError(f"a call is made with an HttpRequest, not {type(call.request).__name__}")
        if sum(one is step for one, _ in self._calls.values()) >= _CALLS_AT_ONCE:
            raise ValueError(f"at most {_CALLS_AT_ONCE} calls at once")
        token = next(_tokens)
        self._calls[token] = (step, call)
        try:
            self.host.start_call(self, token, call.request)
        except BaseException:
            del self._calls[token]
            raise

    def wish_resume(self, context: HttpContext[Any]) -> None:
        """Note that a plugin wants its paused messages to go on."""
        for step in self._blocked_steps():
            if self._contexts[step.bound.index] is context and step.coroutine is None:
                self._wakes.append(step)
        if self._wakes:
            self.host.wake(self)

    # What the lookout asks, perhaps from another thread

    def context_of(self, bound: Bound) -> HttpContext[Any] | None:
        """A plugin's context, if it has one by now."""
        contexts = self._contexts
        return contexts[bound.index] if bound.index < len(contexts) else None

    def leave_out(self, bound: Bound) -> None:
        """Go on without a plugin, and without what it has kept of this request. One that waits is left to its wait."""
        if not any(step.bound is bound for step in self._blocked_steps(closed=True)):
            self._off[bound.index] = 1
            if bound.index < len(contexts := self._contexts):
                contexts[bound.index] = None

    # Messages on their way through the steps

    def _admit(self) -> None:
        """Leave out who is suspended; if such a plugin must not be left out, refuse."""
        now = self.host.now()
        for bound in self.pipeline.plugins:
            health = bound.health
            if health.suspended_until > now:
                self._off[bound.index] = 1
                health.skipped += 1
                if bound.closed:
                    self._answer_with(bound.index, Reply(503, f"plugin {bound.name} is suspended\n".encode()))
                    return
            else:
                health.requests += 1

    def _headers(self, flow: _Flow, at: int, headers: Headers, end: bool) -> None:
        for step in flow.steps[at:] if at else flow.steps:
            direction = step.direction
            if self._off[step.bound.index]:
                continue
            step.end = end
            if direction.headers:
                outcome = self._run(step, direction.headers, direction.headers, headers)
                if outcome == "closed":
                    return
                if outcome == "pause" and direction.body and not end:
                    step.held = headers
                    return
                if outcome != "continue":
                    self._block(step, "headers", headers, end)
                    return
            if not self._headers_done(step, headers, end):
                return
        flow.out.headers = headers
        flow.out.end = end

    def _headers_done(self, step: Step, headers: Headers, end: bool) -> bool:
        """Whether the headers go on to the next step."""
        if not end and step.direction.body and not self._off[step.bound.index]:
            need = step.direction.need
            if isinstance(need, Buffered):
                step.held = headers
                return False
            if isinstance(need, Streamed) and need.rewrites:
                headers.remove("content-length")
        step.passed = True
        return True

    def _data(self, flow: _Flow, at: int, data: bytes, end: bool) -> None:
        for step in flow.steps[at:] if at else flow.steps:
            if step.blocked:
                step.queue.append(("data", data, end))
                return
            if not step.direction.body:
                continue
            got = self._body(step, data, end, end)
            if got is None:
                return
            data = got
        flow.out.data += data
        flow.out.end = end

    def _body(self, step: Step, data: bytes, last: bool, end: bool) -> bytes | None:
        """Give a step a piece of the body; what goes on to the next one, None: nothing yet. `last`: of the body."""
        step.end = end
        if self._off[step.bound.index] or step.body_done:
            return self._let_go(step, data)
        step.buffer.append(data)
        step.size += len(data)
        need = step.direction.need
        buffered = isinstance(need, Buffered)
        if not last and (buffered or not data) and step.size <= need.limit:  # type: ignore[union-attr]
            return None
        whole = b"".join(step.buffer)
        if buffered and step.size > need.limit:  # type: ignore[union-attr]
            step.body_done = True
            return self._too_big(step)
        step.buffer.clear()
        step.size = 0
        step.body_done = last
        body = Body(whole, last)
        outcome = self._run(step, step.direction.body, step.direction.body, body)
        if outcome == "closed":
            return None
        if outcome == "pause" and not last:
            kept = self._checked(step, body, whole)
            if kept is None:
                return None
            step.buffer.append(kept)
            step.size = len(kept)
            if step.size > need.limit:  # type: ignore[union-attr]
                return self._too_big(step)
            return None
        if outcome != "continue":
            self._block(step, "data", (body, whole), end)
            return None
        return self._body_gone_through(step, body, whole)

    def _body_gone_through(self, step: Step, body: Body, whole: bytes) -> bytes | None:
        data = self._checked(step, body, whole)
        if data is None:
            return None
        if step.held is not None and data is not whole and "content-length" in step.held:
            step.held.set("content-length", str(len(data)))
        return self._let_go(step, data)

    def _checked(self, step: Step, body: Body, whole: bytes) -> bytes | None:
        """What the plugin left in the body if it may; None when the stream is closed because it may not."""
        data = body.data
        if data is whole or self._off[step.bound.index]:
            return whole
        need, hook = step.direction.need, step.direction.body
        wrong = ""
        if type(data) is not bytes:
            wrong = f"replaced the body by {type(data).__name__}: a body is bytes"
        elif isinstance(need, Streamed) and not need.rewrites and data != whole:
            wrong = "replaced a piece of a streamed body: declare Streamed(rewrites=True)"
        if wrong:
            return None if self._fault(step, hook, "wrong-result", wrong) == "closed" else whole
        return data

    def _too_big(self, step: Step) -> bytes | None:
        what = f"the body is longer than {step.direction.need.limit} bytes"  # type: ignore[union-attr]
        refusal = Reply(413 if step.flow is self._request else 502, f"plugin {step.bound.name}: {what}\n".encode())
        hook = step.direction.body
        if self._fault(step, hook, "body-too-large", what, refusal) == "closed":
            return None
        return self._let_go(step, b"")

    def _let_go(self, step: Step, data: bytes) -> bytes | None:
        """Send on what the step held, then this."""
        if step.buffer:
            data = b"".join((*step.buffer, data))
            step.buffer.clear()
            step.size = 0
        if step.held is not None:
            headers, step.held, step.passed = step.held, None, True
            self._headers(step.flow, step.at + 1, headers, False)
            if step.flow.closed:
                return None
        return data

    def _trailers(self, flow: _Flow, at: int, trailers: Headers | None) -> None:
        """The end of the body, and the trailers if they have come."""
        for step in flow.steps[at:] if at else flow.steps:
            if step.blocked:
                step.queue.append(("trailers", trailers, True))
                return
            if step.direction.body and (not step.body_done or step.buffer or step.held is not None):
                data = self._body(step, b"", True, False)
                if data is None:
                    step.queue.append(("trailers", trailers, True))  # for when it goes on, if it does
                    return
                if data:
                    self._data(flow, step.at + 1, data, False)
                if flow.closed:
                    return
            if trailers is not None and step.direction.trailers and not self._off[step.bound.index]:
                step.end = True
                outcome = self._run(step, step.direction.trailers, step.direction.trailers, trailers)
                if outcome == "closed":
                    return
                if outcome != "continue":
                    self._block(step, "trailers", trailers, True)
                    return
        if trailers is not None:
            flow.out.trailers = trailers
            flow.out.end = True

    # Pausing

    def _block(self, step: Step, kind: _Kind, what: Any, end: bool) -> None:
        step.blocked = True
        step.pending = (kind, what, end)
        step.deadline = self.host.now() + step.bound.patience

    def _go_on(self, step: Step) -> None:
        """A blocked step may go on: first what it was given, then what has come since."""
        pending, flow = step.pending, step.flow
        step.blocked, step.pending, step.deadline = False, None, _NEVER
        if pending is None or flow.closed:
            return
        kind, what, end = pending
        if kind == "headers":
            if self._headers_done(step, what, end):
                self._headers(flow, step.at + 1, what, end)
        elif kind == "data":
            data = self._body_gone_through(step, *what)
            if data is not None and not flow.closed:
                self._data(flow, step.at + 1, data, end)
        else:
            self._trailers(flow, step.at + 1, what)
        while step.queue and not step.blocked and not flow.closed:
            kind, what, end = step.queue.popleft()
            if kind == "data":
                self._data(flow, step.at, what, end)
            else:
                self._trailers(flow, step.at, what)

    def _settle(self) -> None:
        while self._wakes:
            step = self._wakes.pop()
            if step.blocked:
                self._go_on(step)

    def _blocked_steps(self, closed: bool = False) -> list[Step]:
        flows = [self._request] if self._response is None else [self._request, self._response]
        return [step for flow in flows if closed or not flow.closed for step in flow.steps if step.blocked]

    # Running hooks

    def _run(
        self,
        step: Step,
        name: str,
        hook: Any,
        argument: Any = None,
        answer: HttpResponse | None = None,
    ) -> _Outcome:
        """Run a hook (its name, or something to call), or go on with a coroutine (`argument`) by an answer."""
        bound = step.bound
        thread = WATCH.enter(bound.budget, name)
        try:
            try:
                context = self._contexts[bound.index]
                if context is None:
                    context = self._contexts[bound.index] = self._context(bound)
                context._step = step
                if hook is None:
                    result, step.coroutine = self._advance(step, argument, answer)
                else:
                    result = (getattr(context, hook) if type(hook) is str else hook)(argument)
                    if type(result) is CoroutineType:
                        result, step.coroutine = self._advance(step, result, None)
            finally:
                WATCH.leave(thread)
        except BaseException as error:  # a plugin can raise anything, SystemExit too
            return self._fault(step, name, *told(error))
        if result is CONTINUE or result is None:
            return "continue" if step.coroutine is None or name == "callback" else "waits"
        if result is PAUSE:
            return "pause"
        if isinstance(result, Reply):
            if name == "on_log":
                return self._fault(step, name, "wrong-result", "returned a Reply: it is too late for one")
            return self._replies(step, result)
        expected = "CONTINUE, PAUSE or a Reply"
        return self._fault(step, name, "wrong-result", f"returned {_shown(result)}, not {expected}")

    def _context(self, bound: Bound) -> HttpContext[Any]:
        context = bound.plugin.create_context()
        if not isinstance(context, HttpContext):
            raise TypeError(f"create_context returned {type(context).__name__}, not an HttpContext")
        context._chain = self
        return context

    def _advance(
        self, step: Step, coroutine: Coroutine[Any, Any, Any], answer: HttpResponse | None
    ) -> tuple[Any, Coroutine[Any, Any, Any] | None]:
        """Drive an async hook to its next call or its end: (result, None) or (None, the coroutine that waits)."""
        try:
            call = coroutine.send(answer)
        except StopIteration as end:
            return end.value, None
        try:
            if not isinstance(call, Call):
                raise TypeError("an async hook can only await self.call(...)")
            self.begin_call(step, call)
        except BaseException:
            coroutine.close()
            raise
        return None, coroutine

    def _close(self, step: Step) -> None:
        """Give up an async hook. Its `finally` is the plugin's code too."""
        coroutine, step.coroutine = step.coroutine, None
        if coroutine is None:
            return
        thread = WATCH.enter(step.bound.budget, "close")
        try:
            try:
                coroutine.close()
            finally:
                WATCH.leave(thread)
        except BaseException as error:
            step.bound.fault(Fault(step.bound.name, _hook_of(step), *told(error)), self.host.now())

    def _fault(self, step: Step, hook: str, kind: FaultKind, what: str, reply: Reply | None = None) -> _Outcome:
        """Count it; the plugin is out of this request. "closed" when the client is refused because of it."""
        bound = step.bound
        bound.fault(Fault(bound.name, hook, kind, what), self.host.now())
        if kind == "body-too-large" and not bound.closed:
            return "continue"  # only this body is not for it
        self._off[bound.index] = 1
        for other in self._blocked_steps():
            if other.bound is bound and other is not step:
                self._close(other)
                self._wakes.append(other)
        if not bound.closed or hook == "on_log":
            return "continue"
        return self._replies(step, reply or Reply(503, f"plugin {bound.name} failed\n".encode()))

    # Replies

    def _replies(self, step: Step, reply: Reply) -> _Outcome:
        """Answer the client: through the plugins that are between this one and the client."""
        flow = step.flow
        if flow is self._request:
            if self._response is not None and (self._response.given or self._response.is_reply):
                self._abort()
            else:
                self._answer_with(step.bound.index, reply)
        elif step.passed:
            self._abort()  # the next plugin, or the client, has other headers already
        else:
            self._answer_with(step.bound.index, reply)
        return "closed"

    def _answer_with(self, index: int, reply: Reply) -> None:
        self._request.closed = True
        if self._response is not None:
            self._response.closed = True
        pairs = [(":status", str(reply.status)), *reply.headers]
        if reply.body and not any(name == "content-type" for name, _ in reply.headers):
            pairs.append(("content-type", "text/plain; charset=utf-8"))
        headers = HeaderList(pairs)
        self.response_headers_seen = headers
        self._grpc_status = reply.grpc_status
        between = [(one, one.response) for one in self.pipeline.response if one.index < index]
        flow = self._response = _Flow(between, is_reply=True)
        self._headers(flow, 0, headers, not reply.body)
        if reply.body and not flow.closed:
            self._data(flow, 0, reply.body, True)

    def _abort(self) -> None:
        self._request.closed = True
        if self._response is not None:
            self._response.closed = True
        self._verdict = "abort"

    def _take(self, flow: _Flow) -> Out:
        if self._wakes:
            self._settle()
        response = self._response
        if self._verdict is None and response is not None and response.is_reply and response.out.end:
            self._verdict = _as_reply(response.out, self._grpc_status)
        if self._verdict is not None:
            out = Out()
            if not self.replied:
                self.replied = True
                if self._verdict == "abort":
                    out.abort = True
                else:
                    out.reply = self._verdict
            return out
        if flow.closed or flow.is_reply or (flow is self._request and response is not None and response.is_reply):
            return Out()
        out, flow.out = flow.out, Out()
        if out.headers is not None:
            flow.given = True
        return out


_NONE = HeaderList()


def told(error: BaseException) -> tuple[FaultKind, str]:
    """What was raised and where, in a line."""
    if isinstance(error, Overrun):
        return "overrun", "was cut off: its time was up" + _place(error)
    text = " ".join(str(error).split())
    text = text if len(text) <= 200 else text[:197] + "..."
    return "raised", f"raised {type(error).__name__}" + (f": {text}" if text else "") + _place(error)


def _place(error: BaseException) -> str:
    """The innermost line that is not ours."""
    here = str(Path(__file__).parent)
    ours = {
        f"{here}/{name}.py" for name in ("chain", "pipeline", "plugin", "headers", "watch", "instruments", "shared")
    }
    place, trace = "", error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename not in ours:
            place = f" at {Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"
        trace = trace.tb_next
    return place


def _shown(value: object) -> str:
    text = repr(value) if isinstance(value, str | int | float | bool) else type(value).__name__
    return text if len(text) <= 60 else text[:57] + "..."


def _hook_of(step: Step) -> str:
    kind = step.pending[0] if step.pending is not None else "headers"
    direction = step.direction
    return {"headers": direction.headers, "data": direction.body, "trailers": direction.trailers}[kind]


def _as_reply(out: Out, grpc_status: int | None) -> Reply:
    pairs = out.headers.items() if out.headers is not None else ()
    status = next((value for name, value in pairs if name == ":status"), "500")
    rest = tuple((name, value) for name, value in pairs if name[0] != ":")
    return Reply(int(status) if status.isdecimal() else 500, out.data, rest, grpc_status)


__all__ = ["Action", "Chain", "Out", "Step", "told"]
