"""Everything we ship, applied to an API server that takes no unknown field."""

from __future__ import annotations

import pytest
from applying import applied, refused
from charts import NAMESPACE, VALUES, Object, build, key, kubectl, render


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
def test_a_release_is_taken(values: Object) -> None:
    said = applied(render(values), NAMESPACE, "models")
    assert not refused(said)
    assert sum(why is None for why in said.values()) > 10


@pytest.mark.skipif(kubectl() is None, reason="no kubectl on this machine")
@pytest.mark.parametrize("overlay", ["cluster", "namespaced", "ha", "mtls"])
def test_an_overlay_is_taken(overlay: str) -> None:
    objects = build(overlay)
    said = applied([one for one in objects if one["kind"] not in ("Namespace", "CustomResourceDefinition")], NAMESPACE)
    assert not refused(said)


def test_a_misspelt_field_would_be_noticed() -> None:
    (service,) = [one for one in render() if key(one) == ("Service", NAMESPACE, "headgate")]
    service["spec"]["ports"][0]["targetport"] = 1
    (said,) = refused(applied([service], NAMESPACE)).values()
    assert "targetport" in said["message"]
