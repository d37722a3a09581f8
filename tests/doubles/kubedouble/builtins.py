"""What the built-in kinds fill in and refuse. Nothing here runs Pods: readiness is played by the test."""

from __future__ import annotations

import base64
import copy
import ipaddress
import re
from collections.abc import Iterator
from typing import Any

from kubedouble.errors import Cause
from kubedouble.metadata import (
    dns_label_faults,
    forbidden,
    invalid_value,
    label_faults,
    required,
    shown,
    subdomain_faults,
    unsupported,
)
from kubedouble.resource import Resource

Object = dict[str, Any]
_KEY = re.compile(r"[-._a-zA-Z0-9]+")
LOOPBACK = "may not be in the loopback range (127.0.0.0/8, ::1/128)"
_POD = (
    "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,"
    "`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),"
    "`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"
)
_NEGATIVE = "must be greater than or equal to 0"
_SELECTORLESS = "empty selector is invalid for "
_STATEFULSET = (
    "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', "
    "'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden"
)
_SECRET_KEYS = {
    "kubernetes.io/tls": ("tls.crt", "tls.key"),
    "kubernetes.io/dockerconfigjson": (".dockerconfigjson",),
    "kubernetes.io/dockercfg": (".dockercfg",),
    "kubernetes.io/ssh-auth": ("ssh-privatekey",),
}
_ACCOUNT = "kubernetes.io/service-account.name"
_PROTOCOLS = ("SCTP", "TCP", "UDP")
_LIMIT = 1024 * 1024
_WORKLOADS = {"deployments", "statefulsets", "replicasets", "daemonsets"}


def _template_defaults(template: Object) -> None:
    spec = template.setdefault("spec", {})
    _fill(spec, restartPolicy="Always", terminationGracePeriodSeconds=30, dnsPolicy="ClusterFirst", securityContext={})
    _fill(spec, schedulerName="default-scheduler")
    for container in [*(spec.get("containers") or ()), *(spec.get("initContainers") or ())]:
        image = container.get("image", "")
        latest = image.endswith(":latest") or ":" not in image.rsplit("/", 1)[-1]
        _fill(container, terminationMessagePath="/dev/termination-log", terminationMessagePolicy="File", resources={})
        _fill(container, imagePullPolicy="Always" if latest else "IfNotPresent")
        for port in container.get("ports") or ():
            _fill(port, protocol="TCP")
        for name in ("readinessProbe", "livenessProbe", "startupProbe"):
            if probe := container.get(name):
                _fill(probe, timeoutSeconds=1, periodSeconds=10, successThreshold=1, failureThreshold=3)
                if get := probe.get("httpGet"):
                    _fill(get, path="/", scheme="HTTP")


def _fill(part: Object, **given: Any) -> None:
    for key, value in given.items():
        part.setdefault(key, copy.deepcopy(value))


def default(resource: Resource, obj: Object, old: Object | None, next_ip: int) -> None:
    """Fill in what the API server fills in, in place."""
    plural = resource.plural
    spec = obj.get("spec") if isinstance(obj.get("spec"), dict) else None
    if plural == "secrets":
        plain = obj.pop("stringData", None) or {}
        if plain:
            encoded = {key: base64.b64encode(value.encode()).decode() for key, value in plain.items()}
            obj["data"] = {**(obj.get("data") or {}), **encoded}
        _fill(obj, type="Opaque")
    elif plural == "services":
        _service(obj.setdefault("spec", {}), old, next_ip)
        _fill(obj, status={"loadBalancer": {}})
    elif plural == "namespaces":
        _fill(obj, spec={"finalizers": ["kubernetes"]}, status={"phase": "Active"})
        if not (old or {}).get("metadata", {}).get("deletionTimestamp"):
            obj["spec"].setdefault("finalizers", ["kubernetes"])
        labels = obj["metadata"].get("labels") or {}
        obj["metadata"]["labels"] = {**labels, "kubernetes.io/metadata.name": obj["metadata"].get("name", "")}
    elif plural == "pods" and spec is not None:
        _template_defaults(obj)
        _fill(spec, enableServiceLinks=True, preemptionPolicy="PreemptLowerPriority", priority=0)
        _fill(obj, status={"phase": "Pending", "qosClass": "BestEffort"})
    elif plural in _WORKLOADS and spec is not None:
        _workload(plural, obj, spec)
    elif plural == "jobs" and spec is not None:
        _fill(spec, backoffLimit=6, completionMode="NonIndexed", completions=1, parallelism=1, suspend=False)
        _fill(obj, status={})
    elif plural == "endpointslices":
        for port in obj.get("ports") or ():
            _fill(port, name="", protocol="TCP")
    elif plural == "endpoints":
        for subset in obj.get("subsets") or ():
            for port in subset.get("ports") or ():
                _fill(port, protocol="TCP")
    elif plural == "poddisruptionbudgets" and spec is not None:
        _fill(obj, status={"currentHealthy": 0, "desiredHealthy": 0, "disruptionsAllowed": 0, "expectedPods": 0})
    elif plural == "events":
        _fill(obj, reportingComponent="", reportingInstance="", source={})


def _workload(plural: str, obj: Object, spec: Object) -> None:
    template = spec.setdefault("template", {})
    _template_defaults(template)
    if plural != "daemonsets":
        _fill(spec, replicas=1)
    rolling = {"maxSurge": "25%", "maxUnavailable": "25%"}
    if plural == "deployments":
        _fill(spec, progressDeadlineSeconds=600, revisionHistoryLimit=10, strategy={"type": "RollingUpdate"})
        _fill(spec["strategy"], type="RollingUpdate")
        if spec["strategy"]["type"] == "RollingUpdate":
            _fill(spec["strategy"].setdefault("rollingUpdate", {}), **rolling)
        _fill(obj, status={})
    elif plural == "statefulsets":
        _fill(spec, podManagementPolicy="OrderedReady", revisionHistoryLimit=10, serviceName="")
        _fill(spec, updateStrategy={"type": "RollingUpdate", "rollingUpdate": {"partition": 0}})
        _fill(spec, persistentVolumeClaimRetentionPolicy={"whenDeleted": "Retain", "whenScaled": "Retain"})
        _fill(obj, status={"availableReplicas": 0, "replicas": 0})
    elif plural == "daemonsets":
        strategy = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}
        _fill(spec, revisionHistoryLimit=10, updateStrategy=strategy)
        counts = ("currentNumberScheduled", "desiredNumberScheduled", "numberMisscheduled", "numberReady")
        _fill(obj, status=dict.fromkeys(counts, 0))
    else:
        _fill(obj, status={"replicas": 0})


def _service(spec: Object, old: Object | None, next_ip: int) -> None:
    _fill(spec, type="ClusterIP", sessionAffinity="None")
    for port in spec.get("ports") or ():
        _fill(port, protocol="TCP")
        if port.get("targetPort") in (None, 0, ""):
            port["targetPort"] = port.get("port", 0)
    if spec["type"] == "ExternalName":
        return
    _fill(spec, internalTrafficPolicy="Cluster", ipFamilies=["IPv4"], ipFamilyPolicy="SingleStack")
    was = (old or {}).get("spec", {})
    if not spec.get("clusterIP"):
        spec["clusterIP"] = was.get("clusterIP") or f"10.96.{next_ip // 250 % 250}.{next_ip % 250 + 1}"
    if spec["clusterIP"] != was.get("clusterIP", spec["clusterIP"]) and spec.get("clusterIPs") == was.get("clusterIPs"):
        spec["clusterIPs"] = [spec["clusterIP"]]
    _fill(spec, clusterIPs=[spec["clusterIP"]])
    if spec["type"] in ("NodePort", "LoadBalancer"):
        _fill(spec, externalTrafficPolicy="Cluster")
        for index, port in enumerate(spec.get("ports") or ()):
            _fill(port, nodePort=30000 + (next_ip * 7 + index) % 2767)


def faults(resource: Resource, obj: Object, old: Object | None) -> Iterator[Cause]:
    """What a built-in kind refuses about its content (its metadata is judged elsewhere)."""
    plural = resource.plural
    if plural in ("configmaps", "secrets"):
        yield from _data_faults(plural, obj, old)
    elif plural == "services":
        yield from _service_faults(obj, old)
    elif plural in _WORKLOADS:
        yield from _workload_faults(plural, obj, old)
    elif plural == "pods":
        yield from _pod_faults(obj.get("spec") or {}, "spec")
        if old and _fixed(obj) != _fixed(old):
            yield forbidden("spec", _POD)
    elif plural == "leases":
        spec = obj.get("spec") or {}
        for name, low in (("leaseDurationSeconds", 1), ("leaseTransitions", 0)):
            if spec.get(name) is not None and spec[name] < low:
                why = "must be greater than 0" if low else "must be greater than or equal to 0"
                yield invalid_value(f"spec.{name}", spec[name], why)
    elif plural == "endpointslices":
        yield from _slice_faults(obj, old)
    elif plural == "endpoints":
        for index, subset in enumerate(obj.get("subsets") or ()):
            for number, address in enumerate(subset.get("addresses") or ()):
                kind = "IPv6" if ":" in address.get("ip", "") else "IPv4"
                for fault in _address_faults(kind, address.get("ip", "")):
                    yield invalid_value(f"subsets[{index}].addresses[{number}].ip", address.get("ip", ""), fault)
    elif plural == "events" and resource.group:
        for part in (
            ("eventTime", "reportingController", "reportingInstance", "action", "reason") if old is None else ()
        ):
            if not obj.get(part):
                yield required(part)
        if old is None and obj.get("type") not in ("Normal", "Warning"):
            yield invalid_value("type", obj.get("type", ""), "has invalid value: " + str(obj.get("type", "")))
    elif plural == "events":
        involved = (obj.get("involvedObject") or {}).get("namespace", "")
        if involved != obj["metadata"].get("namespace") and not (
            involved == "" and obj["metadata"].get("namespace") == "default"
        ):
            yield invalid_value("involvedObject.namespace", involved, "does not match event.namespace")


def status_faults(obj: Object) -> Iterator[Cause]:
    """What a write to the status of a workload may not say."""
    status = obj.get("status") or {}
    for part in ("replicas", "updatedReplicas", "readyReplicas", "availableReplicas", "unavailableReplicas"):
        if isinstance(count := status.get(part), int) and count < 0:
            yield invalid_value(f"status.{part}", count, _NEGATIVE)
    if obj.get("kind") not in ("Deployment", "StatefulSet"):
        return
    for part, bound in (
        ("updatedReplicas", "replicas"),
        ("readyReplicas", "replicas"),
        ("availableReplicas", "replicas"),
        ("availableReplicas", "readyReplicas"),
    ):
        if status.get(part, 0) > status.get(bound, 0):
            said = "status.replicas" if bound == "replicas" else bound
            yield invalid_value(f"status.{part}", status[part], f"cannot be greater than {said}")


def _data_faults(plural: str, obj: Object, old: Object | None) -> Iterator[Cause]:
    size = 0
    for part in ("data", "binaryData"):
        for key, value in (obj.get(part) or {}).items():
            size += len(value.encode()) if part == "data" and plural == "configmaps" else len(value) * 3 // 4
            for why in _key_faults(key):
                yield invalid_value(f"{part}[{key}]", key, why)
    if plural == "configmaps":
        for key in (obj.get("data") or {}).keys() & (obj.get("binaryData") or {}).keys():
            yield invalid_value(f"data[{key}]", key, "duplicate of key present in binaryData")
    if size > _LIMIT:
        where = "data" if plural == "secrets" else ""
        yield Cause(where, "FieldValueTooLong", f"Too long: may not be more than {_LIMIT} bytes")
    kind, data = obj.get("type", ""), obj.get("data") or {}
    if plural == "secrets":
        for key in _SECRET_KEYS.get(kind, ()):
            if key not in data:
                yield required(f"data[{key}]")
        if kind == "kubernetes.io/basic-auth" and not data.keys() & {"username", "password"}:
            yield required("data[username]")
            yield required("data[password]")
        annotations = obj["metadata"].get("annotations") or {}
        if kind == "kubernetes.io/service-account-token" and not annotations.get(_ACCOUNT):
            yield required(f"metadata.annotations[{_ACCOUNT}]")
        if old and old.get("type") != kind:
            yield invalid_value("type", kind, "field is immutable")
    if old and old.get("immutable"):
        if not obj.get("immutable"):
            yield forbidden("immutable", "field is immutable when `immutable` is set")
        for part in ("data", "binaryData"):
            if (obj.get(part) or {}) != (old.get(part) or {}):
                yield forbidden(part, "field is immutable when `immutable` is set")


def _key_faults(key: str) -> Iterator[str]:
    if len(key) > 253:
        yield "must be no more than 253 bytes"
    if not _KEY.fullmatch(key):
        yield (
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or "
            "'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')"
        )
    elif key in (".", ".."):
        yield f"must not be '{key}'"
    elif key.startswith(".."):
        yield "must not start with '..'"


def _service_faults(obj: Object, old: Object | None) -> Iterator[Cause]:
    spec = obj.get("spec") or {}
    kind, ports = spec.get("type"), spec.get("ports") or []
    if kind not in ("ClusterIP", "NodePort", "LoadBalancer", "ExternalName"):
        yield unsupported("spec.type", kind, ("ClusterIP", "ExternalName", "LoadBalancer", "NodePort"))
    if spec.get("sessionAffinity") not in ("None", "ClientIP"):
        yield unsupported("spec.sessionAffinity", spec.get("sessionAffinity"), ("ClientIP", "None"))
    yield from label_faults("spec.selector", spec.get("selector"))
    if kind == "ExternalName" and not spec.get("externalName"):
        yield required("spec.externalName")
    if not ports and kind != "ExternalName" and spec.get("clusterIP") != "None":
        yield required("spec.ports")
    seen: set[tuple[Any, Any]] = set()
    names: set[str] = set()
    for index, port in enumerate(ports):
        where = f"spec.ports[{index}]"
        name = port.get("name", "")
        if len(ports) > 1 and not name:
            yield required(f"{where}.name")
        for fault in dns_label_faults(name) if name else ():
            yield invalid_value(f"{where}.name", name, fault)
        if name and name in names:
            yield Cause(f"{where}.name", "FieldValueDuplicate", f'Duplicate value: "{name}"')
        names.add(name)
        yield from _port_faults(f"{where}.port", port.get("port", 0))
        target = port.get("targetPort")
        if isinstance(target, int):
            yield from _port_faults(f"{where}.targetPort", target)
        else:
            for fault in _port_name_faults(target or ""):
                yield invalid_value(f"{where}.targetPort", target, fault)
        if port.get("protocol") not in _PROTOCOLS:
            yield unsupported(f"{where}.protocol", port.get("protocol"), _PROTOCOLS)
        if (pair := (port.get("protocol"), port.get("port"))) in seen:
            same = {
                "Name": "",
                "Protocol": pair[0],
                "AppProtocol": None,
                "Port": pair[1],
                "TargetPort": 0,
                "NodePort": 0,
            }
            yield Cause(where, "FieldValueDuplicate", f"Duplicate value: {shown(same)}")
        seen.add(pair)
    before = (old or {}).get("spec", {})
    if before.get("clusterIP") and kind != "ExternalName" and before["clusterIP"] != spec.get("clusterIP"):
        yield invalid_value("spec.clusterIPs[0]", spec.get("clusterIPs"), "may not change once set")


def _port_faults(where: str, port: int) -> Iterator[Cause]:
    if not 1 <= port <= 65535:
        yield invalid_value(where, port, "must be between 1 and 65535, inclusive")


def _port_name_faults(name: str) -> Iterator[str]:
    if len(name) > 15:
        yield "must be no more than 15 characters"
    if not re.fullmatch(r"[-a-z0-9]*", name):
        yield "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)"
    if not re.search(r"[a-z]", name):
        yield "must contain at least one letter (a-z)"
    if "--" in name:
        yield "must not contain consecutive hyphens"
    if name.startswith("-") or name.endswith("-"):
        yield "must not begin or end with a hyphen"


def _fixed(pod: Object) -> Object:
    """The part of a Pod's spec that stays as it was created."""
    free = ("activeDeadlineSeconds", "terminationGracePeriodSeconds", "tolerations", "schedulingGates")
    spec = {key: each for key, each in (pod.get("spec") or {}).items() if key not in free}
    for part in ("containers", "initContainers"):
        spec[part] = [{**each, "image": ""} for each in spec.get(part) or ()]
    return spec


def _workload_faults(plural: str, obj: Object, old: Object | None) -> Iterator[Cause]:
    spec = obj.get("spec") or {}
    replicas = spec.get("replicas", 1)
    if isinstance(replicas, int) and replicas < 0:
        yield invalid_value("spec.replicas", replicas, _NEGATIVE)
    if isinstance(seconds := spec.get("minReadySeconds"), int) and seconds < 0:
        yield invalid_value("spec.minReadySeconds", seconds, _NEGATIVE)
    strategy = spec.get("strategy") or {}
    if plural == "deployments" and strategy.get("type") not in ("Recreate", "RollingUpdate"):
        yield unsupported("spec.strategy.type", strategy.get("type"), ("Recreate", "RollingUpdate"))
    if strategy.get("type") == "Recreate" and strategy.get("rollingUpdate"):
        yield forbidden("spec.strategy.rollingUpdate", "may not be specified when strategy `type` is 'Recreate'")
    selector = spec.get("selector")
    labels = (spec.get("template", {}).get("metadata") or {}).get("labels") or {}
    mismatch = invalid_value("spec.template.metadata.labels", labels, "`selector` does not match template `labels`")
    kind = {"deployments": "deployment", "statefulsets": "statefulset"}.get(plural, "deployment")
    if selector is None:
        yield required("spec.selector")
        yield mismatch
    elif not selector.get("matchLabels") and not selector.get("matchExpressions"):
        yield invalid_value("spec.selector", selector, _SELECTORLESS + kind)
    else:
        yield from label_faults("spec.selector.matchLabels", selector.get("matchLabels"))
        if not selects(selector, labels):
            yield mismatch
    yield from label_faults("spec.template.labels", labels)
    yield from _pod_faults(spec.get("template", {}).get("spec") or {}, "spec.template.spec")
    policy = spec.get("template", {}).get("spec", {}).get("restartPolicy")
    if policy != "Always":
        yield unsupported("spec.template.spec.restartPolicy", policy, ("Always",))
    if old and plural == "statefulsets":
        free = {"replicas", "template", "updateStrategy", "ordinals", "revisionHistoryLimit", "minReadySeconds"}
        free.add("persistentVolumeClaimRetentionPolicy")
        if any(spec.get(key) != old["spec"].get(key) for key in (spec.keys() | old["spec"].keys()) - free):
            yield forbidden("spec", _STATEFULSET)
    elif old and old.get("spec", {}).get("selector") != selector:
        yield invalid_value("spec.selector", selector, "field is immutable")


def selects(selector: Object, labels: dict[str, str]) -> bool:
    """Does a LabelSelector select these labels?"""
    for key, value in (selector.get("matchLabels") or {}).items():
        if labels.get(key) != value:
            return False
    for each in selector.get("matchExpressions") or ():
        found, values = labels.get(each["key"]), each.get("values") or []
        fits = {
            "In": found in values,
            "NotIn": found not in values,
            "Exists": found is not None,
            "DoesNotExist": found is None,
        }
        if not fits.get(each["operator"], False):
            return False
    return True


def _pod_faults(spec: Object, where: str) -> Iterator[Cause]:
    containers = spec.get("containers") or []
    if not containers:
        yield required(f"{where}.containers")
    seen = set()
    for index, container in enumerate(containers):
        at = f"{where}.containers[{index}]"
        name = container.get("name", "")
        if not name:
            yield required(f"{at}.name")
        elif found := dns_label_faults(name):
            for fault in found:
                yield invalid_value(f"{at}.name", name, fault)
        elif name in seen:
            yield Cause(f"{at}.name", "FieldValueDuplicate", f'Duplicate value: "{name}"')
        seen.add(name)
        if not container.get("image"):
            yield required(f"{at}.image")
        for number, port in enumerate(container.get("ports") or ()):
            yield from _port_faults(f"{at}.ports[{number}].containerPort", port.get("containerPort", 0))
            for fault in _port_name_faults(port["name"]) if port.get("name") else ():
                yield invalid_value(f"{at}.ports[{number}].name", port["name"], fault)


def _slice_faults(obj: Object, old: Object | None) -> Iterator[Cause]:
    kind = obj.get("addressType")
    if kind is None:
        yield required("addressType")
    elif kind not in ("IPv4", "IPv6", "FQDN"):
        yield unsupported("addressType", kind, ("FQDN", "IPv4", "IPv6"))
    for index, endpoint in enumerate(obj.get("endpoints") or ()):
        where = f"endpoints[{index}].addresses"
        addresses = endpoint.get("addresses") or ()
        if not addresses:
            yield required(where, "must contain at least 1 address")
        if len(addresses) > 100:
            yield Cause(where, "FieldValueTooMany", f"Too many: {len(addresses)}: must have at most 100 items")
        for number, address in enumerate(addresses):
            for fault in _address_faults(str(kind), address):
                yield invalid_value(f"{where}[{number}]", address, fault)
        if hostname := endpoint.get("hostname"):
            for fault in dns_label_faults(hostname):
                yield invalid_value(f"endpoints[{index}].hostname", hostname, fault)
    names: set[str] = set()
    for index, port in enumerate(obj.get("ports") or ()):
        name = port.get("name", "")
        for fault in dns_label_faults(name) if name else ():
            yield invalid_value(f"ports[{index}].name", name, fault)
        if name in names:
            yield Cause(f"ports[{index}].name", "FieldValueDuplicate", f"Duplicate value: {shown(name)}")
        names.add(name)
        if port.get("protocol") not in _PROTOCOLS:
            yield unsupported(f"ports[{index}].protocol", port.get("protocol"), _PROTOCOLS)
    if old and old.get("addressType") != kind:
        yield invalid_value("addressType", kind, "field is immutable")


def _address_faults(kind: str, address: str) -> Iterator[str]:
    if kind == "FQDN":
        if "." not in address.strip("."):
            yield "should be a domain with at least two segments separated by dots"
        yield from subdomain_faults(address.removesuffix("."))
    if kind not in ("IPv4", "IPv6"):
        return
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        yield f"must be a valid {kind} address"
        return
    if f"IPv{ip.version}" != kind:
        yield f"must be a valid {kind} address"
    elif ip.is_unspecified:
        yield f"may not be unspecified ({address})"
    elif ip.is_loopback:
        yield LOOPBACK
    elif ip.is_link_local:
        yield "may not be in the link-local range (169.254.0.0/16, fe80::/10)"
    elif ip.is_multicast and address.startswith(("224.0.0.", "ff02:")):
        yield "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)"
