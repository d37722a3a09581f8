"""Keeping a copy true by lists and watch events."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.kube.client import ApiFault
from router.kube.copy import Copy, Lines, page_of


def obj(name: str, value: int, uid: str = "u", revision: str | None = None) -> dict[str, Any]:
    meta = {"name": name, "namespace": "ns", "uid": uid, "resourceVersion": revision or f"{uid}{value}"}
    return {"metadata": meta, "value": value}


def event(kind: str, what: dict[str, Any]) -> bytes:
    return json.dumps({"type": kind, "object": what}).encode()


def copy_of(*objects: dict[str, Any]) -> Copy[int]:
    copy: Copy[int] = Copy(lambda it: it["value"])
    copy.begin()
    copy.page(objects)
    copy.end("1")
    return copy


states = st.dictionaries(st.sampled_from("abcd"), st.tuples(st.integers(0, 3), st.sampled_from("uv")))


@given(states, states)
def test_a_new_list_tells_exactly_what_differs(before, after):
    copy = copy_of(*(obj(name, *rest) for name, rest in before.items()))
    told = dict(copy.objects)
    copy.begin()
    changes = copy.page([obj(name, *rest) for name, rest in after.items()]) + copy.end("2")
    for key, kept in changes:
        if kept is None:
            del told[key]
        else:
            assert told.get(key) != kept
            told[key] = kept
    assert told == copy.objects == {f"ns/{name}": value for name, (value, _) in after.items()}


@given(st.lists(st.binary(max_size=20).map(lambda it: it.replace(b"\n", b"") + b"."), max_size=8), st.data())
def test_lines_come_out_whole_however_the_stream_is_cut(lines, data):
    stream, cut = b"".join(line + b"\n" for line in lines), Lines()
    got = []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        got += cut.cut(stream[:size])
        stream = stream[size:]
    assert got == [line for line in lines if line.strip()]


def test_half_a_list_deletes_nothing():
    copy = copy_of(obj("a", 1), obj("b", 1))
    copy.begin()
    assert copy.page([obj("a", 2)]) == [("ns/a", 2)]
    copy.begin()
    assert copy.objects == {"ns/a": 2, "ns/b": 1}


def test_events_change_the_copy_and_move_its_revision():
    copy = copy_of(obj("a", 1))
    assert copy.hear(event("ADDED", obj("b", 5, revision="2"))) == [("ns/b", 5)]
    assert copy.hear(event("DELETED", obj("a", 1, revision="3"))) == [("ns/a", None)]
    assert copy.hear(event("BOOKMARK", {"metadata": {"resourceVersion": "9"}})) == []
    assert copy.revision == "9"


def test_what_is_not_kept_changes_unheard():
    copy = copy_of(obj("a", 1))
    assert copy.hear(event("MODIFIED", {**obj("a", 1, revision="2"), "heartbeat": 2})) == []


def test_an_object_that_stops_to_matter_is_gone():
    copy: Copy[int] = Copy(lambda it: it["value"] or None)
    copy.hear(event("ADDED", obj("a", 1)))
    assert copy.hear(event("MODIFIED", obj("a", 0))) == [("ns/a", None)]
    assert copy.hear(event("DELETED", obj("a", 0))) == []


def test_deleted_and_created_again_while_nobody_looked_is_told_as_both():
    copy = copy_of(obj("a", 1, uid="old"))
    copy.begin()
    assert copy.page([obj("a", 1, uid="new")]) == [("ns/a", None), ("ns/a", 1)]


def test_an_object_that_cannot_be_read_stays_as_it_was_known(caplog):
    copy = copy_of(obj("a", 1), obj("b", 1))
    odd = {key: value for key, value in obj("a", 2).items() if key != "value"}
    assert copy.hear(event("MODIFIED", odd)) == []
    assert copy.objects == {"ns/a": 1, "ns/b": 1}
    assert "ns/a: cannot be read" in caplog.text


@pytest.mark.parametrize(
    ("line", "status"),
    [(event("ERROR", {"kind": "Status", "code": 410, "reason": "Expired"}), 410), (b"<html>", 400), (b"{}", 400)],
)
def test_what_is_no_event_asks_for_a_new_list(line, status):
    copy = copy_of(obj("a", 1))
    with pytest.raises(ApiFault) as fault:
        copy.hear(line)
    assert (fault.value.status, copy.revision, copy.objects) == (status, "", {"ns/a": 1})


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"error": "maintenance", "items": []},
        {"metadata": {}, "items": []},
        {"metadata": {"resourceVersion": "1"}},
        {"metadata": {"resourceVersion": "1"}, "items": {}},
        {"metadata": {"resourceVersion": "1"}, "items": [5]},
        {"metadata": {"resourceVersion": "1"}, "items": [{"metadata": {}}]},
        {"metadata": {"resourceVersion": ""}, "items": []},
    ],
)
def test_an_answer_that_is_no_list_is_not_taken_for_an_empty_one(answer):
    with pytest.raises(ApiFault, match="no list"):
        page_of(answer)


def test_a_list_of_nothing_is_a_list():
    assert page_of({"metadata": {"resourceVersion": "1"}, "items": None}).items == []
