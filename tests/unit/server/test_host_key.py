"""The access attribute `host_key`: of the key and not of the certificate, and None if in doubt."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from petsem.server import host_key
from tests.unit.server.certificates import make_authority, make_leaf


@pytest.fixture
def certificate(tmp_path: Path) -> x509.Certificate:
    make_leaf(make_authority(tmp_path / "ca.pem"), tmp_path / "c.pem", tmp_path / "k.pem")
    return x509.load_pem_x509_certificate((tmp_path / "c.pem").read_bytes())


def test_as_openssl_has_it(certificate: x509.Certificate, tmp_path: Path) -> None:
    """SHA-256 over what openssl writes as the public key, from PEM and DER alike."""
    read = ["openssl", "x509", "-in", str(tmp_path / "c.pem"), "-pubkey", "-noout"]
    pem = subprocess.run(read, check=True, capture_output=True).stdout
    write = ["openssl", "pkey", "-pubin", "-outform", "der"]
    der = subprocess.run(write, input=pem, check=True, capture_output=True).stdout
    found = {
        host_key.of_certificate(certificate.public_bytes(form))
        for form in (Encoding.PEM, Encoding.DER)
    }
    assert found == {hashlib.sha256(der).hexdigest()}


@pytest.mark.parametrize("data", [b"", b"-----BEGIN CERTIFICATE-----\n", b"\x30\x03\x02\x01\x01"])
def test_what_is_no_certificate(data: bytes) -> None:
    """It has no key, and nothing is raised."""
    assert host_key.of_certificate(data) is None


def test_each_door(certificate: x509.Certificate) -> None:
    """TLS connections of the loop and gRPC calls say the same; without a certificate, None."""
    der, pem = (certificate.public_bytes(form) for form in (Encoding.DER, Encoding.PEM))
    own = host_key.of_certificate(der)
    connection: Any = SimpleNamespace(getpeercert=lambda *, binary_form: der)
    nobody: Any = SimpleNamespace(getpeercert=lambda *, binary_form: None)
    assert host_key.of_connection(connection)() == own
    assert host_key.of_connection(nobody)() is None
    call = SimpleNamespace(auth_context=lambda: {"x509_pem_cert": [pem]})
    assert host_key.of_call(call)() == own
    assert host_key.of_call(SimpleNamespace(auth_context=dict))() is None


def test_as_a_node_passes_it_on() -> None:
    """What it said, and nothing where it said nothing."""
    said = host_key.given("ab")
    assert said is not None
    assert said() == "ab"
    assert host_key.given("") is None
