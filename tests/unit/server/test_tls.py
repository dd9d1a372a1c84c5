"""TLS from PEM files, and what each wrong file gets."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from petsem.errors import Code, PetsemError
from petsem.server.config import TlsFiles
from petsem.server.live_tls import LiveTls
from petsem.server.tls import read_pem
from petsem.server.tls import server_context as context_of
from tests.unit.server.certificates import make_authority, make_leaf


@pytest.fixture
def tls(tmp_path: Path) -> TlsFiles:
    authority = make_authority(tmp_path / "ca.pem")
    make_leaf(authority, tmp_path / "node.pem", tmp_path / "node.key")
    return TlsFiles(tmp_path / "node.pem", tmp_path / "node.key", None)


def server_context(tls: TlsFiles) -> ssl.SSLContext:
    return context_of(tls, read_pem(tls))


def refused(tls: TlsFiles) -> str:
    """The sentence that these files are refused with, for whichever port they are."""
    with pytest.raises(PetsemError) as caught:
        LiveTls("http", tls)
    assert caught.value.code is Code.INVALID
    return caught.value.message


def handshake(server: ssl.SSLContext, client: ssl.SSLContext) -> tuple[str | None, str | None]:
    """Version and protocol that the two agree on, over memory."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server, server_hostname="127.0.0.1"),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    for _ in range(4):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    # A server that speaks TLS 1.3 refuses a client only after that client thinks it is done.
    ends[1].do_handshake()
    return ends[0].version(), ends[0].selected_alpn_protocol()


def client_of(tls: TlsFiles) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(tls.cert.with_name("ca.pem")))
    context.set_alpn_protocols(["h2", "http/1.1"])
    return context


def test_a_certificate_and_its_key_make_a_server(tls: TlsFiles) -> None:
    """TLS 1.3 and HTTP/1.1 with a client of today."""
    assert handshake(server_context(tls), client_of(tls)) == ("TLSv1.3", "http/1.1")


def test_old_versions_of_tls_are_not_spoken(tls: TlsFiles) -> None:
    """1.2 is the oldest."""
    context = server_context(tls)
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    client = client_of(tls)
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    assert handshake(context, client)[0] == "TLSv1.2"


def test_with_a_client_authority_strangers_stop_at_the_handshake(tls: TlsFiles) -> None:
    """A certificate of that authority is required; without it, or with another's, none get in."""
    directory = tls.cert.parent
    clients = make_authority(directory / "clients.pem", "clients")
    make_leaf(clients, directory / "c.pem", directory / "c.key")
    strict = TlsFiles(tls.cert, tls.key, directory / "clients.pem")
    context = server_context(strict)
    assert context.verify_mode is ssl.CERT_REQUIRED
    with pytest.raises(ssl.SSLError):
        handshake(context, client_of(tls))
    wrong = client_of(tls)
    wrong.load_cert_chain(tls.cert, tls.key)
    with pytest.raises(ssl.SSLError):
        handshake(context, wrong)
    right = client_of(tls)
    right.load_cert_chain(directory / "c.pem", directory / "c.key")
    assert handshake(context, right)[0] == "TLSv1.3"


def test_a_key_that_others_can_read_is_refused(tls: TlsFiles) -> None:
    """With the command that fixes it."""
    tls.key.chmod(0o640)
    assert refused(tls).endswith(f"run: chmod 600 {tls.key}")


def test_a_key_of_another_certificate_is_named(tls: TlsFiles) -> None:
    """Both files are fine, and do not belong together."""
    authority = make_authority(tls.cert.with_name("ca2.pem"))
    make_leaf(authority, tls.cert.with_name("other.pem"), tls.cert.with_name("other.key"))
    other = TlsFiles(tls.cert, tls.cert.with_name("other.key"), None)
    assert refused(other) == f"{other.key} is not the private key of {tls.cert}"


@pytest.mark.parametrize("name", ["cert", "key", "client_ca"])
def test_a_file_that_is_missing_is_named(tls: TlsFiles, name: str) -> None:
    """Each of the three."""
    missing = tls.cert.with_name("missing.pem")
    paths = {"cert": tls.cert, "key": tls.key, "client_ca": None} | {name: missing}
    assert refused(TlsFiles(**paths)) == f"cannot read {missing}: No such file or directory"  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["cert", "key"])
@pytest.mark.parametrize("content", [b"", b"s3cret rubbish"])
def test_a_file_that_is_not_pem_is_refused(tls: TlsFiles, name: str, content: bytes) -> None:
    """Nothing of it is repeated."""
    getattr(tls, name).write_bytes(content)
    message = refused(tls)
    assert message.startswith(f"{tls.cert} and {tls.key} are not a certificate chain")
    assert "s3cret" not in message


def test_a_client_authority_that_is_not_pem_is_refused(tls: TlsFiles) -> None:
    """An empty one would let nobody in, so it is not taken for a wish."""
    empty = tls.cert.with_name("empty.pem")
    empty.write_bytes(b"")
    assert refused(TlsFiles(tls.cert, tls.key, empty)) == f"{empty} holds no certificate in PEM"


def test_an_encrypted_key_is_refused_and_nobody_is_asked(tls: TlsFiles) -> None:
    """A service has no terminal to be asked at."""
    key = ec.generate_private_key(ec.SECP256R1())
    tls.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"pw"),
        )
    )
    assert "an unencrypted private key" in refused(tls)
