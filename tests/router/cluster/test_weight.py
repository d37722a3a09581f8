"""Weights from specs and annotations, through to the shares."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.cluster.resource import Reference
from router.cluster.weight import fitted, override, weight
from router.schema import MAX_WEIGHT
from router.weights import share

ISVC, CM = Reference("isvc", "a", "ns"), Reference("cm", "a-weight-config", "ns")


def annotated(text):
    return {"metadata": {"annotations": {} if text is None else {"iter8.tools/weight": text}}}


YES, NO = True, False


@pytest.mark.parametrize(
    ("versions", "iter8"),
    [
        ([(NO, None, None)] * 3, [1, 0, 0]),
        ([(YES, None, None)], [1]),
        ([(YES, None, None)] * 2, [1, 1]),
        ([(YES, 70, None), (YES, 30, None)], [70, 30]),
        ([(YES, 70, None), (NO, 30, None)], [70, 0]),
        ([(NO, 70, None), (YES, 30, None)], [0, 30]),
        ([(YES, 50, "20"), (YES, 50, "80")], [20, 80]),
        ([(YES, 50, "abc"), (YES, 50, "-1")], [50, 50]),
        ([(YES, 0, None), (YES, 0, None)], [1, 0]),
        ([(YES, 50, "0"), (NO, 50, "100")], [1, 0]),
        ([(NO, 70, None), (YES, 0, None)], [0, 1]),  # Iter8: [1, 0], to the unavailable primary
    ],
)
def test_iter8s_table(versions, iter8):
    wanted = {str(index): weight(spec, [(ISVC, annotated(text))])[0] for index, (_, spec, text) in enumerate(versions)}
    ready = {str(index) for index, (is_ready, _, _) in enumerate(versions) if is_ready}
    got = share(wanted, ready, primary="0")
    assert [got.get(name, 0) for name in wanted] == [one * 10_000 // sum(iter8) for one in iter8]


@pytest.mark.parametrize("order", [(ISVC, CM), (CM, ISVC)])
def test_the_annotation_counts_on_any_resource(order):
    """Iter8 read the first resource only, and its release chart annotates the last."""
    found = {ISVC: annotated(None), CM: annotated("80")}
    assert override([(one, found[one]) for one in order]) == (80, ())


@pytest.mark.parametrize("text", ["abc", "-1", "+1", " 1", "1.5", "", "4294967296", "1_000", "٣", 20])
def test_an_invalid_annotation_is_a_warning_and_changes_nothing(text):
    got, problems = weight(50, [(CM, annotated(text))])
    assert got == 50
    assert [(one.severity, one.where) for one in problems] == [("warning", "cm/ns/a-weight-config")]
    assert "invalid weight annotation" in problems[0].what


def test_of_two_weights_the_first_resource_wins_and_the_other_is_told():
    got, problems = override([(ISVC, annotated("20")), (CM, annotated("80"))])
    assert got == 20
    assert problems[0].what == "weight 80 is ignored: isvc/ns/a says 20"
    assert override([(ISVC, annotated("20")), (CM, annotated("20"))]) == (20, ())


def test_an_absent_resource_overrides_nothing():
    assert override([(CM, None)]) == (None, ())


@given(st.dictionaries(st.sampled_from("abcd"), st.integers(0, 2**32 - 1), min_size=1))
def test_huge_weights_keep_their_proportions(wanted):
    got = fitted(wanted)
    assert max(got.values()) <= MAX_WEIGHT
    assert [one > 0 for one in got.values()] == [one > 0 for one in wanted.values()]
    largest = max(wanted.values()) or 1
    for name, one in wanted.items():
        assert abs(got[name] / (max(got.values()) or 1) - one / largest) <= 2 / MAX_WEIGHT


def test_the_largest_weight_is_iter8s():
    assert override([(CM, annotated("4294967295"))]) == (2**32 - 1, ())
