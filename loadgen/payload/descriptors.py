"""What a gRPC server's methods take: descriptors from .proto files, from a protoset, or KServe V2's, built in.

reflection.py asks the server itself. Whoever wants a method asks `find_method`, which says what there is instead.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path

from google.protobuf import descriptor_pb2

from loadgen.payload import v2
from loadgen.payload.messages import pool_of
from loadgen.plan import CallKind
from router.problem import Problem

_PROTOC_TIMEOUT = 60.0
_ERROR = re.compile(r"(?P<file>[^:]+\.proto)(:(?P<line>\d+):\d+)?: (?P<what>.*)")


@dataclass(frozen=True, slots=True)
class Descriptors:
    """A serialized google.protobuf.FileDescriptorSet, complete and consistent; `origin` says where it is from."""

    files: bytes
    origin: str


@dataclass(frozen=True, slots=True)
class Method:
    """`path`: as it goes over the wire, without the slash in front. `takes` and `gives`: message types."""

    path: str
    kind: CallKind
    takes: str
    gives: str


def built_in() -> Descriptors:
    """KServe V2's inference.GRPCInferenceService."""
    return Descriptors(v2.protoset(), "KServe V2")


def from_protoset(path: str | Path, where: str, field: str = "") -> Descriptors | tuple[Problem, ...]:
    """A file as `protoc --include_imports --descriptor_set_out` writes it."""
    try:
        return checked(Path(path).read_bytes(), str(path))
    except OSError as error:
        return (Problem(where, field, f"{path} cannot be read: {error.strerror}"),)
    except ValueError as error:
        hint = "write it with protoc --include_imports --descriptor_set_out=FILE"
        return (Problem(where, field, f"{path}: {error}", hint),)


def from_proto(
    files: Sequence[str | Path], import_paths: Sequence[str | Path], where: str, field: str = ""
) -> Descriptors | tuple[Problem, ...]:
    """.proto files, compiled by grpcio-tools; each finds its imports in `import_paths` and beside itself."""
    if find_spec("grpc_tools") is None:
        hint = "pip install 'headgate[proto]', or give a protoset, or let the server's reflection tell"
        return (Problem(where, field, "reading .proto files takes grpcio-tools, which is not installed", hint),)
    missing = [path for path in (*files, *import_paths) if not Path(path).exists()]
    if missing:
        return tuple(Problem(where, field, f"{path} is not there") for path in missing)
    folders = [Path(path).resolve() for path in import_paths]
    paths = [Path(path).resolve() for path in files]
    folders += [path.parent for path in paths if not any(path.is_relative_to(folder) for folder in folders)]
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "set"
        command = [sys.executable, "-m", "grpc_tools.protoc", *(f"-I{each}" for each in dict.fromkeys(folders))]
        command += [f"-I{_well_known()}", "--include_imports", f"--descriptor_set_out={made}", *map(str, paths)]
        try:
            told = subprocess.run(command, capture_output=True, text=True, timeout=_PROTOC_TIMEOUT, check=False)
        except subprocess.TimeoutExpired:
            return (Problem(where, field, f"protoc has not ended within {_PROTOC_TIMEOUT:g} s"),)
        if told.returncode or not made.exists():
            return _complaints(told.stderr, where, field)
        return checked(made.read_bytes(), ", ".join(map(str, files)))


def checked(files: bytes, origin: str) -> Descriptors:
    """Raises ValueError where they are not complete, or contradict each other."""
    pool_of(files)
    return Descriptors(files, origin)


def find_method(descriptors: Descriptors, name: str, where: str, field: str = "") -> Method | Problem:
    """`name`: pkg.Service/Method or pkg.Service.Method; with a slash in front, too."""
    methods = {method.path: method for method in methods_of(descriptors)}
    text = name.strip().removeprefix("/")
    path = text if "/" in text else "/".join(text.rsplit(".", 1))
    if path in methods:
        return methods[path]
    service, _, method = path.partition("/")
    services = sorted({each.partition("/")[0] for each in methods})
    if not services:
        return Problem(where, field, f"{descriptors.origin} describes no service", "give the file that has it")
    if service in services:
        has = sorted(each.partition("/")[2] for each in methods if each.startswith(f"{service}/"))
        near = _near(method, has)
        return Problem(where, field, f"there is no method {method!r} in {service}", f"{near}it has {', '.join(has)}")
    near = _near(service, services)
    if not near:  # the package may have been left out
        full = [each for each in services if each.rpartition(".")[2] == service.rpartition(".")[2]]
        near = f"did you mean {full[0]}? " if full else ""
    return Problem(
        where, field, f"there is no service {service!r} in {descriptors.origin}", f"{near}it has {', '.join(services)}"
    )


def methods_of(descriptors: Descriptors) -> Iterable[Method]:
    """All methods of all services, in the order of the files."""
    for file in descriptor_pb2.FileDescriptorSet.FromString(descriptors.files).file:
        for service in file.service:
            full = f"{file.package}.{service.name}" if file.package else service.name
            for method in service.method:
                kinds: dict[tuple[bool, bool], CallKind] = {
                    (False, False): "unary",
                    (True, False): "client-stream",
                    (False, True): "server-stream",
                    (True, True): "bidi-stream",
                }
                kind = kinds[method.client_streaming, method.server_streaming]
                takes, gives = method.input_type.lstrip("."), method.output_type.lstrip(".")
                yield Method(f"{full}/{method.name}", kind, takes, gives)


def near_service(service: str, services: Sequence[str]) -> str:
    """A hint for a service that a server does not have."""
    return f"{_near(service, services)}it has {', '.join(services) or 'none'}"


def _near(name: str, known: Sequence[str]) -> str:
    found = get_close_matches(name, known, 1)
    return f"did you mean {found[0]}? " if found else ""


def _well_known() -> Path:
    spec = find_spec("grpc_tools")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "_proto"


def _complaints(said: str, where: str, field: str) -> tuple[Problem, ...]:
    """What protoc wrote to its standard error, a problem for each line that names a place."""
    problems = []
    for line in said.splitlines():
        found = _ERROR.match(line)
        if found is None or found["what"].startswith("warning"):
            continue
        place = f"{found['file']}:{found['line']}" if found["line"] else where
        what = found["what"] if found["line"] else f"{found['file']}: {found['what']}"
        hint = "name the folder that holds it as an import path" if "File not found" in found["what"] else ""
        problems.append(Problem(place, "" if found["line"] else field, what, hint))
    return tuple(problems) or (Problem(where, field, f"protoc failed: {said.strip()[-500:] or 'without a word'}"),)
