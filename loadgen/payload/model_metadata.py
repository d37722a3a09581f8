"""What a model server says about a model by KServe V2: names, types and shapes of its inputs, over REST or gRPC."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf import message_factory

from loadgen.payload import v2
from loadgen.payload.channel import open_channel, reason
from loadgen.payload.fetch import fetch
from loadgen.payload.messages import pool_of
from loadgen.plan import Tls
from router.problem import Problem

_INFER_URL = re.compile(r"(https?://.+/v2/models/[^/?#]+(/versions/[^/?#]+)?)/infer/?([?#].*)?")
_POOL = pool_of(v2.protoset())
_Request = message_factory.GetMessageClass(_POOL.FindMessageTypeByName("inference.ModelMetadataRequest"))
_Response = message_factory.GetMessageClass(_POOL.FindMessageTypeByName("inference.ModelMetadataResponse"))


@dataclass(frozen=True, slots=True)
class Input:
    """`shape`: -1 is a dimension of any size."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ModelMetadata:
    name: str
    inputs: tuple[Input, ...]


def metadata_url(infer_url: str) -> str | None:
    """Where a model's metadata are, by the URL of its inference: http://HOST/v2/models/iris/infer."""
    found = _INFER_URL.fullmatch(infer_url)
    return found[1] if found else None


def over_rest(
    url: str,
    where: str,
    field: str = "",
    *,
    tls: Tls | None = None,
    headers: Sequence[tuple[str, str]] = (),
    timeout: float = 10.0,
) -> ModelMetadata | Problem:
    """What a GET of `url` says: http://HOST/v2/models/NAME, with /versions/VERSION where one version is meant."""
    data = fetch(url, where, field, tls=tls, headers=headers, timeout=timeout)
    if isinstance(data, Problem):
        return data
    try:
        document = json.loads(data)
        inputs = [
            Input(str(each["name"]), str(each["datatype"]), tuple(int(size) for size in each["shape"]))
            for each in document["inputs"]
        ]
        return _checked(str(document["name"]), inputs, url, where, field)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        return Problem(where, field, f"{url} answers with no V2 metadata: {type(error).__name__}: {error}")


def over_grpc(
    url: str,
    model: str,
    where: str,
    field: str = "",
    *,
    version: str = "",
    tls: Tls | None = None,
    metadata: Sequence[tuple[str, str]] = (),
    timeout: float = 10.0,
) -> ModelMetadata | Problem:
    """inference.GRPCInferenceService/ModelMetadata of a server."""
    try:
        with open_channel(url, tls or Tls(), timeout) as channel:
            call = channel.unary_unary(
                f"/{v2.SERVICE}/ModelMetadata",
                request_serializer=_Request.SerializeToString,
                response_deserializer=_Response.FromString,
            )
            answer: Any = call(_Request(name=model, version=version), timeout=timeout, metadata=tuple(metadata))
    except grpc.RpcError as error:
        return Problem(where, field, f"{url} does not tell the metadata of {model!r}: {reason(error)}")
    except (ValueError, OSError) as error:
        return Problem(where, field, f"{url} cannot be asked: {error}")
    inputs = [Input(each.name, each.datatype, tuple(each.shape)) for each in answer.inputs]
    return _checked(answer.name or model, inputs, url, where, field)


def _checked(name: str, inputs: list[Input], url: str, where: str, field: str) -> ModelMetadata | Problem:
    if not inputs:
        return Problem(where, field, f"the metadata of {name!r} at {url} name no inputs", "give a payload of your own")
    return ModelMetadata(name, tuple(inputs))
