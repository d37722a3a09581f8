"""Everything we ship, applied to an API server that takes no unknown field."""

from __future__ import annotations

import pytest
from applying import applied, refused
from charts import DEPLOY, NAMESPACE, VALUES, Object, build, documents, key, kubectl, render
from kubedouble.fixture import Cluster


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
def test_a_release_is_taken(cluster: Cluster, values: Object) -> None:
    said = applied(cluster, render(values), NAMESPACE, "models")
    assert not refused(said)
    assert sum(why is None for why in said.values()) > 10


@pytest.mark.skipif(kubectl() is None, reason="no kubectl on this machine")
@pytest.mark.parametrize("overlay", ["cluster", "namespaced", "ha", "mtls"])
def test_an_overlay_is_taken(cluster: Cluster, overlay: str) -> None:
    assert not refused(applied(cluster, build(overlay), NAMESPACE))


def test_a_misspelt_field_would_be_noticed(cluster: Cluster) -> None:
    (service,) = [one for one in render() if key(one) == ("Service", NAMESPACE, "headgate")]
    service["spec"]["ports"][0]["targetport"] = 1
    (said,) = refused(applied(cluster, [service], NAMESPACE)).values()
    assert "targetport" in said


def test_the_crds_that_the_chart_ships_are_taken(cluster: Cluster) -> None:
    crds = list(documents(path.read_text() for path in (DEPLOY / "helm/headgate/crds").iterdir()))
    assert crds
    assert not refused(applied(cluster, crds))
