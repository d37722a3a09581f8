"""What `headgate load` puts on the wire, by its flags: payloads, headers, TLS, V2 models, streams."""

from __future__ import annotations

import json
import ssl
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from click.testing import CliRunner, Result
from raw_server import Peer, RawServer, raw_server

from headgate.cli import cli

INFER = "inference.GRPCInferenceService/ModelInfer"
CALM = ["--max-lag", "30s"]


def load(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["load", *arguments, *CALM])


@pytest.fixture
def recording() -> Iterator[RawServer]:
    """Keeps every request."""

    async def keep(peer: Peer) -> None:
        while request := await peer.request():
            server.requests.append(request)
            await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\napp-version: v1\r\n\r\n")

    with raw_server(keep) as server:
        yield server


def test_a_template_takes_rows_of_a_feed_in_turn_and_users_keep_their_keys(
    recording: RawServer, tmp_path: Path
) -> None:
    feed = tmp_path / "feed.csv"
    feed.write_text("item,count\nhat,1\nshoe,2\n")
    template = tmp_path / "body.json"
    template.write_text('{"item": "{{ item }}", "count": {{ count }}, "n": {{ seq }}}')
    got = load(
        recording.url("/cart?x=1"), "--rate", "100", "--requests", "40", "--template", f"@{template}",
        "--feed", str(feed), "--sticky-users", "4", "-H", "x-number: {{ seq }}", "-X", "PUT",
    )  # fmt: skip
    assert got.exit_code == 0, got.output
    bodies = sorted(
        (json.loads(each.partition(b"\r\n\r\n")[2]) for each in recording.requests), key=lambda body: body["n"]
    )
    assert bodies == [{"item": ("hat", "shoe")[n % 2], "count": n % 2 + 1, "n": n} for n in range(40)]
    heads = [each.partition(b"\r\n\r\n")[0].decode() for each in recording.requests]
    assert all(head.startswith("PUT /cart?x=1 HTTP/1.1") for head in heads)
    assert all("content-type: application/json" in head for head in heads)
    users = Counter(line for head in heads for line in head.split("\r\n") if line.startswith("x-user: "))
    assert users == {f"x-user: user-{n}": 10 for n in range(4)}
    assert {line for head in heads for line in head.split("\r\n") if line.startswith("x-number")} == {
        f"x-number: {n}" for n in range(40)
    }


def test_a_schedule_and_a_trace_send_as_many_as_they_hold(recording: RawServer, tmp_path: Path) -> None:
    assert load(recording.url(), "--schedule", "ramp 0->100 over 500ms, hold 50 for 500ms").exit_code == 0
    assert len(recording.requests) == 50
    trace = tmp_path / "trace"
    trace.write_text("100.0\n100.2\n100.2\n100.3\n")
    assert load(recording.url(), "--trace", str(trace)).exit_code == 0
    assert len(recording.requests) == 54


def test_tls_is_checked_and_can_be_told_what_to_trust(tmp_path: Path) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    (tmp_path / "junk.pem").write_text("junk")

    async def answering(peer: Peer) -> None:
        while await peer.request():
            await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\napp-version: v1\r\n\r\n")

    with raw_server(answering, context) as server:
        url = f"https://localhost:{server.port}/"
        distrusted = load(url, "--rate", "10", "--requests", "3")
        assert distrusted.exit_code == 3
        assert "certificate is not trusted" in distrusted.stderr
        assert load(url, "--rate", "10", "--requests", "3", "--insecure").exit_code == 0
        assert load(url, "--rate", "10", "--requests", "3", "--cacert", str(tmp_path / "ca.pem")).exit_code == 0
        junk = load(url, "--rate", "10", "--cacert", str(tmp_path / "junk.pem"))
        assert junk.exit_code == 2
        assert "cannot be read" in junk.stderr


@pytest.fixture(scope="module")
def model_server() -> Iterator[dict[str, Any]]:
    """The demo's: KServe V2 over REST and gRPC."""
    command = [
        sys.executable,
        "-m",
        "headgate.demo.model_server",
        "--version",
        "v1",
        "--rest-port",
        "0",
        "--grpc-port",
        "0",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield json.loads(process.stdout.readline())
    finally:
        process.terminate()
        process.wait(30)
        process.stdout.close()


def test_a_v2_model_gets_tensors_that_fit_it_over_rest_and_over_grpc(model_server: dict[str, Any]) -> None:
    rest, grpc = (f"http://127.0.0.1:{model_server[name]}" for name in ("rest_port", "grpc_port"))
    method = "inference.GRPCInferenceService/ModelInfer"
    for arguments in ([rest, "--model", "iris"], [grpc, "--grpc", method, "--model", "iris"]):
        got = load(*arguments, "--rate", "50", "--requests", "25", "--slo", "error-count<=0")
        assert got.exit_code in (0, 5), got.output  # 25 requests may be too few to be sure
        assert "25" in got.stdout
        assert "v1" in got.stdout
        assert "no errors" in got.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "nobody"], "404"),
        (["--grpc", "shop.Cart/Add", "--data", "{}"], "reflection"),
        (["--grpc", "inference.GRPCInferenceService/ModelInfr", "--data", "{}"], "did you mean"),
        (["--proto", "/nonexistent.proto", "--grpc", "a.B/C", "--data", "{}"], "/nonexistent.proto"),
        (["--data", "x", "--data-file", "/nonexistent"], "give one of them"),
        (["--data-file", "/nonexistent"], "cannot be read"),
        (["--template", "{{ nonsense }}"], "nonsense"),
        (["--model", "iris", "--data", "x"], "makes the payload itself"),
        (["--protoset", "x"], "which method is called"),
        (["--grpc", INFER, "--data", "{bad"], "--data: this is no JSON"),
        (["--grpc", INFER, "--data", '{"modelNam": 1}'], "--data: modelNam: inference.ModelInferRequest has no field"),
        (["--grpc", INFER, "--template", "{{ seq }}"], "--template: "),
        (["--grpc", INFER, "--data", "{}", "--stream-count", "2"], "takes one message and no stream"),
        (["--grpc", INFER, "--data", "{}", "--max-message", "much"], "'much' is no size"),
        (["--model", "iris", "--shape", "nobody=1x4"], "no input 'nobody' (it has input)"),
        (["--model", "iris", "--shape", "input=1x5"], "--shape: input input has the shape [-1, 4]"),
        (["--model", "iris", "--shape", "1x5"], "--shape: '1x5' is no shape"),
    ],
)
def test_what_cannot_be_sent_is_exit_code_2(model_server: dict[str, Any], arguments: list[str], said: str) -> None:
    port = model_server["grpc_port" if "--grpc" in arguments else "rest_port"]
    got = load(f"http://127.0.0.1:{port}", "--rate", "1", *arguments)
    assert got.exit_code == 2, got.output
    assert said in got.stderr


def test_tokens_of_a_stream_are_timed_and_goodput_is_told() -> None:
    async def streaming(peer: Peer) -> None:
        while await peer.request():
            events = [json.dumps({"choices": [{"delta": {"content": word}}]}) for word in ("a", "b", "c")]
            body = "".join(f"data: {event}\n\n" for event in [*events, "[DONE]"])
            head = f"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: {len(body)}\r\n\r\n"
            await peer.send((head + body).encode())

    with raw_server(streaming) as server:
        got = load(
            server.url("/v1/chat/completions"), "--stream", "--data", '{"stream": true}', "--version", "llm",
            "--rate", "50", "--requests", "20", "--goodput", "ttft<=30s", "--slo", "goodput>=50%",
        )  # fmt: skip
    assert got.exit_code in (0, 5), got.output
    assert "ttft" in got.stdout or "first token" in got.stdout


def test_each_event_of_a_plain_stream_is_a_token() -> None:
    async def streaming(peer: Peer) -> None:
        while await peer.request():
            body = "data: a\n\ndata: b\n\n"
            head = f"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: {len(body)}\r\n\r\n"
            await peer.send((head + body).encode())

    with raw_server(streaming) as server:
        flags = ["--stream", "--rate", "50", "--requests", "20", "--max-lag", "30s", "--slo", "error-count<=0"]
        plain, openai = (load(server.url(), *flags, "--dialect", each) for each in ("plain", "openai"))
    assert plain.exit_code == 0, plain.output
    assert "first token" in plain.stdout or "ttft" in plain.stdout
    assert openai.exit_code != 0
    assert "stream error" in openai.stdout


def test_rows_at_random_and_tensors_of_a_size(recording: RawServer, tmp_path: Path) -> None:
    feed = tmp_path / "bodies.jsonl"
    feed.write_text("".join(f"{n}\n" for n in range(50)))
    got = load(recording.url(), "--rate", "100", "--requests", "50", "--feed", str(feed), "--feed-order", "random")
    assert got.exit_code == 0, got.output
    sent = [int(each.partition(b"\r\n\r\n")[2]) for each in recording.requests]
    assert len(sent) == 50
    assert len(set(sent)) < 50


def test_a_model_gets_tensors_of_the_shapes_asked_for(model_server: dict[str, Any]) -> None:
    rest, grpc = (f"http://127.0.0.1:{model_server[name]}" for name in ("rest_port", "grpc_port"))
    for arguments in (
        [rest, "--model", "iris", "--shape", "input=3x4"],
        [grpc, "--grpc", INFER, "--model", "iris", "--tensor-size", "3"],
    ):
        got = load(*arguments, "--rate", "50", "--requests", "10")
        assert got.exit_code == 0, got.output
    got = load(grpc, "--grpc", INFER, "--model", "iris", "--rate", "50", "--requests", "10", "--max-message", "10")
    assert got.exit_code == 3, got.output
    assert "larger than 10, the most we take" in got.stdout
