"""What each request carries: templates, rows in turn, stable users, and messages of gRPC."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.payload import v2
from loadgen.payload.messages import Messages
from loadgen.payload.render import Requests
from loadgen.payload.templates import Moment, Template
from loadgen.plan import Grpc, Payload, Target

INFER = Grpc(f"{v2.SERVICE}/ModelInfer", v2.protoset())


def target(payload: Payload | None = None, **more: Any) -> Target:
    return Target(url="http://127.0.0.1", payload=payload or Payload(), **more)


def bodies(requests: Requests, count: int) -> list[bytes]:
    return [requests.next(seq, seq)[0] for seq in range(count)]


def test_what_never_varies_is_fixed():
    requests = Requests(target(Payload(bodies=(b"{}",)), headers=(("accept", "*/*"),)))
    assert requests.fixed == (b"{}", ())
    assert requests.next(7, 7) == (b"{}", ())
    assert Requests(target()).fixed == (b"", ())


def test_bodies_come_in_turn():
    requests = Requests(target(Payload(bodies=(b"a", b"b", b"c"))))
    assert requests.fixed is None
    assert bodies(requests, 5) == [b"a", b"b", b"c", b"a", b"b"]


@given(st.integers(), st.integers(1, 6))
def test_rows_at_random_are_the_same_however_many_processes_share_them(seed, processes):
    payload = Payload(template="{{ a }} {{ seq }}", rows=({"a": "x"}, {"a": "y"}, {"a": "z"}), order="random")
    whole = bodies(Requests(target(payload), seed), 60)
    shared = [Requests(target(payload), seed) for _ in range(processes)]
    assert [shared[seq % processes].next(seq, seq)[0] for seq in range(60)] == whole


def test_random_rows_are_all_used_about_as_often():
    payload = Payload(bodies=(b"x", b"y", b"z"), order="random")
    counted = Counter(bodies(Requests(target(payload), 5), 3000))
    assert set(counted) == {b"x", b"y", b"z"}
    assert min(counted.values()) > 850


def test_body_and_headers_of_a_request_agree():
    payload = Payload(template='{"id": "{{ uuid }}", "who": "{{ name }}"}', rows=({"name": "ann"}, {"name": "bob"}))
    requests = Requests(target(payload, headers=(("X-Id", "{{ uuid }}/{{ name }}/{{ now }}"), ("a", "b"))), 1)
    seen = set()
    for seq in range(4):
        body, fields = requests.next(seq, 0)
        document = json.loads(body)
        assert document["who"] == ("ann", "bob")[seq % 2]
        ((name, value),) = fields
        assert name == b"x-id"
        assert value.decode().split("/")[:2] == [document["id"], document["who"]]
        seen.add(document["id"])
    assert len(seen) == 4


def test_users_are_stable_where_there_are_some_and_new_each_time_otherwise():
    with_users = Requests(target(Payload(template="{{ user }}"), users=3))
    assert bodies(with_users, 5) == [b"user-0", b"user-1", b"user-2", b"user-0", b"user-1"]
    assert with_users.next(99, 1)[0] == b"user-1"
    assert bodies(Requests(target(Payload(template="{{ user }}"))), 3) == [b"user-0", b"user-1", b"user-2"]


def test_expressions_of_jinja_are_filled_in():
    made = Requests(
        target(Payload(template="{{ randint(3, 3) }} {{ choice(['q']) | upper }}{% if seq > 0 %}!{% endif %}"))
    )
    assert bodies(made, 2) == [b"3 Q", b"3 Q!"]
    assert 0 <= float(Requests(target(Payload(template="{{ random }}"))).next(0, 0)[0]) < 1


@given(st.integers(0, 10**9), st.text(max_size=20))
def test_the_fast_way_through_a_template_says_what_jinja_says(seq, user):
    moment = Moment(seq, user, 3, {"row": "r"})
    fast = Template("a {{ seq }}{{user}}\n{{ row }}\n", ["row"]).render(moment)
    assert fast == Template("a {{ seq }}{{user}}\n{{ row }}\n{% if false %}{% endif %}", ["row"]).render(moment)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{{ usr }}", r"nothing is called {{ usr }} \(did you mean user\?\)"),
        ("{{ seq ", "cannot be read"),
        ("{{ seq | nope }}", "nope"),
        ("{{ 1 // seq }}", "ZeroDivisionError"),
        ("{{ randint(2, 1) }}", "no number between"),
        ("{{ seq.__class__.__mro__ }}", "SecurityError"),
    ],
)
def test_a_template_that_cannot_be_is_refused_before_the_load(text, said):
    with pytest.raises(ValueError, match=said):
        Requests(target(Payload(template=text)))
    with pytest.raises(ValueError, match="header x: "):
        Requests(target(headers=(("x", text + "{{ seq }}"),)))


def test_a_row_cannot_smuggle_a_header_in():
    payload = Payload(template="{{ a }}", rows=({"a": "1"}, {"a": "1\r\nx-evil: 1"}))
    requests = Requests(target(payload, headers=(("x", "{{ a }}"),)))
    assert requests.next(0, 0)[1] == ((b"x", b"1"),)
    with pytest.raises(ValueError, match="line breaks"):
        requests.next(1, 1)


def test_messages_are_framed_and_made_once():
    requests = Requests(target(Payload(bodies=(b'{"model_name": "iris"}',)), grpc=INFER))
    assert requests.fixed == (b"\0\0\0\0\x06\x0a\x04iris", ())
    assert Requests(target(grpc=INFER)).fixed == (b"\0\0\0\0\0", ())


def test_rows_become_messages_before_the_load():
    payload = Payload(template='{"id": "{{ id }}"}', rows=({"id": "a"}, {"id": "b"}))
    assert bodies(Requests(target(payload, grpc=INFER)), 3) == [
        b"\0\0\0\0\x03\x1a\x01a",
        b"\0\0\0\0\x03\x1a\x01b",
        b"\0\0\0\0\x03\x1a\x01a",
    ]
    wrong = Payload(template='{"id": {{ id }}}', rows=({"id": '"a"'}, {"id": "b"}))
    with pytest.raises(ValueError, match="row 2 of the feed: this is no JSON"):
        Requests(target(wrong, grpc=INFER))


def test_a_stream_sends_a_list_or_one_message_several_times():
    messages = Messages(v2.protoset(), INFER.method)
    one, two = b"\0\0\0\0\x03\x1a\x01a", b"\0\0\0\0\x03\x1a\x01b"
    assert messages.frames(b'[{"id": "a"}, {"id": "b"}]', binary=False, stream=True) == one + two
    assert messages.frames(b'[{"id": "a"}, {"id": "b"}]', binary=False, stream=True, count=3) == one + two + one
    assert messages.frames(b'{"id": "a"}', binary=False, stream=True) == one
    assert messages.frames(b"\x1a\x01a", binary=True, stream=True, count=2) == one + one
    with pytest.raises(ValueError, match="takes a single one"):
        messages.frames(b"[{}]", binary=False, stream=False)


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        (
            b'{"modelname": "x"}',
            r"modelname: inference.ModelInferRequest has no field 'modelname' \(did you mean model_name",
        ),
        (b'{"inputs": [{}, {"shap": 1}]}', r"inputs\[1\].shap: .*did you mean shape"),
        (b'{"parameters": {"p": {"zz": 1}}}', r"parameters\['p'\].zz: .*it has bool_param, int64_param"),
        (b'{"inputs": [{"shape": ["x"]}]}', r"this is no inference.ModelInferRequest: inputs.shape: .*'x'"),
        (b'{"inputs": 3}', "this is no inference.ModelInferRequest"),
        (b'{"id": 3}', "this is no inference.ModelInferRequest"),
        (b"[1]", "a message is a JSON object, and this is a list"),
        (b'"x"', "this is a string"),
        (b"{", "this is no JSON"),
        (b"\xff", "this is no JSON"),
    ],
)
def test_what_is_no_message_is_said_with_the_path(payload, said):
    with pytest.raises(ValueError, match=said):
        Requests(target(Payload(bodies=(payload,)), grpc=INFER))


def test_bytes_that_are_no_message_and_methods_that_are_not_there_are_refused():
    with pytest.raises(ValueError, match=r"3 bytes are no inference.ModelInferRequest"):
        Messages(v2.protoset(), INFER.method).frames(b"\xff\xff\xff", binary=True, stream=False)
    with pytest.raises(ValueError, match=r"no method a.B/C"):
        Messages(v2.protoset(), "a.B/C")
    for bad in (b"", b"\xff\xff"):
        with pytest.raises(ValueError, match=r"set of descriptors is empty|no serialized"):
            Messages(bad, INFER.method)
