"""Certificates in, SDS secrets out. Listeners name them; their bytes are never logged."""

from __future__ import annotations

from envoy_data_plane.envoy.config.core.v3 import DataSource
from envoy_data_plane.envoy.extensions.transport_sockets.tls.v3 import (
    CertificateValidationContext,
    Secret,
    TlsCertificate,
)

from xds.encode import encode
from xds.resources import Resource


def secret(name: str, certificate: bytes, key: bytes) -> Resource:
    """Return a certificate chain with its private key, both PEM."""
    pair = TlsCertificate(
        certificate_chain=DataSource(inline_bytes=certificate), private_key=DataSource(inline_bytes=key)
    )
    return Resource.of(name, encode(Secret(name=name, tls_certificate=pair)))


def validation_context(name: str, ca: bytes) -> Resource:
    """Return the certificate authorities (PEM) whose client certificates are accepted."""
    trusted = CertificateValidationContext(trusted_ca=DataSource(inline_bytes=ca))
    return Resource.of(name, encode(Secret(name=name, validation_context=trusted)))
