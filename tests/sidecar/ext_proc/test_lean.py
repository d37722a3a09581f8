"""The short way of requests of which plugins want headers only gives the answers of the long one, whatever happens."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from ext_proc_messages import ProcessingRequest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.ext_proc import wire
from sidecar.ext_proc.application import PROCESS, Application, ExtProcSpec
from sidecar.ext_proc.envoy import attributes
from sidecar.ext_proc.header_map import WireHeaders
from sidecar.ext_proc.host import ATTRIBUTES
from sidecar.ext_proc.lean import LeanExchange
from sidecar.headers import HeaderList
from sidecar.pipeline import bind
from sidecar.plugin import CONTINUE, PAUSE, Entry, Headers, HttpContext, HttpRequest, Plugin, Reply, Result
from sidecar.reload import Plugins

DEEDS = ("", "set", "metadata", "reply", "raise", "wrong", "pause", "call", "exit")


class Obey(HttpContext["Obedient"]):
    """Does what a header says."""

    def on_request_headers(self, headers: Headers) -> Result:
        self.root.seen.append(("request", headers.items(), self.end_of_stream))
        return self._do(headers)  # type: ignore[no-any-return]

    def on_response_headers(self, headers: Headers) -> Result:
        self.root.seen.append(("response", headers.get(":status"), self.end_of_stream, self.get_property("version")))
        return self._do(headers)  # type: ignore[no-any-return]

    def _do(self, headers: Headers) -> Any:
        match headers.get(f"x-{self.root.name}"):
            case "set":
                headers.set("x-set", headers.get("x-first", "none"))
            case "metadata":
                self.set_metadata("headgate", "seen", True)
            case "reply":
                return Reply(418, b"no")
            case "raise":
                raise ValueError("no")
            case "exit":
                raise SystemExit
            case "wrong":
                return "nonsense"
            case "pause":
                return PAUSE
            case "call":
                self.call(HttpRequest("http://not.allowed"), lambda _: CONTINUE)
        return CONTINUE

    def on_log(self, entry: Entry) -> None:
        self.root.seen.append(("log", entry["status"]))


class Obedient(Plugin):
    context = Obey

    def __init__(self) -> None:
        self.seen: list[Any] = []


class Sink:
    """A stream that keeps what it is given; what was sent of one request."""

    metadata = ""

    def __init__(self) -> None:
        self.sent: list[Any] = []

    def send(self, message: bytes) -> None:
        self.sent.append(message)

    def answer(self, framed: bytes, last: bool) -> None:
        assert framed[:5] == b"\0" + (len(framed) - 5).to_bytes(4, "big")
        self.send(framed[5:])
        if last:
            self.finish()

    def finish(self, status: int = 0, message: str = "") -> None:
        self.sent.append((status, message))

    def pause(self) -> None:
        self.sent.append("pause")

    def resume(self) -> None:
        self.sent.append("resume")


class Quiet(Application):
    """Without a loop: what is to be done later is not done."""

    def soon(self, call: Callable[[], None]) -> None:
        pass

    def later(self, seconds: float, call: Callable[[], None]) -> Any:
        return type("Timer", (), {"cancel": lambda self: None})()


def told(policies: list[Any], questions: list[Any], lean: bool) -> Any:
    """What Envoy and the plugins are told, and what was counted."""
    made = [
        type("Named", (Obedient,), {"name": name, "on_failure": policy})()
        for name, policy in zip("abc", policies, strict=False)
    ]
    plugins = Plugins()
    plugins.pipeline = bind(*made)
    app = Quiet(ExtProcSpec.model_validate({}), plugins)
    if not lean:
        app.chosen = dataclasses.replace(app.chosen, lane=None)
    stream: Any = Sink()
    handler = app.open(stream, PROCESS, lambda: None)
    assert isinstance(handler, LeanExchange) == lean
    assert handler is not None
    for one in questions:
        handler.message(one.SerializeToString())
    handler.gone()
    healths = [(one.health.requests, one.health.skipped, one.health.counts) for one in plugins.pipeline.plugins]
    waits = [
        one for one in stream.sent if type(one) is not bytes or one[:1] != b"\x52"
    ]  # how long depends on the clock
    return waits, [one.seen for one in made], healths


def ask(name: str, deeds: list[str], end: bool, status: str, mode: int | None, more: bool) -> Any:
    message = ProcessingRequest()
    part = getattr(message, name)
    part.end_of_stream = end
    pairs = [(f"x-{who}", deed) for who, deed in zip("abc", deeds, strict=False)]
    pairs += (
        [(":status", status)] if name.startswith("response") else [(":path", "/"), ("x-first", "1"), ("x-first", "2")]
    )
    for key, value in pairs:
        part.headers.headers.add(key=key, raw_value=value.encode())
    if mode is not None:
        message.protocol_config.request_body_mode = mode
    message.observability_mode = more
    return message


deeds = st.lists(st.sampled_from(DEEDS), min_size=3, max_size=3)
question = st.builds(
    ask,
    st.sampled_from(("request_headers", "response_headers")),
    deeds,
    st.booleans(),
    st.sampled_from(("200", "404")),
    st.sampled_from((None, 0, 0, 2)),
    st.sampled_from((False, False, False, True)),
)
usual = st.tuples(
    st.builds(ask, st.just("request_headers"), deeds, st.booleans(), st.just(""), st.just(0), st.just(False)),
    st.builds(ask, st.just("response_headers"), deeds, st.booleans(), st.just("200"), st.none(), st.just(False)),
).map(list)


@settings(max_examples=250, deadline=None)
@given(
    st.lists(st.sampled_from(("open", "closed")), min_size=1, max_size=3),
    st.one_of(usual, st.lists(question, max_size=4)),
)
def test_the_short_way_tells_what_the_long_way_tells(policies: list[Any], questions: list[Any]) -> None:
    assert told(policies, questions, lean=True) == told(policies, questions, lean=False)


names = st.sampled_from(("a", "b", ":path", "x-c"))
steps = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(("get", "get_all", "remove", "in")), names),
        st.tuples(st.sampled_from(("set", "add")), names, st.sampled_from(("", "1", "é"))),
        st.tuples(st.sampled_from(("items", "changes"))),
    ),
    max_size=12,
)


@given(st.lists(st.tuples(names, st.sampled_from(("", "1", "2"))), max_size=6), steps)
def test_headers_read_late_are_headers(sent: list[tuple[str, str]], steps: list[tuple[str, ...]]) -> None:
    message = ProcessingRequest()
    message.request_headers.end_of_stream = True
    for key, value in sent:
        message.request_headers.headers.headers.add(key=key, raw_value=value.encode())
    late, early = WireHeaders(wire.parse(message.SerializeToString())[1].headers), HeaderList(sent)
    for what, *arguments in steps:
        assert outcome(late, what, arguments) == outcome(early, what, arguments)
    assert late.items() == early.items()


def outcome(headers: Headers, what: str, arguments: list[str]) -> Any:
    try:
        return arguments[0] in headers if what == "in" else getattr(headers, what)(*arguments)
    except ValueError as error:
        return str(error)


def test_envoy_tells_no_more_than_plugins_ask_for() -> None:
    class Named(Plugin):
        context = Obey
        properties = ("model",)

    class Silent(Plugin):
        properties = ()

        def on_tick(self) -> None: ...

    assert attributes(bind(Silent())) == []
    assert attributes(bind(Obedient())) == [*ATTRIBUTES.values()]
    assert attributes(bind(Named(), Silent())) == [ATTRIBUTES[name] for name in ("route", "cluster", "source_address")]
    context = Obey(Named())
    with pytest.raises(ValueError, match="'route' is not among the plugin's `properties`"):
        context.get_property("route")
