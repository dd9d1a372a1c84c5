"""TLS as the client speaks it: whom it trusts, whom it talks to in plaintext, and as whom."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from petsem.errors import Code, PetsemError
from petsem_client import Bundle, SecretReader, SyncSecretReader
from tests.integration.client_node import Node
from tests.unit.client.far_end import token

PEM = serialization.Encoding.PEM


@dataclass
class Certificate:
    """A key, and a certificate of it by `issuer` (or by itself)."""

    cert: bytes
    key: bytes
    private: ec.EllipticCurvePrivateKey
    subject: x509.Name


def certificate(name: str, issuer: Certificate | None = None) -> Certificate:
    private = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    signed = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject if issuer else subject)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.BasicConstraints(issuer is None, None), critical=True)
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .sign(issuer.private if issuer else private, hashes.SHA256())
    )
    key = private.private_bytes(
        PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return Certificate(signed.public_bytes(PEM), key, private, subject)


CA, STRANGER = certificate("ca"), certificate("stranger")
SERVER, CLIENT = certificate("node", CA), certificate("host", CA)


@asynccontextmanager
async def node(*, mutual: bool = False) -> AsyncIterator[Node]:
    made = Node()
    credentials = grpc.ssl_server_credentials(
        [(SERVER.key, SERVER.cert)], CA.cert if mutual else None, require_client_auth=mutual
    )
    await made.start(tls=credentials)
    try:
        yield made
    finally:
        await made.stop()


@pytest.fixture(params=[False, True], ids=["asyncio", "blocking"])
def fetch(request: pytest.FixtureRequest) -> Any:
    """Fetches once with a new reader of either kind."""

    async def once(at: Node, **security: Any) -> Bundle:
        kw: dict[str, Any] = {"token": token(), "timeout_s": 1.0, **security}
        if request.param:

            def blocking() -> Bundle:
                with SyncSecretReader([at.address], **kw) as reading:
                    return reading.fetch("acme/web")

            return await asyncio.to_thread(blocking)
        async with SecretReader([at.address], **kw) as reader:
            return await reader.fetch("acme/web")

    return once


async def test_our_ca(fetch: Any) -> None:
    """A node with a certificate of the CA given is trusted."""
    async with node() as at:
        assert (await fetch(at, ca=CA.cert)).version == 3


async def test_another_ca(fetch: Any) -> None:
    """A node with any other certificate gets no token, and the call ends in time."""
    async with node() as at:
        with pytest.raises(PetsemError) as caught:
            await fetch(at, ca=STRANGER.cert)
        assert caught.value.code is Code.UNAVAILABLE
        assert at.metadata == []


async def test_a_host_with_a_certificate(fetch: Any) -> None:
    """With cert and key the host is known to a node that asks for one; without, it is not."""
    async with node(mutual=True) as at:
        assert (await fetch(at, ca=CA.cert, cert=CLIENT.cert, key=CLIENT.key)).version == 3
        with pytest.raises(PetsemError):
            await fetch(at, ca=CA.cert)
        assert len(at.metadata) == 1


async def test_plaintext_to_a_tls_port_and_the_reverse(fetch: Any) -> None:
    """Neither works, and neither hangs."""
    async with node() as at:
        with pytest.raises(PetsemError):
            await fetch(at)
    plain = Node()
    await plain.start()
    try:
        with pytest.raises(PetsemError):
            await fetch(plain, ca=CA.cert)
        assert plain.metadata == []
    finally:
        await plain.stop()
