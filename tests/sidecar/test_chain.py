"""The laws of the chain: nothing is lost, order is kept, and a bad plugin hurts itself only."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from plugin_host import REQUEST, Exchange, TestHost

from sidecar.headers import HeaderList, Headers, Pairs
from sidecar.health import Suspension
from sidecar.pipeline import Bound, Pipeline, bind
from sidecar.plugin import (
    CONTINUE,
    PAUSE,
    STREAMED,
    Body,
    Buffered,
    Entry,
    HttpContext,
    HttpRequest,
    HttpResponse,
    Need,
    Plugin,
    Reply,
    Result,
    Streamed,
)

HOOKS = (
    "on_request_headers",
    "on_request_body",
    "on_request_trailers",
    "on_response_headers",
    "on_response_body",
    "on_response_trailers",
)
NEEDS: tuple[Need, ...] = (Buffered(1000), STREAMED, Streamed(rewrites=True))
bodies = st.lists(st.binary(max_size=20), max_size=5)
trailers = st.sampled_from(((), (("grpc-status", "0"),)))


def made(name: str, hooks: dict[str, Any], need: Need = STREAMED, **more: Any) -> Plugin:
    """A plugin of these hooks."""
    context = type(f"{name}Context", (HttpContext,), hooks)
    return type(name, (Plugin,), {"context": context, "request_body": need, "response_body": need, **more})()


def watching(name: str, seen: list[str], need: Need = STREAMED) -> Plugin:
    """A plugin that notes when it is called, in every hook."""

    def hook(one: str) -> Callable[..., Result]:
        return lambda self, argument: seen.append(f"{name} {one}")

    return made(name, {one: hook(one) for one in HOOKS}, need)


def body_from(pieces: list[bytes]) -> bytes:
    return b"".join(pieces)


# Nothing is lost


@given(bodies, bodies, trailers, st.lists(st.sampled_from(NEEDS), max_size=4))
def test_plugins_that_change_nothing_change_nothing(
    sent: list[bytes], answered: list[bytes], last: Pairs, needs: list[Need]
) -> None:
    plugins = [watching(f"P{at}", [], need) for at, need in enumerate(needs)]
    exchange = Exchange(bind(*plugins)).send(body=sent, trailers=last).answer(headers=(("a", "b"),), body=answered)
    assert exchange.request.headers is not None
    assert exchange.request.headers.items() == REQUEST
    assert exchange.request.body == body_from(sent)
    assert exchange.request.end
    assert (exchange.request.trailers.items() if last else ()) == last
    assert exchange.response.headers is not None
    assert exchange.response.headers.items() == ((":status", "200"), ("a", "b"))
    assert exchange.response.body == body_from(answered)
    assert exchange.response.end


@given(bodies.filter(bool), st.lists(st.sampled_from(["calls", "pauses", "goes on"]), min_size=1, max_size=4), trailers)
def test_nothing_is_lost_or_reordered_when_plugins_wait(sent: list[bytes], ways: list[str], last: Pairs) -> None:
    async def calls(self: HttpContext[Any], _: object) -> Result:
        await self.call(HttpRequest("http://other"))
        return CONTINUE

    def pauses(self: HttpContext[Any], _: object) -> Result:
        self.call(HttpRequest("http://other"), then=lambda response: CONTINUE)
        return PAUSE

    hooks = {"calls": calls, "pauses": pauses, "goes on": lambda self, _: None}
    plugins = [made(f"P{at}", dict.fromkeys(HOOKS[:3], hooks[way])) for at, way in enumerate(ways)]
    exchange = Exchange(bind(*plugins)).send(body=sent, trailers=last)
    while exchange.host.calls:
        exchange.called()
    assert exchange.request.body == body_from(sent)
    assert exchange.request.end
    assert not exchange.chain.request_blocked


@given(st.lists(st.sampled_from(NEEDS), min_size=1, max_size=4), bodies.filter(bool))
def test_responses_pass_in_reverse_order(needs: list[Need], body: list[bytes]) -> None:
    seen: list[str] = []
    names = [f"P{at}" for at in range(len(needs))]
    pipeline = bind(*(watching(name, seen, need) for name, need in zip(names, needs, strict=True)))
    Exchange(pipeline).send(body=body).answer(body=body)
    order = {hook: [one.split()[0] for one in seen if one.endswith(hook)] for hook in HOOKS}
    assert order["on_request_headers"] == names
    assert order["on_response_headers"] == names[::-1]
    for way, expected in (("request", names), ("response", names[::-1])):
        assert list(dict.fromkeys(order[f"on_{way}_body"])) == expected


def test_only_overridden_hooks_are_run() -> None:
    pipeline = bind(made("Quiet", {}), made("Headers", {"on_request_headers": lambda self, headers: None}))
    assert [one.name for one in pipeline.request] == ["Headers"]
    assert pipeline.response == ()
    assert Exchange(pipeline).send().chain._contexts[0] is None


# A bad plugin hurts itself only


@pytest.fixture(autouse=True)
def _without_garbage_collection() -> Iterator[None]:
    """Else a hook at the end of its stack, or of its time, takes along the __del__ of what other tests have left."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def raises(self: HttpContext[Any], _: object) -> Result:
    raise RuntimeError("no\nway")


def exits(self: HttpContext[Any], _: object) -> Result:
    sys.exit(3)


def loops(self: HttpContext[Any], _: object) -> Result:
    while True:
        try:
            while True:
                pass
        except Exception:
            pass


def recurses(self: HttpContext[Any], _: object) -> Result:
    return recurses(self, _)


def returns_text(self: HttpContext[Any], _: object) -> Any:
    return "continue"


def returns_true(self: HttpContext[Any], _: object) -> Any:
    return True


def returns_a_generator(self: HttpContext[Any], _: object) -> Any:
    yield CONTINUE


async def awaits_nonsense(self: HttpContext[Any], _: object) -> Result:
    class Nonsense:
        def __await__(self) -> Any:
            yield 1

    await Nonsense()
    return CONTINUE


def sets_a_number(self: HttpContext[Any], _: object) -> Result:
    self.request_headers.set("x", 1)  # type: ignore[arg-type]
    return CONTINUE


def smuggles(self: HttpContext[Any], _: object) -> Result:
    self.request_headers.set("x", "1\r\ny: 2")
    return CONTINUE


def replies_nonsense(self: HttpContext[Any], _: object) -> Result:
    return Reply(99)


def calls_nonsense(self: HttpContext[Any], _: object) -> Result:
    self.call("http://x", then=lambda response: CONTINUE)  # type: ignore[arg-type]
    return PAUSE


BAD = (
    raises,
    exits,
    recurses,
    returns_text,
    returns_true,
    returns_a_generator,
    awaits_nonsense,
    sets_a_number,
    smuggles,
    replies_nonsense,
    calls_nonsense,
)


@pytest.mark.parametrize("need", NEEDS, ids=("buffered", "streamed", "rewriting"))
@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("bad", BAD, ids=lambda one: one.__name__)
def test_a_bad_plugin_is_contained_named_and_counted_and_the_others_go_on(bad: Any, hook: str, need: Need) -> None:
    seen: list[str] = []
    pipeline = bind(watching("Before", seen), made("Bad", {hook: bad}, need), watching("After", seen))
    last = (("t", "1"),)
    exchange = Exchange(pipeline).send(body=[b"ab", b"cd"], trailers=last).answer(body=[b"ef", b"gh"], trailers=last)
    assert (exchange.request.body, exchange.response.body) == (b"abcd", b"efgh")
    assert exchange.request.end
    assert exchange.response.end
    assert {f"{name} {one}" for name in ("Before", "After") for one in HOOKS} == set(seen)
    health = pipeline.plugins[1].health
    assert sum(health.counts.values()) == 1
    assert health.last is not None
    assert str(health.last).startswith(f"plugin 'Bad': {hook}: ")
    assert "\n" not in str(health.last)


@pytest.mark.parametrize("hook", HOOKS)
def test_a_hook_that_never_ends_is_cut_off(hook: str) -> None:
    pipeline = bind(made("Loop", {hook: loops}, budget=0.01))
    last = (("t", "1"),)
    exchange = Exchange(pipeline).send(body=[b"ab"], trailers=last).answer(body=[b"cd"], trailers=last)
    assert (exchange.request.body, exchange.response.body) == (b"ab", b"cd")
    assert pipeline.plugins[0].health.counts == {(hook, "overrun"): 1}


def test_a_hook_that_swallows_everything_is_cut_off_in_the_end() -> None:
    def clings(self: HttpContext[Any], _: object) -> Result:
        for _ in range(3):
            try:
                while True:
                    pass
            except BaseException:
                pass
        return CONTINUE

    exchange = Exchange(bind(made("Clings", {"on_request_headers": clings}, budget=0.01))).send()
    assert exchange.request.end


@pytest.mark.parametrize("hook", HOOKS[:3])
@pytest.mark.parametrize("bad", [raises, exits, returns_text])
def test_a_bad_plugin_with_policy_closed_refuses_the_request(bad: Any, hook: str) -> None:
    pipeline = bind(made("Guard", {hook: bad}, Buffered(100), on_failure="closed"))
    exchange = Exchange(pipeline).send(body=[b"ab"], trailers=(("t", "1"),))
    assert exchange.reply is not None
    assert exchange.reply.status == 503
    assert b"Guard" in exchange.reply.body


def test_once_the_response_is_on_its_way_policy_closed_can_only_abort() -> None:
    pipeline = bind(made("Guard", {"on_response_body": raises}, on_failure="closed"))
    exchange = Exchange(pipeline).send().answer(body=[b"ab", b"cd"])
    assert exchange.response.headers is not None
    assert exchange.aborted
    assert exchange.response.body == b""


def test_a_body_replaced_by_text_goes_on_as_it_was() -> None:
    pipeline = bind(made("Bad", {"on_request_body": lambda self, body: setattr(body, "data", "text")}, Buffered(9)))
    assert Exchange(pipeline).send(body=[b"ab"]).request.body == b"ab"
    assert pipeline.plugins[0].health.counts == {("on_request_body", "wrong-result"): 1}


def test_a_piece_of_a_streamed_body_is_replaced_only_by_who_said_so() -> None:
    def shout(self: HttpContext[Any], body: Body) -> Result:
        body.replace(body.data.upper() + b"!")
        return CONTINUE

    length = (("content-length", "2"),)
    quiet = Exchange(bind(made("Shout", {"on_request_body": shout}))).send((*REQUEST, *length), [b"ab"])
    assert quiet.request.body == b"ab"
    loud = Exchange(bind(made("Shout", {"on_request_body": shout}, Streamed(rewrites=True))))
    loud.send((*REQUEST, *length), [b"ab"])
    assert loud.request.body == b"AB!"
    assert loud.request.headers is not None
    assert "content-length" not in loud.request.headers


# Bodies


def test_a_buffered_body_comes_whole_and_the_headers_wait_for_it() -> None:
    def count(self: HttpContext[Any], body: Body) -> Result:
        self.request_headers.set("x-length", str(len(body.data)))
        body.replace(body.data + b"!")
        return CONTINUE

    exchange = Exchange(bind(made("Count", {"on_request_body": count}, Buffered(10))))
    exchange.send((*REQUEST, ("content-length", "4")), [b"ab", b"cd"])
    assert exchange.request.headers is not None
    assert exchange.request.headers.get("x-length") == "4"
    assert exchange.request.headers.get("content-length") == "5"
    assert exchange.request.body == b"abcd!"


@given(bodies.filter(bool), st.integers(1, 60))
def test_a_body_that_is_too_long_goes_by_unseen_or_is_refused(body: list[bytes], limit: int) -> None:
    seen: list[bytes] = []
    hooks = {"on_request_body": lambda self, body: seen.append(body.data)}
    opened = Exchange(bind(made("Open", hooks, Buffered(limit)))).send(body=body)
    assert opened.request.body == body_from(body)
    assert opened.request.end
    fits = len(body_from(body)) <= limit
    assert seen == ([body_from(body)] if fits else [])
    closed = Exchange(bind(made("Closed", hooks, Buffered(limit), on_failure="closed"))).send(body=body)
    assert (closed.reply.status if closed.reply else 0) == (0 if fits else 413)


@given(bodies.filter(bool), trailers)
def test_a_streamed_body_that_is_paused_comes_again_with_what_follows(body: list[bytes], last: Pairs) -> None:
    seen: list[bytes] = []

    def gather(self: HttpContext[Any], body: Body) -> Result:
        seen.append(body.data)
        return CONTINUE if body.end else PAUSE

    exchange = Exchange(bind(made("Gather", {"on_request_body": gather}))).send(body=body, trailers=last)
    assert seen[-1] == exchange.request.body == body_from(body)
    assert exchange.request.end


# Replies


def test_a_reply_passes_the_plugins_between_it_and_the_client() -> None:
    class Marks(HttpContext["Mark"]):
        def on_response_headers(self, headers: Headers) -> Result:
            headers.add("x-seen", self.root.name)
            return CONTINUE

    class Mark(Plugin):
        context = Marks

    class Outer(Mark):
        name = "outer"

    class Inner(Mark):
        name = "inner"

    no = made("No", {"on_request_headers": lambda self, headers: Reply(429, b"no", grpc_status=8)})
    exchange = Exchange(bind(Outer(), no, Inner())).send()
    assert exchange.reply is not None
    assert (exchange.reply.status, exchange.reply.body, exchange.reply.grpc_status) == (429, b"no", 8)
    assert [value for name, value in exchange.reply.headers if name == "x-seen"] == ["outer"]
    assert exchange.request.headers is None
    assert not exchange.chain.response_headers(HeaderList([(":status", "200")]))


def test_a_response_can_be_replaced_while_its_headers_wait() -> None:
    hide = {"on_response_body": lambda self, body: Reply(502, b"hidden") if b"secret" in body.data else None}
    exchange = Exchange(bind(made("Hide", hide, Buffered(100)))).send().answer(body=[b"a sec", b"ret"])
    assert exchange.reply is not None
    assert exchange.reply.body == b"hidden"
    assert exchange.response.headers is None


# Waiting


def test_an_async_hook_waits_for_its_call() -> None:
    async def ask(self: HttpContext[Any], headers: Headers) -> Result:
        response = await self.call(HttpRequest("http://users/name"))
        headers.set("x-user", response.body.decode())
        return CONTINUE

    exchange = Exchange(bind(made("Ask", {"on_request_headers": ask}))).send(body=[b"ab", b"cd"])
    assert exchange.chain.request_blocked
    assert exchange.request.headers is None
    exchange.called(body=b"ann")
    assert exchange.request.headers is not None
    assert exchange.request.headers.get("x-user") == "ann"
    assert exchange.request.body == b"abcd"
    assert exchange.request.end


@pytest.mark.parametrize("way", ["await", "callback"])
def test_what_comes_after_a_call_is_contained_too(way: str) -> None:
    async def waits(self: HttpContext[Any], headers: Headers) -> Result:
        await self.call(HttpRequest("http://x"))
        raise ValueError("late")

    def back(response: HttpResponse) -> Result:
        raise ValueError("late")

    def pauses(self: HttpContext[Any], headers: Headers) -> Result:
        self.call(HttpRequest("http://x"), then=back)
        return PAUSE

    pipeline = bind(made("Late", {"on_request_headers": waits if way == "await" else pauses}))
    exchange = Exchange(pipeline).send(body=[b"ab"]).called()
    assert exchange.request.body == b"ab"
    assert sum(pipeline.plugins[0].health.counts.values()) == 1


@pytest.mark.parametrize("policy", ["open", "closed"])
def test_a_message_that_nobody_resumes_goes_on_or_is_refused(policy: str) -> None:
    forgets = made("Forgets", {"on_request_headers": lambda self, headers: PAUSE}, on_failure=policy, patience=2.0)
    exchange = Exchange(bind(forgets)).send(body=[b"ab"])
    assert exchange.chain.deadline == 2.0
    exchange.later(1.9)
    assert exchange.request.headers is None
    exchange.later(0.2)
    if policy == "open":
        assert exchange.request.body == b"ab"
    else:
        assert exchange.reply is not None
        assert exchange.reply.status == 503


def test_a_plugin_can_resume_what_it_paused() -> None:
    contexts: list[HttpContext[Any]] = []

    def pauses(self: HttpContext[Any], headers: Headers) -> Result:
        contexts.append(self)
        return PAUSE

    exchange = Exchange(bind(made("Later", {"on_request_headers": pauses}))).send(body=[b"ab"])
    contexts[0].resume()
    assert exchange.host.woken == 1
    exchange.chain.wake()
    assert exchange.collect().request.body == b"ab"


def test_calls_are_cancelled_when_the_request_is_over() -> None:
    async def asks(self: HttpContext[Any], headers: Headers) -> Result:
        await self.call(HttpRequest("http://x"))
        return CONTINUE

    exchange = Exchange(bind(made("Asks", {"on_request_headers": asks}))).send()
    (token,) = exchange.host.calls
    exchange.finish()
    assert exchange.host.cancelled == [token]
    exchange.chain.answer(token, HttpResponse(200))
    assert exchange.collect().request.headers is None


# Suspension


@pytest.mark.parametrize("policy", ["open", "closed"])
def test_a_plugin_that_keeps_failing_is_suspended_and_tried_again_later(policy: Any) -> None:
    plugin = made("Bad", {"on_request_headers": raises})
    bound = Bound(plugin, on_failure=policy, suspension=Suspension(faults=3, window=10.0, rest=5.0))
    pipeline, host = Pipeline([bound]), TestHost()
    for _ in range(5):
        exchange = Exchange(pipeline, host).send()
        assert (exchange.reply is None) == (policy == "open")
    assert sum(bound.health.counts.values()) == 3
    assert bound.health.skipped == 2
    host.time = 5.0
    Exchange(pipeline, host).send()
    assert sum(bound.health.counts.values()) == 4
    samples = {(one.name, *sample.labels): sample.value for one in pipeline.families(5.0) for sample in one.samples}
    assert samples["headgate_plugin_skipped", ("plugin", "Bad")] == 2
    assert samples["headgate_plugin_suspensions", ("plugin", "Bad")] == 1


def test_faults_that_are_far_apart_do_not_suspend() -> None:
    bound = Bound(made("Bad", {"on_request_headers": raises}), suspension=Suspension(faults=2, window=10.0))
    pipeline, host = Pipeline([bound]), TestHost()
    for time in (0.0, 11.0, 22.0):
        host.time = time
        Exchange(pipeline, host).send()
    assert bound.health.suspensions == 0


# The log, ticks, names


def test_plugins_add_to_the_access_log_and_then_change_it() -> None:
    class Adds(HttpContext["Redacts"]):
        def on_log(self, entry: Entry) -> None:
            entry["user"] = "ann"

    class Redacts(Plugin):
        context = Adds

        def on_log(self, entry: Entry) -> None:
            if "user" in entry:
                entry["user"] = "***"

    assert Exchange(bind(Redacts())).send().finish() == {"path": "/v2/models/iris/infer", "user": "***"}


def test_what_a_broken_plugin_should_have_redacted_is_not_logged() -> None:
    class Breaks(Plugin):
        def on_log(self, entry: Entry) -> None:
            raise ValueError

    assert "iris" not in str(Exchange(bind(Breaks())).send().finish())


def test_ticks_come_when_they_are_due_and_their_faults_are_contained() -> None:
    class Ticks(Plugin):
        tick: ClassVar[float] = 2.0
        ticks = 0

        def on_tick(self) -> None:
            self.ticks += 1
            raise SystemExit

    plugin = Ticks()
    pipeline = bind(plugin)
    for now in (10.0, 11.0, 12.0):
        pipeline.tick(now)
    assert plugin.ticks == 2
    assert pipeline.next_tick() == 14.0
    assert pipeline.plugins[0].health.counts == {("on_tick", "raised"): 2}


def test_two_plugins_cannot_have_one_name() -> None:
    with pytest.raises(ValueError, match="two plugins are called 'A'"):
        bind(made("A", {}), made("A", {}))
