"""Connections: when there is TLS, and what files may serve it."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest

from petsem.errors import Code, PetsemError
from petsem.secretbytes import SecretBytes
from petsem_client.endpoints import Endpoint
from petsem_client.transport import CHANNEL_OPTIONS, Security, authorization

NEAR, FAR = Endpoint("127.0.0.1", 7401), Endpoint("10.0.0.1", 7401)
PEM = b"-----BEGIN CERTIFICATE-----\n"


def test_plaintext_stays_on_this_machine() -> None:
    """Without a word, loopback is plain and everything else is TLS."""
    security = Security.of(None, None, None, insecure=False)
    assert security.credentials(NEAR) is None
    assert isinstance(security.credentials(FAR), grpc.ChannelCredentials)


def test_insecure_must_be_said() -> None:
    """Only `insecure=True` lets plaintext leave."""
    assert Security.of(None, None, None, insecure=True).credentials(FAR) is None


def test_a_ca_means_tls_everywhere() -> None:
    """Whoever names a CA wants it used, on loopback too."""
    security = Security.of(PEM, None, None, insecure=False)
    assert isinstance(security.credentials(NEAR), grpc.ChannelCredentials)


@pytest.mark.parametrize(
    ("ca", "cert", "key", "insecure"),
    [
        (PEM, None, None, True),
        (None, PEM, PEM, True),
        (None, PEM, None, False),
        (None, None, PEM, False),
        (b"not pem", None, None, False),
        ("/nowhere/ca.pem", None, None, False),
        ("nul\0byte", None, None, False),
    ],
)
def test_contradictions_are_refused(
    ca: bytes | str | None, cert: bytes | None, key: bytes | None, insecure: bool
) -> None:
    """TLS and insecure, half a key pair, what is not PEM, what cannot be read: invalid."""
    with pytest.raises(PetsemError) as caught:
        Security.of(ca, cert, key, insecure=insecure)
    assert caught.value.code is Code.INVALID


def test_pem_comes_from_files_too(tmp_path: Path) -> None:
    """A path, as text or Path, is read once, when the reader is made."""
    file = tmp_path / "ca.pem"
    file.write_bytes(PEM)
    assert Security.of(file, None, None, insecure=False).ca == PEM
    assert Security.of(str(file), None, None, insecure=False).ca == PEM


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    """A loose mode is refused with the command that mends it; 0600 is taken, and not shown."""
    file = tmp_path / "key.pem"
    file.write_bytes(b"-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n")
    file.chmod(0o640)
    with pytest.raises(PetsemError, match="chmod 600"):
        Security.of(None, PEM, file, insecure=False)
    file.chmod(0o600)
    security = Security.of(None, PEM, file, insecure=False)
    assert security.key is not None
    assert "c2VjcmV0" not in repr(security)


def test_no_proxy_no_hidden_retries_bounded_messages() -> None:
    """The options that keep tokens off proxies and replies within 4 MiB are set."""
    options = dict(CHANNEL_OPTIONS)
    assert options["grpc.enable_http_proxy"] == 0
    assert options["grpc.enable_retries"] == 0
    assert options["grpc.max_receive_message_length"] == 4 * 1024 * 1024


def test_authorization() -> None:
    """The token travels as a bearer token."""
    assert authorization(SecretBytes(b"petsem_x")) == (("authorization", "Bearer petsem_x"),)
