import pytest

from loadgen.experiment.condition import ConditionFault, parse

DOCUMENT = {
    "metadata": {"name": "wisdom", "namespace": "default"},
    "spec": [{"task": "http"}, {"run": "echo"}],
    "result": {"failure": False, "numCompletedTasks": 2, "insights": {"versionNames": [{"version": "v1"}]}},
}
FUNCTIONS = {"Completed": lambda: False, "NoFailure": lambda: True, "SLOs": lambda: False}


def holds(text: str) -> bool:
    return parse(text).holds(DOCUMENT, FUNCTIONS)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("SLOs()", False),
        ("not SLOs()", True),
        ("!SLOs() && NoFailure()", True),
        ("SLOs() || NoFailure()", True),
        ("not SLOs() and not NoFailure() or true", True),
        ("not (SLOs() or NoFailure())", False),
        ("result.numCompletedTasks >= 2", True),
        ("result.numCompletedTasks - 0 == 2", None),
        ("-1 < 2.5e1", True),
        ("result.failure == false", True),
        ('metadata.name == "wisdom"', True),
        ("metadata['name'] in ['a', 'wisdom']", True),
        ("metadata.name not in ['a']", True),
        ("result.insights.versionNames[0].version == 'v1'", True),
        ("result.insights.versionNames[3].version == nil", True),
        ("result.failure", False),
        ("1 == true", False),
    ],
)
def test_an_expression_is_true_or_false(text: str, expected: bool | None) -> None:
    if expected is None:
        with pytest.raises(ConditionFault):
            parse(text)
    else:
        assert holds(text) is expected


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "ends too early"),
        ("SLO()", "function 'SLO' is not known"),
        ("SLOs", "SLOs is a function"),
        ("SLOs(1)", "takes no arguments"),
        ("SLOs() SLOs()", "unexpected 'SLOs'"),
        ("__import__('os')", "is not known"),
        ("os.system", "'os' is not known"),
        ("42", "not true or false"),
        ("'a' == 'b", "unexpected"),
        ("(" * 60 + "true" + ")" * 60, "nested more than"),
    ],
)
def test_what_is_no_expression_is_refused_before_anything_runs(text: str, what: str) -> None:
    with pytest.raises(ConditionFault, match="|".join([what.replace("(", r"\(").replace(")", r"\)")])):
        parse(text)


@pytest.mark.parametrize("text", ["result.numCompletedTasks", "metadata.name and true", "metadata.name > 3"])
def test_what_is_not_a_boolean_is_a_fault_when_it_is_asked(text: str) -> None:
    with pytest.raises(ConditionFault):
        holds(text)
