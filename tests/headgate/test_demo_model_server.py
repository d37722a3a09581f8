"""The KServe V2 protocol of the demo's model servers over real sockets, REST and gRPC, and what can be changed."""

import asyncio
import json
import os
import signal
import struct
import sys

import aiohttp
import grpc
import pytest

from headgate.demo import v2_messages as pb
from headgate.demo.children import ModelServerProcess
from headgate.demo.fast_server import FastServer
from headgate.demo.model_server import ModelServer

VIRGINICA = [5.8, 2.7, 5.1, 1.9]
SERVICE = "/inference.GRPCInferenceService"


def tensor(**changes):
    return {"name": "input", "datatype": "FP32", "shape": [1, 4], "data": VIRGINICA, **changes}


class Asker:
    """Both protocols of one server."""

    def __init__(self, server, *, rest_port=None, grpc_port=None):
        self.rest = aiohttp.ClientSession(f"http://127.0.0.1:{rest_port or server.rest_port}")
        self.channel = grpc.aio.insecure_channel(f"127.0.0.1:{grpc_port or server.grpc_port}")

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        await self.rest.close()
        await self.channel.close()

    async def get(self, path):
        async with self.rest.get(path) as answer:
            return answer.status, await answer.json()

    async def infer(self, inputs=None, path="/v2/models/iris/infer", headers=None, **body):
        async with self.rest.post(path, json={"inputs": inputs or [tensor()], **body}, headers=headers) as answer:
            return answer.status, await answer.json()

    async def control(self, **changes):
        async with self.rest.put("/control", json=changes) as answer:
            return answer.status, await answer.json()

    async def call(self, method, request, answer, service=SERVICE, **more):
        return await self.channel.unary_unary(
            f"{service}/{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=answer.FromString,
        )(request, **more)

    async def model_infer(self, *, contents=True, raw=None, metadata=None, **changes):
        one = tensor(**changes)
        request = pb.ModelInferRequest(model_name="iris", id="42")
        made = request.inputs.add(name=one["name"], datatype=one["datatype"], shape=one["shape"])
        if contents:
            made.contents.fp32_contents.extend(one["data"])
        if raw is not None:
            request.raw_input_contents.append(raw)
        return await self.call("ModelInfer", request, pb.ModelInferResponse, metadata=metadata)


def with_server(body, *versions, **more):
    async def main():
        async with ModelServer(*versions, **more) as server, Asker(server) as ask:
            await body(server, ask)

    asyncio.run(main())


def test_rest_tells_health_and_metadata():
    async def body(server, ask):
        assert (await ask.get("/v2"))[1]["name"] == "headgate-demo"
        assert await ask.get("/v2/health/live") == (200, {"live": True})
        assert await ask.get("/v2/health/ready") == (200, {"ready": True})
        assert await ask.get("/v2/models/iris/versions/v2/ready") == (
            200,
            {"name": "iris", "version": "v2", "ready": True},
        )
        status, metadata = await ask.get("/v2/models/iris")
        assert (status, metadata["versions"]) == (200, ["v2"])
        assert metadata["inputs"] == [{"name": "input", "datatype": "FP32", "shape": [-1, 4]}]
        assert [output["name"] for output in metadata["outputs"]] == ["label", "probabilities"]

    with_server(body, "v2")


def test_grpc_tells_health_and_metadata():
    async def body(server, ask):
        assert (await ask.call("ServerLive", pb.ServerLiveRequest(), pb.ServerLiveResponse)).live
        assert (await ask.call("ServerReady", pb.ServerReadyRequest(), pb.ServerReadyResponse)).ready
        assert (await ask.call("ModelReady", pb.ModelReadyRequest(name="iris"), pb.ModelReadyResponse)).ready
        told = await ask.call("ServerMetadata", pb.ServerMetadataRequest(), pb.ServerMetadataResponse)
        assert told.name == "headgate-demo"
        metadata = await ask.call("ModelMetadata", pb.ModelMetadataRequest(name="iris"), pb.ModelMetadataResponse)
        assert list(metadata.versions) == ["v2"]
        assert list(metadata.inputs[0].shape) == [-1, 4]
        assert [output.datatype for output in metadata.outputs] == ["BYTES", "FP32"]

    with_server(body, "v2")


def test_rest_predicts_and_names_model_and_version():
    async def body(server, ask):
        status, answer = await ask.infer(id="42")
        assert status == 200
        assert (answer["model_name"], answer["model_version"], answer["id"]) == ("iris", "v2", "42")
        label, probabilities = answer["outputs"]
        assert label == {"name": "label", "datatype": "BYTES", "shape": [1], "data": ["virginica"]}
        assert probabilities["shape"] == [1, 3]
        assert sum(probabilities["data"]) == pytest.approx(1)

    with_server(body, "v2")


def test_grpc_predicts_the_same():
    async def body(server, ask):
        answer = await ask.model_infer()
        assert (answer.model_name, answer.model_version, answer.id) == ("iris", "v2", "42")
        assert list(answer.outputs[0].contents.bytes_contents) == [b"virginica"]
        _, rest = await ask.infer()
        assert list(answer.outputs[1].contents.fp32_contents) == pytest.approx(rest["outputs"][1]["data"], rel=1e-5)

    with_server(body, "v2")


def test_grpc_answers_raw_bytes_with_raw_bytes():
    async def body(server, ask):
        answer = await ask.model_infer(contents=False, raw=struct.pack("<4f", *VIRGINICA))
        label, probabilities = answer.raw_output_contents
        assert label == struct.pack("<I", 9) + b"virginica"
        assert sum(struct.unpack("<3f", probabilities)) == pytest.approx(1, rel=1e-5)
        assert not answer.outputs[0].contents.bytes_contents

    with_server(body, "v2")


def test_several_flowers_nested_data_and_one_wanted_output():
    async def body(server, ask):
        rows = [VIRGINICA, [5.1, 3.5, 1.4, 0.2]]
        _, answer = await ask.infer([tensor(shape=[2, 4], data=rows)], outputs=[{"name": "label"}])
        assert [output["data"] for output in answer["outputs"]] == [["virginica", "setosa"]]

    with_server(body, "v2")


BAD_TENSORS = [
    ({"name": "x"}, "there is no input 'x'; it is called 'input'"),
    ({"datatype": "BYTES"}, "must have datatype FP32 or FP64, got 'BYTES'"),
    ({"shape": [4]}, r"must have shape [n, 4] with n from 1 to 10000, got [4]"),
    ({"shape": [0, 4], "data": []}, "got [0, 4]"),
    ({"shape": [2, 4]}, "of shape [2, 4] needs 8 values, got 4"),
    ({"data": [1.0, 2.0, 3.0, float("nan")]}, "must hold finite numbers, value 3 is nan"),
]


@pytest.mark.parametrize(("changes", "message"), BAD_TENSORS)
def test_a_bad_tensor_is_refused_with_the_same_words_on_both_wires(changes, message):
    async def body(server, ask):
        status, answer = await ask.infer([tensor(**changes)])
        assert status == 400
        assert message in answer["error"]
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ask.model_infer(**changes)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert caught.value.details() == answer["error"]
        assert (server.counts.requests, server.counts.refused, server.counts.errors) == (2, 2, 0)

    with_server(body)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"{", "the body is not JSON"),
        (b"[]", "the body must be a JSON object, got list"),
        (b"{}", "'inputs' must be a list of tensors"),
        (b'{"inputs": []}', "one input tensor named 'input' is needed, got 0"),
        (b'{"inputs": [{"name": "input"}]}', "every input tensor needs a 'name' and a 'datatype'"),
        (b"\xff", "the body is not JSON"),
    ],
)
def test_a_bad_body_is_refused(data, message):
    async def body(server, ask):
        async with ask.rest.post("/v2/models/iris/infer", data=data) as answer:
            assert answer.status == 400
            assert message in (await answer.json())["error"]

    with_server(body)


def test_raw_bytes_of_the_wrong_length_are_refused():
    async def body(server, ask):
        with pytest.raises(grpc.aio.AioRpcError, match="no whole FP32s"):
            await ask.model_infer(contents=False, raw=b"123")

    with_server(body)


def test_unknown_models_and_versions_are_told_with_those_that_exist():
    async def body(server, ask):
        assert await ask.get("/v2/models/rose") == (404, {"error": "there is no model 'rose'; this server has 'iris'"})
        status, answer = await ask.infer(path="/v2/models/iris/versions/v9/infer")
        assert (status, answer["error"]) == (404, "model 'iris' has no version 'v9'; there are v1, v2")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ask.call("ModelReady", pb.ModelReadyRequest(name="iris", version="v9"), pb.ModelReadyResponse)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND

    with_server(body, "v1", "v2")


def test_a_shared_server_takes_the_version_from_mm_vmodel_id():
    async def body(server, ask):
        for version in ("v1", "v2"):
            assert (await ask.infer(headers={"mm-vmodel-id": version}))[1]["model_version"] == version
            answer = await ask.model_infer(metadata=[("mm-vmodel-id", version)])
            assert answer.model_version == version
        assert (await ask.infer())[1]["model_version"] == "v1"

    with_server(body, "v1", "v2")


def test_readiness_is_changed_at_run_time_and_every_way_to_ask_says_so():
    async def body(server, ask):
        status, told = await ask.control(ready=False)
        assert (status, told["behaviour"]["ready"]) == (200, False)
        assert (await ask.get("/v2/health/ready"))[0] == 503
        assert (await ask.get("/v2/models/iris/ready"))[0] == 503
        assert not (await ask.call("ModelReady", pb.ModelReadyRequest(name="iris"), pb.ModelReadyResponse)).ready
        health = await ask.call("Check", pb.HealthCheckRequest(), pb.HealthCheckResponse, "/grpc.health.v1.Health")
        assert health.status == pb.NOT_SERVING
        server.behave(ready=True)
        assert (await ask.get("/v2/health/ready"))[0] == 200
        health = await ask.call("Check", pb.HealthCheckRequest(), pb.HealthCheckResponse, "/grpc.health.v1.Health")
        assert health.status == pb.SERVING

    with_server(body)


def test_ordered_errors_are_internal_and_counted():
    async def body(server, ask):
        await ask.control(error_rate=1.0)
        assert (await ask.infer())[0] == 500
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ask.model_infer()
        assert caught.value.code() is grpc.StatusCode.INTERNAL
        assert (server.counts.requests, server.counts.errors, server.counts.refused) == (2, 2, 0)

    with_server(body)


def test_control_refuses_nonsense_and_changes_nothing():
    async def body(server, ask):
        status, told = await ask.control(ready=False, error_rate=7)
        assert (status, told["error"]) == (400, "error_rate must be a number between 0 and 1, got 7")
        assert server.behaviour.ready

    with_server(body)


def test_control_cannot_be_reached_through_a_proxy():
    async def body(server, ask):
        async with ask.rest.put("/control", json={"ready": False}, headers={"x-forwarded-proto": "http"}) as answer:
            assert answer.status == 403
        assert server.behaviour.ready

    with_server(body)


def test_mirrored_copies_are_counted_apart():
    async def body(server, ask):
        await ask.infer(headers={"x-shadow": "true"})
        await ask.model_infer(metadata=[("x-shadow", "true")])
        await ask.infer()
        assert (server.counts.requests, server.counts.shadows, server.counts.grpc_shadows) == (1, 2, 1)

    with_server(body)


def test_latency_is_added_to_every_answer():
    async def body(server, ask):
        server.behave(latency_ms=60)
        loop = asyncio.get_running_loop()
        start = loop.time()
        await ask.infer()
        assert loop.time() - start >= 0.06

    with_server(body)


def test_stopping_finishes_what_is_in_flight_on_both_wires():
    async def main():
        server = ModelServer(behaviour=None)
        await server.start()
        server.behave(hold=True)
        async with Asker(server) as ask:
            asked = [asyncio.ensure_future(one) for one in (ask.infer(), ask.model_infer())]
            while server.counts.in_flight < 2:
                await server.served.wait_changed()
            stopping = asyncio.ensure_future(server.stop())
            await asyncio.sleep(0)
            assert not any(one.done() for one in asked)
            server.behave(hold=False)
            rest, rpc = await asyncio.gather(*asked)
            assert rest[0] == 200
            assert rpc.model_version == "v1"
            await stopping

    asyncio.run(main())


def test_one_port_speaks_both_protocols():
    async def main():
        async with ModelServer("v2", one_port=0) as server:
            assert server.port not in (None, 0, server.rest_port, server.grpc_port)
            async with Asker(server, rest_port=server.port, grpc_port=server.port) as ask:
                for _ in range(3):
                    assert (await ask.infer())[1]["model_version"] == "v2"
                    assert (await ask.model_infer()).model_version == "v2"
            rows = 2000  # more than one read of a socket
            async with Asker(server, rest_port=server.port, grpc_port=server.port) as ask:
                answer = await ask.model_infer(shape=[rows, 4], data=VIRGINICA * rows)
                assert list(answer.outputs[0].shape) == [rows]
                status, told = await ask.infer([tensor(shape=[rows, 4], data=VIRGINICA * rows)])
                assert (status, told["outputs"][0]["shape"]) == (200, [rows])

    asyncio.run(main())


def test_one_port_waits_for_enough_bytes_to_know_the_protocol():
    async def main():
        async with ModelServer("v1", one_port=0) as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            request = b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\n\r\n"
            for byte in request:
                writer.write(bytes([byte]))
                await writer.drain()
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
            writer.close()

    asyncio.run(main())


def test_as_a_process_it_tells_its_ports_and_ends_on_sigterm():
    async def main():
        command = (sys.executable, "-m", "headgate.demo.model_server", "--version", "v2", "--one-port", "0")
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        told = json.loads(await process.stdout.readline())
        assert (told["name"], told["versions"]) == ("iris", ["v2"])
        assert len({told["rest_port"], told["grpc_port"], told["port"]}) == 3
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0

    asyncio.run(main())


def test_a_taken_port_is_said_in_one_line():
    async def main():
        async with ModelServer() as server:
            command = (sys.executable, "-m", "headgate.demo.model_server", "--rest-port", str(server.rest_port))
            process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
            _, said = await process.communicate()
            assert process.returncode == 1
            assert b"Traceback" not in said
            assert str(server.rest_port).encode() in said

    asyncio.run(main())


def test_a_child_is_changed_and_counted_from_outside_and_ends_with_its_parents_pipe():
    async def main():
        child = ModelServerProcess("v2", latency_ms=1)
        async with child:
            async with Asker(child) as ask:
                assert (await ask.infer())[1]["model_version"] == "v2"
            await child.behave(ready=False)
            with pytest.raises(ValueError, match="unknown field redy"):
                await child.behave(redy=True)
            assert (await child.counts())["requests"] == 1
            pid = child.pid
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)

    asyncio.run(main())


def test_the_fast_server_answers_pipelined_and_split_requests():
    request = b"POST /v2/models/iris/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc"
    shadow = request.replace(b"Host: x", b"X-Shadow: true")

    async def main():
        async with FastServer("v7") as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(request + shadow + request[:-1])
            for _ in range(2):
                answer = await reader.readexactly(len(server.answer))
                assert json.loads(answer.partition(b"\r\n\r\n")[2])["model_version"] == "v7"
            assert (server.requests, server.shadows) == (1, 1)
            writer.write(request[-1:])
            assert await reader.readexactly(len(server.answer)) == server.answer
            server.ready = False
            writer.write(b"GET /ready HTTP/1.1\r\n\r\n")
            assert (await reader.readline()).startswith(b"HTTP/1.1 503")
            writer.write(b"\r\n")
            writer.close()

    asyncio.run(main())


def test_the_fast_server_refuses_what_it_cannot_measure():
    async def main():
        async with FastServer() as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
            assert (await reader.read()).startswith(b"HTTP/1.1 400")
            writer.close()

    asyncio.run(main())
