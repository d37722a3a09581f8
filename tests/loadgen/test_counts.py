import numpy as np
import pytest
from hdrh.histogram import HdrHistogram
from hypothesis import given, settings
from hypothesis import strategies as st

from loadgen.counts import DIGITS, HIGHEST, LOWEST, Part
from loadgen.histogram import Histogram

seconds = st.lists(st.floats(0, 90_000), min_size=1, max_size=200)


def counted(*lists: list[float]) -> Histogram:
    made = Histogram()
    for each in lists:
        made.add_part(Part.of(np.array(each)))
    return made


@given(seconds, seconds)
@settings(max_examples=60, deadline=None)
def test_parts_add_up_to_what_one_process_would_have_counted(one: list[float], other: list[float]) -> None:
    got, truth = counted(one, other), counted(one + other)
    assert got.buckets() == truth.buckets()
    assert (got.count, got.least, got.greatest) == (truth.count, truth.least, truth.greatest)
    assert got.total == pytest.approx(truth.total)
    assert got.stddev == pytest.approx(truth.stddev, abs=1e-6, rel=1e-6)


@given(seconds)
@settings(max_examples=30, deadline=None)
def test_buckets_are_hdr_histogram_s_own(values: list[float]) -> None:
    hdr = HdrHistogram(LOWEST, HIGHEST, DIGITS)
    for each in values:
        hdr.record_value(min(max(round(each * 1e6), LOWEST), HIGHEST))
    theirs = HdrHistogram.decode(counted(values).rest().encoded)
    assert list(theirs.counts) == list(hdr.counts)
    assert theirs.total_count == hdr.total_count
    assert theirs.get_value_at_percentile(99) == hdr.get_value_at_percentile(99)


@given(seconds)
@settings(max_examples=30, deadline=None)
def test_a_histogram_travels_unchanged(values: list[float]) -> None:
    histogram, copy = counted(values), Histogram()
    copy.add_part(histogram.part())
    assert copy.rest() == histogram.rest()
    assert histogram.rest().histogram().buckets() == histogram.buckets()


def test_nothing_counted_has_no_percentile() -> None:
    assert np.isnan(Histogram().percentile(50))
    with pytest.raises(ValueError, match="nothing"):
        Part.of(np.array([]))


def test_no_percentile_is_flattered_by_rounding_its_rank_down() -> None:
    assert counted([1.0] * 5 + [2.0]).percentile(90) == 2.0
    assert counted([0.001] * 99 + [0.5]).percentile(99) == 0.001
