"""Requests of KServe's V2 protocol are held to the model's metadata, and refused with 400 and every reason at once.

The metadata come from the configuration, or are asked for once by an async call: the request waits for it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from math import prod
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from sidecar.plugin import CONTINUE, Body, Buffered, HttpContext, HttpRequest, Plugin, Reply, Result

_INFER = re.compile(r"/v2/models/([^/?]+)(?:/versions/[^/?]+)?/infer(?:\?|\Z)")
_RETRY = 10.0  # seconds after the model server did not tell its metadata


class Tensor(BaseModel):
    """An input in the model's metadata; -1 in a shape: any size."""

    name: str
    datatype: str
    shape: tuple[int, ...]


class Metadata(BaseModel):
    inputs: tuple[Tensor, ...]


class Config(BaseModel):
    model_config = ConfigDict(extra="forbid")

    metadata: dict[str, Metadata] = {}  # by model
    url: str = ""  # where to ask otherwise, such as http://127.0.0.1:8080/v2/models/{model}


class Checking(HttpContext["V2Schema"]):
    async def on_request_body(self, body: Body) -> Result:
        path = _INFER.match(self.request_headers.get(":path"))
        if path is None or "inference-header-content-length" in self.request_headers:  # tensors in binary form
            return CONTINUE
        metadata = self.root.known.get(path[1]) or await self._ask(path[1])
        if metadata is None:
            return CONTINUE  # nothing to hold it to
        problems = check(body.data, metadata)
        if not problems:
            return CONTINUE
        self.root.refused.add(model=path[1])
        text = json.dumps({"error": "; ".join(problems)})
        return Reply(400, text.encode(), (("content-type", "application/json"),))

    async def _ask(self, model: str) -> Metadata | None:
        root = self.root
        if not root.url or self.now() < root.ask_again.get(model, 0.0) or len(root.ask_again) >= 1000:
            return None
        root.ask_again[model] = self.now() + _RETRY
        response = await self.call(HttpRequest(root.url.replace("{model}", model)))
        try:
            root.known[model] = Metadata.model_validate_json(response.body)
        except ValidationError:
            self.log.warning(
                f"{model}: no metadata (status {response.status}{response.error and ': '}{response.error})"
            )
            return None
        return root.known[model]


class V2Schema(Plugin):
    name = "v2-schema"
    context = Checking
    properties = ()
    request_body = Buffered(32 << 20)
    config_model = Config

    def on_configure(self, config: Config) -> None:
        self.known = dict(config.metadata)
        self.url = config.url
        self.ask_again: dict[str, float] = {}
        self.refused = self.metrics.counter("refused", "Requests that do not fit the model's metadata.", ["model"])


def check(body: bytes, metadata: Metadata) -> list[str]:
    """What is wrong with a request."""
    try:
        document = json.loads(body)
    except ValueError as error:
        return [f"the body is not JSON: {error}"]
    inputs = document.get("inputs") if isinstance(document, dict) else None
    if not isinstance(inputs, list) or not all(isinstance(one, dict) for one in inputs):
        return ["'inputs' has to be a list of tensors"]
    given = {str(one.get("name")): one for one in inputs}
    wanted = {one.name: one for one in metadata.inputs}
    problems = [f"input {name!r} is missing" for name in wanted if name not in given]
    problems += [f"there is no input {name!r}; there are {sorted(wanted)}" for name in given if name not in wanted]
    for name in wanted:
        if name in given:
            problems += _tensor(given[name], wanted[name])
    return problems


def _tensor(given: Mapping[str, Any], wanted: Tensor) -> list[str]:
    name, shape, data = wanted.name, given.get("shape"), given.get("data")
    problems = []
    if given.get("datatype") != wanted.datatype:
        problems.append(f"input {name!r}: datatype {given.get('datatype')!r}, not {wanted.datatype!r}")
    if not isinstance(shape, list) or not all(type(one) is int and one >= 0 for one in shape):
        return [*problems, f"input {name!r}: shape {shape!r} is not a list of sizes"]
    if len(shape) != len(wanted.shape) or any(-1 != b != a for a, b in zip(shape, wanted.shape, strict=True)):
        problems.append(f"input {name!r}: shape {shape}, not {list(wanted.shape)}")
    if isinstance(data, list):
        count = _count(data)
        if count != prod(shape):
            problems.append(f"input {name!r}: {count} values, not {prod(shape)} as its shape says")
    return problems


def _count(data: list[Any]) -> int:
    """Values in a list, flat or nested."""
    total, todo = 0, [data]
    while todo:
        for one in todo.pop():
            if isinstance(one, list):
                todo.append(one)
            else:
                total += 1
    return total
