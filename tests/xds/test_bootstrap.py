"""The bootstrap that we print, as the real Envoy takes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml

from xds.bootstrap import UpstreamTls, as_yaml, bootstrap, secrets


def printed(address: str = "127.0.0.1", **more: Any) -> dict[str, Any]:
    return bootstrap(node_id="envoy-1", node_cluster="default", xds_address=address, xds_port=18_000, **more)


@pytest.fixture
def certificates(tmp_path: Path) -> dict[str, str]:
    authority = trustme.CA()
    client = authority.issue_cert("envoy-1.example.com")
    files = {name: str(tmp_path / f"{name}.pem") for name in ("ca", "certificate", "key")}
    authority.cert_pem.write_to_path(files["ca"])
    client.cert_chain_pems[0].write_to_path(files["certificate"])
    client.private_key_pem.write_to_path(files["key"])
    return files


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "headgate.example.com"])
@pytest.mark.parametrize("sotw", [False, True])
def test_envoy_accepts_it(envoy_accepts, address, sotw):
    assert envoy_accepts(printed(address, sotw=sotw)) == (True, "")


@pytest.mark.parametrize("address", ["127.0.0.1", "headgate.example.com"])
def test_envoy_accepts_it_with_certificates(envoy_accepts, certificates, address):
    assert envoy_accepts(printed(address, tls=UpstreamTls(**certificates))) == (True, "")
    assert envoy_accepts(printed(address, tls=UpstreamTls(ca=certificates["ca"]))) == (True, "")


def test_envoy_accepts_certificates_that_it_follows(envoy_accepts, certificates, tmp_path):
    tls = UpstreamTls(**certificates, secrets_folder=str(tmp_path))
    for path, content in secrets(tls, "127.0.0.1").items():
        Path(path).write_text(as_yaml(content))
    assert envoy_accepts(printed(tls=tls)) == (True, "")


@pytest.mark.parametrize("word", ["n", "Y", "no", "true", "null", "0x10", "1e3", "~"])
def test_a_name_that_yaml_takes_for_something_else_stays_a_name(envoy_accepts, word):
    named = bootstrap(node_id=word, node_cluster=word, xds_address="127.0.0.1", xds_port=1)
    assert envoy_accepts(named) == (True, "")
    assert yaml.safe_load(as_yaml(named)) == named


def test_envoy_would_name_a_field_that_it_does_not_know(envoy_accepts):
    accepted, why = envoy_accepts(printed() | {"misspelt": {}})
    assert not accepted
    assert "misspelt" in why


def test_delta_is_asked_for_unless_told_otherwise():
    assert printed()["dynamic_resources"]["ads_config"]["api_type"] == "DELTA_GRPC"
    assert printed(sotw=True)["dynamic_resources"]["ads_config"]["api_type"] == "GRPC"


def test_the_control_plane_must_prove_its_name(certificates):
    def expected(address: str, name: str | None) -> dict[str, Any]:
        tls = UpstreamTls(ca=certificates["ca"], server_name=name)
        (cluster,) = printed(address, tls=tls)["static_resources"]["clusters"]
        context = cluster["transport_socket"]["typed_config"]
        (wanted,) = context["common_tls_context"]["validation_context"]["match_typed_subject_alt_names"]
        return {"sni": context.get("sni"), **wanted}

    assert expected("10.0.0.1", None) == {"sni": None, "san_type": "IP_ADDRESS", "matcher": {"exact": "10.0.0.1"}}
    for address, name in (("cp.example.com", None), ("10.0.0.1", "cp.example.com")):
        assert expected(address, name) == {
            "sni": "cp.example.com",
            "san_type": "DNS",
            "matcher": {"exact": "cp.example.com"},
        }


def test_a_certificate_without_its_key_is_refused():
    with pytest.raises(ValueError, match="give both or neither"):
        UpstreamTls(ca="ca.pem", certificate="certificate.pem")


def test_admin_listens_on_loopback():
    assert printed()["admin"]["address"]["socket_address"]["address"] == "127.0.0.1"
