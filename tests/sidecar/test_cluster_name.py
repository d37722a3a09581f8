"""A cluster's name says which version it stands for."""

from __future__ import annotations

import pytest

from sidecar.cluster_name import is_shared, of_shared, parts
from sidecar.headers import HeaderList


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ns/iris/v1", {"namespace": "ns", "model": "iris", "version": "v1"}),
        ("ns/iris/v2~shadow", {"namespace": "ns", "model": "iris", "version": "v2"}),
        ("iris/v1", {"model": "iris", "version": "v1"}),
        ("outbound|80||iris", {}),
        ("a/b/c/d", {}),
        ("shared/10.0.0.9:8033/h2c", {}),
        ("shared/[::1]:8033/h2c", {}),
        ("shared/iris/v1", {"namespace": "shared", "model": "iris", "version": "v1"}),
        ("", {}),
    ],
)
def test_a_version_is_read(name: str, expected: dict[str, str]) -> None:
    assert parts(name) == expected


def test_only_a_server_that_models_share_is_shared() -> None:
    shared = ("shared/10.0.0.9:8033/h2c", "shared/a:1,b:2/auto/connect-250ms", "shared/a:1/h2c~shadow")
    assert all(map(is_shared, shared))
    assert not any(map(is_shared, ("shared/iris/v1", "ns/iris/v1", "shared", "", "sharedx/a:1/h2c")))


def test_at_a_shared_server_the_route_and_the_answer_say_whose_it_is() -> None:
    answer = HeaderList(((":status", "200"), ("app-version", "v2")))
    told = {name: of_shared(name, "v1@ns/iris@weighted", answer) for name in ("namespace", "model", "version")}
    assert told == {"namespace": "ns", "model": "iris", "version": "v2"}
    assert of_shared("version", "v1@ns/iris", HeaderList(())) is None
    assert of_shared("model", "another's route", answer) is None
