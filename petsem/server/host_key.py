"""Whose TLS key a client showed: the access attribute `host_key`.

Guarantees: it is the SHA-256, in hexadecimal digits, of the SubjectPublicKeyInfo of the certificate
that the client proved at the handshake to have the private key of, so that a new certificate of the
same key is the same host. Nothing is computed before somebody asks, and once for each certificate.
Without a certificate, or with one that cannot be read, it is None, which denies where a caveat asks
for it. Whether a certificate is to be trusted is for the handshake to judge, not for this.
"""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

HostKey = Callable[[], str | None]
"""Asks a connection for it."""

HOST_KEY: Final = "petsem.host_key"
"""The key in a scope under which the connection's `HostKey` is found, on TLS."""

_KNOWN_MAX: Final = 4_096


def of_connection(connection: ssl.SSLObject) -> HostKey:
    """Of a client on a TLS connection of an event loop."""
    return partial(_of_connection, connection)


def of_call(context: Any) -> HostKey:
    """Of the caller of a gRPC method."""
    return partial(_of_call, context)


def given(host_key: str) -> HostKey | None:
    """As another node says that it was; empty: it knew of none."""
    return partial(str, host_key) if host_key else None


def _of_connection(connection: ssl.SSLObject) -> str | None:
    certificate = connection.getpeercert(binary_form=True)
    return None if certificate is None else of_certificate(certificate)


def _of_call(context: Any) -> str | None:
    # gRPC hands the certificate on in PEM, and nothing where there is none.
    for certificate in context.auth_context().get("x509_pem_cert", ()):
        return of_certificate(certificate)
    return None


@lru_cache(maxsize=_KNOWN_MAX)
def of_certificate(certificate: bytes) -> str | None:
    """Of a certificate in DER or PEM; None if it cannot be read."""
    pem = certificate.startswith(b"-----BEGIN")
    load = x509.load_pem_x509_certificate if pem else x509.load_der_x509_certificate
    try:
        key = load(certificate).public_key()
        written = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except (ValueError, UnsupportedAlgorithm):
        return None
    return hashlib.sha256(written).hexdigest()
