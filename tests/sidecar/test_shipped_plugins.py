"""The plugins that we ship: what each promises."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from plugin_host import REQUEST, Exchange, TestHost

from sidecar.checking import check
from sidecar.headers import Pairs
from sidecar.loading import load
from sidecar.pipeline import Pipeline
from sidecar.plugin import Plugin
from sidecar.plugins.cache import Cache
from sidecar.plugins.json_to_header import JsonToHeader
from sidecar.plugins.rate_limit import RateLimit
from sidecar.plugins.redact import Redact
from sidecar.plugins.shadow import Shadow, agree, scores_in
from sidecar.plugins.stamp import Stamp
from sidecar.plugins.tokens import Tokens
from sidecar.plugins.v2_schema import V2Schema

SHIPPED = {
    Stamp: {},
    JsonToHeader: {},
    V2Schema: {},
    Tokens: {},
    Redact: {},
    Shadow: {},
    RateLimit: {"per_second": 1},
    Cache: {},
}
JSON = (*REQUEST, ("content-type", "application/json"))
SSE = (("content-type", "text/event-stream"),)


def pipeline(plugin: type[Plugin], **config: Any) -> Pipeline:
    """As the configuration would load it."""
    loaded = load([{"plugin": f"{plugin.__module__}:{plugin.__name__}", "config": config}])
    assert loaded.pipeline is not None, loaded.faults
    return loaded.pipeline


def numbers(plugins: Pipeline) -> dict[str, float]:
    """The metrics of the plugin: name and label values, to value."""
    return {
        " ".join([family.name, *(value for _, value in sample.labels)]): sample.value
        for family in plugins.plugins[0].plugin.metrics.families()
        for sample in family.samples
        if sample.suffix in ("", "_total", "_count")
    }


def healthy(plugins: Pipeline) -> bool:
    return plugins.plugins[0].health.last is None


@pytest.mark.parametrize("plugin", SHIPPED)
def test_every_plugin_passes_its_own_check(plugin: type[Plugin]) -> None:
    assert check(plugin) == []


@pytest.mark.parametrize("plugin", SHIPPED)
@given(
    body=st.lists(st.binary(max_size=40), min_size=1, max_size=4), kind=st.sampled_from(["json", "event-stream", "x"])
)
def test_no_body_makes_a_plugin_fail(plugin: type[Plugin], body: list[bytes], kind: str) -> None:
    plugins = pipeline(plugin, **SHIPPED[plugin])
    headers = (("content-type", f"text/{kind}"), ("x-request-id", "1"))
    exchange = Exchange(plugins, TestHost(version="v1")).send((*REQUEST, *headers), body)
    if exchange.reply is None:
        exchange.answer(200, headers, body)
        assert exchange.response.body == b"".join(body)
    exchange.finish()
    assert healthy(plugins), plugins.plugins[0].health.last


# stamp


def test_stamp_names_the_version_and_keeps_or_makes_a_request_id() -> None:
    host = TestHost(version="v2")
    kept = Exchange(pipeline(Stamp), host).send((*REQUEST, ("x-request-id", "abc"))).answer()
    assert kept.response.headers is not None
    assert kept.response.headers.items() == ((":status", "200"), ("x-request-id", "abc"), ("app-version", "v2"))
    assert kept.finish()["request_id"] == "abc"
    made = Exchange(pipeline(Stamp), host).send().answer()
    assert made.request.headers is not None
    assert made.response.headers is not None
    assert len(made.request.headers.get("x-request-id")) == 36
    assert made.request.headers.get("x-request-id") == made.response.headers.get("x-request-id")


# json-to-header


@pytest.mark.parametrize(
    ("body", "header"),
    [
        (b'{"model": "llama", "messages": []}', "llama"),
        (b'{"model": 3}', ""),
        (b'{"model": "a\\nb: c"}', ""),
        (b'["model"]', ""),
        (b"not JSON", ""),
    ],
)
def test_json_to_header(body: bytes, header: str) -> None:
    plugins = pipeline(JsonToHeader)
    exchange = Exchange(plugins).send((*JSON, ("x-headgate-model", "forged")), [body[:5], body[5:]])
    assert exchange.request.headers is not None
    assert exchange.request.headers.get("x-headgate-model") == header
    assert exchange.request.body == body
    assert healthy(plugins)


# v2-schema

IRIS = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]}


def infer(**changes: Any) -> bytes:
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]} | changes
    return json.dumps({"inputs": [tensor]}).encode()


@pytest.mark.parametrize(
    ("body", "reasons"),
    [
        (infer(), []),
        (infer(shape=[2, 4], data=[[1, 2, 3, 4], [5, 6, 7, 8]]), []),
        (infer(datatype="INT64", data=[1]), ["datatype 'INT64', not 'FP32'", "1 values, not 4"]),
        (infer(shape=[4]), ["shape [4], not [-1, 4]"]),
        (infer(shape="4"), ["shape '4' is not a list of sizes"]),
        (infer(name="y"), ["input 'x' is missing", "there is no input 'y'; there are ['x']"]),
        (b"{}", ["'inputs' has to be a list"]),
        (b"{", ["not JSON"]),
    ],
)
def test_v2_schema_tells_every_reason(body: bytes, reasons: list[str]) -> None:
    exchange = Exchange(pipeline(V2Schema, metadata={"iris": IRIS})).send(JSON, [body])
    if reasons:
        assert exchange.reply is not None
        assert exchange.reply.status == 400
        error = json.loads(exchange.reply.body)["error"]
        assert all(one in error for one in reasons), error
    else:
        assert exchange.request.body == body


def test_v2_schema_asks_for_the_metadata_once() -> None:
    plugins = pipeline(V2Schema, url="http://127.0.0.1:1/v2/models/{model}")
    first = Exchange(plugins).send(JSON, [infer(shape=[4])])
    assert [one.url for one in first.host.calls.values()] == ["http://127.0.0.1:1/v2/models/iris"]
    first.called(body=json.dumps(IRIS).encode())
    assert first.reply is not None
    second = Exchange(plugins).send(JSON, [infer(shape=[4])])
    assert second.reply is not None
    assert second.host.calls == {}


def test_v2_schema_lets_go_by_what_it_cannot_know() -> None:
    plugins = pipeline(V2Schema, url="http://127.0.0.1:1/{model}")
    exchange = Exchange(plugins).send(JSON, [b"{}"]).called(status=503)
    assert exchange.request.body == b"{}"
    assert not Exchange(plugins).send(JSON, [b"{}"]).host.calls, "not asked again at once"


# tokens


def test_tokens_are_read_from_the_usage_block() -> None:
    plugins = pipeline(Tokens)
    body = json.dumps({"usage": {"prompt_tokens": 7, "completion_tokens": 5}}).encode()
    exchange = Exchange(plugins, TestHost(version="v1"))
    exchange.send().answer(200, (("content-type", "application/json"),), [body[:9], body[9:]])
    assert exchange.response.body == body
    assert numbers(plugins) == {"tokens v1 in": 7, "tokens v1 out": 5}
    entry = exchange.finish()
    assert (entry["tokens_in"], entry["tokens_out"]) == (7, 5)
    assert exchange.host.metadata == {("headgate", "tokens_in"): 7, ("headgate", "tokens_out"): 5}


def events(*contents: str, usage: dict[str, int] | None = None) -> bytes:
    documents: list[Any] = [{"choices": [{"delta": {"content": one}}]} for one in contents]
    if usage:
        documents.append({"choices": [], "usage": usage})
    return b"".join(b"data: %s\n\n" % json.dumps(one).encode() for one in documents) + b"data: [DONE]\n\n"


@given(st.lists(st.integers(1, 200), max_size=6), st.booleans())
def test_tokens_of_a_stream_are_counted_however_it_is_cut(cuts: list[int], with_usage: bool) -> None:
    whole = events("a", "b", "c", usage={"prompt_tokens": 9, "completion_tokens": 4} if with_usage else None)
    pieces, at = [], 0
    for cut in cuts:
        pieces.append(whole[at : at + cut])
        at += cut
    plugins = pipeline(Tokens)
    exchange = Exchange(plugins).send().answer(200, SSE, [*pieces, whole[at:]])
    assert exchange.response.body == whole
    assert numbers(plugins)["tokens  out"] == (4 if with_usage else 3)
    assert numbers(plugins)["time_to_first_token_seconds "] == 1
    assert numbers(plugins)["time_between_tokens_seconds "] == 2


def test_a_stream_is_not_held_back() -> None:
    exchange = Exchange(pipeline(Tokens)).send()
    chain = exchange.chain
    from sidecar.headers import HeaderList

    assert chain.response_headers(HeaderList([(":status", "200"), *SSE])).headers is not None
    assert chain.response_body(b"data: {").data == b"data: {"


# redact


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("from ann.b@example.org:", "from [email]:"),
        ("authorization Bearer abcdefghijkl", "authorization [token]"),
        ("pay 4111 1111 1111 1111 now", "pay [card] now"),
        ("call +49 (30) 1234567", "call [phone]"),
        ("iris took 12.345 ms, 200, v1.2.3", "iris took 12.345 ms, 200, v1.2.3"),
    ],
)
def test_redact(text: str, clean: str) -> None:
    plugins = pipeline(Redact)
    entry: dict[str, Any] = {"path": text, "user": "ann", "status": 200, "more": [{"x": text}]}
    plugins.edit_log(entry, 0.0)
    assert entry == {"path": clean, "user": "[left out]", "status": 200, "more": [{"x": clean}]}


def test_redact_sees_what_other_plugins_log(caplog: pytest.LogCaptureFixture) -> None:
    loaded = load([{"plugin": "sidecar.plugins.stamp:Stamp"}, {"plugin": "sidecar.plugins.redact:Redact"}])
    assert loaded.pipeline is not None
    loaded.pipeline.plugins[0].plugin.log.warning("mail to ann@example.org")
    assert "stamp: mail to [email]" in caplog.text


def test_redact_tells_of_wrong_patterns() -> None:
    loaded = load([{"plugin": "sidecar.plugins.redact:Redact", "config": {"patterns": {"a": "("}, "kinds": ["b"]}}])
    assert sorted(one.field for one in loaded.faults) == ["plugins[0].config.kinds", "plugins[0].config.patterns"]


# shadow


def scored(*scores: float) -> bytes:
    return json.dumps({"outputs": [{"data": scores}]}).encode()


def pair(plugins: Pipeline, live: bytes, shadow: bytes, first: str, request_id: str = "1") -> None:
    def one(way: str) -> None:
        headers: Pairs = (*REQUEST, ("x-request-id", request_id), *((("x-shadow", "true"),) if way == "shadow" else ()))
        host = TestHost(version="v1" if way == "live" else "v2")
        Exchange(plugins, host).send(headers).answer(body=[live if way == "live" else shadow])

    for way in (first, "shadow" if first == "live" else "live"):
        one(way)


@pytest.mark.parametrize("first", ["live", "shadow"])
def test_shadow_compares_answers_whichever_comes_first(first: str) -> None:
    plugins = pipeline(Shadow)
    pair(plugins, scored(0.1, 0.9), scored(0.2, 0.8), first, "1")
    pair(plugins, scored(0.1, 0.9), scored(0.9, 0.1), first, "2")
    got = numbers(plugins)
    assert got["compared v1 v2"] == 2
    assert got["agreed v1 v2"] == 1
    assert got["agreement_ratio v1 v2"] == pytest.approx(0.99)
    assert got["score_drift v1 v2"] == 2
    plugin = plugins.plugins[0].plugin
    (drift,) = [one for one in plugin.metrics.families() if one.name == "score_drift"]
    assert next(one.value for one in drift.samples if one.suffix == "_sum") == pytest.approx(0.1 + 0.8)


def test_shadow_forgets_answers_that_stay_alone() -> None:
    plugins = pipeline(Shadow, keep=3)
    for number in range(10):
        headers = (*REQUEST, ("x-request-id", str(number)))
        Exchange(plugins, TestHost(version="v1")).send(headers).answer(body=[scored(1)])
    plugin = plugins.plugins[0].plugin
    assert isinstance(plugin, Shadow)
    assert len(plugin.pairs) == 3
    assert numbers(plugins)["unpaired"] == 7


@given(st.lists(st.floats(-9, 9), min_size=1, max_size=5))
def test_an_answer_agrees_with_itself(scores: list[float]) -> None:
    assert agree(tuple(scores), scores_in(scored(*scores), "outputs.0.data"), 1e-6)


@pytest.mark.parametrize("body", [b"", b"[]", b'{"outputs": [{"data": ["a"]}]}', b'{"outputs": 1}'])
def test_what_has_no_scores_agrees_with_nothing(body: bytes) -> None:
    assert not agree(scores_in(body, "outputs.0.data"), (), 1.0)


# rate-limit


@given(st.lists(st.tuples(st.sampled_from("ab"), st.floats(0, 3)), max_size=60))
def test_no_client_gets_more_than_burst_and_rate(requests: list[tuple[str, float]]) -> None:
    plugins = pipeline(RateLimit, per_second=2, burst=3, header="x-client")
    host, passed = TestHost(), {"a": 0, "b": 0}
    for client, pause in requests:
        host.time += pause
        passed[client] += Exchange(plugins, host).send((*REQUEST, ("x-client", client))).reply is None
    assert all(count <= 3 + 2 * host.time + 1e-6 for count in passed.values())


def test_rate_limit_says_when_to_come_again() -> None:
    plugins = pipeline(RateLimit, per_second=0.5, burst=1)
    host = TestHost(source_address="10.0.0.1")
    assert Exchange(plugins, host).send().reply is None
    refused = Exchange(plugins, host).send().reply
    assert refused is not None
    assert (refused.status, dict(refused.headers)["retry-after"], refused.grpc_status) == (429, "2", 8)
    host.time = 2.0
    assert Exchange(plugins, host).send().reply is None


def test_rate_limit_remembers_so_many_clients() -> None:
    plugins = pipeline(RateLimit, per_second=1, header="x-client", clients=5)
    for number in range(50):
        Exchange(plugins).send((*REQUEST, ("x-client", str(number))))
    plugin = plugins.plugins[0].plugin
    assert isinstance(plugin, RateLimit)
    assert len(plugin.buckets) == 5


# cache


def ask(plugins: Pipeline, body: bytes, host: TestHost, more: Pairs = (), answer: Pairs = ()) -> bytes:
    """What the client gets; the model server answers with what it was asked, upside down."""
    exchange = Exchange(plugins, host).send((*JSON, *more), [body])
    if exchange.reply is None:
        exchange.answer(200, (("content-type", "x"), *answer), [body[::-1]])
        return b"miss " + exchange.response.body
    assert dict(exchange.reply.headers)["x-cache"] == "hit"
    return b"hit " + exchange.reply.body


def test_cache_answers_what_was_asked_before() -> None:
    plugins, host = pipeline(Cache, seconds=10), TestHost(version="v1")
    assert [ask(plugins, b"ab", host) for _ in range(2)] == [b"miss ba", b"hit ba"]
    assert ask(plugins, b"cd", host) == b"miss dc"
    assert ask(plugins, b"ab", TestHost(version="v2")) == b"miss ba"
    host.time = 10.0
    assert ask(plugins, b"ab", host) == b"miss ba"
    assert numbers(plugins) == {"lookups miss": 4, "lookups hit": 1}


@pytest.mark.parametrize(
    ("host", "more", "answer"),
    [
        (TestHost(version="v1"), (("authorization", "Bearer x"),), ()),
        (TestHost(version="v1"), (("cache-control", "no-store"),), ()),
        (TestHost(version="v1"), (), (("cache-control", "no-store"),)),
        (TestHost(version="v1"), (), (("set-cookie", "a=b"),)),
        (TestHost(), (), ()),
    ],
    ids=("credentials", "client says no", "server says no", "cookie", "version unknown"),
)
def test_cache_keeps_nothing_that_it_must_not(host: TestHost, more: Pairs, answer: Pairs) -> None:
    plugins = pipeline(Cache)
    assert [ask(plugins, b"ab", host, more, answer) for _ in range(2)] == [b"miss ba"] * 2


@given(st.lists(st.binary(min_size=1, max_size=300), max_size=30))
def test_cache_never_grows_beyond_its_bytes(bodies: list[bytes]) -> None:
    plugins, host = pipeline(Cache, bytes=1000), TestHost(version="v1")
    for body in bodies:
        assert ask(plugins, body, host).endswith(body[::-1])
    plugin = plugins.plugins[0].plugin
    assert isinstance(plugin, Cache)
    assert plugin.size == sum(one.size for one in plugin.kept.values()) <= 1000
