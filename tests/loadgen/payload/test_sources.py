"""Payloads as people give them: strings, files, addresses, templates and feeds, and all that can be wrong with them."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from loadgen.payload.feeds import read_rows
from loadgen.payload.fetch import fetch, read_file
from loadgen.payload.render import Requests
from loadgen.payload.sources import Source, payload
from loadgen.plan import Payload, Target
from router.problem import Problem


def given(source: Source, **more: Any) -> Payload:
    made, problems = payload(source, "x", **more)
    assert not problems
    return made


def wrong(source: Source, **more: Any) -> list[str]:
    _, problems = payload(source, "load.yaml", **more)
    return [str(each) for each in problems]


class Files(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("location", "file:///etc/passwd")
            self.end_headers()
        elif self.path == "/cut":
            self.send_response(200)
            self.send_header("content-length", "100")
            self.end_headers()
            self.wfile.write(b"x")
        elif self.path.startswith("/body"):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"hello")
        else:
            self.send_error(404)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def web() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Files)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join(30)
    server.server_close()


def test_nothing_is_an_empty_body():
    assert given(Source()) == Payload()


def test_strings_files_and_addresses_are_bodies(tmp_path: Path, web: str):
    (tmp_path / "body.bin").write_bytes(b"\x00\xff")
    assert given(Source(text="{{ not a template }}")).bodies == (b"{{ not a template }}",)
    assert given(Source(file="body.bin", folder=tmp_path)).bodies == (b"\x00\xff",)
    checksum = hashlib.sha256(b"hello").hexdigest()
    for sha256 in (None, checksum, checksum.upper(), f"sha256:{checksum}"):
        assert given(Source(url=f"{web}/body", sha256=sha256)).bodies == (b"hello",)


def test_templates_take_the_columns_of_their_feed(tmp_path: Path):
    (tmp_path / "rows.csv").write_text('name,text\nann,"a ""b"", c"\nbob,\n', encoding="utf-8-sig")
    (tmp_path / "t.j2").write_text('{"n": "{{ name }}", "t": {{ text | tojson }}}')
    made = given(Source(template_file="t.j2", feed="rows.csv", folder=tmp_path))
    assert made.rows == ({"name": "ann", "text": 'a "b", c'}, {"name": "bob", "text": ""})
    requests = Requests(Target("http://x", payload=made))
    assert requests.next(0, 0)[0] == b'{"n": "ann", "t": "a \\"b\\", c"}'
    in_headers = given(
        Source(text="{}", feed="rows.csv", order="random", folder=tmp_path), headers=(("x-user", "{{ name }}"),)
    )
    assert (in_headers.bodies, in_headers.order, len(in_headers.rows)) == ((b"{}",), "random", 2)


def test_lines_of_json_are_rows_or_bodies(tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": "x", "b": [1, 2]}\n\n{"b": null, "a": "y"}\n')
    assert read_rows(path, "x") == ({"a": "x", "b": "[1, 2]"}, {"b": "null", "a": "y"})
    assert given(Source(feed=str(path))).bodies == (b'{"a": "x", "b": [1, 2]}', b'{"b": null, "a": "y"}')


def test_all_that_is_wrong_is_said_at_once_in_the_users_words(tmp_path: Path):
    said = wrong(
        Source(text="x", file="none.json", sha256="12", feed="rows.csv", folder=tmp_path),
        names={"text": "payloadStr", "file": "payloadFile"},
        headers=(("x", "{{ nme }}"),),
    )
    assert said == [
        "load.yaml: payloadStr: payloadStr and payloadFile say each what is to be sent (give one of them)",
        "load.yaml: sha256: a checksum is for what an address gives (leave it out)",
        f"load.yaml: feed: {tmp_path}/rows.csv cannot be read: No such file or directory",
    ]


def test_templates_are_tried_before_there_is_a_plan(tmp_path: Path):
    (tmp_path / "rows.csv").write_text("name\nann\n")
    said = wrong(
        Source(template="{{ nam }}", feed="rows.csv", folder=tmp_path), headers=(("x-a", "{{ sq }}"), ("b", "c"))
    )
    assert [each.split(" is called ")[0] for each in said] == [
        "load.yaml: template: nothing",
        "load.yaml: headers.x-a: nothing",
    ]
    assert "did you mean name?" in said[0]
    assert "did you mean seq?" in said[1]
    assert wrong(Source(text="x", feed="rows.csv", folder=tmp_path)) == [
        "load.yaml: feed: nothing takes the columns of this feed (give a template, or leave the feed out)"
    ]
    assert "need a template" in wrong(Source(feed="rows.csv", folder=tmp_path))[0]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", "", ["this feed has no rows"]),
        ("a.csv", "a,b\n", ["this feed has no rows"]),
        ("a.csv", "a,b\n1\n1,2\n1,2,3\n", [":2: 1 values for the 2 columns a, b", ":4: 3 values for the 2"]),
        (
            "a.csv",
            "a b,seq,c,c\n1,2,3,4\n",
            [":1: column 1 cannot be called 'a b'", "'seq' has the", "two columns 'c'"],
        ),
        ("a.csv", 'a\n"x\n', ["this is no CSV"]),
        ("a.jsonl", "{\n1\n", [":1: this is no JSON", ":2: a row is a JSON object"]),
        ("a.jsonl", '{"a": 1}\n{"b": 1}\n', [":2: unlike the first row, this one lacks a and has b as well"]),
        ("a.jsonl", "\n", ["no rows"]),
    ],
)
def test_a_broken_feed_names_its_lines(tmp_path: Path, name: str, content: str, said: list[str]):
    path = tmp_path / name
    path.write_text(content)
    problems = read_rows(path, "x")
    assert len(problems) == len(said)
    for problem, words in zip(problems, said, strict=True):
        assert words in str(problem)


def test_of_very_many_problems_some_are_told(tmp_path: Path):
    (tmp_path / "a.csv").write_text("a,b\n" + "1\n" * 500)
    problems = read_rows(tmp_path / "a.csv", "x")
    assert len(problems) == 21
    assert str(problems[-1]).endswith("and 480 more problems")


def test_what_is_no_text_and_what_is_no_line_of_json(tmp_path: Path):
    (tmp_path / "a.csv").write_bytes(b"a\n\xff\n")
    (problem,) = read_rows(tmp_path / "a.csv", "x")
    assert "this is no UTF-8: byte 2" in str(problem)
    (tmp_path / "t").write_bytes(b"\xff")
    assert "byte 0 is not" in wrong(Source(template_file="t", folder=tmp_path))[0]
    (tmp_path / "b.jsonl").write_text("{}\n{\n")
    assert f"{tmp_path}/b.jsonl:2: this is no JSON" in wrong(Source(feed="b.jsonl", folder=tmp_path))[0]


def test_what_is_too_large_is_not_read(tmp_path: Path, web: str):
    (tmp_path / "a").write_bytes(b"x" * 11)
    assert read_file(tmp_path / "a", "x", limit=11) == b"x" * 11
    assert "larger than 10 bytes" in str(read_file(tmp_path / "a", "x", limit=10))
    assert "larger than 4 bytes" in str(fetch(f"{web}/body", "x", limit=4))


@pytest.mark.parametrize(
    ("url", "sha256", "said"),
    [
        ("/none", None, "answers with status 404"),
        ("/moved", None, "status 302"),
        ("/cut", None, "cannot be fetched"),
        (
            "/body",
            "0" * 64,
            "has the checksum 2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824 and not 000",
        ),
        ("/body", "abc", "no SHA-256 checksum"),
        ("file:///etc/passwd", None, "not http://"),
        ("http://", None, "not http://"),
        ("http://[::1", None, "cannot be fetched"),
        ("http://127.0.0.1:1/", None, "Connection refused"),
    ],
)
def test_an_address_that_does_not_answer_well_is_said(web: str, url: str, sha256: str | None, said: str):
    problem = fetch(url if ":" in url else web + url, "x", "url", sha256=sha256)
    assert isinstance(problem, Problem)
    assert said in str(problem)
