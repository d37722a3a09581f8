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
    whole = ElementTree.Element("testsuites", name=clean(report.title or report.outcome.name))
    whole.extend(suites(report))
    return finish(whole)


def suites(report: Report) -> list[ElementTree.Element]:
    """One for the run itself, and one for each version."""
    outcome, assessment = report.outcome, report.assessment
    title = clean(report.title or outcome.name)
    run = ElementTree.Element("testsuite", name=f"{title}: the run")
    case = ElementTree.SubElement(run, "testcase", name="the run is valid", classname=title)
    if assessment.faults:
        say(case, "error", "invalid run", "\n".join(fault(each) for each in assessment.faults))
    elif not assessment.answered or (assessment.silent and not assessment.verdicts):
        say(case, "error", "no usable data", headline(report))
    found = [run]
    parties = dict.fromkeys((each.scenario, each.version) for each in assessment.verdicts)
    several = len({scenario for scenario, _ in parties}) > 1
    for scenario, version in parties:
        name = clean(f"{scenario}: {label(version)}" if several else label(version))
        suite = ElementTree.Element("testsuite", name=name)
        for verdict in assessment.of(version, scenario):
            case = ElementTree.SubElement(suite, "testcase", name=clean(verdict.slo.text), classname=name)
            _rule(case, verdict, bool(assessment.faults), assessment.inconclusive)
        found.append(suite)
    for suite in found:
        suite.set("time", f"{outcome.duration:.3f}")
        suite.set("timestamp", datetime.fromtimestamp(outcome.started, UTC).strftime("%Y-%m-%dT%H:%M:%S"))
    return found


def finish(whole: ElementTree.Element) -> str:
    """Count the cases of all suites, and write them."""
    totals = {"tests": 0, "failures": 0, "errors": 0, "skipped": 0}
    for suite in whole:
        counts = {"tests": len(suite)}
        for attribute, kind in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
            counts[attribute] = sum(case.find(kind) is not None for case in suite)
        for attribute, number in counts.items():
            suite.set(attribute, str(number))
            totals[attribute] += number
    for attribute, number in totals.items():
        whole.set(attribute, str(number))
    ElementTree.indent(whole)
    return ElementTree.tostring(whole, encoding="unicode", xml_declaration=True) + "\n"


def _rule(case: ElementTree.Element, verdict: Verdict, invalid: bool, inconclusive: Policy) -> None:
    within = interval(verdict)
    text = f"value {value(verdict)}, limit {quantity(verdict.limit, verdict.scale)}"
    text += f", interval {within}" if within else ""
    if invalid:
        say(case, "skipped", f"the run is invalid; {verdict.ruling} otherwise", verdict.why)
    elif verdict.ruling == "FAIL":
        say(case, "failure", f"broken: {text}", verdict.why)
    elif verdict.ruling == "NO_DATA":
        say(case, "error", "no data", verdict.why)
    elif verdict.ruling == "INCONCLUSIVE":
        say(case, "failure" if inconclusive == "fail" else "skipped", f"inconclusive: {text}", verdict.why)
    else:
        ElementTree.SubElement(case, "system-out").text = clean(f"{verdict.why}; {text}")


def say(case: ElementTree.Element, kind: str, message: str, text: str) -> None:
    ElementTree.SubElement(case, kind, message=clean(message), type=kind).text = clean(text)


def clean(text: str) -> str:
    """Versions and messages come from servers, and XML does not allow every character."""
    return _NOT_XML.sub("�", text)
