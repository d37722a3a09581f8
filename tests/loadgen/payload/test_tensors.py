"""Requests made from a model's own metadata, tried on the demo's model server over both protocols."""

from __future__ import annotations

import asyncio
import json
import struct
import threading
from collections.abc import Iterator

import aiohttp
import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headgate.demo import v2_messages as pb
from headgate.demo.model_server import ModelServer
from loadgen.payload.model_metadata import Input, ModelMetadata, metadata_url, over_grpc, over_rest
from loadgen.payload.tensors import Tensors, grpc_bodies, rest_bodies
from router.problem import Problem

ALL = ModelMetadata(
    "m",
    tuple(
        Input(kind.lower(), kind, (-1, 2))
        for kind in (
            *("BOOL", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64"),
            *("FP16", "FP32", "FP64", "BF16", "BYTES"),
        )
    ),
)


@pytest.fixture(scope="module")
def server() -> Iterator[ModelServer]:
    made: list[ModelServer] = []
    started, stop = threading.Event(), asyncio.Event()
    loops: list[asyncio.AbstractEventLoop] = []

    async def serve() -> None:
        async with ModelServer("1") as mine:
            made.append(mine)
            loops.append(asyncio.get_running_loop())
            started.set()
            await stop.wait()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    assert started.wait(30)
    yield made[0]
    loops[0].call_soon_threadsafe(stop.set)
    thread.join(30)


def test_both_protocols_tell_the_same_of_a_model(server: ModelServer) -> None:
    rest = over_rest(f"http://127.0.0.1:{server.rest_port}/v2/models/iris", "x")
    assert rest == ModelMetadata("iris", (Input("input", "FP32", (-1, 4)),))
    assert over_grpc(f"http://127.0.0.1:{server.grpc_port}", "iris", "x") == rest


def test_the_server_takes_what_is_made_of_its_metadata(server: ModelServer) -> None:
    model = over_rest(f"http://127.0.0.1:{server.rest_port}/v2/models/iris", "x")
    assert isinstance(model, ModelMetadata)
    wanted = Tensors(shapes={"input": (3, 4)}, count=2)

    async def ask(body: object) -> int:
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"http://127.0.0.1:{server.rest_port}/v2/models/iris/infer", data=body) as answer,
        ):
            assert (await answer.json())["outputs"][0]["shape"] == [3]
            return answer.status

    assert [asyncio.run(ask(body)) for body in rest_bodies(model, wanted, "x")] == [200, 200]
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        for body in grpc_bodies(model, wanted, "x"):
            assert list(pb.ModelInferResponse.FromString(call(body, timeout=30)).outputs[0].shape) == [3]


def test_a_model_that_is_not_there_is_said(server: ModelServer) -> None:
    problem = over_rest(f"http://127.0.0.1:{server.rest_port}/v2/models/rose", "x")
    assert isinstance(problem, Problem)
    assert "answers with status 404" in problem.what
    problem = over_grpc(f"http://127.0.0.1:{server.grpc_port}", "rose", "x")
    assert isinstance(problem, Problem)
    assert "does not tell the metadata of 'rose': NOT_FOUND" in problem.what
    problem = over_rest(f"http://127.0.0.1:{server.rest_port}/v2", "x")
    assert isinstance(problem, Problem)
    assert "no V2 metadata" in problem.what


@given(st.integers(), st.integers(1, 5), st.integers(1, 3))
def test_tensors_have_the_shapes_and_sizes_that_they_say(seed: int, size: int, count: int) -> None:
    wanted = Tensors(size=size, seed=seed, count=count)
    bodies = rest_bodies(ALL, wanted, "x")
    assert len(bodies) == count
    assert bodies == rest_bodies(ALL, wanted, "x"), "the same seed makes the same tensors"
    for body in bodies:
        assert isinstance(body, bytes)
        for tensor in json.loads(body)["inputs"]:
            assert tensor["shape"] == [size, 2]
            assert len(tensor["data"]) == size * 2
    sizes = {"BOOL": 1, "INT8": 1, "UINT8": 1, "INT16": 2, "UINT16": 2, "FP16": 2, "BF16": 2, "INT32": 4, "UINT32": 4}
    for body in grpc_bodies(ALL, wanted, "x", version="3"):
        assert isinstance(body, bytes)
        request = pb.ModelInferRequest.FromString(body)
        assert (request.model_name, request.model_version) == ("m", "3")
        for tensor, raw in zip(request.inputs, request.raw_input_contents, strict=True):
            if tensor.datatype != "BYTES":
                each = sizes.get(tensor.datatype, 4 if tensor.datatype == "FP32" else 8)
                assert len(raw) == each * size * 2


def test_both_protocols_carry_the_same_values() -> None:
    (rest,), (raw,) = (make(ALL, Tensors(count=1), "x") for make in (rest_bodies, grpc_bodies))
    assert isinstance(rest, bytes)
    said = {tensor["name"]: tensor["data"] for tensor in json.loads(rest)["inputs"]}
    request = pb.ModelInferRequest.FromString(raw)
    contents = dict(zip((each.name for each in request.inputs), request.raw_input_contents, strict=True))
    assert list(struct.unpack("<2d", contents["fp64"])) == said["fp64"]
    assert list(struct.unpack("<2f", contents["fp32"])) == pytest.approx(said["fp32"], rel=1e-6)
    assert list(struct.unpack("<2e", contents["fp16"])) == pytest.approx(said["fp16"], rel=1e-3)
    halves = [struct.unpack("<f", b"\0\0" + contents["bf16"][at : at + 2])[0] for at in (0, 2)]
    assert halves == pytest.approx(said["bf16"], rel=1e-2)
    assert list(struct.unpack("<2q", contents["int64"])) == said["int64"]
    assert list(struct.unpack("<2?", contents["bool"])) == said["bool"]
    first, second = (text.encode() for text in said["bytes"])
    assert contents["bytes"] == struct.pack("<I", len(first)) + first + struct.pack("<I", len(second)) + second


def test_what_cannot_be_made_is_said_all_at_once() -> None:
    model = ModelMetadata("m", (Input("a", "FP33", (1,)), Input("b", "FP32", (-1, 4)), Input("c", "FP32", (2,))))
    problems = rest_bodies(model, Tensors(shapes={"b": (1, 5), "cc": (1,), "c": (1, 2)}, size=0, count=0), "--tensors")
    assert [str(each) for each in problems] == [
        "--tensors: m has no input 'cc' (did you mean c?)",
        "--tensors: a dimension of size 0 holds nothing (give 1 or more)",
        "--tensors: 0 requests are none (give 1 or more)",
        "--tensors: input a has the type 'FP33', which cannot be made (there are BOOL, INT8, INT16, INT32, INT64,"
        " UINT8, UINT16, UINT32, UINT64, FP16, FP32, FP64, BF16, BYTES)",
        "--tensors: input b has the shape [-1, 4], and [1, 5] does not fit into that"
        " (only dimensions of -1 can be chosen)",
        "--tensors: input c has the shape [2], and [1, 2] does not fit into that (only dimensions of -1 can be chosen)",
    ]
    large = ModelMetadata("m", (Input("a", "FP64", (-1, -1)),))
    (problem,) = grpc_bodies(large, Tensors(size=10_000), "x")
    assert isinstance(problem, Problem)
    assert "more than" in problem.what


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("http://h:1/v2/models/iris/infer", "http://h:1/v2/models/iris"),
        ("https://h/p/v2/models/a%20b/versions/2/infer?x=1", "https://h/p/v2/models/a%20b/versions/2"),
        ("http://h/v1/models/iris:predict", None),
    ],
)
def test_where_the_metadata_are(url: str, found: str | None) -> None:
    assert metadata_url(url) == found
