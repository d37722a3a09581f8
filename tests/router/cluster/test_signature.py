"""Iter8's fingerprint of a version's content."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from router.cluster.signature import hashed, signature

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


def test_iter8s_vectors():
    assert signature([{"spec": {"replicas": 2}}]) == "417661632797200593"
    assert signature([{"spec": {"replicas": 2}}, {"metadata": {}}]) == "11451027137128994800"


def test_an_absent_resource_leaves_it_empty():
    assert signature([{"spec": {}}, None]) == ""


def test_only_the_spec_counts():
    assert signature([{"spec": {"a": 1}, "status": {"x": 1}}]) == signature([{"spec": {"a": 1}, "metadata": {"y": 2}}])


@given(st.dictionaries(st.text(max_size=5), values, max_size=5), st.randoms())
def test_the_order_of_keys_does_not_matter(spec, shuffle: random.Random):
    keys = list(spec)
    shuffle.shuffle(keys)
    assert hashed({key: spec[key] for key in keys}) == hashed(spec)


@given(values, values)
def test_the_order_of_a_list_matters(first, second):
    if hashed(first) != hashed(second):
        assert hashed([first, second]) != hashed([second, first])


@given(values)
def test_it_fits_64_bits(value):
    assert 0 <= hashed(value) < 2**64
