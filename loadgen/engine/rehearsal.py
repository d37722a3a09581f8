"""All that happens once a second, once before it counts: the first time takes some ten times as long."""

from __future__ import annotations

from loadgen.collect import Collector
from loadgen.engine.recorder import Recorder
from loadgen.journal import encoded
from loadgen.parts import BookPart, Report
from loadgen.plan import Plan
from loadgen.wire.call import Call

_CALLS = 100


def rehearse(plan: Plan) -> None:
    """Record, fold, tell, add up and show calls that never were."""
    recorder = Recorder([each.target for each in plan.scenarios])
    for number in range(_CALLS):
        call = Call(0, float(number))
        call.due = call.sent = call.intended
        call.connected, call.ended = call.sent + 0.001, call.sent + 0.01 * (1 + number)
        call.code, call.tokens = "200", [call.ended, call.ended + 0.01]
        recorder.record(call)
    books = tuple(BookPart() for _ in plan.scenarios)
    report = Report("rehearsal", books, tuple(recorder.fold([0.0] * len(plan.scenarios))))
    collector = Collector(plan, 0.0)
    collector.add(Report.from_plain(report.to_plain()))
    encoded(report)
    collector.progress("running", 0.0, None, None).to_json()
