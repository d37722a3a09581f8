"""docs/status.md knows every reason that a condition or an Event can have."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_every_reason_is_on_the_page():
    page = (ROOT / "docs/status.md").read_text()
    source = (ROOT / "router/cluster/status.py").read_text()
    reasons = set(re.findall(r'"([A-Z][A-Za-z]+)"', source)) - {"True", "False", "Unknown", "Envoy"}
    assert {"NoVersionReady", "TrafficMoved", "Invalid"} <= reasons
    assert {one for one in reasons if f"`{one}`" not in page} == set()
