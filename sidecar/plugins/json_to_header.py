"""A field of the JSON body becomes a request header, so that OpenAI-style calls can be routed by model.

It needs the whole body before the headers go on. Put it where the route is chosen afterwards.
"""

from __future__ import annotations

import json

from pydantic import BaseModel, ConfigDict

from sidecar.plugin import CONTINUE, Body, Buffered, Headers, HttpContext, Plugin, Result


class Config(BaseModel):
    model_config = ConfigDict(extra="forbid")

    field: str = "model"
    header: str = "x-headgate-model"


class Lifting(HttpContext["JsonToHeader"]):
    def on_request_headers(self, headers: Headers) -> Result:
        headers.remove(self.root.settings.header)  # it is ours to say, not the client's
        return CONTINUE

    def on_request_body(self, body: Body) -> Result:
        if "json" not in self.request_headers.get("content-type", "json"):
            return CONTINUE
        try:
            document = json.loads(body.data)
        except ValueError:
            return CONTINUE  # the model server will say what it thinks of it
        value = document.get(self.root.settings.field) if isinstance(document, dict) else None
        # ASCII letters that need no quoting: what is in a body must not become something else in a header.
        if isinstance(value, str) and 0 < len(value) <= 256 and value.isascii() and value.isprintable():
            self.request_headers.set(self.root.settings.header, value)
        return CONTINUE


class JsonToHeader(Plugin):
    name = "json-to-header"
    context = Lifting
    properties = ()
    request_body = Buffered(8 << 20)
    config_model = Config

    def on_configure(self, config: Config) -> None:
        self.settings = config
