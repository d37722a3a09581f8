"""Where descriptors come from: KServe V2 built in, .proto files, protosets and the server itself."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
from google.protobuf import descriptor_pb2

from loadgen.payload import descriptors, reflection
from loadgen.payload.descriptors import (
    Descriptors,
    Method,
    built_in,
    find_method,
    from_proto,
    from_protoset,
    methods_of,
)
from loadgen.payload.messages import Messages
from loadgen.payload.reflection import Request, Response, from_reflection
from loadgen.plan import Tls
from router.problem import Problem

GREETER = """
syntax = "proto3";
package greet;
import "common/name.proto";
import "google/protobuf/timestamp.proto";
service Greeter {
  rpc Greet(Ask) returns (Say);
  rpc GreetAll(stream Ask) returns (Say);
  rpc Repeat(Ask) returns (stream Say);
  rpc Chat(stream Ask) returns (stream Say);
}
message Ask { common.Name name = 1; google.protobuf.Timestamp at = 2; }
message Say { string text = 1; }
"""
NAME = 'syntax = "proto3"; package common; message Name { string first = 1; }'


@pytest.fixture
def protos(tmp_path: Path) -> Path:
    (tmp_path / "api").mkdir()
    (tmp_path / "shared" / "common").mkdir(parents=True)
    (tmp_path / "api" / "greet.proto").write_text(GREETER)
    (tmp_path / "shared" / "common" / "name.proto").write_text(NAME)
    return tmp_path


def compiled(protos: Path) -> Descriptors:
    found = from_proto([protos / "api" / "greet.proto"], [protos / "shared"], "--proto")
    assert isinstance(found, Descriptors), found
    return found


def test_model_infer_is_built_in():
    assert find_method(built_in(), "inference.GRPCInferenceService/ModelInfer", "x") == Method(
        "inference.GRPCInferenceService/ModelInfer",
        "unary",
        "inference.ModelInferRequest",
        "inference.ModelInferResponse",
    )


def test_proto_files_are_compiled_with_their_imports(protos: Path):
    found = compiled(protos)
    assert [(each.path, each.kind) for each in methods_of(found)] == [
        ("greet.Greeter/Greet", "unary"),
        ("greet.Greeter/GreetAll", "client-stream"),
        ("greet.Greeter/Repeat", "server-stream"),
        ("greet.Greeter/Chat", "bidi-stream"),
    ]
    messages = Messages(found.files, "greet.Greeter/Greet")
    assert (
        messages.encode({"name": {"first": "ann"}, "at": "1970-01-01T00:00:01Z"}) == b"\n\x05\n\x03ann\x12\x02\x08\x01"
    )


def test_what_protoc_complains_about_is_said_all_at_once(protos: Path):
    (bad,) = from_proto([protos / "api" / "greet.proto"], [], "--proto")[:1]  # type: ignore[index]
    assert "common/name.proto: File not found" in str(bad)
    assert "import path" in bad.hint
    (protos / "bad.proto").write_text('syntax = "proto3";\nmessage A { Nope a = 1; }\nmessage B { Nada b = 1; }')
    problems = from_proto([protos / "bad.proto"], [], "--proto")
    assert isinstance(problems, tuple)
    assert [str(each).split(" is not")[0] for each in problems] == [
        f'{protos}/bad.proto:2: "Nope"',
        f'{protos}/bad.proto:3: "Nada"',
    ]
    missing = from_proto([protos / "a.proto", protos / "b.proto"], [protos / "c"], "--proto")
    assert isinstance(missing, tuple)
    assert [each.what for each in missing] == [f"{protos / name} is not there" for name in ("a.proto", "b.proto", "c")]


def test_without_grpcio_tools_it_is_said_what_to_do(protos: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(descriptors, "find_spec", lambda name: None)
    (problem,) = from_proto([protos / "api" / "greet.proto"], [], "--proto")  # type: ignore[misc]
    assert "headgate[proto]" in problem.hint


def test_a_protoset_is_taken_whole_or_not_at_all(protos: Path):
    path = protos / "set.bin"
    path.write_bytes(compiled(protos).files)
    found = from_protoset(path, "--protoset")
    assert isinstance(found, Descriptors)
    assert isinstance(find_method(found, "greet.Greeter.Chat", "x"), Method)
    files = descriptor_pb2.FileDescriptorSet.FromString(path.read_bytes())
    kept = [file for file in files.file if file.name != "common/name.proto"]
    path.write_bytes(descriptor_pb2.FileDescriptorSet(file=kept).SerializeToString())
    (problem,) = from_protoset(path, "--protoset")  # type: ignore[misc]
    assert "imports common/name.proto, which is not in the set" in problem.what
    for content, what in ((b"\xff", "no serialized"), (b"", "is empty")):
        path.write_bytes(content)
        (problem,) = from_protoset(path, "--protoset")  # type: ignore[misc]
        assert what in problem.what
    (problem,) = from_protoset(protos / "none", "--protoset")  # type: ignore[misc]
    assert "No such file" in problem.what


def test_protobufs_own_files_may_be_left_out(protos: Path):
    files = descriptor_pb2.FileDescriptorSet.FromString(compiled(protos).files)
    kept = [file for file in files.file if not file.name.startswith("google/")]
    (protos / "set").write_bytes(descriptor_pb2.FileDescriptorSet(file=kept).SerializeToString())
    assert isinstance(from_protoset(protos / "set", "x"), Descriptors)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("inference.GRPCInferenceService/ModelInfr", "did you mean ModelInfer? it has ModelInfer, ModelMetadata"),
        ("inference.GRPCInferenceServce/ModelInfer", "did you mean inference.GRPCInferenceService?"),
        ("GRPCInferenceService/ModelInfer", "did you mean inference.GRPCInferenceService?"),
        ("x.Y/Z", "it has inference.GRPCInferenceService"),
        ("", "it has inference.GRPCInferenceService"),
    ],
)
def test_a_method_that_is_not_there_is_answered_with_what_is(name: str, said: str):
    problem = find_method(built_in(), name, "--grpc")
    assert isinstance(problem, Problem)
    assert said in problem.hint


@pytest.mark.parametrize("name", ["/greet.Greeter/Greet", "greet.Greeter.Greet", " greet.Greeter/Greet "])
def test_methods_may_be_written_as_people_do(protos: Path, name: str):
    found = find_method(compiled(protos), name, "x")
    assert isinstance(found, Method)
    assert found.path == "greet.Greeter/Greet"


class Reflecting:
    """A server of one version of reflection that answers from descriptors, file by file."""

    def __init__(self, files: bytes) -> None:
        self.files = {file.name: file for file in descriptor_pb2.FileDescriptorSet.FromString(files).file}
        self.asked: list[str] = []

    def info(self, requests: Iterator[Any], context: Any) -> Iterator[Any]:
        for request in requests:
            answer = Response()
            self.asked.append(str(request).strip())
            if request.list_services:
                for name in ("greet.Greeter", "grpc.reflection.v1.ServerReflection"):
                    answer.list_services_response.service.add(name=name)
            else:
                name = request.file_by_filename or {"greet.Greeter": "greet.proto"}.get(request.file_containing_symbol)
                if name in self.files and not name.startswith("google/"):
                    answer.file_descriptor_response.file_descriptor_proto.append(self.files[name].SerializeToString())
                else:
                    answer.error_response.error_code = 5
            yield answer

    def handler(self, version: str) -> Any:
        method = grpc.stream_stream_rpc_method_handler(
            self.info, request_deserializer=Request.FromString, response_serializer=Response.SerializeToString
        )
        return grpc.method_handlers_generic_handler(f"{version}.ServerReflection", {"ServerReflectionInfo": method})


def serving(handlers: tuple[Any, ...], credentials: Any = None) -> tuple[Any, int]:
    server = grpc.server(ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers(handlers)
    if credentials is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    return server, port


@pytest.mark.parametrize("version", ["grpc.reflection.v1", "grpc.reflection.v1alpha"])
def test_the_server_tells_what_it_takes(protos: Path, version: str):
    service = Reflecting(compiled(protos).files)
    server, port = serving((service.handler(version),))
    try:
        found = from_reflection(f"http://127.0.0.1:{port}", "greet.Greeter/Greet")
        assert isinstance(found, Descriptors), found
        messages = Messages(found.files, "greet.Greeter/Greet")
        assert messages.encode({"name": {"first": "a"}}) == b"\n\x03\n\x01a"
        (problem,) = from_reflection(f"http://127.0.0.1:{port}", "greet.Greter/Greet")  # type: ignore[misc]
        assert problem.what == f"http://127.0.0.1:{port} has no service 'greet.Greter'"
        assert problem.hint.startswith("did you mean greet.Greeter?")
    finally:
        server.stop(0)


def test_a_server_without_reflection_and_none_at_all():
    server, port = serving(())
    url = f"http://127.0.0.1:{port}"
    (problem,) = from_reflection(url, "a.B/C")  # type: ignore[misc]
    server.stop(0).wait(30)
    assert (problem.what, problem.hint) == (f"{url} has no server reflection", reflection._NO_REFLECTION)
    (problem,) = from_reflection(url, "a.B/C", timeout=5)  # type: ignore[misc]
    assert f"server reflection of {url} failed: UNAVAILABLE" in problem.what
    (problem,) = from_reflection("127.0.0.1:1", "a.B/C")  # type: ignore[misc]
    assert "a gRPC target is http://" in problem.what


def test_reflection_over_tls_with_and_without_a_look_at_the_certificate(protos: Path):
    ca = trustme.CA()
    certificate = ca.issue_cert("some.where")
    credentials = grpc.ssl_server_credentials(
        [(certificate.private_key_pem.bytes(), certificate.cert_chain_pems[0].bytes())]
    )
    server, port = serving((Reflecting(compiled(protos).files).handler("grpc.reflection.v1"),), credentials)
    url, pem = f"https://127.0.0.1:{port}", ca.cert_pem.bytes().decode()
    try:
        for tls in (Tls(ca=pem, server_name="some.where"), Tls(verify=False)):
            assert isinstance(from_reflection(url, "greet.Greeter/Greet", tls), Descriptors)
        (problem,) = from_reflection(url, "greet.Greeter/Greet", Tls(ca=pem), timeout=5)  # type: ignore[misc]
        assert "failed: UNAVAILABLE" in problem.what
    finally:
        server.stop(0)
