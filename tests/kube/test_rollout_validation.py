"""A dry run at the API server finds what `headgate validate` finds, but for what docs/reference.md says it cannot."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kubedouble.fixture import Cluster, Refused

ROOT = Path(__file__).parents[2]
API, KIND = "headgate.dev/v1alpha1", "ModelRollout"

DOCUMENTED = {
    "is valid RE2": r"regular expression .* is not valid",
    "may be matched or set": r"the host header cannot be matched|cannot be changed|cannot be set",
    "twice in different capitals": r"header 'A' is given twice",
    "at most 4096 characters": r"characters of settings are too many",
    "inside an endpoint is in range": r"port \d+ is out of range|is not an IP address \(each part is 0 to 255",
}
"""Words of docs/reference.md, "What only the control plane checks", and the complaints that they stand for."""
SAME_IN_JSON = "must be a whole number, not 2.0"
"""The API server stores 2.0 as 2, which is a whole number."""


def rows() -> Iterator[Any]:
    """All that the parser's own tests refuse."""
    found = importlib.util.spec_from_file_location("schema_rows", ROOT / "tests/router/test_schema.py")
    assert found
    assert found.loader
    table = importlib.util.module_from_spec(found)
    found.loader.exec_module(table)
    for place, value, words in table.BAD:
        yield pytest.param(table.changed((place, value)), words, id=words[:70])


@pytest.mark.parametrize(("raw", "words"), [*rows()])
def test_a_dry_run_refuses_what_validate_refuses(cluster: Cluster, raw: dict[str, Any], words: str) -> None:
    raw["metadata"] = {**raw["metadata"], "namespace": "default"}
    only_ours = any(re.search(pattern, words) for pattern in DOCUMENTED.values()) or SAME_IN_JSON in words
    path = cluster.path(API, KIND, "", "default") + "?dryRun=All&fieldValidation=Strict"
    refused = refusal(cluster, path, raw)
    if only_ours:
        assert refused is None, "the API server finds it too, so docs/reference.md need not name it"
    else:
        assert refused is not None, "docs/reference.md does not say that a dry run lets this pass"
        assert refused.status in (400, 422)


def refusal(cluster: Cluster, path: str, raw: dict[str, Any]) -> Refused | None:
    try:
        cluster.ask("POST", path, raw)
    except Refused as refused:
        return refused
    return None


@pytest.mark.parametrize("words", DOCUMENTED)
def test_what_only_the_control_plane_finds_is_documented(words: str) -> None:
    page = (ROOT / "docs/reference.md").read_text().partition("## What only the control plane checks")[2]
    assert words in " ".join(page.split())
