"""A cluster's name says which version it stands for."""

from __future__ import annotations

import pytest

from sidecar.cluster_name import parts


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ns/iris/v1", {"namespace": "ns", "model": "iris", "version": "v1"}),
        ("ns/iris/v2~shadow", {"namespace": "ns", "model": "iris", "version": "v2"}),
        ("iris/v1", {"model": "iris", "version": "v1"}),
        ("outbound|80||iris", {}),
        ("a/b/c/d", {}),
        ("", {}),
    ],
)
def test_a_version_is_read(name: str, expected: dict[str, str]) -> None:
    assert parts(name) == expected
