"""What a task `grpc` sends: the method, from wherever it is described, and messages, from wherever they are."""

from __future__ import annotations

import asyncio
import json
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from loadgen.experiment.context import Context, TaskFailure
from loadgen.experiment.fetch import fetched
from loadgen.experiment.tasks import grpc_plan
from loadgen.experiment.tasks.grpc_settings import GrpcEndpoint
from loadgen.experiment.values import HeaderTexts
from loadgen.payload.descriptors import Descriptors, Method, built_in, checked, find_method, from_proto
from loadgen.payload.reflection import from_reflection
from loadgen.payload.render import Requests
from loadgen.plan import Grpc, Payload, Scenario
from loadgen.slo.verdict import ExitCode
from router.problem import Problem

Found = TypeVar("Found", Descriptors, Method)

V2 = "inference.GRPCInferenceService"

_GHZ = {
    "requestnumber": "seq",
    "uuid": "uuid",
    "newuuid": "uuid",
    "timestampunix": "now",
    "workerid": "user",
}
"""Variables of ghz' templates, in small letters, and ours that come nearest."""


async def scenario(name: str, one: GrpcEndpoint, context: Context, grace: float) -> Scenario:
    """Raises TaskFailure, with the exit code of a bad spec where the message does not fit the method."""
    assert one.call is not None
    metadata = await _metadata(one, context)
    descriptors = await _descriptors(one, metadata, context)
    method = _good(find_method(descriptors, one.call, "", "call"))
    payload, binary = await _payload(one, context)
    try:
        grpc = Grpc(
            method.path,
            descriptors.files,
            kind=method.kind,
            binary=binary,
            stream_count=one.stream_call_count or None,
            stream_interval=one.stream_interval or 0.0,
            client=one.client or "own",
            max_message=grpc_plan.message_size(one.max_recv_message_size),
        )
        laid = one.model_copy(update={"metadata": metadata})
        made = grpc_plan.scenario(name, laid, grpc, payload, grace)
        Requests(made.target)
    except ValueError as error:
        raise TaskFailure(f"{one.call}: {error}", code=ExitCode.BAD_SPEC) from None
    return made


async def _descriptors(one: GrpcEndpoint, metadata: Mapping[str, str], context: Context) -> Descriptors:
    """protoset, proto, protoURL; without any of them V2's own, or the server's reflection, as ghz does."""
    assert one.call is not None
    if one.protoset is not None:
        raw = await fetched(context, one.protoset)
        try:
            return checked(raw, one.protoset)
        except ValueError as error:
            raise TaskFailure(f"{one.protoset}: {error}", code=ExitCode.BAD_SPEC) from None
    folder = context.experiment.folder
    if one.proto_url is not None:
        raw = await fetched(context, one.proto_url)
        with tempfile.TemporaryDirectory(prefix="headgate-proto-") as place:
            file = Path(place) / "fetched.proto"
            file.write_bytes(raw)
            imports = [folder / path for path in one.import_paths or ()]
            return _good(await asyncio.to_thread(from_proto, [file], imports, one.proto_url))
    if one.proto is not None:
        imports = [folder / path for path in one.import_paths or ()]
        return _good(await asyncio.to_thread(from_proto, [folder / one.proto], imports, one.proto))
    if one.call.rpartition("/" if "/" in one.call else ".")[0] == V2:
        return built_in()
    tls = grpc_plan.tls(one)
    asked = tuple({**metadata, **(one.reflect_metadata or {})}.items())
    limit = one.connect_timeout or 10.0
    return _good(await asyncio.to_thread(from_reflection, grpc_plan.url(one), one.call, tls, asked, limit))


async def _metadata(one: GrpcEndpoint, context: Context) -> dict[str, str]:
    source = one.metadata_url or one.metadata_file
    if source is None:
        return dict(one.metadata or {})
    from pydantic import TypeAdapter, ValidationError

    try:
        told = TypeAdapter(HeaderTexts).validate_python(_json(await fetched(context, source), source))
    except ValidationError as error:
        what = error.errors(include_url=False)[0]["msg"]
        raise TaskFailure(f"{source}: {what}", code=ExitCode.BAD_SPEC) from None
    return {**told, **(one.metadata or {})}


async def _payload(one: GrpcEndpoint, context: Context) -> tuple[Payload, bool]:
    """The messages, and whether they are in wire format."""
    if source := one.binary_data_url or one.binary_file:
        return Payload(bodies=(await fetched(context, source),)), True
    if source := one.data_url or one.data_file:
        text = (await fetched(context, source)).decode(errors="replace")
    elif one.data is None:
        text = "{}"
    else:
        text = one.data if isinstance(one.data, str) else json.dumps(one.data)
    if "{{" in text:
        return Payload(template=_templated(text)), False
    _json(text.encode(), "data")
    return Payload(bodies=(text.encode(),)), False


def _templated(text: str) -> str:
    """{{.RequestNumber}} of ghz is {{ seq }} here."""

    def ours(found: re.Match[str]) -> str:
        known = _GHZ.get(found[1].lower())
        if known is None:
            if found[0].startswith(("{{.", "{{ .")):
                hint = "known: .RequestNumber, .UUID, .TimestampUnix, .WorkerID"
                raise TaskFailure(f"data: {found[0]} is not known here", hint, code=ExitCode.BAD_SPEC)
            return found[0]
        return f"{{{{ {known} }}}}"

    return re.sub(r"\{\{\s*\.?(\w+)\s*\}\}", ours, text)


def _json(raw: bytes, where: str) -> Any:
    try:
        return json.loads(raw)
    except ValueError as error:
        raise TaskFailure(f"{where} is not JSON: {error}", code=ExitCode.BAD_SPEC) from None


def _good(found: Found | Problem | tuple[Problem, ...]) -> Found:
    if not isinstance(found, Problem | tuple):
        return found
    problems = (found,) if isinstance(found, Problem) else found
    words = "; ".join(f"{one.what}" + (f" ({one.hint})" if one.hint else "") for one in problems)
    raise TaskFailure(words, code=ExitCode.BAD_SPEC)
