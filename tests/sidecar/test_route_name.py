"""What the control plane says by the names of its routes."""

import pytest

from sidecar.route_name import RouteName, read
from xds.ir import Match, ModelPlan, Route, Target
from xds.translate_access import route_name


@pytest.mark.parametrize(
    ("primary", "name"), [("v1", "weighted"), ("", "weighted"), ("v1", "v2/match-0"), ("v1", "weighted-grpc")]
)
def test_what_is_said_is_read(primary: str, name: str) -> None:
    plan = ModelPlan("default/iris", "default", (), (), (), primary)
    route = Route(name, Match(), (Target("default/iris/v1", 10_000, "v1"),))
    assert read(route_name(plan, route)) == RouteName(primary, "default/iris", name)


def test_the_name_of_another_control_plane_stays_whole() -> None:
    assert read("my-route") == RouteName("", "", "my-route")
