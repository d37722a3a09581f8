"""What only the target itself can tell: the description of a gRPC method, the tensors that a model takes."""

from __future__ import annotations

from dataclasses import replace
from urllib.parse import quote, urlsplit, urlunsplit

from headgate.load.amount import Mistakes
from headgate.load.flags import Flags
from headgate.load.request import check_payload, flagged, method_of
from loadgen.payload.model_metadata import ModelMetadata, metadata_url, over_grpc, over_rest
from loadgen.payload.reflection import from_reflection
from loadgen.payload.tensors import Tensors, grpc_bodies, rest_bodies
from loadgen.payload.v2 import SERVICE as V2_SERVICE
from loadgen.plan import Payload, Target
from router.problem import Problem

_HERE = "headgate load"
_INFER = f"{V2_SERVICE}/ModelInfer"


def completed(target: Target, given: Flags) -> tuple[Target, tuple[Problem, ...]]:
    """The target with all that it had to be asked for. Blocks while it is asked."""
    mistakes = Mistakes()
    if given.grpc is not None and target.grpc is None:
        found = from_reflection(
            target.url, given.grpc, target.tls, _metadata(target), target.connect_timeout, _HERE, "--grpc"
        )
        target = replace(target, grpc=method_of(given, found, mistakes))
        if not mistakes.problems and given.model is None:
            check_payload(target, given, mistakes)
    if given.model is not None and not mistakes.problems:
        target = _inferring(target, given, given.model, mistakes)
    return target, tuple(mistakes.problems)


def _inferring(target: Target, given: Flags, model: str, mistakes: Mistakes) -> Target:
    wanted = Tensors(_shapes(given.shapes, mistakes), given.tensor_size or 1, given.seed)
    if mistakes.problems:
        return target
    shaping = "--shape" if given.shapes else "--model"
    if target.grpc is not None:
        if target.grpc.method != _INFER:
            mistakes.add("--model", f"is for {_INFER}, and not for {target.grpc.method}", "give --data")
            return target
        told = over_grpc(
            target.url,
            model,
            _HERE,
            "--model",
            version=given.model_version or "",
            tls=target.tls,
            metadata=_metadata(target),
            timeout=target.connect_timeout,
        )
        if isinstance(told, ModelMetadata):
            bodies = grpc_bodies(told, wanted, _HERE, shaping, version=given.model_version or "")
            target = replace(target, grpc=replace(target.grpc, binary=True))
    else:
        target = replace(target, url=infer_url(target.url, model, given.model_version))
        where = metadata_url(target.url)
        if where is None:
            mistakes.add("URL", f"{target.url} is no V2 inference", "write http://HOST:PORT/v2/models/NAME/infer")
            return target
        headers = _metadata(target)
        told = over_rest(where, _HERE, "--model", tls=target.tls, headers=headers, timeout=target.connect_timeout)
        if isinstance(told, ModelMetadata):
            bodies = rest_bodies(told, wanted, _HERE, shaping)
    if isinstance(told, Problem):
        mistakes.problems.append(flagged(told))
        return target
    mistakes.problems += [flagged(each) for each in bodies if isinstance(each, Problem)]
    return replace(target, payload=Payload(bodies=tuple(each for each in bodies if isinstance(each, bytes))))


def _shapes(texts: tuple[str, ...], mistakes: Mistakes) -> dict[str, list[int]]:
    made = {}
    for text in texts:
        name, _, dims = text.rpartition("=")
        parts = dims.replace(",", "x").split("x")
        if not name or not all(part.isdigit() and part.isascii() and len(part) < 10 for part in parts):
            mistakes.add("--shape", f"{text!r} is no shape of an input", "write INPUT=DIMS, such as image=1x3x224x224")
        else:
            made[name] = [int(part) for part in parts]
    return made


def infer_url(url: str, model: str, version: str | None) -> str:
    """A server's address is enough: the path of the model's inference is added."""
    parts = urlsplit(url)
    if parts.path not in ("", "/"):
        return url
    path = f"/v2/models/{quote(model, safe='')}" + (f"/versions/{quote(version, safe='')}" if version else "")
    return urlunsplit(parts._replace(path=f"{path}/infer"))


def _metadata(target: Target) -> list[tuple[str, str]]:
    """Of its headers those that are the same in each request, names as gRPC wants them."""
    ours = ("content-type", "content-length")
    return [(name.lower(), value) for name, value in target.headers if "{{" not in value and name.lower() not in ours]
