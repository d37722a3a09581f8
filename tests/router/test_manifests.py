# ruff: noqa: E501 (the table reads best with one case per line)
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from router.documents import documents
from router.manifests import Parsed, parse

GOOD = """\
apiVersion: headgate.dev/v1alpha1
kind: ModelRollout
metadata:
  name: iris
spec:
  hosts: [iris.local]
  versions:
  - name: v1
    weight: 90
    backend: {endpoints: ["127.0.0.1:8001"]}
  - name: v2
    weight: 10
    backend: {endpoints: ["127.0.0.1:8002"]}
"""
DEPLOYMENT = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: x}\n"


def read(text: str | bytes) -> Parsed:
    return parse(text if isinstance(text, bytes) else text.encode(), "iris.yaml")


def complaints(text: str | bytes) -> list[str]:
    return [str(problem) for problem in read(text).problems]


def test_a_rollout_is_found_with_the_line_where_it_begins():
    got = read(f"# a comment\n---\n{GOOD}")
    assert [(one.rollout.key, one.where) for one in got.rollouts] == [("default/iris", "iris.yaml:3")]
    assert got.problems == ()


def test_several_documents_in_a_file_and_foreign_kinds_beside_them():
    got = read(f"{GOOD}---\n{DEPLOYMENT}---\n{GOOD.replace('iris', 'rose')}---\n")
    assert [one.rollout.metadata.name for one in got.rollouts] == ["iris", "rose"]
    assert got.foreign == 1
    assert got.problems == ()


@pytest.mark.parametrize("empty", ["", "\n\n", "---\n", "# only a comment\n", "---\n---\n", "\ufeff"])
def test_an_empty_file_is_fine(empty):
    assert read(empty) == Parsed()


def test_a_byte_order_mark_and_windows_line_ends_are_fine():
    assert len(read("\ufeff" + GOOD.replace("\n", "\r\n")).rollouts) == 1


def test_all_problems_of_a_file_are_told_at_once_with_their_lines():
    bad = GOOD.replace("weight: 90", "weigth: 90").replace("weight: 10", "weight: -10").replace("8002", "99999")
    assert complaints(f"{bad}---\n{GOOD.replace('[iris.local]', '[]')}") == [
        "iris.yaml:9: spec.versions[0].weigth: unknown field 'weigth' (did you mean 'weight'?)",
        "iris.yaml:12: spec.versions[1].weight: must be at least 0, not -10 (give a larger number)",
        "iris.yaml:13: spec.versions[1].backend.endpoints[0]: port 99999 is out of range (ports are 1 to 65535)",
        "iris.yaml:20: spec.hosts: is an empty list (give at least one)",
    ]


def test_a_missing_field_is_reported_at_the_part_that_lacks_it():
    assert complaints(GOOD.replace('    backend: {endpoints: ["127.0.0.1:8002"]}\n', "")) == [
        "iris.yaml:11: spec.versions[1].backend: is missing (it is required; in Kubernetes resources will do)"
    ]


def test_a_bad_document_does_not_hide_its_good_neighbours():
    got = read(f"{GOOD.replace('iris', 'Iris')}---\n{GOOD}")
    assert [one.rollout.metadata.name for one in got.rollouts] == ["iris"]
    assert len(got.problems) == 2  # the name and the host


def test_broken_yaml_names_line_and_column_and_keeps_the_documents_before_it():
    got = read(f"{GOOD}---\nspec: [1, 2\nkind: x\n")
    assert len(got.rollouts) == 1
    (problem,) = got.problems
    assert str(problem) == (
        "iris.yaml:16:5: broken YAML: did not find expected ',' or ']' while parsing a flow sequence "
        "(mend the line; nothing after it was read)"
    )


def test_a_file_half_written_is_broken_not_half_applied():
    for cut in range(1, len(GOOD)):
        for one in read(GOOD[:cut]).rollouts:
            assert one.rollout.primary.name == "v1"
    assert read(GOOD[: GOOD.index("8001")]).rollouts == ()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"a: \xff\xfe", "iris.yaml:1: the file is not UTF-8 text: byte 0xff at offset 3 (save it as UTF-8)"),
        (b"a: 1\nb: \xe9\n", "iris.yaml:2: the file is not UTF-8 text: byte 0xe9 at offset 8 (save it as UTF-8)"),
        ("just text", "iris.yaml:1: the document is not a mapping (start with apiVersion: headgate.dev/v1alpha1 and kind: ModelRollout)"),
        ("a: 1", "iris.yaml:1: apiVersion and kind missing (write apiVersion: headgate.dev/v1alpha1 and kind: ModelRollout)"),
        (GOOD.replace("v1alpha1", "v1"), "iris.yaml:1: apiVersion: apiVersion 'headgate.dev/v1' is not known for ModelRollout (write apiVersion: headgate.dev/v1alpha1)"),
        (GOOD.replace("headgate.dev", "headgate.io"), "iris.yaml:1: apiVersion: apiVersion 'headgate.io/v1alpha1' is not known for ModelRollout (write apiVersion: headgate.dev/v1alpha1)"),
        (GOOD.replace("ModelRollout", "ModelRolout"), "iris.yaml:2: kind: kind 'ModelRolout' is not known in headgate.dev/v1alpha1 (write kind: ModelRollout)"),
        (GOOD.replace("ModelRollout", "modelrollout").replace("headgate.dev", "headgte.dev"), "iris.yaml:2: kind: kind 'modelrollout' is not known in headgte.dev/v1alpha1 (write kind: ModelRollout)"),
        (GOOD.replace("kind: ModelRollout\n", ""), "iris.yaml:1: kind is missing beside apiVersion: headgate.dev/v1alpha1 (write kind: ModelRollout)"),
        (GOOD.replace("apiVersion: headgate.dev/v1alpha1\n", ""), "iris.yaml:1: apiVersion is missing beside kind: ModelRollout (write apiVersion: headgate.dev/v1alpha1)"),
        (GOOD.replace("    weight: 90", "    name: v0"), "iris.yaml:9: spec.versions[0].name: key 'name' is given twice (keep one of them)"),
        (GOOD.replace("weight: 90", "weight: !!python/name:os.system 90"), "iris.yaml:9: spec.versions[0].weight: tag 'tag:yaml.org,2002:python/name:os.system' is not known (remove it)"),
        (GOOD.replace("name: iris", "? [a, b]\n  : 1\n  name: iris"), "iris.yaml:4: metadata: a key is not plain text (write name: value)"),
        (f"{GOOD}---\n{GOOD}", "iris.yaml:15: metadata.name: default/iris is already defined at iris.yaml:1 (give it another name, or remove one of them)"),
        ("a: \x00", "iris.yaml: broken YAML: unacceptable character #x0000: control characters are not allowed at offset 3 (nothing of the file was read)"),
        ("a:\n\tb: 1", "iris.yaml:2:1: broken YAML: found character that cannot start any token while scanning for the next token (indent with blanks, not with tabs; nothing after it was read)"),
        ("apiVersion: v1\nkind: List\nitems:\n- kind: ModelRollout\n", "iris.yaml:2: kind: a List with a ModelRollout in it is not read (write each as a document of its own, after a '---')"),
        ("a: *nowhere", "iris.yaml:1:4: broken YAML: found undefined alias (mend the line; nothing after it was read)"),
    ],
)  # fmt: skip
def test_bad_files(text, expected):
    assert complaints(text) == [expected]


def test_duplicate_keys_do_not_hide_other_problems():
    bad = GOOD.replace("    weight: 90", "    name: v0").replace("weight: 10", "weight: ten")
    assert [line.split(" ")[1] for line in complaints(bad)] == ["spec.versions[0].name:", "spec.versions[1].weight:"]


def test_the_mistakes_of_foreign_documents_are_not_ours():
    got = read(DEPLOYMENT + "spec: !Ref x\nkind: Deployment\n")
    assert (got.problems, got.foreign) == ((), 1)


def test_yaml_1_1_surprises_are_told_or_avoided():
    assert complaints(GOOD.replace("name: v2", "name: no")) == [
        "iris.yaml:11: spec.versions[1].name: must be text, not false "
        "(put it in quotes: YAML takes yes, no, on and off for true and false)"
    ]
    dated = GOOD.replace("name: v2", "name: 2026-01-01")
    assert read(dated).rollouts[0].rollout.spec.versions[1].name == "2026-01-01"
    assert "must be a whole number, not '1:30'" in complaints(GOOD.replace("weight: 90", "weight: 1:30"))[0]
    assert read(GOOD.replace("weight: 90", "weight: 0x10")).rollouts[0].rollout.primary.weight == 16


def test_null_is_the_same_as_leaving_a_field_out():
    nulled = GOOD.replace("weight: 90", "weight:").replace("hosts:", "gateway: null\n  hosts:")
    (one,) = read(nulled).rollouts
    assert one.rollout.primary.weight is None
    assert one.rollout.spec.gateway == "default"


def test_anchors_and_merge_keys_work():
    text = GOOD.replace("  - name: v1\n", "  - &base\n    name: v1\n").replace(
        "  - name: v2\n    weight: 10\n", "  - <<: *base\n    name: v2\n"
    )
    (one,) = read(text).rollouts
    assert [(version.name, version.weight) for version in one.rollout.spec.versions] == [("v1", 90), ("v2", 90)]


def test_values_are_those_that_pyyaml_reads():
    text = "a: 1\nb: -0b101\nc: 017\nd: 1_000\ne: 1.5\nf: .inf\ng: 'yes'\nh: on\ni: text\nj: 0xFF\nk: +3\nl: 6.02e+23\n"
    (document,) = documents(text, "")
    assert document.build() == (yaml.safe_load(text), [])


BILLION_LAUGHS = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 10)
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (BILLION_LAUGHS, "holds more than 200,000 values"),
        ("a: &a [*a]", "nested more than 64 levels"),
        ("[" * 200_000, "nested more than 64 levels"),
        ("{a: " * 200_000, "nested more than 64 levels"),
        ("- " * 200_000, "nested more than 64 levels"),
        ("a:\r" + "- " * 200_000, "nested more than 64 levels"),
        ("? " * 200_000, "nested more than 64 levels"),
        ("\n".join(" " * depth + "a:" for depth in range(3_000)), "nested more than 64 levels"),
        ("x" * (16 * 1024 * 1024 + 1), "at most 16,777,216 are read"),
    ],
    ids=["laughs", "self", "brackets", "braces", "dashes", "cr", "keys", "indent", "large"],
)
def test_hostile_files_are_refused_and_take_nothing_down(text, expected):
    (line,) = complaints(text)
    assert expected in line


def test_a_file_of_ten_thousand_lines_is_read():
    versions = "".join(f"    - headers: [{{name: traffic, exact: test-{n}}}]\n" for n in range(16))
    one = GOOD + "    match:\n" + versions
    many = "---\n".join(one.replace("name: iris", f"name: iris-{n}") for n in range(350))
    got = read(many)
    assert many.count("\n") > 10_000
    assert len(got.rollouts) == 350
    assert got.problems == ()


@given(st.binary(max_size=200))
def test_no_bytes_whatever_make_the_reader_fail(data):
    parse(data, "any.yaml")


@given(
    st.integers(0, len(GOOD)), st.integers(0, 20), st.text(st.sampled_from("[]{}:-?&*!|>'\"%@` \n\tax1#,"), max_size=8)
)
def test_no_damage_to_a_good_file_makes_the_reader_fail(at, gone, put):
    got = read(GOOD[:at] + put + GOOD[at + gone :])
    assert all(problem.where.startswith("iris.yaml") for problem in got.problems)
