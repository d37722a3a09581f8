"""Plugins beside a real Envoy: what they change reaches the other side, and what they break stays with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
import pytest

from sidecar.health import Suspension
from sidecar.pipeline import Bound, Pipeline, bind
from sidecar.plugin import (
    CONTINUE,
    PAUSE,
    Body,
    Buffered,
    Headers,
    HttpContext,
    HttpRequest,
    Plugin,
    Reply,
    Result,
    Streamed,
)

Run = Callable[[Callable[[Any], Any]], None]


def made(hooks: dict[str, Any], **more: Any) -> Plugin:
    """A plugin of these hooks."""
    context = type("Made", (HttpContext,), hooks)
    return type(str(more.pop("named", "Made")), (Plugin,), {"context": context, **more})()


class HeaderContext(HttpContext["HeaderPlugin"]):
    def on_request_headers(self, headers: Headers) -> Result:
        headers.set("x-seen", headers.get(":path"))
        headers.remove("x-secret")
        headers.add("x-many", "one")
        headers.add("x-many", "two")
        headers.set("x-empty", "")
        return CONTINUE

    def on_response_headers(self, headers: Headers) -> Result:
        headers.set("x-told", f"{self.get_property('model')} {self.get_property('version')}")
        headers.set("x-from", str(self.get_property("source_address")))
        headers.set("x-route", str(self.get_property("route")))
        headers.set(":status", "201")
        headers.remove("x-upstream")
        return CONTINUE


class HeaderPlugin(Plugin):
    context = HeaderContext


def test_headers_are_changed_both_ways(in_rig: Run) -> None:
    async def story(rig: Any) -> None:
        await rig.both(HeaderPlugin())
        got = await rig.ask("/v2/models/iris", x_secret="word", x_kept="as it was")
        assert got.status == 201
        assert got.headers["x-told"] == "iris v1"
        assert got.headers["x-from"] == "127.0.0.1"
        assert got.headers["x-route"] == "all"
        assert "x-upstream" not in got.headers
        reached, _ = rig.seen[0]
        assert reached["x-seen"] == "/v2/models/iris"
        assert reached["x-kept"] == "as it was"
        assert reached["x-empty"] == ""
        assert "x-secret" not in reached

    in_rig(story)


def test_a_loopback_port_serves_too(in_rig: Run) -> None:
    async def story(rig: Any) -> None:
        pipeline = bind(HeaderPlugin())
        await rig.serve(pipeline, listen="127.0.0.1:0")
        await rig.envoy(pipeline)
        assert (await rig.ask()).headers["x-told"] == "iris v1"

    in_rig(story)


def test_a_changed_header_chooses_another_route(in_rig: Run) -> None:
    async def story(rig: Any) -> None:
        await rig.both(made({"on_request_headers": lambda self, headers: headers.set("x-choose", "none")}))
        assert (await rig.ask()).status == 418

    in_rig(story)


@pytest.mark.parametrize("hook", ["on_request_headers", "on_request_body", "on_response_headers", "on_response_body"])
def test_a_reply_reaches_the_client(in_rig: Run, hook: str) -> None:
    async def story(rig: Any) -> None:
        reply = Reply(429, b"enough\n", (("x-why", "limit"),))
        await rig.both(made({hook: lambda self, _: reply}, request_body=Buffered(1000), response_body=Buffered(1000)))
        got = await rig.ask(body=b"hello")
        assert (got.status, got.body, got.headers["x-why"]) == (429, b"enough\n", "limit")
        assert len(rig.seen) == (0 if "request" in hook else 1)

    in_rig(story)


@pytest.mark.parametrize("size", [1, 1_000, 100_000, 1_000_000])
@pytest.mark.parametrize("end", [b"", b" and more"])
def test_a_whole_body_is_replaced_both_ways(in_rig: Run, size: int, end: bytes) -> None:
    async def story(rig: Any) -> None:
        def replace(self: Any, body: Body) -> None:
            body.replace(body.data.swapcase() + end)

        def note(self: Any, body: Body) -> None:
            body.replace(body.data + b"!")
            self.response_headers.set("x-length", str(len(body.data)))

        need = Buffered(2_000_000)
        hooks = {"on_request_body": replace, "on_response_body": note}
        await rig.both(made(hooks, request_body=need, response_body=need))
        body = (b"Model " * size)[:size]
        got = await rig.ask(body=body)
        assert got.status == 200
        assert rig.seen[0][1] == body.swapcase() + end
        assert got.body == body.swapcase() + end + b"!"
        assert got.headers["x-length"] == str(len(got.body))

    in_rig(story)


def test_headers_wait_for_the_whole_body(in_rig: Run) -> None:
    async def story(rig: Any) -> None:
        def route(self: Any, body: Body) -> None:
            self.request_headers.set("x-model", body.data.decode())

        await rig.both(made({"on_request_body": route}, request_body=Buffered(1000)))
        await rig.ask(body=b"iris")
        assert rig.seen[0][0]["x-model"] == "iris"
        assert rig.seen[0][1] == b"iris"

    in_rig(story)


@pytest.mark.parametrize(("policy", "status"), [("open", 200), ("closed", 413)])
def test_a_body_that_is_too_long_goes_by_unseen_or_is_refused(in_rig: Run, policy: str, status: int) -> None:
    async def story(rig: Any) -> None:
        calls: list[int] = []
        server = await rig.both(
            made(
                {"on_request_body": lambda self, body: calls.append(1)},
                request_body=Buffered(1 << 20),
                on_failure=policy,
            )
        )
        body = b"x" * 3_000_000
        got = await rig.ask(body=body)
        assert got.status == status
        if policy == "open":
            assert rig.seen[0][1] == body
            assert server.application.pipeline.plugins[0].health.counts == {("on_request_body", "body-too-large"): 1}
        assert calls == []

    in_rig(story)


def test_a_streamed_body_is_seen_in_pieces_and_rewritten(in_rig: Run) -> None:
    async def story(rig: Any) -> None:
        pieces: list[bytes] = []

        def upper(self: Any, body: Body) -> Result:
            pieces.append(body.data)
            body.replace(body.data.upper() + (b"." if body.end else b""))
            return CONTINUE

        hooks = {"on_request_body": upper, "on_response_body": upper}
        await rig.both(made(hooks, request_body=Streamed(rewrites=True), response_body=Streamed(rewrites=True)))
        got = await rig.ask("/pieces", body=b"hello" * 40_000)
        assert rig.seen[0][1] == b"HELLO" * 40_000 + b"."
        assert got.body == b"PIECE 0;PIECE 1;PIECE 2;PIECE 3;PIECE 4;."
        assert len(pieces) > 3

    in_rig(story)


def test_pieces_that_are_kept_go_on_at_the_end(in_rig: Run) -> None:
    async def story(rig: Any) -> None:
        def keep(self: Any, body: Body) -> Result:
            if not body.end:
                return PAUSE
            body.replace(body.data[::-1])
            return CONTINUE

        need = Streamed(rewrites=True)
        await rig.both(made({"on_request_body": keep, "on_response_body": keep}, request_body=need, response_body=need))
        body = bytes(range(256)) * 1000
        got = await rig.ask(body=body)
        assert rig.seen[0][1] == body[::-1]
        assert got.body == body

    in_rig(story)


def test_headers_that_are_kept_until_the_first_piece_can_still_be_changed(in_rig: Run) -> None:
    async def story(rig: Any) -> None:
        def look(self: Any, body: Body) -> None:
            self.request_headers.set("x-first", body.data[:5].decode())

        hooks = {"on_request_headers": lambda self, headers: PAUSE, "on_request_body": look}
        await rig.both(made(hooks, request_body=Streamed()))
        await rig.ask(body=b"hello, model")
        assert rig.seen[0][0]["x-first"] == "hello"

    in_rig(story)


@pytest.mark.parametrize("need", [None, Buffered(1000), Streamed(rewrites=True)])
def test_grpc_passes_with_its_trailers(in_rig: Run, need: Any) -> None:
    async def story(rig: Any) -> None:
        hooks: dict[str, Any] = {
            "on_request_headers": lambda self, headers: headers.set("x-a", "b"),
            "on_response_headers": lambda self, headers: headers.set("x-b", "c"),
        }
        more: dict[str, Any] = {}
        if need is not None:
            hooks |= {"on_request_body": lambda self, body: None, "on_response_body": lambda self, body: None}
            more = {"request_body": need, "response_body": need}
        await rig.both(made(hooks, **more))
        answer, trailers, code = await rig.call(b"hello")
        assert (answer, code) == (b"said hello", grpc.StatusCode.OK)
        assert trailers["x-trailer"] == "from the server"

    in_rig(story)


@pytest.mark.parametrize("need", [None, Buffered(1000), Streamed(rewrites=True)])
def test_trailers_are_changed(in_rig: Run, need: Any) -> None:
    async def story(rig: Any) -> None:
        def change(self: Any, trailers: Headers) -> None:
            trailers.set("x-trailer", trailers.get("x-trailer") + ", and a plugin")
            trailers.set("x-more", "yes")

        hooks: dict[str, Any] = {"on_response_trailers": change}
        more: dict[str, Any] = {}
        if need is not None:
            hooks["on_response_body"] = lambda self, body: body.replace(body.data[:5] + body.data[5:].swapcase())
            more["response_body"] = need
        await rig.both(made(hooks, **more))
        answer, trailers, code = await rig.call(b"hello")
        assert (answer, code) == (b"said hello" if need is None else b"SAID HELLO", grpc.StatusCode.OK)
        assert trailers["x-trailer"] == "from the server, and a plugin"
        assert trailers["x-more"] == "yes"

    in_rig(story)


def test_a_reply_to_a_grpc_client_has_a_grpc_status(in_rig: Run) -> None:
    async def story(rig: Any) -> None:
        await rig.both(made({"on_request_headers": lambda self, _: Reply(200, b"", grpc_status=8)}))
        _, _, code = await rig.call(b"hello")
        assert code == grpc.StatusCode.RESOURCE_EXHAUSTED

    in_rig(story)


HOOKS = (
    *("on_request_headers", "on_request_body", "on_request_trailers"),
    *("on_response_headers", "on_response_body", "on_response_trailers", "on_log"),
)


@pytest.mark.parametrize("need", [Buffered(1000), Streamed()])
@pytest.mark.parametrize("policy", ["open", "closed"])
def test_a_plugin_that_raises_in_any_hook_hurts_by_its_policy_only(in_rig: Run, policy: str, need: Any) -> None:
    async def story(rig: Any) -> None:
        def wrong(self: Any, argument: Any) -> None:
            hook = self.request_headers.get("x-break")
            if hook == self._hook:
                raise SystemExit(f"in {hook}")

        def hook_of(name: str) -> Any:
            def hook(self: Any, argument: Any) -> None:
                self._hook = name
                wrong(self, argument)

            return hook

        hooks = {name: hook_of(name) for name in HOOKS}
        plugin = made(hooks, request_body=need, response_body=need, on_failure=policy)
        pipeline = Pipeline([Bound(plugin, suspension=Suspension(faults=100))])
        await rig.serve(pipeline)
        await rig.envoy(pipeline)
        health = pipeline.plugins[0].health
        for name in ("on_request_headers", "on_request_body", "on_response_headers", "on_response_body", "on_log"):
            got = await rig.ask(body=b"hello", x_break=name)
            if policy == "open" or name == "on_log":
                assert (got.status, got.body) == (200, b"hello"), name
            else:
                assert got.status in (503, 502, 0), name  # 502, 0: the answer had begun
        answer, _, code = await rig.call(b"hi", **{"x-break": "on_response_trailers"})
        assert (answer, code == grpc.StatusCode.OK) == ((b"said hi", True) if policy == "open" else (b"", False))
        got = await rig.ask(body=b"fine")
        assert (got.status, got.body) == (200, b"fine")
        assert {hook for hook, _ in health.counts} >= {"on_request_headers", "on_response_body", "on_response_trailers"}

    in_rig(story)


def test_plugins_that_watch_change_nothing(in_rig: Run) -> None:
    async def story(rig: Any) -> None:
        seen: list[bytes] = []
        await rig.both(
            HeaderPlugin(),
            made({"on_request_body": lambda self, body: seen.append(body.data)}, request_body=Buffered(100)),
            observe=True,
        )
        got = await rig.ask(body=b"hello")
        assert (got.status, got.body) == (200, b"hello")
        assert "x-seen" not in rig.seen[0][0]
        assert seen == [b"hello"]

    in_rig(story)


def test_envoy_that_sends_headers_only_is_told_to_send_bodies(in_rig: Run) -> None:
    async def story(rig: Any) -> None:
        def less(config: dict[str, Any]) -> None:
            config["processing_mode"] |= {"request_body_mode": "NONE", "response_body_mode": "NONE"}

        need = Buffered(1000)
        await rig.both(
            made(
                {
                    "on_request_body": lambda self, body: body.replace(b"new"),
                    "on_response_body": lambda self, body: body.replace(b"other"),
                },
                request_body=need,
                response_body=need,
            ),
            change=less,
        )
        got = await rig.ask(body=b"hello")
        assert got.status == 200
        assert rig.seen[0][1] == b"new"
        assert got.body == b"other"

    in_rig(story)


def test_a_plugin_may_call_an_allowed_server_while_the_request_waits(in_rig: Run) -> None:
    async def story(rig: Any) -> None:
        port = await rig._http()
        origin = f"http://127.0.0.1:{port}"

        async def ask(self: Any, headers: Headers) -> None:
            answer = await self.call(HttpRequest(f"{origin}/call", method="POST", body=b"who?"))
            headers.set("x-answer", f"{answer.status} {answer.body.decode()}")

        pipeline = bind(made({"on_request_headers": ask}))
        await rig.serve(pipeline, calls=(origin,))
        await rig.envoy(pipeline)
        assert (await rig.ask()).status == 200
        assert rig.seen[-1][0]["x-answer"] == "200 who?"

    in_rig(story)


def test_a_plugin_may_pause_longer_than_envoy_waits_and_its_patience_ends(in_rig: Run) -> None:
    async def story(rig: Any) -> None:
        plugin = made({"on_request_headers": lambda self, headers: PAUSE}, patience=1.5)
        server = await rig.both(plugin, message_timeout=1.0)
        got = await rig.ask()
        assert got.status == 200
        assert server.application.pipeline.plugins[0].health.counts == {("on_request_headers", "never-resumed"): 1}
        stats = await rig.stats()
        assert stats["message_timeouts"] == 0
        assert stats["override_message_timeout_received"] == 1

    in_rig(story)


def test_the_control_plane_chooses_plugins_for_each_stream(in_rig: Run) -> None:
    async def story(rig: Any) -> None:
        def chosen(config: dict[str, Any]) -> None:
            config["processing_mode"] = {"request_header_mode": "SEND", "response_header_mode": "SEND"}
            config["grpc_service"]["initial_metadata"] = [
                {
                    "key": "x-headgate-plugins",
                    "value": '[{"name": "json-to-header", "config": {"field": "kind", "header": "x-kind"}}]',
                }
            ]

        specs = [{"plugin": f"sidecar.plugins.{one}"} for one in ("stamp:Stamp", "json_to_header:JsonToHeader")]
        server = await rig.serve(bind(), plugins=specs)
        await rig.envoy(server.application.pipeline, change=chosen)
        got = await rig.ask(body=b'{"kind": "iris", "model": "other"}', content_type="application/json")
        assert (got.status, got.body) == (200, b'{"kind": "iris", "model": "other"}')
        assert "app-version" not in got.headers
        assert rig.seen[0][0]["x-kind"] == "iris"
        assert "x-headgate-model" not in rig.seen[0][0]
        stats = await rig.stats()
        assert (stats["stream_msgs_sent"], stats["streams_failed"]) == (2, 0)  # no question about the response

    in_rig(story)


@pytest.mark.parametrize(
    "text", ['[{"name": "other"}]', "nonsense", '[{"name": "json-to-header", "config": {"x": 1}}]']
)
def test_plugins_that_cannot_be_had_fail_by_policy_only(in_rig: Run, text: str) -> None:
    async def story(rig: Any) -> None:
        def chosen(config: dict[str, Any]) -> None:
            config["grpc_service"]["initial_metadata"] = [{"key": "x-headgate-plugins", "value": text}]

        server = await rig.serve(bind(), plugins=[{"plugin": "sidecar.plugins.json_to_header:JsonToHeader"}])
        await rig.envoy(server.application.pipeline, change=chosen)
        assert (await rig.ask()).status == 200
        assert (await rig.stats())["streams_failed"] == 1

    in_rig(story)


def test_metadata_reach_envoy(in_rig: Run) -> None:
    async def story(rig: Any) -> None:
        await rig.both(
            made({"on_request_headers": lambda self, headers: self.set_metadata("headgate", "word", "said")})
        )
        assert (await rig.ask()).headers["x-metadata"] == "said"

    in_rig(story)
