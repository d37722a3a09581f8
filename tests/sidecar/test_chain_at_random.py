"""Whatever plugins do and whenever calls come back: with policy open, what was sent arrives, once and in order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from plugin_host import REQUEST, Exchange, TestHost

from sidecar.headers import HeaderList, Pairs
from sidecar.pipeline import bind
from sidecar.plugin import PAUSE, STREAMED, Buffered, HttpContext, HttpRequest, Need, Plugin, Result, Streamed

HOOKS = ("headers", "body", "trailers")


def nothing(self: HttpContext[Any], _: object) -> Result:
    return None


def pauses(self: HttpContext[Any], _: object) -> Result:
    return PAUSE


def resumes(self: HttpContext[Any], _: object) -> Result:
    self.resume()  # too early: it is not paused yet
    return PAUSE


def calls_back(self: HttpContext[Any], _: object) -> Result:
    self.call(HttpRequest("http://x"), then=lambda response: None)
    return PAUSE


def calls_and_forgets(self: HttpContext[Any], _: object) -> Result:
    self.call(HttpRequest("http://x"), then=lambda response: PAUSE)
    return None


async def waits(self: HttpContext[Any], _: object) -> Result:
    await self.call(HttpRequest("http://x"))
    await self.call(HttpRequest("http://y"))
    return None


async def waits_and_fails(self: HttpContext[Any], _: object) -> Result:
    await self.call(HttpRequest("http://x"))
    raise KeyError("x")


async def waits_and_pauses(self: HttpContext[Any], _: object) -> Result:
    await self.call(HttpRequest("http://x"))
    return PAUSE


def fails(self: HttpContext[Any], _: object) -> Result:
    raise KeyError("x")


def spoils(self: HttpContext[Any], body: Any) -> Result:
    body.data = "no bytes"
    return None


BEHAVIOURS: tuple[Callable[..., Any], ...] = (
    nothing,
    pauses,
    resumes,
    calls_back,
    calls_and_forgets,
    waits,
    waits_and_fails,
    waits_and_pauses,
    fails,
)
needs: st.SearchStrategy[Need] = st.sampled_from((Buffered(5), Buffered(1000), STREAMED, Streamed(rewrites=True)))
behaviour = st.one_of(st.none(), st.sampled_from(BEHAVIOURS))


@st.composite
def plugins(draw: st.DrawFn) -> list[Plugin]:
    made = []
    for at in range(draw(st.integers(1, 4))):
        hooks = {}
        for way in ("request", "response"):
            for part in HOOKS:
                chosen = draw(st.one_of(behaviour, st.just(spoils)) if part == "body" else behaviour)
                if chosen is not None:
                    hooks[f"on_{way}_{part}"] = chosen
        context = type(f"C{at}", (HttpContext,), hooks)
        roots = {"context": context, "request_body": draw(needs), "response_body": draw(needs), "patience": 1.0}
        made.append(type(f"P{at}", (Plugin,), roots)())
    return made


bodies = st.lists(st.binary(max_size=4), max_size=4)
trailers = st.sampled_from(((), (("t", "1"),)))


def let_time_pass(exchange: Exchange, order: list[int]) -> None:
    """Answer what is open in any order, and let patience end, until nothing waits."""
    for _ in range(200):
        tokens = sorted(exchange.host.calls)
        if tokens:
            token = tokens[order.pop() % len(tokens) if order else 0]
            del exchange.host.calls[token]
            from sidecar.plugin import HttpResponse

            exchange.chain.answer(token, HttpResponse(200))
            exchange.collect()
        elif exchange.host.woken:
            exchange.host.woken = 0
            exchange.chain.wake()
            exchange.collect()
        elif exchange.chain.deadline != float("inf"):
            exchange.later(exchange.chain.deadline - exchange.host.time)
        else:
            return
    raise AssertionError("it never comes to rest")


def exchanged(chosen: list[Plugin], sent: list[bytes], back: list[bytes], last: Pairs, order: list[int]) -> Exchange:
    exchange = Exchange(bind(*chosen), TestHost())
    chain = exchange.chain
    take = exchange._take
    take(chain.request_headers(HeaderList(REQUEST), not sent and not last))
    for at, piece in enumerate(sent):
        if order and order[-1] % 3 == 0:
            let_time_pass(exchange, order)
        take(chain.request_body(piece, at == len(sent) - 1 and not last))
    if last:
        take(chain.request_trailers(HeaderList(last)))
    let_time_pass(exchange, order)
    take(chain.response_headers(HeaderList([(":status", "200")]), not back and not last), True)
    for at, piece in enumerate(back):
        if order and order[-1] % 3 == 1:
            let_time_pass(exchange, order)
        take(chain.response_body(piece, at == len(back) - 1 and not last), True)
    if last:
        take(chain.response_trailers(HeaderList(last)), True)
    let_time_pass(exchange, order)
    return exchange


@settings(max_examples=400)
@given(plugins(), bodies, bodies, trailers, st.lists(st.integers(0, 99), max_size=20))
def test_with_policy_open_all_arrives(
    chosen: list[Plugin], sent: list[bytes], back: list[bytes], last: Pairs, order: list[int]
) -> None:
    exchange = exchanged(chosen, sent, back, last, order)
    assert exchange.reply is None
    assert not exchange.aborted
    for got, whole in ((exchange.request, sent), (exchange.response, back)):
        assert got.end
        assert got.body == b"".join(whole)
        assert (got.trailers.items() if last else ()) == last
    exchange.finish()
    assert not exchange.chain._calls


@settings(max_examples=200)
@given(plugins(), bodies, bodies, trailers, st.lists(st.integers(0, 99), max_size=20))
def test_with_policy_closed_it_arrives_or_the_client_is_told(
    chosen: list[Plugin], sent: list[bytes], back: list[bytes], last: Pairs, order: list[int]
) -> None:
    for one in chosen:
        type(one).on_failure = "closed"
    exchange = exchanged(chosen, sent, back, last, order)
    whole = exchange.response.end and exchange.response.body == b"".join(back)
    assert whole or exchange.reply is not None or exchange.aborted
    assert not (whole and exchange.reply)
    faults = sum(sum(one.health.counts.values()) for one in exchange.chain.pipeline.plugins)
    assert whole or faults
    exchange.finish()
