"""Requests for a model whose inputs are known (model_metadata.py): tensors of made-up values, as V2 wants them.

The values follow from the seed. Floats lie between 0 and 1, integers between 0 and 9 (as ids of tokens they are valid
everywhere), texts are short words.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import numpy as np
from google.protobuf import message_factory

from loadgen.payload import v2
from loadgen.payload.fetch import LIMIT
from loadgen.payload.messages import pool_of
from loadgen.payload.model_metadata import Input, ModelMetadata
from router.problem import Problem

_WORDS = ("alpha", "bravo", "charlie", "delta", "echo", "foxtrot", "golf", "hotel", "india", "juliett")

# V2's name -> numpy's type on the wire; BF16 is the upper half of a float32, BYTES a length and the bytes
_TYPES: dict[str, Any] = {
    "BOOL": np.bool_,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
    "BF16": np.float32,
    "BYTES": np.object_,
}
_POOL = pool_of(v2.protoset())
_ModelInferRequest = message_factory.GetMessageClass(_POOL.FindMessageTypeByName("inference.ModelInferRequest"))


@dataclass(frozen=True, slots=True)
class Tensors:
    """What to make: `shapes` by input, `size` for dimensions of any size of the others, `count` different requests."""

    shapes: Mapping[str, Sequence[int]] | None = None
    size: int = 1
    seed: int = 0
    count: int = 10


def rest_bodies(
    model: ModelMetadata, wanted: Tensors, where: str, field: str = ""
) -> tuple[bytes, ...] | tuple[Problem, ...]:
    """Bodies for POST /v2/models/NAME/infer."""
    inputs = _inputs(model, wanted, where, field)
    if isinstance(inputs, tuple):
        return inputs
    bodies = []
    for at in range(wanted.count):
        tensors = [
            {"name": each.name, "datatype": each.datatype, "shape": list(each.shape), "data": _listed(values)}
            for each, values in _values(inputs, wanted.seed, at)
        ]
        bodies.append(json.dumps({"inputs": tensors}, separators=(",", ":")).encode())
    return tuple(bodies)


def grpc_bodies(
    model: ModelMetadata, wanted: Tensors, where: str, field: str = "", *, version: str = ""
) -> tuple[bytes, ...] | tuple[Problem, ...]:
    """Serialized inference.ModelInferRequests with raw contents, for a plan's payload that is binary."""
    inputs = _inputs(model, wanted, where, field)
    if isinstance(inputs, tuple):
        return inputs
    bodies = []
    for at in range(wanted.count):
        request = _ModelInferRequest(model_name=model.name, model_version=version)
        for each, values in _values(inputs, wanted.seed, at):
            request.inputs.add(name=each.name, datatype=each.datatype, shape=each.shape)
            request.raw_input_contents.append(_raw(each, values))
        bodies.append(bytes(request.SerializeToString()))
    return tuple(bodies)


def _inputs(model: ModelMetadata, wanted: Tensors, where: str, field: str) -> list[Input] | tuple[Problem, ...]:
    """With the shapes that they get."""
    problems: list[Problem] = []
    shapes = dict(wanted.shapes or {})
    names = [each.name for each in model.inputs]
    for name in shapes:
        if name not in names:
            near = get_close_matches(name, names, 1)
            hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(names)}"
            problems.append(Problem(where, field, f"{model.name} has no input {name!r}", hint))
    if wanted.size < 1:
        problems.append(Problem(where, field, f"a dimension of size {wanted.size} holds nothing", "give 1 or more"))
    if wanted.count < 1:
        problems.append(Problem(where, field, f"{wanted.count} requests are none", "give 1 or more"))
    made, size = [], 0
    for each in model.inputs:
        if each.datatype not in _TYPES:
            known = ", ".join(_TYPES)
            what = f"input {each.name} has the type {each.datatype!r}, which cannot be made"
            problems.append(Problem(where, field, what, f"there are {known}"))
            continue
        asked = tuple(shapes.get(each.name) or [wanted.size if length < 0 else length for length in each.shape])
        fits = len(asked) == len(each.shape) and all(
            length >= 0 and declared in (-1, length) for length, declared in zip(asked, each.shape, strict=True)
        )
        if not fits:
            what = f"input {each.name} has the shape {list(each.shape)}, and {list(asked)} does not fit into that"
            problems.append(Problem(where, field, what, "only dimensions of -1 can be chosen"))
        size += math.prod(asked) * (np.dtype(_TYPES[each.datatype]).itemsize if each.datatype != "BYTES" else 12)
        made.append(Input(each.name, each.datatype, asked))
    if not problems and size * wanted.count > LIMIT:
        what = f"{wanted.count} requests of {size} bytes are more than {LIMIT} bytes, the most that is kept"
        problems.append(Problem(where, field, what, "make fewer of them, or choose smaller shapes"))
    return tuple(problems) or made


def _values(inputs: list[Input], seed: int, at: int) -> list[tuple[Input, Any]]:
    """Flat arrays, one for each input of request number `at`."""
    random = np.random.default_rng([seed & 0xFFFFFFFF, at])
    found = []
    for each in inputs:
        size, kind = math.prod(each.shape), np.dtype(_TYPES[each.datatype])
        if each.datatype == "BYTES":
            values: Any = np.array([_WORDS[at] for at in random.integers(0, len(_WORDS), size)], dtype=np.object_)
        elif kind.kind == "b":
            values = random.integers(0, 2, size).astype(np.bool_)
        elif kind.kind in "iu":
            values = random.integers(0, 10, size).astype(kind)
        else:
            values = random.random(size).round(4).astype(kind)
        found.append((each, values))
    return found


def _listed(values: Any) -> list[Any]:
    """As JSON has them; floats as short as their type can tell."""
    if values.dtype.kind == "f":
        return [float(str(value)) for value in values]
    listed: list[Any] = values.tolist()
    return listed


def _raw(tensor: Input, values: Any) -> bytes:
    if tensor.datatype == "BYTES":
        texts = [value.encode() for value in values]
        return b"".join(len(text).to_bytes(4, "little") + text for text in texts)
    if tensor.datatype == "BF16":
        return bytes((values.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes())
    return bytes(values.astype(values.dtype.newbyteorder("<")).tobytes())
