"""Puts our finalizer on an object, or takes it off, and touches nothing else: others write the same objects."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from router.cluster.drain import FINALIZER
from router.kube.client import ApiFault, Client

_ATTEMPTS = 5


def always() -> bool:
    return True


async def put_on(
    client: Client, path: str, uid: str, finalizers: Sequence[str], revision: str, may: Callable[[], bool] = always
) -> bool:
    """Whether it was put on. `may` is asked right before each write. An object that is being deleted takes none."""
    return await _change(client, path, uid, finalizers, revision, may, on=True)


async def take_off(
    client: Client, path: str, uid: str, finalizers: Sequence[str], revision: str, may: Callable[[], bool] = always
) -> bool:
    """Whether it was taken off now; an object that is gone, or has lost it already, is as good."""
    return await _change(client, path, uid, finalizers, revision, may, on=False)


async def _change(
    client: Client, path: str, uid: str, finalizers: Sequence[str], revision: str, may: Callable[[], bool], *, on: bool
) -> bool:
    """By what is known of the object first; by what it is when that has become old. Raises ApiFault."""
    for _ in range(_ATTEMPTS):
        if (FINALIZER in finalizers) == on or not may():
            return False
        # The list is written whole, as merge patches do; the revision makes sure that nobody else's entry is lost.
        others = [one for one in finalizers if one != FINALIZER]
        meta = {"resourceVersion": revision, "finalizers": [*others, FINALIZER] if on else others}
        try:
            await client.patch(path, {"metadata": meta})
            return True
        except ApiFault as fault:
            if fault.status == 404 or (fault.status == 422 and on):
                return False
            if fault.status != 409:
                raise
            conflict = fault
        present = await _present(client, path)
        if present is None or present.get("uid") != uid or (on and present.get("deletionTimestamp")):
            return False
        finalizers, revision = present.get("finalizers") or (), present["resourceVersion"]
    raise conflict


async def _present(client: Client, path: str) -> Mapping[str, Any] | None:
    try:
        found: Mapping[str, Any] = (await client.get(path))["metadata"]
    except ApiFault as fault:
        if fault.status == 404:
            return None
        raise
    return found
