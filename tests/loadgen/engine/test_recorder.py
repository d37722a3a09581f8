"""Calls in, parts out, and what many processes told added up: nothing is lost between them."""

from __future__ import annotations

import random
from pathlib import Path

import msgpack
import pytest

from loadgen.collect import Collector
from loadgen.engine.recorder import Recorder, is_good
from loadgen.journal import Journal, read
from loadgen.outcome import UNATTRIBUTED, UNKNOWN, Outcome
from loadgen.parts import BookPart, Report, SeriesPart
from loadgen.plan import Goodput, Load, Plan, Scenario, Target
from loadgen.wire.call import CONNECT_TIMEOUT, RESET, TIMEOUT, Call

TARGET = Target("http://x/")


def plan(**target: object) -> Plan:
    load = Load("max", requests=1)
    return Plan("x", (Scenario("a", Target("http://x/", **target), load), Scenario("b", TARGET, load)))  # type: ignore[arg-type]


def call(latency: float = 0.1, *, at: float = 0.0, scenario: int = 0, **filled: object) -> Call:
    made = Call(scenario, intended=at)
    made.due, made.sent, made.ended = at + 0.001, at + 0.002, at + latency
    made.code, made.version = "200", "v1"
    for name, value in filled.items():
        setattr(made, name, value)
    return made


def folded(*calls: Call, target: Target = TARGET) -> dict[tuple[int, str], SeriesPart]:
    recorder = Recorder([target, TARGET])
    for each in calls:
        recorder.record(each)
    return {(part.scenario, part.version): part for part in recorder.fold([0.0, 0.0])}


def test_answers_go_to_their_version_and_what_has_none_is_told_apart() -> None:
    parts = folded(
        call(),
        call(version=None),
        call(version=None, code="", failure=RESET, message="gone"),
        call(version="v2", failure="status 503", code="503"),
        call(scenario=1),
    )
    assert set(parts) == {(0, "v1"), (0, UNKNOWN), (0, UNATTRIBUTED), (0, "v2"), (1, "v1")}
    assert (parts[0, "v2"].ok, parts[0, "v2"].failed, parts[0, "v2"].codes) == (0, 1, {"503": 1})
    assert (parts[0, UNATTRIBUTED].codes, parts[0, UNATTRIBUTED].samples) == ({}, {RESET: "gone"})
    assert set(folded(call(version=None), target=Target("http://x/", version="pinned"))) == {(0, "pinned")}


def test_all_durations_are_reckoned_from_the_stamps() -> None:
    (part,) = folded(call(0.5, connected=0.012, tokens=[0.1, 0.2, 0.4], output_tokens=4)).values()
    assert {name: pytest.approx(each.total) for name, each in part.metrics.items()} == {
        "service": 0.498, "lag": 0.001, "queue": 0.001, "connect": 0.01, "ttft": 0.1, "itl": 0.3, "tpot": 0.1,
    }  # fmt: skip
    (second,) = part.seconds
    assert second.latency is not None
    assert second.latency.total == pytest.approx(0.5)
    assert part.tokens == 4


def test_timeouts_failures_and_seconds() -> None:
    calls = [
        call(at=0.5, failure=TIMEOUT),
        call(at=1.5),
        call(at=1.6, failure=CONNECT_TIMEOUT),
        call(at=2.5, failure=RESET),
    ]
    (part,) = folded(*calls).values()
    assert (part.ok, part.failed, part.timed_out) == (1, 1, 2)
    assert [(each.at, each.ended, each.failed) for each in part.seconds] == [(0, 1, 1), (1, 2, 1), (2, 1, 1)]


@pytest.mark.parametrize(
    ("limits", "good"),
    [
        ({"latency": 0.5}, True),
        ({"latency": 0.4}, False),
        ({"ttft": 0.1, "itl": 0.2}, True),
        ({"itl": 0.18}, False),
        ({"tpot": 0.15}, True),
        ({"queue": 0.0005}, False),
    ],
)
def test_goodput(limits: dict[str, float], good: bool) -> None:
    stamped = call(0.5, tokens=[0.1, 0.2, 0.39])
    assert is_good(Goodput(limits))(stamped) == good
    stamped.failure = RESET
    assert not is_good(Goodput(limits))(stamped)


def told(*, seed: int, worker: str, calls: int = 300) -> list[Report]:
    """What a worker says in three seconds of chance."""
    chance = random.Random(seed)
    recorder = Recorder([Target("http://x/", goodput=Goodput({"latency": 0.2})), TARGET])
    reports = []
    for _ in range(3):
        for _ in range(calls):
            at = chance.uniform(0, 40)
            failure = chance.choice([None, None, None, RESET, TIMEOUT])
            version = chance.choice(["v1", "v2"])
            recorder.record(call(chance.expovariate(5), at=at, failure=failure, version=version, received=10))
        books = (BookPart(asked=calls, sent=calls, planned=3.0, span=3.0), BookPart())
        reports.append(Report(worker, books, tuple(recorder.fold([0.0, 0.0])), cpu=0.5))
    return reports


def outcome(reports: list[Report]) -> Outcome:
    collector = Collector(plan(goodput=Goodput({"latency": 0.2})), 1.0)
    for each in reports:
        collector.add(each)
    return collector.outcome()


def test_many_processes_add_up_to_what_one_would_have_told() -> None:
    workers = [told(seed=number, worker=f"worker {number}") for number in range(10)]
    many = outcome([report for worker in workers for report in worker])
    one = outcome([Report("all", report.books, report.series) for worker in workers for report in worker])
    assert many.versions() == ("v1", "v2")
    for several, alone in zip(many.series, one.series, strict=True):
        assert several.metrics.keys() == alone.metrics.keys()
        for name, kept in several.metrics.items():
            assert kept.histogram().buckets() == alone.metrics[name].histogram().buckets()
        assert (several.ended, several.good, several.timeline) == (alone.ended, alone.good, alone.timeline)
        assert several.metrics["latency"].count == several.ended
    assert sum(each.ended for each in many.series) == 9000


def test_reports_travel_as_msgpack_unchanged() -> None:
    for report in told(seed=1, worker="w"):
        assert Report.from_plain(msgpack.unpackb(msgpack.packb(report.to_plain()))) == report


def test_the_journal_holds_what_was_told_up_to_a_cut(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    reports = told(seed=2, worker="w")
    for each in reports:
        journal.append(each)
    assert list(read(journal.path)) == reports
    whole = journal.path.read_bytes()
    journal.path.write_bytes(whole[:-5])
    assert list(read(journal.path)) == reports[:-1]


def test_a_journal_that_grows_long_is_replaced_by_its_sum(tmp_path: Path) -> None:
    reports = told(seed=3, worker="w")
    collector = Collector(plan(), 1.0)
    for each in reports:
        collector.add(each)
    journal = Journal(tmp_path / "journal")
    journal.replace(collector.reports())
    more = told(seed=4, worker="w")
    for each in more:
        journal.append(each)
    again, straight = outcome(list(read(journal.path))), outcome([*reports, *more])
    for one, other in zip(again.series, straight.series, strict=True):
        assert (one.ended, one.failures, one.bytes_received) == (other.ended, other.failures, other.bytes_received)
        for name, kept in one.metrics.items():
            assert kept.histogram().buckets() == other.metrics[name].histogram().buckets()
        assert [(each.at, each.ended, each.failed) for each in one.timeline] == [
            (each.at, each.ended, each.failed) for each in other.timeline
        ]


def test_a_full_disk_ends_the_journal_and_not_the_run(tmp_path: Path) -> None:
    journal = Journal(Path("/dev/full"))
    for each in told(seed=5, worker="w"):
        journal.append(each)
    assert "No space left" in journal.trouble


def test_progress_tells_what_is_new() -> None:
    collector = Collector(plan(), 1.0)
    reports = told(seed=6, worker="w")
    collector.add(reports[0])
    first = collector.progress("running", 1.0, 3.0, 100.0)
    assert (first.sent, first.rate, sum(row.ended for row in first.rows)) == (300, 300.0, 300)
    collector.add(reports[1])
    assert sum(row.rate for row in collector.progress("running", 2.0, 3.0, 100.0).rows) == 300
