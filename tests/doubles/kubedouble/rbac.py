"""Who may do what: Roles and bindings evaluated as the RBAC authorizer does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from kubedouble.storage import Storage

_GROUP = "rbac.authorization.k8s.io"


@dataclass(frozen=True, slots=True)
class User:
    """A name and groups; a member of system:masters may do anything."""

    name: str
    groups: tuple[str, ...] = ("system:authenticated",)

    @classmethod
    def admin(cls) -> User:
        return cls("admin", ("system:masters", "system:authenticated"))

    @classmethod
    def service_account(cls, namespace: str, name: str) -> User:
        groups = ("system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated")
        return cls(f"system:serviceaccount:{namespace}:{name}", groups)


@dataclass(frozen=True, slots=True)
class Action:
    verb: str
    group: str
    resource: str
    namespace: str = ""
    name: str = ""
    subresource: str = ""

    @property
    def target(self) -> str:
        return f"{self.resource}/{self.subresource}" if self.subresource else self.resource


def allowed(storage: Storage, user: User, action: Action) -> bool:
    return "system:masters" in user.groups or any(
        _covers(rule, action) for rule in rules(storage, user, action.namespace)
    )


def rules(storage: Storage, user: User, namespace: str) -> Iterator[dict[str, Any]]:
    bindings = storage.every((_GROUP, "clusterrolebindings"))
    if namespace:
        bindings += storage.every((_GROUP, "rolebindings"), namespace)
    for binding in bindings:
        if not any(_is(subject, user, binding.data) for subject in binding.data.get("subjects") or ()):
            continue
        role = binding.data["roleRef"]
        where = "" if role["kind"] == "ClusterRole" else binding.data["metadata"]["namespace"]
        found = storage.get((_GROUP, role["kind"].lower() + "s"), (where, role["name"]))
        yield from (found.data.get("rules") or ()) if found else ()


def _is(subject: dict[str, str], user: User, binding: dict[str, Any]) -> bool:
    kind, name = subject["kind"], subject["name"]
    if kind == "ServiceAccount":
        namespace = subject.get("namespace") or binding["metadata"].get("namespace")
        return user.name == f"system:serviceaccount:{namespace}:{name}"
    return name == user.name if kind == "User" else name in user.groups


def _covers(rule: dict[str, Any], action: Action) -> bool:
    def has(key: str, *wanted: str) -> bool:
        listed = rule.get(key) or ()
        return "*" in listed or any(each in listed for each in wanted)

    targets = [action.target] + ([f"*/{action.subresource}"] if action.subresource else [])
    named = rule.get("resourceNames")
    return (
        has("verbs", action.verb)
        and has("apiGroups", action.group)
        and has("resources", *targets)
        and (not named or action.name in named)
    )
