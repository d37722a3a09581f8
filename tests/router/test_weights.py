import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.weights import scaled, share

names = st.sampled_from("abcdefgh")
versions = st.dictionaries(names, st.integers(0, 1_000_000), min_size=1)


@given(versions, st.frozensets(names), st.data())
def test_weights_add_up_and_skip_unready_versions(wanted, ready, data):
    primary = data.draw(st.sampled_from(sorted(wanted)))
    got = share(wanted, ready, primary)
    assert sum(got.values()) == 10_000
    assert all(points > 0 for points in got.values())
    assert set(got) <= (ready if ready & set(wanted) else {primary})


@given(versions, st.frozensets(names), st.data())
def test_an_unready_version_takes_nothing_from_the_arms_of_those_that_are_not_its_heir(wanted, ready, data):
    primary = data.draw(st.sampled_from(sorted(wanted)))
    everyone = share(wanted, set(wanted), primary)
    got = share(wanted, ready, primary)
    grown = [name for name in got if got[name] != everyone.get(name, 0)]
    assert len(grown) <= 1
    assert all(got[name] > everyone.get(name, 0) for name in grown)


@given(versions)
def test_scaling_is_within_one_part_except_for_what_tiny_weights_borrow(wanted):
    got = scaled(wanted)
    total = sum(wanted.values())
    if not total:
        assert got == {}
        return
    assert sum(got.values()) == 10_000
    borrowed = sum(1 for weight in wanted.values() if 0 < weight * 10_000 < total)
    for name, weight in wanted.items():
        assert (got[name] > 0) == (weight > 0)
        assert abs(got[name] - weight * 10_000 / total) < 1 + borrowed


READY, UNREADY = True, False


@pytest.mark.parametrize(
    ("versions", "expected"),
    [
        ([(UNREADY, 1), (UNREADY, 1), (UNREADY, 1)], [10_000, 0, 0]),
        ([(READY, 1)], [10_000]),
        ([(READY, 1), (READY, 1)], [5_000, 5_000]),
        ([(READY, 70), (READY, 30)], [7_000, 3_000]),
        ([(READY, 70), (UNREADY, 30)], [10_000, 0]),
        ([(UNREADY, 70), (READY, 30)], [0, 10_000]),
        ([(READY, 20), (READY, 80)], [2_000, 8_000]),
        ([(READY, 50), (READY, 50)], [5_000, 5_000]),
        ([(READY, 0), (READY, 0)], [10_000, 0]),
        ([(READY, 0), (UNREADY, 100)], [10_000, 0]),
        ([(UNREADY, 1), (READY, 0)], [0, 10_000]),  # Iter8 sent this to the unready primary
        ([(UNREADY, 0), (UNREADY, 0)], [10_000, 0]),
        ([(READY, 70), (UNREADY, 10), (READY, 20)], [8_000, 0, 2_000]),
        ([(READY, 20), (UNREADY, 10), (READY, 70)], [3_000, 0, 7_000]),  # the primary inherits, however light
        ([(UNREADY, 70), (READY, 10), (READY, 20)], [0, 1_000, 9_000]),
        ([(UNREADY, 70), (READY, 0), (READY, 0)], [0, 10_000, 0]),
        ([(READY, 1), (READY, 1), (READY, 1)], [3_334, 3_333, 3_333]),
        ([(READY, 1_000_000), (READY, 1)], [9_999, 1]),
    ],
)
def test_truth_table(versions, expected):
    wanted = {f"v{index}": weight for index, (_, weight) in enumerate(versions)}
    ready = {f"v{index}" for index, (is_ready, _) in enumerate(versions) if is_ready}
    got = share(wanted, ready, primary="v0")
    assert [got.get(name, 0) for name in wanted] == expected


def test_the_primary_inherits_even_when_it_has_no_weight_left():
    assert share({"v1": 0, "v2": 100}, {"v1"}, primary="v1") == {"v1": 10_000}


def test_the_primary_need_not_be_the_first():
    assert share({"v1": 50, "v2": 50}, set(), primary="v2") == {"v2": 10_000}
