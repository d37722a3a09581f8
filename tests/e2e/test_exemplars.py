"""A real Prometheus keeps the ids of requests that a real Envoy has told of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from request_way import Way, entries, fetch, until
from scraping import needs_prometheus, prometheus


@needs_prometheus
def test_prometheus_leads_from_a_bucket_to_a_request(rig: Any, tmp_path: Path) -> None:
    async def body(rig: Any) -> None:
        way = Way(rig)
        await way.start()
        async with way.sidecar() as (_, url):
            for _ in range(20):
                await rig.ask("iris.test", headers={"x-test": "1"})

            async def come() -> bool:
                return await entries(url) == 20

            await until(come, "the entries have come")
            asked = json.loads(await fetch(f"{url}/requests"))["requests"]
            took = {one["id"]: one["duration_seconds"] for one in asked}
            target = {"sidecar": [url.removeprefix("http://")]}
            async with prometheus(tmp_path, target, features="exemplar-storage") as server:
                found: list[Any] = []

                async def kept() -> bool:
                    found[:] = await server.exemplars("headgate_request_duration_seconds_bucket")
                    return bool(found)

                await until(kept, "Prometheus has exemplars", within=60.0)
                for one in found:
                    assert one["series"]["version"] == "v2"
                    value = took[one["labels"]["request_id"]]
                    assert float(one["value"]) == value <= float(one["series"]["le"])
                (counted,) = await server.exemplars("headgate_requests_total")
                assert counted["labels"]["request_id"] == asked[0]["id"]

    rig(body)
