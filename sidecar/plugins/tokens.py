"""Tokens of OpenAI-style answers, whole or streamed as server-sent events: counted per version, and put into the log
and the metadata `headgate`, from which the sidecar's stream of requests takes them.

A stream is read as it goes by and never held back. Where the answer has no `usage` block (a stream without
`stream_options.include_usage`), one event with content counts as one token of output.
"""

from __future__ import annotations

import json
from typing import Any

from sidecar.plugin import CONTINUE, STREAMED, Body, Entry, Headers, HttpContext, Plugin, Result

NAMESPACE = "headgate"
_KEPT = 1 << 20  # bytes of an answer, or of one event, that are read
_SMALL = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Counting(HttpContext["Tokens"]):
    tokens_in = 0
    tokens_out = 0
    events = 0
    first: float | None = None
    last = 0.0

    def on_request_headers(self, headers: Headers) -> Result:
        self.began = self.now()
        return CONTINUE

    def on_response_headers(self, headers: Headers) -> Result:
        kind = headers.get("content-type")
        self.is_stream = kind.startswith("text/event-stream")
        self.reads = headers.get(":status") == "200" and (self.is_stream or "json" in kind)
        self.rest = b""
        return CONTINUE

    def on_response_body(self, body: Body) -> Result:
        if not self.reads:
            return CONTINUE
        self.rest += body.data
        if self.is_stream:
            *lines, self.rest = self.rest.replace(b"\r\n", b"\n").split(b"\n")
            for line in lines:
                if line.startswith(b"data:") and line[5:].strip() != b"[DONE]":
                    self._event(_json(line[5:]))
        elif body.end:
            self._usage(_json(self.rest))
        if len(self.rest) > _KEPT or body.end:
            self.reads = False
            self._count()
        return CONTINUE

    def _event(self, event: dict[str, Any]) -> None:
        self._usage(event)
        choices = event.get("choices")
        if isinstance(choices, list) and any(_has_content(one) for one in choices):
            self.events += 1
            now = self.now()
            if self.first is None:
                self.first = now
                self.root.first_token.observe(now - self.began, version=self._version())
            else:
                self.root.between.observe(now - self.last, version=self._version())
            self.last = now

    def _usage(self, document: dict[str, Any]) -> None:
        usage = document.get("usage")
        if isinstance(usage, dict):
            self.tokens_in = _number(usage.get("prompt_tokens", usage.get("input_tokens")))
            self.tokens_out = _number(usage.get("completion_tokens", usage.get("output_tokens")))

    def _count(self) -> None:
        self.tokens_out = self.tokens_out or self.events
        self.root.tokens.add(self.tokens_in, version=self._version(), direction="in")
        self.root.tokens.add(self.tokens_out, version=self._version(), direction="out")
        if self.tokens_in or self.tokens_out:
            self.set_metadata(NAMESPACE, "tokens_in", self.tokens_in)
            self.set_metadata(NAMESPACE, "tokens_out", self.tokens_out)
        if self.first is not None:
            self.set_metadata(NAMESPACE, "time_to_first_token", self.first - self.began)
            if self.events > 1:
                self.set_metadata(NAMESPACE, "time_between_tokens", (self.last - self.first) / (self.events - 1))

    def _version(self) -> str:
        return str(self.get_property("version") or "")

    def on_log(self, entry: Entry) -> None:
        if self.tokens_in or self.tokens_out:
            entry["tokens_in"], entry["tokens_out"] = self.tokens_in, self.tokens_out
        if self.first is not None:
            entry["time_to_first_token"] = self.first - self.began


class Tokens(Plugin):
    name = "tokens"
    context = Counting
    properties = ("version",)
    response_body = STREAMED

    def on_configure(self, config: object) -> None:
        self.tokens = self.metrics.counter("tokens", "Tokens of requests and answers.", ["version", "direction"])
        self.first_token = self.metrics.histogram(
            "time_to_first_token_seconds", "From the request to the first token of a stream.", ["version"]
        )
        self.between = self.metrics.histogram(
            "time_between_tokens_seconds", "Between two tokens of a stream.", ["version"], _SMALL
        )


def _json(text: bytes) -> dict[str, Any]:
    try:
        document = json.loads(text)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _has_content(choice: object) -> bool:
    if not isinstance(choice, dict):
        return False
    delta = choice.get("delta")
    return bool(choice.get("text") or (isinstance(delta, dict) and delta.get("content")))


def _number(value: object) -> int:
    return value if type(value) is int and value >= 0 else 0
