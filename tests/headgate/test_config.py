"""A configuration is right or every mistake in it is named, with its line and what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from headgate import plugin_host
from headgate.config import Config, read
from sidecar.native.build import Module
from xds import ir


def complaints(tmp_path: Path, text: str | bytes) -> list[str]:
    file = tmp_path / "headgate.yaml"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    found = read(file)
    assert isinstance(found, tuple), f"accepted as {found}"
    return [str(problem).replace(f"{tmp_path}/", "") for problem in found]


def accepted(tmp_path: Path, text: str) -> Config:
    file = tmp_path / "headgate.yaml"
    file.write_text(text)
    found = read(file)
    assert isinstance(found, Config), "\n".join(map(str, found))
    return found


@pytest.mark.parametrize("text", ["", "# nothing\n", "{}", "---\n"])
def test_nothing_said_is_the_default(tmp_path: Path, text: str) -> None:
    assert accepted(tmp_path, text) == Config()


def test_the_default_serves_one_gateway_on_loopback() -> None:
    config = Config()
    assert (config.xds.address, config.xds.port) == ("127.0.0.1", 18000)
    assert (config.http.address, config.http.port) == ("127.0.0.1", 18001)
    assert [gateway.as_ir() for gateway in config.gateways] == [
        ir.Gateway("default", (ir.Listener("http", "127.0.0.1", 10000),), on_demand_above=2000)
    ]


def test_everything_can_be_said(tmp_path: Path, certificate) -> None:
    certificate("server")
    config = accepted(
        tmp_path,
        """
        xds:
          address: 0.0.0.0
          port: 1
          keepalive: 5s
          tls: {certificate: server.pem, key: server.key, clientCA: server.pem, checkNode: true}
        http: {address: "::", port: 2}
        manifests: models
        stateFile: state/kept.json
        massDeletionHold: 0s
        gateways:
        - name: edge
          onDemandAbove: 7
          listeners:
          - name: https
            address: 0.0.0.0
            port: 443
            tls: {certificate: server.pem, key: server.key, clientCA: server.pem}
        probes: {concurrency: 3}
        log: {level: debug, format: json}
        """,
    )
    assert config.xds.keepalive == 5.0
    assert config.manifests == tmp_path / "models"
    assert config.state_path == tmp_path / "state" / "kept.json"
    assert config.mass_deletion_hold == 0.0
    [gateway] = config.gateways
    assert gateway.as_ir() == ir.Gateway(
        "edge", (ir.Listener("https", "0.0.0.0", 443, "edge/https", "edge/https/client-ca"),), on_demand_above=7
    )


def test_state_is_kept_among_the_manifests_unless_told_otherwise(tmp_path: Path) -> None:
    assert accepted(tmp_path, "manifests: models").state_path == tmp_path / "models" / ".headgate-state.json"
    assert Config().state_path is None


MISTAKES = {
    "xdss: {}": ["headgate.yaml:1: xdss: unknown field 'xdss' (did you mean 'xds'?)"],
    "xds: {prot: 1}": ["headgate.yaml:1: xds.prot: unknown field 'prot' (did you mean 'port'?)"],
    "xds: {port: '1'}": [
        "headgate.yaml:1: xds.port: must be a whole number, not '1' (write the number without quotes)"
    ],
    "xds: {port: 65536}": ["headgate.yaml:1: xds.port: must be at most 65535, not 65536 (give a smaller number)"],
    "http: {port: -1}": ["headgate.yaml:1: http.port: must be at least 0, not -1 (give a larger number)"],
    "xds: {keepalive: 30}": [
        "headgate.yaml:1: xds.keepalive: 30 has no unit (write '30s' for seconds or '30ms' for milliseconds)"
    ],
    "log: {level: inf}": [
        "headgate.yaml:1: log.level: 'inf' is not one of debug, info, warning, error (did you mean 'info'?)"
    ],
    "manifests: 3": [
        "headgate.yaml:1: manifests: must be a path, not 3 (relative paths start at the folder of this file)"
    ],
    "gateways: []": ["headgate.yaml:1: gateways: is an empty list (give at least one)"],
    "gateways: [{name: a}, {name: b}, {name: a}]": [
        "headgate.yaml:1: gateways[2].name: gateway 'a' is already gateways[0] (give it another name)"
    ],
    "gateways:\n- listeners:\n  - {name: a, port: 80}\n  - {name: b, port: 80}": [
        "headgate.yaml:4: gateways[0].listeners[1].port: port 80 is already taken by listeners[0] "
        "(every listener needs its own port)"
    ],
    "gateways:\n- listeners:\n  - {name: a, address: 0.0.0.0}\n  - {name: b}": [
        "headgate.yaml:4: gateways[0].listeners[1].port: port 10000 is already taken by listeners[0] "
        "(every listener needs its own port)"
    ],
    "gateways:\n- listeners:\n  - {name: a}\n  - {name: a, port: 80}": [
        "headgate.yaml:4: gateways[0].listeners[1].name: listener 'a' is already listeners[0] (give it another name)"
    ],
    "xds: {tls: {certificate: no.pem, key: no.key}}": [
        "headgate.yaml:1: xds.tls.certificate: cannot read no.pem: no such file or directory "
        "(check the path and its rights)",
        "headgate.yaml:1: xds.tls.key: cannot read no.key: no such file or directory (check the path and its rights)",
    ],
    "gateways: [{listeners: [{address: localhost}]}]": [
        "headgate.yaml:1: gateways[0].listeners[0].address: 'localhost' is not an IP address "
        "(Envoy listens on IP addresses, such as 0.0.0.0 or ::)"
    ],
    "http: {address: ''}": [
        "headgate.yaml:1: http.address: is empty (write 0.0.0.0 for all addresses, 127.0.0.1 for this machine only)"
    ],
    "kubernetes: {leaseDuration: 2s}": [
        "headgate.yaml:1: kubernetes.leaseDuration: must be whole seconds from 3s to 300s, not 2s "
        "(a Lease holds whole seconds, and has to be renewed several times within them)"
    ],
    "kubernetes: {leaseDuration: 4500ms}": [
        "headgate.yaml:1: kubernetes.leaseDuration: must be whole seconds from 3s to 300s, not 4.5s "
        "(a Lease holds whole seconds, and has to be renewed several times within them)"
    ],
    "xds: {port: 1}\nxds: {port: 2}": ["headgate.yaml:2: xds: key 'xds' is given twice (keep one of them)"],
    "[]": ["headgate.yaml:1: must be a mapping, not a list (write its fields as name: value)"],
    "xds: {}\n---\nxds: {}": [
        "headgate.yaml: holds several YAML documents (one file is one configuration: remove the '---')"
    ],
}


@pytest.mark.parametrize(("text", "expected"), MISTAKES.items())
def test_mistakes_are_named_with_their_line(tmp_path: Path, text: str, expected: list[str]) -> None:
    assert complaints(tmp_path, text) == expected


def test_all_mistakes_are_named_at_once(tmp_path: Path) -> None:
    text = "xds:\n  port: x\nhttp:\n  prot: 1\ngateways:\n- listeners:\n  - {name: a}\n  - {name: b}\nlog: {level: 1}\n"
    assert [one.split(": ")[1] for one in complaints(tmp_path, text)] == [
        "xds.port",
        "http.prot",
        "gateways[0].listeners[1].port",
        "log.level",
    ]


def test_broken_yaml_and_other_encodings_are_named(tmp_path: Path) -> None:
    [broken] = complaints(tmp_path, "xds: [1")
    assert broken.startswith("headgate.yaml:2:1: broken YAML: ")
    [encoding] = complaints(tmp_path, b"log: {level: \xff}")
    assert "is not UTF-8" in encoding


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    found = read(tmp_path / "none.yaml")
    assert isinstance(found, tuple)
    assert "none.yaml: cannot be read: no such file or directory" in str(found[0])


def test_one_port_on_two_addresses_is_two_ports(tmp_path: Path) -> None:
    accepted(tmp_path, 'gateways:\n- listeners:\n  - {name: a, address: 127.0.0.1}\n  - {name: b, address: "::1"}\n')


def test_a_key_of_another_certificate_is_refused(tmp_path: Path, certificate) -> None:
    certificate("one")
    certificate("two")
    assert complaints(tmp_path, "xds: {tls: {certificate: one.pem, key: two.key}}") == [
        "headgate.yaml:1: xds.tls: certificate one.pem and key two.key do not belong together "
        "(take the key that the certificate was made with)"
    ]


def test_what_is_no_certificate_is_refused(tmp_path: Path, certificate) -> None:
    certificate("one")
    (tmp_path / "empty.pem").write_text("")
    assert complaints(tmp_path, "xds: {tls: {certificate: empty.pem, key: one.key}}") == [
        "headgate.yaml:1: xds.tls: certificate empty.pem and key one.key cannot be loaded "
        "(both must be in PEM form, the key without a password)"
    ]
    assert complaints(tmp_path, "xds: {tls: {certificate: one.pem, key: one.key, clientCA: empty.pem}}") == [
        "headgate.yaml:1: xds.tls: clientCA empty.pem holds no certificate in PEM form (give the CA's certificate)"
    ]


def test_node_ids_can_only_be_checked_against_client_certificates(tmp_path: Path, certificate) -> None:
    certificate("one")
    [complaint] = complaints(tmp_path, "xds: {tls: {certificate: one.pem, key: one.key, checkNode: true}}")
    assert "checkNode needs clientCA" in complaint


def test_plugins_of_a_gateway_become_what_envoy_is_told(tmp_path: Path) -> None:
    config = accepted(
        tmp_path,
        """
        gateways:
        - plugins:
            folder: /plugins
            reload: true
            calls: {"http://tokens:80": tokens}
            chain:
            - name: greet
              plugin: greet.py
              config: {word: hi}
              onFailure: closed
              budget: 5ms
              memory: 96Mi
              models: always
            - {name: stamp, plugin: "sidecar.plugins.stamp:Stamp"}
        - name: edge
          plugins: {host: ext-proc, address: "127.0.0.1:9000", timeout: 1s, properties: [], chain: [{name: greet}]}
        """,
    )
    embedded, beside = (gateway.as_ir().plugins for gateway in config.gateways)
    greet = ir.Plugin("greet", "greet.py", '{"word":"hi"}', "closed", 0.005, ir.PluginModels.ALWAYS, memory=96 << 20)
    assert embedded == ir.Plugins(
        ir.PluginHost.EMBEDDED,
        (greet, ir.Plugin("stamp", "sidecar.plugins.stamp:Stamp")),
        folder="/plugins",
        reload=True,
        calls=(("http://tokens:80", "tokens"),),
        address="unix:/run/headgate/plugins.sock",
    )
    assert beside == ir.Plugins(
        ir.PluginHost.EXT_PROC, (ir.Plugin("greet"),), address="127.0.0.1:9000", timeout=1.0, properties=()
    )


@pytest.mark.parametrize("why", ["", "there is no C compiler"])
def test_plugins_run_beside_envoy_where_they_cannot_run_inside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    monkeypatch.setattr(plugin_host, "inside", lambda: why or Module(tmp_path))
    config = accepted(
        tmp_path,
        """
        gateways:
        - plugins:
            host: auto
            folder: /plugins
            timeout: 1s
            chain: [{name: greet, plugin: greet.py}]
        """,
    )
    plugins = config.gateways[0].plugins
    assert plugins is not None
    assert plugins.fallback == why
    assert plugins.as_ir.host is (ir.PluginHost.EXT_PROC if why else ir.PluginHost.EMBEDDED)
    assert (plugins.as_ir.folder, plugins.as_ir.timeout) == ("/plugins", 1.0)


@pytest.mark.parametrize(
    ("plugins", "expected"),
    [
        ("{}", "chain: is missing"),
        ("{host: auto, chain: [{name: a}]}", "chain[0].plugin: is missing"),
        ("{chain: []}", "chain"),
        ("{chain: [{name: a}]}", "chain[0].plugin: is missing (write module:Class, or a file)"),
        (
            "{chain: [{name: a, plugin: x.py}, {name: a, plugin: y.py}]}",
            "chain[1].name: plugin 'a' is already chain[0]",
        ),
        (
            "{address: 'unix:/x', chain: [{name: a, plugin: x.py}]}",
            "address: goes with host: ext-proc, not with embedded",
        ),
        ("{host: ext-proc, folder: /x, chain: [{name: a}]}", "folder: goes with host: embedded, not with ext-proc"),
        ("{host: ext-proc, chain: [{name: a, plugin: x.py}]}", "chain[0].plugin: goes with host: embedded"),
        ("{host: ext-proc, address: 'localhost:1', chain: [{name: a}]}", "address: 'localhost:1' is no address"),
        ("{host: ext-proc, address: 'unix:x', chain: [{name: a}]}", "address: 'unix:x' is no unix socket"),
        ("{folder: x, chain: [{name: a, plugin: x.py}]}", "folder: 'x' does not start with '/'"),
        ("{host: wasm, chain: [{name: a, plugin: x.py}]}", "host: "),
        ("{chain: [{name: a, plugin: x.py, models: some}]}", "chain[0].models: "),
        (
            "{chain: [{name: a, plugin: x.py, memory: 64MB}]}",
            "chain[0].memory: '64MB' is no amount of memory (write for example 64Mi)",
        ),
        ("{chain: [{name: a, plugin: x.py, memory: 64}]}", "chain[0].memory: must be 1Mi to 64Gi, not 64"),
        ("{host: ext-proc, chain: [{name: a, memory: 64Mi}]}", "chain[0].memory: goes with host: embedded"),
    ],
)
def test_what_is_wrong_with_plugins_is_named(tmp_path: Path, plugins: str, expected: str) -> None:
    found = complaints(tmp_path, f"gateways:\n- plugins: {plugins}\n")
    assert len(found) == 1, found
    assert f"gateways[0].plugins.{expected}" in found[0]


def test_requests_are_streamed_only_when_that_is_turned_on(tmp_path: Path) -> None:
    said = "clientHeader: X-User, labels: {tier: x-tier, language: 'metadata:language'}"
    on, off = (
        accepted(tmp_path, f"gateways: [{{streamRequests: {{enabled: {enabled}, {said}}}}}]").gateways[0].as_ir()
        for enabled in ("true", "false")
    )
    assert on.stream == ir.Stream("x-user", (("language", "metadata:language"), ("tier", "x-tier")))
    assert off.stream is None


@pytest.mark.parametrize(
    ("labels", "what"),
    [
        ("{version: x-a}", "label 'version' is taken, or no name of a label"),
        ("{Tier: x-a}", "label 'Tier' is taken, or no name of a label"),
        ("{tier: 'x%RESP(a)%'}", "label 'tier' has the source 'x%RESP(a)%'"),
        ("{tier: 'metadata:'}", "label 'tier' has the source 'metadata:'"),
        ("{a: h, b: h, c: h, d: h, e: h, f: h, g: h, h: h, i: h}", "has 9 labels"),
    ],
)
def test_labels_of_streamed_requests_are_names_with_sources(tmp_path: Path, labels: str, what: str) -> None:
    (complaint,) = complaints(tmp_path, f"gateways: [{{streamRequests: {{labels: {labels}}}}}]")
    assert "gateways[0].streamRequests.labels" in complaint
    assert what in complaint
