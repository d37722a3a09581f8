"""A run as JUnit XML, for systems that show tests: a suite for each version, a case for each SLO.

A broken SLO is a failure, an invalid run and one without data are errors, an inconclusive verdict is skipped.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from xml.etree import ElementTree

from loadgen.report.contents import Report
from loadgen.report.facts import headline, label
from loadgen.report.text import fault, interval, value
from loadgen.slo.quantities import quantity
from loadgen.slo.verdict import Policy, Verdict

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def render(report: Report) -> str:
    outcome, assessment = report.outcome, report.assessment
    title = _clean(report.title or outcome.name)
    suites = ElementTree.Element("testsuites", name=title)
    whole = ElementTree.SubElement(suites, "testsuite", name=f"{title}: the run")
    case = ElementTree.SubElement(whole, "testcase", name="the run is valid", classname=title)
    if assessment.faults:
        _say(case, "error", "invalid run", "\n".join(fault(each) for each in assessment.faults))
    elif not assessment.answered or (assessment.silent and not assessment.verdicts):
        _say(case, "error", "no usable data", headline(report))
    parties = dict.fromkeys((each.scenario, each.version) for each in assessment.verdicts)
    several = len({scenario for scenario, _ in parties}) > 1
    for scenario, version in parties:
        name = _clean(f"{scenario}: {label(version)}" if several else label(version))
        suite = ElementTree.SubElement(suites, "testsuite", name=name)
        for verdict in assessment.of(version, scenario):
            case = ElementTree.SubElement(suite, "testcase", name=_clean(verdict.slo.text), classname=name)
            _rule(case, verdict, bool(assessment.faults), assessment.inconclusive)
    for suite in suites:
        _count(suite, outcome.started, outcome.duration)
    for what in ("tests", "failures", "errors", "skipped"):
        suites.set(what, str(sum(int(suite.get(what, "0")) for suite in suites)))
    ElementTree.indent(suites)
    return ElementTree.tostring(suites, encoding="unicode", xml_declaration=True) + "\n"


def _rule(case: ElementTree.Element, verdict: Verdict, invalid: bool, inconclusive: Policy) -> None:
    within = interval(verdict)
    text = f"value {value(verdict)}, limit {quantity(verdict.limit, verdict.scale)}" + (
        within and f", interval {within}"
    )
    if invalid:
        _say(case, "skipped", f"the run is invalid; {verdict.ruling} otherwise", verdict.why)
    elif verdict.ruling == "FAIL":
        _say(case, "failure", f"broken: {text}", verdict.why)
    elif verdict.ruling == "NO_DATA":
        _say(case, "error", "no data", verdict.why)
    elif verdict.ruling == "INCONCLUSIVE":
        _say(case, "failure" if inconclusive == "fail" else "skipped", f"inconclusive: {text}", verdict.why)
    else:
        ElementTree.SubElement(case, "system-out").text = _clean(f"{verdict.why}; {text}")


def _say(case: ElementTree.Element, kind: str, message: str, text: str) -> None:
    ElementTree.SubElement(case, kind, message=_clean(message), type=kind).text = _clean(text)


def _count(suite: ElementTree.Element, started: float, duration: float) -> None:
    suite.set("tests", str(len(suite)))
    for attribute, kind in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        suite.set(attribute, str(sum(case.find(kind) is not None for case in suite)))
    suite.set("time", f"{duration:.3f}")
    suite.set("timestamp", datetime.fromtimestamp(started, UTC).strftime("%Y-%m-%dT%H:%M:%S"))


def _clean(text: str) -> str:
    """Versions and messages come from servers, and XML does not allow every character."""
    return _NOT_XML.sub("�", text)
