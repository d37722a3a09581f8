"""What plugins can ask for, by itself: headers, shared data, metrics, the watch."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.headers import HeaderList
from sidecar.instruments import Instruments
from sidecar.shared import SharedData, SharedFull
from sidecar.watch import Overrun, Watch

names = st.sampled_from(("a", "A", "b", "X-C", "x-c"))
operations = st.lists(st.tuples(st.sampled_from(("set", "add", "remove")), names, st.sampled_from("123")), max_size=12)


@given(st.lists(st.tuples(names, st.sampled_from("12")), max_size=6), operations)
def test_headers_and_what_is_told_of_their_changes(
    pairs: list[tuple[str, str]], todo: list[tuple[str, str, str]]
) -> None:
    headers = HeaderList(pairs)
    expected: dict[str, list[str]] = {}
    for name, value in pairs:
        expected.setdefault(name.lower(), []).append(value)
    before = {name: tuple(values) for name, values in expected.items()}
    for what, name, value in todo:
        if what == "set":
            headers.set(name, value)
            expected[name.lower()] = [value]
        elif what == "add":
            headers.add(name, value)
            expected.setdefault(name.lower(), []).append(value)
        else:
            headers.remove(name)
            expected.pop(name.lower(), None)
    for name in ("a", "b", "x-c"):
        assert headers.get_all(name.upper()) == tuple(expected.get(name, ()))
        assert (name in headers) == (name in expected)
    changed = dict(headers.changes())
    after = {name: tuple(values) for name, values in expected.items()}
    told = {**before, **changed}
    assert {name: values for name, values in told.items() if values} == after
    assert headers.changes() == ()


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("", "x", ValueError),
        ("a b", "x", ValueError),
        ("a:", "x", ValueError),
        (":nothing", "x", ValueError),
        ("a", "x\ny", ValueError),
        ("a", "x\0", ValueError),
        ("a", b"x", TypeError),
        (1, "x", TypeError),
    ],
)
def test_a_header_that_cannot_be_changes_nothing(name: str, value: str, error: type[Exception]) -> None:
    headers = HeaderList([("a", "1")])
    for change in (headers.set, headers.add):
        with pytest.raises(error):
            change(name, value)
    assert headers.items() == (("a", "1"),)


def test_pseudo_headers_stay() -> None:
    headers = HeaderList([(":path", "/")])
    with pytest.raises(ValueError, match="cannot be removed"):
        headers.remove(":path")
    with pytest.raises(ValueError, match="use set"):
        headers.add(":path", "/a")
    headers.set(":path", "/b")
    assert headers.items() == ((":path", "/b"),)


def test_compare_and_set_loses_no_increment() -> None:
    shared = SharedData()

    def add_100() -> None:
        for _ in range(100):
            while True:
                value, mark = shared.get("n")
                if shared.set("n", str(int(value or b"0") + 1).encode(), mark):
                    break

    threads = [threading.Thread(target=add_100) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert shared.get("n")[0] == b"400"


def test_a_mark_of_what_was_removed_or_never_was_is_old() -> None:
    shared = SharedData()
    assert shared.set("k", b"1", 0)
    assert not shared.set("k", b"2", 0)
    _, mark = shared.get("k")
    shared.remove("k")
    assert not shared.set("k", b"3", mark)
    assert shared.get("k") == (b"", 0)


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 8)), max_size=40))
def test_shared_data_stay_within_their_bounds(todo: list[tuple[str, int]]) -> None:
    shared = SharedData(max_bytes=20, max_keys=3)
    kept: dict[str, int] = {}
    for key, size in todo:
        after = {**kept, key: size}
        fits = len(after) <= 3 and sum(after.values()) + len(after) <= 20
        if fits:
            shared.set(key, bytes(size))
            kept = after
        else:
            with pytest.raises(SharedFull):
                shared.set(key, bytes(size))
    assert {key: len(shared.get(key)[0]) for key in kept} == kept


def test_metrics_are_read_out_as_prometheus_wants_them() -> None:
    metrics = Instruments()
    metrics.counter("asked", "Asked.", ["who"]).add(2, who="ann")
    metrics.gauge("level").set(0.5)
    seconds = metrics.histogram("seconds", buckets=(1, 2))
    for value in (0.5, 1.0, 1.5, 9.0):
        seconds.observe(value)
    told = {
        (family.name + sample.suffix, *(value for _, value in sample.labels)): sample.value
        for family in metrics.families("p_")
        for sample in family.samples
    }
    assert told == {
        ("p_asked_total", "ann"): 2,
        ("p_level",): 0.5,
        ("p_seconds_bucket", "1"): 2,
        ("p_seconds_bucket", "2"): 3,
        ("p_seconds_bucket", "+Inf"): 4,
        ("p_seconds_sum",): 12,
        ("p_seconds_count",): 4,
    }


def test_series_are_bounded_and_the_dropped_counted() -> None:
    metrics = Instruments(limit=3)
    counter = metrics.counter("asked", labels=["who"])
    for number in range(10):
        counter.add(who=str(number))
    assert len(metrics.families()[0].samples) == 3
    assert metrics.dropped == 7


def test_long_values_of_labels_are_cut_and_long_help_is_refused() -> None:
    metrics = Instruments()
    asked = metrics.counter("asked", labels=["user"])
    for end in "abc":
        asked.add(user="u" * 1_000_000 + end)
    ((sample,),) = (family.samples for family in metrics.families())
    assert (sample.labels, sample.value) == ((("user", "u" * 200),), 3)
    with pytest.raises(ValueError, match="the help of other is longer than 1000 characters"):
        metrics.counter("other", "h" * 1001)


@pytest.mark.parametrize("name", ["", "A", "a-b", "a_total", "1a", "a\n", "a_bucket", "a_count", "x" * 101])
def test_a_name_that_prometheus_would_not_take_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="cannot be the name of a metric"):
        Instruments().counter(name)


@pytest.mark.parametrize(
    "labels", [["a-b"], ["__name__"], ["A"], ["a", "a"], [""], [f"l{number}" for number in range(17)]]
)
def test_labels_that_prometheus_would_not_take_are_refused(labels: list[str]) -> None:
    with pytest.raises(ValueError, match="cannot have the labels"):
        Instruments().counter("asked", labels=labels)


def test_a_histogram_has_buckets_and_keeps_its_own_label() -> None:
    for buckets in ((), (1, 1), (float("nan"),), (1, float("inf")), range(101)):
        with pytest.raises(ValueError, match="cannot have the buckets"):
            Instruments().histogram("seconds", buckets=tuple(buckets))
    with pytest.raises(ValueError, match="le is taken"):
        Instruments().histogram("seconds", labels=["le"])


def test_one_name_is_one_metric() -> None:
    metrics = Instruments()
    assert metrics.counter("a") is metrics.counter("a")
    with pytest.raises(ValueError, match="is a counter"):
        metrics.gauge("a")
    with pytest.raises(ValueError, match="has the labels"):
        metrics.counter("a").add(who="x")
    with pytest.raises(ValueError, match="cannot be changed by -1"):
        metrics.counter("a").add(-1)


def test_the_watch_cuts_off_each_thread_by_itself_and_leaves_nothing_behind() -> None:
    watch, ended = Watch(), []
    quick = threading.Event()

    def loops(number: int) -> None:
        thread = watch.enter(0.01, "loops")
        try:
            try:
                while True:
                    pass
            finally:
                watch.leave(thread)
        except Overrun:
            ended.append(number)

    def is_quick() -> None:
        for _ in range(2000):
            watch.leave(watch.enter(10.0, "quick"))
        quick.set()

    threads = [threading.Thread(target=loops, args=(number,)) for number in range(3)]
    threads.append(threading.Thread(target=is_quick))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    watch.close()
    assert sorted(ended) == [0, 1, 2]
    assert quick.is_set()
    assert not watch._running
