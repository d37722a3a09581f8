"""The plugins of `plugins.py`: what they do is done by the Lua filter beside them too."""

from __future__ import annotations

from sidecar.plugin import CONTINUE, Body, Buffered, Headers, HttpContext, Plugin, Result


class TouchHeaders(HttpContext["HeaderPlugin"]):
    """One header read and one written, each way."""

    def on_request_headers(self, headers: Headers) -> Result:
        headers.set("x-seen", headers.get(":path"))
        return CONTINUE

    def on_response_headers(self, headers: Headers) -> Result:
        headers.set("x-told", headers.get(":status"))
        return CONTINUE


class HeaderPlugin(Plugin):
    context = TouchHeaders
    properties = ()


class TouchBody(HttpContext["BodyPlugin"]):
    """The request's body replaced by another of the same length."""

    def on_request_body(self, body: Body) -> Result:
        body.replace(body.data.swapcase())
        return CONTINUE


class BodyPlugin(Plugin):
    context = TouchBody
    properties = ()
    request_body = Buffered(1 << 20)
