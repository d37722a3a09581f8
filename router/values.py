"""The small values that a manifest is made of: names, hosts, addresses, durations, header names, regexes.

Each is a type for the schema: it checks one text, says in plain words what is wrong with it, and carries the same rule
as a JSON schema for the CRD. Patterns are written so that Python, RE2 (Kubernetes, Envoy) and ECMA agree on them.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Annotated, Any

import re2
from pydantic import AfterValidator, BeforeValidator, PlainSerializer, Strict, ValidationError, WithJsonSchema
from pydantic_core import InitErrorDetails, PydanticCustomError

from xds.ir import SHADOW_HEADER, Endpoint, Headers

_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
LABEL_PATTERN = rf"^{_LABEL}$"
HOST_PATTERN = rf"^{_LABEL}(\.{_LABEL})*$"
TOKEN_PATTERN = r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$"
TEXT_PATTERN = r"^[^\x00-\x08\x0a-\x1f\x7f]*$"
PATH_PATTERN = r"^/[^?#\x00-\x20\x7f]*$"
METHOD_PATTERN = r"^[A-Z][A-Z-]*$"
ENDPOINT_PATTERN = r"^([0-9]{1,3}(\.[0-9]{1,3}){3}|\[[0-9a-fA-F:.]+\]):[0-9]{1,5}$"
RESOURCE_PATTERN = rf"^[A-Za-z][A-Za-z0-9]*/({_LABEL}/)?{_LABEL}(\.{_LABEL})*(#{_LABEL}(\.{_LABEL})*)?$"
DURATION_PATTERN = r"^[0-9]{1,6}(\.[0-9]{1,3})?(ms|s|m|h)$"
POSITIVE_DURATION_PATTERN = r"^(0*[1-9][0-9]{0,5}(\.[0-9]{1,3})?|0+\.(0{0,2}[1-9][0-9]{0,2}))(ms|s|m|h)$"

MAX_LABEL = 63
MAX_HOST = 253
MAX_HEADER_NAME = 128
MAX_TEXT = 4096
MAX_REGEX = 1024
MAX_PATH = 2048
MAX_SETTINGS = 4096

_is_label = re.compile(LABEL_PATTERN + r"\Z").match
_is_host = re.compile(HOST_PATTERN + r"\Z").match
_is_token = re.compile(TOKEN_PATTERN + r"\Z").match
_is_text = re.compile(TEXT_PATTERN + r"\Z").match
_is_path = re.compile(PATH_PATTERN + r"\Z").match
_is_method = re.compile(METHOD_PATTERN + r"\Z").match
_is_endpoint = re.compile(ENDPOINT_PATTERN + r"\Z").match
_is_resource = re.compile(RESOURCE_PATTERN + r"\Z").match
_is_duration = re.compile(DURATION_PATTERN + r"\Z").match
_is_positive_duration = re.compile(POSITIVE_DURATION_PATTERN + r"\Z").match

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_FRAMING = frozenset({"connection", "content-length", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"})


def fault(what: str, hint: str = "") -> PydanticCustomError:
    """An error in our words, which pydantic collects with its own."""
    return PydanticCustomError("headgate", "{what}", {"what": what, "hint": hint})


def shown(value: object) -> str:
    """A value as the user wrote it, more or less, and never longer than a line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    if isinstance(value, int) and value.bit_length() > 256:
        return "an enormous number"  # Python refuses to write out the largest ones
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _label(value: str) -> str:
    if len(value) <= MAX_LABEL and _is_label(value):
        return value
    if len(value) > MAX_LABEL:
        raise fault(f"{shown(value)} has {len(value)} characters", f"use at most {MAX_LABEL}")
    raise fault(
        f"{shown(value)} is not a valid name",
        "use lower-case letters, digits and '-', with a letter or digit at both ends",
    )


def is_host(text: str) -> bool:
    """Whether this is a DNS name in lower case, or an IPv4 address."""
    return len(text) <= MAX_HOST and bool(_is_host(text)) and all(len(part) <= MAX_LABEL for part in text.split("."))


def is_port(number: int) -> bool:
    return 0 < number < 65536


def _host(value: str) -> str:
    if is_host(value):
        return value
    if value.startswith("*"):
        raise fault(f"wildcard host {shown(value)} is not supported", "list each host by its full name")
    if "://" in value or "/" in value:
        raise fault(f"{shown(value)} is not a host name", "leave out the scheme and the path")
    if value.startswith("[") or value.count(":") > 1:
        raise fault(f"IPv6 host {shown(value)} is not supported", "use a DNS name or an IPv4 address")
    if ":" in value:
        raise fault(f"host {shown(value)} names a port", "leave the port out: a host is served on every listener")
    if value != value.lower() and _is_host(value.lower()):
        raise fault(f"host {shown(value)} has capital letters", f"write {shown(value.lower())}")
    if value.endswith(".") and _is_host(value[:-1]):
        raise fault(f"host {shown(value)} ends with a dot", f"write {shown(value[:-1])}")
    if not value.isascii():
        raise fault(f"{shown(value)} is not a host name", "write it in its ASCII form, which begins with xn--")
    if len(value) > MAX_HOST:
        raise fault(f"host {shown(value)} has {len(value)} characters", f"use at most {MAX_HOST}")
    raise fault(
        f"{shown(value)} is not a host name",
        "use a DNS name (labels of lower-case letters, digits and '-', at most 63 characters each) or an IPv4 address",
    )


@lru_cache(maxsize=65_536)
def _endpoint_of(value: str) -> Endpoint:
    address, _, port = value.rpartition(":")
    if not _is_endpoint(value):
        bare = value.strip("[]")
        if is_ip(bare):
            meant = _joined(address, port) if is_ip(address) else _joined(bare, "8080")
            raise fault(f"{shown(value)} has no port", f"write {shown(meant)}")
        if _is_host(address.lower()) and port.isdigit():
            raise fault(
                f"{shown(address)} is not an IP address",
                "endpoints take IP addresses; for a DNS name use service: {host: ..., port: ...}",
            )
        raise fault(f"{shown(value)} is not an address", "write IP:port, such as 127.0.0.1:8001 or [::1]:8001")
    address = address.strip("[]")
    if not is_ip(address):
        raise fault(f"{shown(address)} is not an IP address", "each part is 0 to 255, without leading zeros")
    if not 1 <= int(port) <= 65535:
        raise fault(f"port {port} is out of range", "ports are 1 to 65535")
    return Endpoint(str(ipaddress.ip_address(address)), int(port))


def _endpoint(value: object) -> Endpoint:
    if isinstance(value, Endpoint):
        return value
    if not isinstance(value, str):
        raise fault(f"must be text, not {shown(value)}", "write IP:port, such as 127.0.0.1:8001")
    return _endpoint_of(value)


def is_ip(text: str) -> bool:
    """Whether this is an IPv4 or IPv6 address, without a zone."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return "%" not in text


def _joined(address: str, port: str) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def endpoint_text(endpoint: Endpoint) -> str:
    """The endpoint as a manifest writes it: 127.0.0.1:8001, [::1]:8001."""
    return _joined(endpoint.address, str(endpoint.port))


def _duration(value: object) -> float:
    if isinstance(value, str) and _is_duration(value):
        return _seconds(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        raise fault(f"{value} has no unit", f"write '{value}s' for seconds or '{value}ms' for milliseconds")
    raise fault(f"{shown(value)} is not a duration", "write a number and a unit (ms, s, m, h), such as 500ms or 30s")


def _positive_duration(value: object) -> float:
    seconds = _duration(value)
    if not isinstance(value, str) or not _is_positive_duration(value):
        raise fault(f"must be longer than zero, not {shown(value)}", "write for example 5s")
    return seconds


def _seconds(text: str) -> float:
    unit = text.lstrip("0123456789.")
    return float(text[: -len(unit)]) * _SECONDS[unit]


def duration_text(seconds: float) -> str:
    """Seconds as a manifest writes them."""
    if seconds and seconds < 1:
        return f"{seconds * 1000:g}ms"
    return f"{seconds:g}s"


def _match_header(value: str) -> str:
    name = value.lower()
    if name.startswith(":"):
        hints = {":method": "use method", ":path": "use path", ":authority": "use spec.hosts"}
        raise fault(f"{shown(value)} is no ordinary header", hints.get(name, "use the name of a request header"))
    if name == "host":
        raise fault("the host header cannot be matched here", "use spec.hosts")
    return _header_name(name)


def _header_name(name: str) -> str:
    if not name or not _is_token(name):
        raise fault(f"{shown(name)} is not a header name", "use letters, digits and any of !#$%&'*+-.^_`|~")
    if len(name) > MAX_HEADER_NAME:
        raise fault(f"header name {shown(name)} has {len(name)} characters", f"use at most {MAX_HEADER_NAME}")
    return name


def _headers(value: object) -> Headers:
    if isinstance(value, tuple):
        value = dict(value)
    if not isinstance(value, Mapping):
        raise fault(f"must be a mapping of header names to values, not {shown(value)}", "write name: value")
    found: dict[str, str] = {}
    wrong: list[InitErrorDetails] = []
    for given, text in value.items():
        try:
            name = _set_header(given)
            if name in found:
                raise fault(f"header {shown(given)} is given twice", "header names ignore capitals: keep one of them")
            found[name] = _header_value(given, text)
        except PydanticCustomError as error:
            wrong.append(InitErrorDetails(type=error, loc=(str(given),), input=None))
    if wrong:  # all of them, so that users mend everything in one go
        raise ValidationError.from_exception_data("headers", wrong)
    return tuple(sorted(found.items()))


def _set_header(given: object) -> str:
    """The name of a header that may be set, in small letters."""
    if not isinstance(given, str):
        raise fault(f"{shown(given)} is not a header name", "put it in quotes")
    name = given.lower()
    if name.startswith(":") or name == "host":
        raise fault(f"header {shown(given)} cannot be changed", "Envoy keeps host and the ':' headers as they are")
    _header_name(name)
    if name in _FRAMING:
        raise fault(f"header {shown(given)} cannot be set", "it belongs to Envoy")
    if name == SHADOW_HEADER:
        raise fault(f"header {shown(given)} cannot be set", "it marks mirrored copies")
    return name


def _header_value(name: str, text: object) -> str:
    if not isinstance(text, str):
        raise fault(f"the value of {name} must be text, not {shown(text)}", f'put it in quotes: "{shown(text)}"')
    return _text(text)


def _strings(value: object) -> Headers:
    if isinstance(value, tuple):
        value = dict(value)
    if not isinstance(value, Mapping):
        raise fault(f"must be a mapping of names to text, not {shown(value)}", "write name: value")
    for name, text in value.items():
        if not isinstance(name, str):
            raise fault(f"the name {shown(name)} must be text", "put it in quotes")
        if not isinstance(text, str):
            raise fault(f"the value of {name} must be text, not {shown(text)}", f'put it in quotes: "{shown(text)}"')
    return tuple(sorted(value.items()))


def settings_text(value: object) -> str:
    """A JSON object as text: equal settings are equal texts."""
    if not isinstance(value, Mapping):
        raise fault(f"must be a mapping, not {shown(value)}", "write name: value")
    try:
        text = json.dumps(value, separators=(",", ":"), sort_keys=True, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise fault(f"cannot be written as JSON: {error}", "use text, numbers, lists and mappings") from None
    if len(text) > MAX_SETTINGS:
        raise fault(
            f"{len(text):,} characters of settings are too many", f"use at most {MAX_SETTINGS:,}, written as JSON"
        )
    return text


def _text(value: str) -> str:
    if len(value) > MAX_TEXT:
        raise fault(f"text of {len(value)} characters is too long", f"use at most {MAX_TEXT}")
    if not _is_text(value):
        raise fault(f"{shown(value)} contains a control character", "remove line breaks and other control characters")
    return value


def _needed_text(value: str) -> str:
    if not value:
        raise fault("is empty", "to match any value, use present: true")
    return _text(value)


def _path(value: str) -> str:
    if not value.startswith("/"):
        raise fault(f"{shown(value)} does not start with '/'", f"write {shown('/' + value)}")
    if "?" in value or "#" in value:
        raise fault(f"{shown(value)} contains a '?' or '#'", "match query parameters with query")
    if len(value) > MAX_PATH or not _is_path(value):
        raise fault(f"{shown(value)} is not a path", f"use at most {MAX_PATH} visible characters, without blanks")
    return value


def _method(value: str) -> str:
    if not _is_method(value) or len(value) > 32:
        raise fault(f"{shown(value)} is not a request method", "use capitals, such as GET or POST")
    return value


_QUIET = re2.Options()
_QUIET.log_errors = False


@lru_cache(maxsize=4096)
def _compiled(value: str) -> tuple[int, str]:
    """The size of the compiled expression, or why it does not compile."""
    try:
        return int(re2.compile(value, options=_QUIET).programsize), ""
    except re2.error as error:
        reason = error.args[0] if error.args else "it does not compile"
        return 0, reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)


def regex_size(value: str) -> int:
    """The RE2 program size of a valid expression, which Envoy holds against its limit."""
    return _compiled(value)[0]


def _regex(value: str) -> str:
    if not value:
        raise fault("the regular expression is empty", "to match any value, use present: true")
    if len(value) > MAX_REGEX:
        raise fault(f"the regular expression has {len(value)} characters", f"use at most {MAX_REGEX}")
    if complaint := _compiled(value)[1]:
        raise fault(
            f"regular expression {shown(value)} is not valid: {complaint}",
            "RE2 syntax is spoken here: no look-around, no back-references",
        )
    return value


def _resource(value: str) -> str:
    if not _is_resource(value):
        raise fault(
            f"{shown(value)} is not a reference", "write TYPE/NAME or TYPE/NAMESPACE/NAME, such as isvc/iris-v2"
        )
    return value


def _schema(pattern: str | None = None, *, longest: int, shortest: int = 0) -> WithJsonSchema:
    schema: dict[str, Any] = {"type": "string"}
    if shortest:
        schema["minLength"] = shortest
    schema["maxLength"] = longest
    if pattern:
        schema["pattern"] = pattern
    return WithJsonSchema(schema)


def _after(check: Callable[[str], str]) -> AfterValidator:
    return AfterValidator(check)


_MAP_SCHEMA = {"type": "object", "additionalProperties": {"type": "string", "maxLength": MAX_TEXT}}

Label = Annotated[str, Strict(), _after(_label), _schema(LABEL_PATTERN, longest=MAX_LABEL)]
Host = Annotated[str, Strict(), _after(_host), _schema(HOST_PATTERN, longest=MAX_HOST)]
Text = Annotated[str, Strict(), _after(_text), _schema(TEXT_PATTERN, longest=MAX_TEXT)]
NeededText = Annotated[str, Strict(), _after(_needed_text), _schema(TEXT_PATTERN, longest=MAX_TEXT, shortest=1)]
PathText = Annotated[str, Strict(), _after(_path), _schema(PATH_PATTERN, longest=MAX_PATH)]
Method = Annotated[str, Strict(), _after(_method), _schema(METHOD_PATTERN, longest=32)]
ResourceText = Annotated[str, Strict(), _after(_resource), _schema(RESOURCE_PATTERN, longest=512)]
Regex = Annotated[str, Strict(), _after(_regex), _schema(longest=MAX_REGEX, shortest=1)]
HeaderName = Annotated[str, Strict(), _after(_match_header), _schema(TOKEN_PATTERN, longest=MAX_HEADER_NAME)]
EndpointText = Annotated[
    Endpoint,
    BeforeValidator(_endpoint),
    PlainSerializer(endpoint_text, return_type=str),
    _schema(ENDPOINT_PATTERN, longest=64),
]
Duration = Annotated[
    float,
    BeforeValidator(lambda value: _duration(value)),
    PlainSerializer(duration_text, return_type=str),
    _schema(DURATION_PATTERN, longest=16),
]
PositiveDuration = Annotated[
    float,
    BeforeValidator(lambda value: _positive_duration(value)),
    PlainSerializer(duration_text, return_type=str),
    _schema(POSITIVE_DURATION_PATTERN, longest=16),
]
HeaderMap = Annotated[
    tuple[tuple[str, str], ...],
    BeforeValidator(_headers),
    PlainSerializer(dict, return_type=dict[str, str]),
    WithJsonSchema({**_MAP_SCHEMA, "maxProperties": 32}),
]
Settings = Annotated[
    str,
    BeforeValidator(settings_text),
    PlainSerializer(json.loads, return_type=dict[str, Any]),
    WithJsonSchema({"type": "object", "x-kubernetes-preserve-unknown-fields": True}),
]
StringMap = Annotated[
    tuple[tuple[str, str], ...],
    BeforeValidator(_strings),
    PlainSerializer(dict, return_type=dict[str, str]),
    WithJsonSchema({"type": "object", "additionalProperties": {"type": "string"}}),
]
