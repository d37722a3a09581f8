"""Bodies in Kubernetes' protobuf form, which kubectl sends when it creates built-in objects: bytes in, JSON values out.

Field numbers are those of the published .proto files. Fields that are not listed here are dropped, which a test of
every kubectl command that we care about would notice.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from kubedouble import errors

MEDIA_TYPE = "application/vnd.kubernetes.protobuf"
_MAGIC = b"k8s\x00"
Value = int | bytes


@dataclass(frozen=True, slots=True)
class _Field:
    """`kind` is a scalar's name or a message's; `how` is one, many or map."""

    name: str
    kind: str
    how: str = "one"


def _message(text: str) -> dict[int, _Field]:
    """Read `1 name string, 2 labels map string, 3 ports many ServicePort`."""
    fields = {}
    for part in text.split(","):
        number, name, *how, kind = part.split()
        fields[int(number)] = _Field(name, kind, how[0] if how else "one")
    return fields


_TYPES = {
    name: _message(text)
    for name, text in {
        "ObjectMeta": "1 name string, 2 generateName string, 3 namespace string, 5 uid string, "
        "6 resourceVersion string, 7 generation int, 8 creationTimestamp Time, 9 deletionTimestamp Time, "
        "10 deletionGracePeriodSeconds int, 11 labels map string, 12 annotations map string, "
        "13 ownerReferences many OwnerReference, 14 finalizers many string",
        "OwnerReference": "1 kind string, 3 name string, 4 uid string, 5 apiVersion string, 6 controller bool, "
        "7 blockOwnerDeletion bool",
        "ConfigMap": "1 metadata ObjectMeta, 2 data map string, 3 binaryData map bytes, 4 immutable bool",
        "Secret": "1 metadata ObjectMeta, 2 data map bytes, 3 type string, 4 stringData map string, 5 immutable bool",
        "Namespace": "1 metadata ObjectMeta, 2 spec NamespaceSpec, 3 status NamespaceStatus",
        "NamespaceSpec": "1 finalizers many string",
        "NamespaceStatus": "1 phase string",
        "ServiceAccount": "1 metadata ObjectMeta, 4 automountServiceAccountToken bool",
        "Service": "1 metadata ObjectMeta, 2 spec ServiceSpec",
        "ServiceSpec": "1 ports many ServicePort, 2 selector map string, 3 clusterIP string, 4 type string, "
        "5 externalIPs many string, 7 sessionAffinity string, 8 loadBalancerIP string, 10 externalName string, "
        "11 externalTrafficPolicy string, 13 publishNotReadyAddresses bool, 17 ipFamilyPolicy string, "
        "18 clusterIPs many string, 19 ipFamilies many string, 22 internalTrafficPolicy string",
        "ServicePort": "1 name string, 2 protocol string, 3 port int, 4 targetPort IntOrString, 5 nodePort int, "
        "6 appProtocol string",
        "LabelSelector": "1 matchLabels map string, 2 matchExpressions many LabelSelectorRequirement",
        "LabelSelectorRequirement": "1 key string, 2 operator string, 3 values many string",
        "Deployment": "1 metadata ObjectMeta, 2 spec DeploymentSpec",
        "DeploymentSpec": "1 replicas int, 2 selector LabelSelector, 3 template PodTemplateSpec, "
        "4 strategy DeploymentStrategy, 5 minReadySeconds int, 6 revisionHistoryLimit int, 7 paused bool, "
        "9 progressDeadlineSeconds int",
        "DeploymentStrategy": "1 type string, 2 rollingUpdate RollingUpdate",
        "RollingUpdate": "1 maxUnavailable IntOrString, 2 maxSurge IntOrString",
        "PodTemplateSpec": "1 metadata ObjectMeta, 2 spec PodSpec",
        "Pod": "1 metadata ObjectMeta, 2 spec PodSpec",
        "PodSpec": "2 containers many Container, 3 restartPolicy string, 4 terminationGracePeriodSeconds int, "
        "6 dnsPolicy string, 7 nodeSelector map string, 8 serviceAccountName string, 10 nodeName string, "
        "11 hostNetwork bool, 16 hostname string, 20 initContainers many Container",
        "Container": "1 name string, 2 image string, 3 command many string, 4 args many string, 5 workingDir string, "
        "6 ports many ContainerPort, 7 env many EnvVar, 14 imagePullPolicy string, 16 stdin bool, 18 tty bool",
        "ContainerPort": "1 name string, 2 hostPort int, 3 containerPort int, 4 protocol string, 5 hostIP string",
        "EnvVar": "1 name string, 2 value string",
        "Lease": "1 metadata ObjectMeta, 2 spec LeaseSpec",
        "LeaseSpec": "1 holderIdentity string, 2 leaseDurationSeconds int, 3 acquireTime MicroTime, "
        "4 renewTime MicroTime, 5 leaseTransitions int",
        "Role": "1 metadata ObjectMeta, 2 rules many PolicyRule",
        "ClusterRole": "1 metadata ObjectMeta, 2 rules many PolicyRule",
        "PolicyRule": "1 verbs many string, 2 apiGroups many string, 3 resources many string, "
        "4 resourceNames many string, 5 nonResourceURLs many string",
        "RoleBinding": "1 metadata ObjectMeta, 2 subjects many Subject, 3 roleRef RoleRef",
        "ClusterRoleBinding": "1 metadata ObjectMeta, 2 subjects many Subject, 3 roleRef RoleRef",
        "Subject": "1 kind string, 2 apiGroup string, 3 name string, 4 namespace string",
        "RoleRef": "1 apiGroup string, 2 kind string, 3 name string",
        "DeleteOptions": "1 gracePeriodSeconds int, 2 preconditions Preconditions, 3 orphanDependents bool, "
        "4 propagationPolicy string, 5 dryRun many string",
        "Preconditions": "1 uid string, 2 resourceVersion string",
        "SelfSubjectAccessReview": "1 metadata ObjectMeta, 2 spec SelfSubjectAccessReviewSpec",
        "SelfSubjectAccessReviewSpec": "1 resourceAttributes ResourceAttributes, "
        "2 nonResourceAttributes NonResourceAttributes",
        "ResourceAttributes": "1 namespace string, 2 verb string, 3 group string, 4 version string, "
        "5 resource string, 6 subresource string, 7 name string",
        "NonResourceAttributes": "1 path string, 2 verb string",
        "SelfSubjectReview": "1 metadata ObjectMeta",
    }.items()
}
_NO_ZERO = {"generation", "hostPort", "stdin", "tty", "hostNetwork", "minReadySeconds", "paused", "nodePort"}
_NO_ZERO |= {"publishNotReadyAddresses"}
_TYPES["TypeMeta"] = _message("1 apiVersion string, 2 kind string")


def read(raw: bytes) -> dict[str, Any]:
    """The object inside runtime.Unknown, as it would have looked in JSON."""
    if not raw.startswith(_MAGIC):
        raise errors.bad_request("provided data does not appear to be a protobuf message, expected prefix 'k8s'")
    try:
        wrapper = dict(_wire(raw[len(_MAGIC) :]))
        about = _decode("TypeMeta", _bytes(wrapper.get(1, b"")))
        kind = about.get("kind", "")
        if kind not in _TYPES:
            raise errors.ApiError(415, "UnsupportedMediaType", f"this double reads no {kind} in protobuf: send JSON")
        return {**about, **_decode(kind, _bytes(wrapper.get(2, b"")))}
    except (IndexError, ValueError, struct.error) as fault:
        raise errors.bad_request(f"proto: illegal wireType or truncated message: {fault}") from fault


def _wire(raw: bytes) -> Iterator[tuple[int, Value]]:
    at = 0
    while at < len(raw):
        tag, at = _varint(raw, at)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, at = _varint(raw, at)
            yield number, value
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
            yield number, raw[at : at + size]
            at += size
        elif wire == 2:
            size, at = _varint(raw, at)
            if at + size > len(raw):
                raise ValueError("unexpected EOF")
            yield number, raw[at : at + size]
            at += size
        else:
            raise ValueError(f"wire type {wire}")


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = raw[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def _decode(kind: str, raw: bytes) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for number, value in _wire(raw):
        field = _TYPES[kind].get(number)
        if field is None:
            continue
        if field.how == "map":
            entry = dict(_wire(_bytes(value)))
            key = _bytes(entry.get(1, b"")).decode()
            found.setdefault(field.name, {})[key] = _value(field.kind, entry.get(2, b""))
        elif field.how == "many":
            found.setdefault(field.name, []).append(_value(field.kind, value))
        else:
            found[field.name] = _value(field.kind, value)
    # Go's encoder writes what is no pointer even when it is empty: in JSON it would be absent.
    return {name: each for name, each in found.items() if each not in ("", {}, None) and (each or name not in _NO_ZERO)}


def _value(kind: str, value: Value) -> Any:
    if kind == "string":
        return _bytes(value).decode()
    if kind == "bytes":
        return base64.b64encode(_bytes(value)).decode()
    if kind in ("int", "bool"):
        number = value if isinstance(value, int) else 0
        return bool(number) if kind == "bool" else number - (1 << 64) if number >= 1 << 63 else number
    if kind in ("Time", "MicroTime"):
        return _time(_bytes(value), micro=kind == "MicroTime")
    if kind == "IntOrString":
        parts = dict(_wire(_bytes(value)))
        return _bytes(parts.get(3, b"")).decode() if parts.get(1) else _value("int", parts.get(2, 0))
    return _decode(kind, _bytes(value))


def _time(raw: bytes, *, micro: bool) -> str | None:
    parts = dict(_wire(raw))
    seconds, nanos = _value("int", parts.get(1, 0)), _value("int", parts.get(2, 0))
    if not raw or seconds < 0:
        return None
    at = datetime.fromtimestamp(seconds, UTC).replace(microsecond=nanos // 1000)
    return at.strftime("%Y-%m-%dT%H:%M:%S.%fZ" if micro else "%Y-%m-%dT%H:%M:%SZ")


def _bytes(value: Value) -> bytes:
    if isinstance(value, int):
        raise ValueError(f"{value} where bytes are expected")
    return value
