"""What is asked of whom, from its flags: a target. Files and addresses that flags name are read here, once."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

from headgate.load.amount import Mistakes
from headgate.load.flags import Flags
from headgate.load.statuses import errors_of
from loadgen.attribution import Attribution
from loadgen.payload.descriptors import Descriptors, built_in, find_method, from_proto, from_protoset
from loadgen.payload.render import Requests
from loadgen.payload.sources import Source, payload
from loadgen.payload.v2 import SERVICE as V2_SERVICE
from loadgen.plan import Goodput, Grpc, Payload, Target, Tls
from loadgen.security import tls_context
from loadgen.slo.figures import DURATIONS
from loadgen.target_fields import misfits
from router.problem import Problem

_SCHEMES = ("http", "https")
_HERE = "headgate load"
_NAMES = {
    "text": "--data",
    "file": "--data-file",
    "url": "--data-url",
    "template": "--template",
    "template_file": "--template",
    "feed": "--feed",
}


def target_of(given: Flags, mistakes: Mistakes) -> Target:
    """Without what has to be asked of the target itself; of no use if there are mistakes."""
    url = _url(given.url or "", mistakes)
    headers = [*_headers(given.headers, mistakes)]
    if given.sticky_users and not any(name.lower() == given.sticky_header.lower() for name, _ in headers):
        headers.append((given.sticky_header, "{{ user }}"))
    carried = _payload(given, headers, mistakes)
    has_body = carried.template is not None or bool(carried.bodies) or given.model is not None
    if given.model is not None and (carried.template is not None or carried.bodies):
        mistakes.add("--model", "makes the payload itself", "leave the other one out")
    if has_body and not any(name.lower() == "content-type" for name, _ in headers) and given.grpc is None:
        headers.append(("content-type", "application/json"))
    target = Target(
        url=url,
        protocol="grpc" if given.grpc else "http2" if given.http2 else "http1",
        method=given.method.upper() if given.method else "POST" if has_body else "GET",
        headers=tuple(headers),
        payload=carried,
        grpc=_grpc(given, mistakes),
        tls=_tls(given, url, mistakes),
        timeout=mistakes.seconds("--timeout", given.timeout),
        connect_timeout=mistakes.seconds("--connect-timeout", given.connect_timeout),
        stream=given.stream,
        dialect=given.dialect or "openai",
        version=given.version,
        attribution=given.version_from or Target(url).attribution,
        errors=errors_of(given.error_status, mistakes),
        goodput=_goodput(given.goodput, mistakes),
        users=given.sticky_users or 0,
    )
    _check(target, given, mistakes)
    if not mistakes.problems and (target.grpc is not None or given.grpc is None):
        check_payload(target, given, mistakes)
    return target


def _check(target: Target, given: Flags, mistakes: Mistakes) -> None:
    """What the engine would refuse, or take no notice of."""
    if given.dialect is not None and not given.stream:
        mistakes.add("--dialect", "is of a stream of events", "give --stream too")
    if given.error_status and given.grpc is not None:
        mistakes.add("--error-status", "is for HTTP: in gRPC every status but OK is an error", "leave it out")
    for field, what in misfits(target):
        mistakes.add({"method": "--method", "headers": "--header"}[field], what)
    try:
        Attribution.of(target)
    except ValueError as error:
        mistakes.add("--version-from", str(error).removeprefix("attribution: "))


def check_payload(target: Target, given: Flags, mistakes: Mistakes) -> None:
    """Whether requests can be made of it, in gRPC messages of the method."""
    try:
        Requests(target, given.seed)
    except ValueError as error:
        flags = {"--template": given.template, "--data-file": given.data_file, "--data-url": given.data_url}
        flags["--feed"] = given.feed if given.data is None else None
        mistakes.add(next((flag for flag, value in flags.items() if value is not None), "--data"), str(error))


def _url(text: str, mistakes: Mistakes) -> str:
    text = text if "://" in text else f"http://{text}"
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        mistakes.add("URL", f"{text!r} is none: {error}")
        return "http://localhost/"
    if parts.scheme not in _SCHEMES or not parts.hostname or port == 0:
        mistakes.add("URL", f"{text!r} is not an address to load", "write http://HOST:PORT/PATH, or https://...")
        return "http://localhost/"
    return text


def _headers(lines: tuple[str, ...], mistakes: Mistakes) -> list[tuple[str, str]]:
    made = []
    for each in lines:
        name, colon, value = each.partition(":")
        if not colon or not name.strip():
            mistakes.add("--header", f"{each!r} is not a header", "write 'NAME: VALUE'")
        else:
            made.append((name.strip(), value.strip()))
    return made


def _tls(given: Flags, url: str, mistakes: Mistakes) -> Tls:
    files = {"--cacert": given.cacert, "--cert": given.cert, "--key": given.key}
    for flag, path in files.items():
        if path is not None and not path.is_file():
            mistakes.add(flag, f"there is no file {path}")
    if given.key is not None and given.cert is None:
        mistakes.add("--key", "is of no use without a certificate", "give --cert too")
        files["--key"] = None
    if url.startswith("http://") and (given.insecure or any(files.values())):
        mistakes.add("URL", "is http://, and TLS is asked for", "write https://, or leave the TLS flags out")
    ca, certificate, key = (_pem(path) for path in files.values())
    made = Tls(not given.insecure, ca, certificate, key, given.server_name)
    try:
        if any(files.values()):
            tls_context(made, ("http/1.1",))
    except ValueError as error:
        mistakes.add("--cert" if "certificate or its key" in str(error) else "--cacert", str(error))
    return made


def _pem(path: Path | None) -> str | None:
    """The text itself, as workers on other machines have no such file."""
    return path.read_text(errors="replace") if path is not None and path.is_file() else None


def _goodput(texts: tuple[str, ...], mistakes: Mistakes) -> Goodput | None:
    limits: dict[str, float] = {}
    for text in (part.strip() for each in texts for part in each.split(",")):
        name, sign, time = text.partition("<=")
        if not sign:
            name, sign, time = text.partition("<")
        metric = {"e2e": "latency"}.get(name.strip(), name.strip())
        if not sign:
            mistakes.add("--goodput", f"{text!r} is no limit", "write METRIC<=TIME, such as ttft<=400ms")
        elif metric not in DURATIONS:
            mistakes.add("--goodput", f"there is no metric {metric!r}", f"there are {', '.join(DURATIONS)}")
        else:
            limits[metric] = mistakes.seconds("--goodput", time)
    return Goodput(limits) if limits else None


def _payload(given: Flags, headers: list[tuple[str, str]], mistakes: Mistakes) -> Payload:
    template = given.template
    from_file = template is not None and template.startswith("@")
    source = Source(
        text=given.data,
        file=None if given.data_file is None else str(given.data_file),
        url=given.data_url,
        template=None if from_file else template,
        template_file=template[1:] if template is not None and from_file else None,
        feed=None if given.feed is None else str(given.feed),
        order=given.feed_order,
    )
    made, problems = payload(source, _HERE, _NAMES, tuple(headers))
    mistakes.problems += [flagged(each) for each in problems]
    return made


def flagged(problem: Problem) -> Problem:
    """One that names a flag as a field, as ours do."""
    return replace(problem, where=problem.field, field="") if problem.where == _HERE and problem.field else problem


def _grpc(given: Flags, mistakes: Mistakes) -> Grpc | None:
    """The method, where files or what we know ourselves describe it; otherwise the server has to be asked for it."""
    if given.grpc is None:
        for flag, value in (
            ("--proto", given.proto),
            ("--protoset", given.protoset),
            ("--stream-count", given.stream_count),
            ("--stream-interval", given.stream_interval),
        ):
            if value:
                mistakes.add(flag, "is for gRPC", "say with --grpc which method is called")
        return None
    found: Descriptors | tuple[Problem, ...]
    if given.proto:
        found = from_proto(given.proto, given.proto_path, _HERE, "--proto")
    elif given.protoset is not None:
        found = from_protoset(given.protoset, _HERE, "--protoset")
    elif given.grpc.lstrip("/").startswith(V2_SERVICE):
        found = built_in()
    else:
        return None
    return method_of(given, found, mistakes)


def method_of(given: Flags, found: Descriptors | tuple[Problem, ...], mistakes: Mistakes) -> Grpc | None:
    """What a plan says of the method, if the descriptors have it."""
    if not isinstance(found, Descriptors):
        mistakes.problems += [flagged(each) for each in found]
        return None
    method = find_method(found, given.grpc or "", _HERE, "--grpc")
    if isinstance(method, Problem):
        mistakes.problems.append(flagged(method))
        return None
    if method.kind in ("unary", "server-stream"):
        for flag, value in (("--stream-count", given.stream_count), ("--stream-interval", given.stream_interval)):
            if value is not None:
                mistakes.add(flag, f"{method.path} takes one message and no stream", "leave it out")
    interval = given.stream_interval
    return Grpc(
        method.path,
        found.files,
        method.kind,
        stream_count=given.stream_count,
        stream_interval=0.0 if interval is None else mistakes.seconds("--stream-interval", interval, positive=False),
        client=given.grpc_client,
        max_message=_size(given.max_message, mistakes),
    )


def _size(text: str, mistakes: Mistakes) -> int:
    """Bytes."""
    found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,3})?)([KMG]i?)?B?", text.strip(), re.IGNORECASE)
    size = 0
    if found is not None:
        size = int(float(found[1]) * 1024 ** " KMG".index((found[2] or " ")[0].upper()))
    if not 0 < size < 1 << 31:
        mistakes.add("--max-message", f"{text!r} is no size of a message", "write for example 4MiB; 2 GiB is too much")
    return size
