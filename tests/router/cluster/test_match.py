"""Matches of Istio and of the Gateway API, as a ModelRollout writes them."""

from __future__ import annotations

import pytest

from router.cluster.match import matches
from router.schema import Match


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"headers": {"a": {"exact": "x"}}}, {"headers": [{"name": "a", "exact": "x"}]}),
        ({"headers": {"a": {}}}, {"headers": [{"name": "a", "present": True}]}),
        ({"headers": {"a": {"regex": "x.*"}}}, {"headers": [{"name": "a", "regex": "x.*"}]}),
        ({"withoutHeaders": {"a": {"prefix": "x"}}}, {"headers": [{"name": "a", "prefix": "x", "invert": True}]}),
        ({"uri": {"prefix": "/v2"}, "method": {"exact": "POST"}}, {"path": {"prefix": "/v2"}, "method": "POST"}),
        ({"queryParams": {"q": {"exact": "1"}}}, {"query": [{"name": "q", "exact": "1"}]}),
        ({"name": "label", "ignoreUriCase": False, "uri": {"exact": "/a"}}, {"path": {"exact": "/a"}}),
        ({"path": {"value": "/v2"}}, {"path": {"prefix": "/v2"}}),
        ({"path": {"type": "RegularExpression", "value": "/v.*"}}, {"path": {"regex": "/v.*"}}),
        ({"headers": [{"name": "a", "value": "x"}]}, {"headers": [{"name": "a", "exact": "x"}]}),
        (
            {"queryParams": [{"name": "q", "type": "RegularExpression", "value": "1+"}], "method": "GET", "path": {}},
            {"query": [{"name": "q", "regex": "1+"}], "method": "GET", "path": {"prefix": "/"}},
        ),
    ],
)
def test_what_can_be_said(given, expected):
    assert matches([given], "values", "match") == ([expected], ())
    Match.model_validate(expected)


@pytest.mark.parametrize(
    ("given", "field", "what"),
    [
        ({"authority": {"exact": "x"}}, "match[0].authority", "matching on authority is not supported"),
        ({"ignoreUriCase": True}, "match[0].ignoreUriCase", "matching on ignoreUriCase is not supported"),
        ({"method": {"prefix": "P"}}, "match[0].method", "a method can only be compared exactly"),
        ({"headers": {"a": {"exact": "x", "prefix": "y"}}}, "match[0].headers.a", "a mapping is not one comparison"),
        ({"headers": {"a": {"exact": 1}}}, "match[0].headers.a", "a mapping is not one comparison"),
        ({"path": {"type": "Glob"}}, "match[0].path.type", "'Glob' is not supported"),
        ({}, "match[0]", "is empty and would take every request"),
        ("text", "match[0]", "must be a mapping, not 'text'"),
    ],
)
def test_what_cannot_be_said_is_told_with_its_field(given, field, what):
    found, problems = matches([given], "values", "match")
    assert found == []
    assert [(one.field, one.what) for one in problems] == [(field, what)]


def test_a_match_is_a_list():
    assert matches({"headers": {}}, "values", "match")[1][0].what == "must be a list, not a mapping"
