"""The module that brings Python into Envoy is built once, or a message says what is missing and what to use instead."""

from __future__ import annotations

import json
import os
import sysconfig
from pathlib import Path

import pytest

from headgate.envoy import find_binary
from sidecar.native import build as building
from sidecar.native.build import Module, NativeError, build, check, check_version, http_filter


def test_it_is_built_once_and_exports_the_hooks(tmp_path: Path) -> None:
    try:
        module = build(cache=tmp_path)
    except NativeError as error:
        pytest.skip(f"NOT TESTED, building the module: {error}")
    assert module.path.name == "libheadgate_python.so"
    assert module.environment == {"ENVOY_DYNAMIC_MODULES_SEARCH_PATH": str(module.path.parent)}
    written = module.path.stat().st_mtime_ns
    assert build(cache=tmp_path, compiler="there-is-no-compiler") == module
    assert module.path.stat().st_mtime_ns == written
    assert b"envoy_dynamic_module_on_http_filter_request_headers" in module.path.read_bytes()
    assert [path.name for path in module.path.parent.iterdir()] == ["libheadgate_python.so"]


def test_another_interpreter_is_another_module(tmp_path: Path) -> None:
    def at(name: str) -> str:
        with pytest.raises(NativeError, match="no C compiler"):
            build(cache=tmp_path, python=tmp_path / name, compiler="there-is-no-compiler")
        return building._key(tmp_path / name)

    assert at("one/bin/python") != at("two/bin/python")


def test_what_is_missing_is_named_with_a_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NativeError, match=r"no C compiler \(tcc99\): install one, or use ext_proc"):
        build(cache=tmp_path, compiler="tcc99")
    refusing = tmp_path / "cc"
    refusing.write_text("#!/bin/sh\necho 'x.c:1: error: no such thing' >&2\nexit 1\n")
    refusing.chmod(0o755)
    with pytest.raises(
        NativeError, match=r"the compiler refused the module: x.c:1: error: no such thing; use ext_proc"
    ):
        build(cache=tmp_path, compiler=str(refusing))
    values = {**sysconfig.get_config_vars(), "LDLIBRARY": "libpython3.11.a"}
    monkeypatch.setattr(sysconfig, "get_config_var", values.get)
    with pytest.raises(NativeError, match=r"without --enable-shared\): use ext_proc"):
        build(cache=tmp_path)
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"include": str(tmp_path)})
    with pytest.raises(
        NativeError, match=r"Python's headers are not there .* install python3\.\d+-dev, or use ext_proc"
    ):
        build(cache=tmp_path)


def test_only_the_envoy_whose_abi_it_speaks_is_taken() -> None:
    assert check(find_binary()).startswith("1.40.")
    assert check_version("1.40.3") == "1.40.3"
    with pytest.raises(
        NativeError, match=r"Envoy 1\.39\.0 speaks another ABI than v0\.2\.0 of Envoy 1\.40: use ext_proc"
    ):
        check_version("envoy  version: 0f1e/1.39.0/Clean/RELEASE/BoringSSL")
    with pytest.raises(NativeError, match="tells no version"):
        check_version("hello")
    with pytest.raises(NativeError, match="cannot ask /nowhere/envoy for its version"):
        check(Path("/nowhere/envoy"))


def test_the_filter_names_the_module_and_carries_its_configuration() -> None:
    config = {"plugins": [{"plugin": "greet.py", "config": {"word": "grüß"}}]}
    typed = http_filter(config, "edge")["typed_config"]
    assert json.loads(typed["filter_config"]["value"]) == config
    assert typed["filter_name"] == "edge"
    name = typed["dynamic_module_config"]["name"]
    assert Module(Path(f"/cache/lib{name}.so")).path.name == f"lib{building.NAME}.so"
    assert os.sep not in name
