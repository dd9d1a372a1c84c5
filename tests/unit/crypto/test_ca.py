"""The cluster's CA over real TLS, and whom its certificates name."""

import socket
import ssl
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID

from petsem.crypto import ca
from petsem.crypto.ca import CertRole, Identity
from petsem.errors import Code, PetsemError

CLUSTER = bytes(range(16))
OTHER_CLUSTER = bytes(range(16, 32))
# OpenSSL asks the machine's own clock, so these certificates are made by it.
NOW_MS = time.time_ns() // 1_000_000
DAY_MS = 24 * 3600 * 1000


class Cluster(NamedTuple):
    """A CA and its id."""

    id: bytes
    cert: bytes
    key: bytes


class Leaf(NamedTuple):
    """A certificate and its key."""

    cert: bytes
    key: bytes


def _cluster(cluster_id: bytes, now_ms: int = NOW_MS) -> Cluster:
    return Cluster(cluster_id, *ca.create_ca(cluster_id, now_ms))


def _issue(cluster: Cluster, node_id: str = "node-1", **change: Any) -> Leaf:
    key = ca.new_node_key()
    arguments: dict[str, Any] = {
        "cluster_id": cluster.id,
        "node_id": node_id,
        "csr_pem": ca.node_csr(key),
        "now_ms": NOW_MS,
        "days": 30,
    }
    return Leaf(ca.issue_node(cluster.cert, cluster.key, **(arguments | change)), key)


@pytest.fixture(scope="module")
def cluster() -> Cluster:
    """One CA for the tests that do not change it."""
    return _cluster(CLUSTER)


def _context(side: int, leaf: Leaf | None, trusted: bytes, directory: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(side)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.load_verify_locations(cadata=trusted.decode("ascii"))
    if leaf is not None:
        path = directory / f"{side}.pem"
        path.write_bytes(leaf.key + leaf.cert)
        context.load_cert_chain(path)
    return context


def _handshake(
    directory: Path, server: Leaf, client: Leaf | None, trusted: bytes, name: str
) -> tuple[Identity, Identity]:
    """Whom the server and the client each see over mutual TLS; `ssl.SSLError` for a refusal."""
    server_context = _context(ssl.PROTOCOL_TLS_SERVER, server, trusted, directory)
    client_context = _context(ssl.PROTOCOL_TLS_CLIENT, client, trusted, directory)
    seen: list[Identity | OSError] = []

    def identity(connection: ssl.SSLSocket) -> Identity:
        der = connection.getpeercert(binary_form=True)
        assert der is not None
        return ca.identity_of(ssl.DER_cert_to_PEM_cert(der).encode())

    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        try:
            with connection, server_context.wrap_socket(connection, server_side=True) as tls:
                seen.append(identity(tls))
                tls.sendall(b"!")
        except OSError as error:
            seen.append(error)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        try:
            with (
                socket.create_connection(listener.getsockname(), timeout=10) as plain,
                client_context.wrap_socket(plain, server_hostname=name) as tls,
            ):
                # In TLS 1.3 a client learns that it was refused when it first reads.
                assert tls.recv(1) == b"!"
                server_seen = identity(tls)
        finally:
            thread.join()
    (client_seen,) = seen
    if isinstance(client_seen, OSError):
        raise client_seen
    return client_seen, server_seen


def test_two_nodes_meet_over_mutual_tls(cluster: Cluster, tmp_path: Path) -> None:
    """Certificates of one CA verify both ways, by the node's name and by the cluster's."""
    first, second = _issue(cluster, "node-1"), _issue(cluster, "node-2")
    for name in (ca.dns_name(CLUSTER, "node-1"), ca.dns_name(CLUSTER)):
        assert _handshake(tmp_path, first, second, cluster.cert, name) == (
            (CLUSTER, "node-2", "node"),
            (CLUSTER, "node-1", "node"),
        )


def test_dialling_another_node_than_meant_is_refused(cluster: Cluster, tmp_path: Path) -> None:
    """A node cannot stand in for another one at the other's address."""
    first, second = _issue(cluster, "node-1"), _issue(cluster, "node-2")
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        _handshake(tmp_path, first, second, cluster.cert, ca.dns_name(CLUSTER, "node-3"))


@pytest.mark.parametrize("same_id", [False, True], ids=["other id", "same id"])
@pytest.mark.parametrize("stranger", ["server", "client"])
def test_another_clusters_certificate_is_refused(
    cluster: Cluster, tmp_path: Path, stranger: str, same_id: bool
) -> None:
    """A CA of another cluster, even one made with our id, vouches for nobody here."""
    ours = _issue(cluster)
    theirs = _issue(_cluster(CLUSTER if same_id else OTHER_CLUSTER))
    server, client = (theirs, ours) if stranger == "server" else (ours, theirs)
    # The handshake must reach the point where the stranger is judged by the chain alone.
    with pytest.raises(ssl.SSLError, match=r"CERTIFICATE_VERIFY_FAILED|UNKNOWN_CA|DECRYPT_ERROR"):
        _handshake(tmp_path, server, client, cluster.cert, ca.dns_name(CLUSTER))


def test_a_client_without_certificate_is_refused(cluster: Cluster, tmp_path: Path) -> None:
    """Mutual means that a client shows a certificate or gets nothing."""
    with pytest.raises(ssl.SSLError):
        _handshake(tmp_path, _issue(cluster), None, cluster.cert, ca.dns_name(CLUSTER))


def test_an_expired_certificate_is_refused(cluster: Cluster, tmp_path: Path) -> None:
    """A certificate serves for its days and no longer."""
    old = _issue(cluster, now_ms=NOW_MS - 10 * DAY_MS, days=9)
    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        _handshake(tmp_path, old, _issue(cluster), cluster.cert, ca.dns_name(CLUSTER))


def test_a_join_certificate_dials_but_cannot_serve(cluster: Cluster, tmp_path: Path) -> None:
    """Role join shows in the identity, and no client accepts it as a server's."""
    node = _issue(cluster)
    invited = _issue(cluster, "a1b2", role=CertRole.JOIN, days=15 / (24 * 60))
    seen, _ = _handshake(tmp_path, node, invited, cluster.cert, ca.dns_name(CLUSTER))
    assert seen == Identity(CLUSTER, "a1b2", CertRole.JOIN)
    with pytest.raises(ssl.SSLCertVerificationError, match="purpose"):
        _handshake(tmp_path, invited, node, cluster.cert, ca.dns_name(CLUSTER))


def test_a_nodes_certificate_signs_no_other(cluster: Cluster, tmp_path: Path) -> None:
    """A node that issues with its own key gets a chain that nobody accepts."""
    node = _issue(cluster)
    forged = _sign(node.key, x509.load_pem_x509_certificate(node.cert).subject, "node-9")
    with_chain = Leaf(forged.cert + node.cert, forged.key)
    with pytest.raises(ssl.SSLCertVerificationError, match="invalid CA certificate"):
        _handshake(tmp_path, with_chain, node, cluster.cert, ca.dns_name(CLUSTER))


def _sign(issuer_key_pem: bytes, issuer: x509.Name, node_id: str) -> Leaf:
    """A certificate made by hand, as somebody without our code would."""
    signer = serialization.load_pem_private_key(issuer_key_pem, password=None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    names = x509.SubjectAlternativeName(
        [
            x509.UniformResourceIdentifier(f"petsem://{CLUSTER.hex()}/node/{node_id}"),
            x509.DNSName(ca.dns_name(CLUSTER)),
        ]
    )
    shell = x509.load_pem_x509_certificate(_issue(_cluster(CLUSTER)).cert)
    cert = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(shell.not_valid_before_utc)
        .not_valid_after(shell.not_valid_after_utc)
        .add_extension(names, critical=True)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
        .sign(signer, hashes.SHA256())
    )
    return Leaf(
        cert.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )


def test_what_a_nodes_certificate_says(cluster: Cluster) -> None:
    """Names, usages and life are those of the table in the format page, and no more."""
    leaf = _issue(cluster, "ams-1")
    cert = x509.load_pem_x509_certificate(leaf.cert)
    extensions = {type(e.value): e for e in cert.extensions}
    assert list(extensions[x509.SubjectAlternativeName].value) == [
        x509.UniformResourceIdentifier("petsem://000102030405060708090a0b0c0d0e0f/node/ams-1"),
        x509.DNSName("ams-1.000102030405060708090a0b0c0d0e0f.petsem.internal"),
        x509.DNSName("000102030405060708090a0b0c0d0e0f.petsem.internal"),
    ]
    assert extensions[x509.BasicConstraints].value == x509.BasicConstraints(False, None)
    assert extensions[x509.BasicConstraints].critical
    assert list(extensions[x509.ExtendedKeyUsage].value) == [
        ExtendedKeyUsageOID.CLIENT_AUTH,
        ExtendedKeyUsageOID.SERVER_AUTH,
    ]
    assert cert.issuer == x509.load_pem_x509_certificate(cluster.cert).subject
    life = cert.not_valid_after_utc.timestamp() - cert.not_valid_before_utc.timestamp()
    assert life == 30 * 24 * 3600 + 3600
    assert cert.not_valid_after_utc.timestamp() == NOW_MS // 1000 + 30 * 24 * 3600


def test_what_the_ca_says(cluster: Cluster) -> None:
    """The CA signs leaves only, names its cluster, and lives thirty years."""
    cert = x509.load_pem_x509_certificate(cluster.cert)
    basic = cert.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (basic.critical, basic.value) == (True, x509.BasicConstraints(True, 0))
    assert cert.subject.rfc4514_string() == f"CN=ca,O=petsem {CLUSTER.hex()}"
    assert (cert.not_valid_after_utc - cert.not_valid_before_utc).days == 30 * 365


def test_no_certificate_outlives_its_ca() -> None:
    """The end of a node's certificate is at most that of the CA."""
    cluster = _cluster(CLUSTER)
    leaf = x509.load_pem_x509_certificate(_issue(cluster, days=40 * 365).cert)
    root = x509.load_pem_x509_certificate(cluster.cert)
    assert leaf.not_valid_after_utc == root.not_valid_after_utc


def test_serial_numbers_and_keys_differ(cluster: Cluster) -> None:
    """Nothing is reused between two certificates of one node."""
    first, second = (_issue(cluster) for _ in range(2))
    certs = [x509.load_pem_x509_certificate(leaf.cert) for leaf in (first, second)]
    assert certs[0].serial_number != certs[1].serial_number
    assert first.key != second.key
    assert all(0 < cert.serial_number < 2**128 for cert in certs)


@pytest.mark.parametrize("node_id", ["n", "a1b2c3", "ams-1", "0" * 63])
@pytest.mark.parametrize("role", CertRole)
def test_identity_of_reads_what_issue_node_wrote(
    cluster: Cluster, node_id: str, role: CertRole
) -> None:
    """Cluster, node and role come back as they went in."""
    leaf = _issue(cluster, node_id, role=role)
    assert ca.identity_of(leaf.cert) == Identity(CLUSTER, node_id, role)


@pytest.mark.parametrize(
    "node_id", ["", "-a", "a-", "A", "a.b", "a/b", "a b", "é", "a\n", "0" * 64, "*"]
)
def test_a_node_id_that_is_no_dns_label_is_refused(cluster: Cluster, node_id: str) -> None:
    """No certificate is issued for an id that could break out of its place in a name."""
    with pytest.raises(PetsemError, match="a node's id is 1 to 63") as caught:
        _issue(cluster, node_id)
    assert caught.value.code is Code.INVALID


def _with_names(names: list[x509.GeneralName] | None) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    shell = x509.load_pem_x509_certificate(_issue(_cluster(CLUSTER)).cert)
    builder = (
        x509.CertificateBuilder()
        .subject_name(shell.subject)
        .issuer_name(shell.issuer)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(shell.not_valid_before_utc)
        .not_valid_after(shell.not_valid_after_utc)
    )
    if names is not None:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


URI = f"petsem://{CLUSTER.hex()}/node/n1"
NOBODY = {
    "no names": None,
    "only a DNS name": [x509.DNSName(ca.dns_name(CLUSTER, "n1"))],
    "two URIs": [x509.UniformResourceIdentifier(URI), x509.UniformResourceIdentifier(URI)],
    **{
        f"URI {number}": [x509.UniformResourceIdentifier(uri)]
        for number, uri in enumerate(
            [
                "",
                URI + "/",
                URI + "\n",
                " " + URI,
                URI.replace("petsem", "spiffe"),
                URI.replace("/node/", "/admin/"),
                URI.replace("/node/", "/NODE/"),
                URI.replace("000102", "00010"),
                URI.replace("0a0b", "0A0B"),
                URI.replace("/n1", "/"),
                URI.replace("/n1", "/n1/node/n2"),
                URI.replace("/n1", "/-"),
                URI + "?x",
                URI + "#x",
            ]
        )
    },
}


@pytest.mark.parametrize("names", NOBODY.values(), ids=list(NOBODY))
def test_a_certificate_that_names_no_node_is_nobody(names: list[x509.GeneralName] | None) -> None:
    """Exactly one URI of exactly one spelling counts; the subject and DNS names never do."""
    with pytest.raises(PetsemError) as caught:
        ca.identity_of(_with_names(names))
    assert caught.value.code is Code.UNAUTHENTICATED
    assert caught.value.message == "the certificate does not name a node of a cluster"


def test_what_is_no_single_certificate_is_nobody(cluster: Cluster) -> None:
    """Junk, a chain, the CA itself and what is over the limit name nobody."""
    leaf = _issue(cluster).cert
    cases = (b"", b"junk", leaf[:-40], leaf + leaf, cluster.cert, leaf + bytes(ca.PEM_MAX_BYTES))
    for pem in cases:
        with pytest.raises(PetsemError) as caught:
            ca.identity_of(pem)
        assert caught.value.code is Code.UNAUTHENTICATED


def _csr(key: Any, algorithm: hashes.SHA256 | None) -> bytes:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(key, algorithm).public_bytes(serialization.Encoding.PEM)


def _broken_signature() -> bytes:
    der = bytearray(ssl.PEM_cert_to_DER_cert(_as_cert_pem(ca.node_csr(ca.new_node_key()))))
    der[-1] ^= 1
    return _as_csr_pem(ssl.DER_cert_to_PEM_cert(bytes(der)))


def _as_cert_pem(csr: bytes) -> str:
    return csr.decode().replace("CERTIFICATE REQUEST", "CERTIFICATE")


def _as_csr_pem(cert: str) -> bytes:
    return cert.replace("CERTIFICATE", "CERTIFICATE REQUEST").encode()


REQUESTS = {
    "nothing": lambda: b"",
    "junk": lambda: b"canary",
    "a private key": ca.new_node_key,
    "too long": lambda: ca.node_csr(ca.new_node_key()) + b" " * ca.PEM_MAX_BYTES,
    "broken signature": _broken_signature,
    "Ed25519": lambda: _csr(ed25519.Ed25519PrivateKey.generate(), None),
    "P-384": lambda: _csr(ec.generate_private_key(ec.SECP384R1()), hashes.SHA256()),
}


@pytest.mark.parametrize("request_of", REQUESTS.values(), ids=list(REQUESTS))
def test_an_unsound_request_is_refused(cluster: Cluster, request_of: Any) -> None:
    """A request must be signed by the P-256 key that it asks for, and is never quoted."""
    with pytest.raises(PetsemError) as caught:
        _issue(cluster, csr_pem=request_of())
    assert caught.value.code is Code.INVALID
    assert caught.value.message == "the certificate request is not a signed request for a P-256 key"


def test_only_the_key_is_taken_from_a_request(cluster: Cluster) -> None:
    """Names that somebody writes into his request are not in his certificate."""
    key = ec.generate_private_key(ec.SECP256R1())
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "leader")]))
        .add_extension(
            x509.SubjectAlternativeName(
                [x509.UniformResourceIdentifier(f"petsem://{CLUSTER.hex()}/node/leader")]
            ),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )
    leaf = _issue(cluster, "guest", csr_pem=request)
    cert = x509.load_pem_x509_certificate(leaf.cert)
    assert ca.identity_of(leaf.cert).node_id == "guest"
    assert not cert.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert "leader" not in cert.subject.rfc4514_string()
    assert cert.public_key() == key.public_key()


def test_a_ca_whose_parts_do_not_match_signs_nothing(cluster: Cluster) -> None:
    """Certificate, key and cluster id must be of one CA, and be what they should."""
    other = _cluster(OTHER_CLUSTER)
    broken = (
        Cluster(CLUSTER, cluster.cert, other.key),
        Cluster(CLUSTER, other.cert, cluster.key),
        Cluster(OTHER_CLUSTER, cluster.cert, cluster.key),
        Cluster(CLUSTER, b"junk", cluster.key),
        Cluster(CLUSTER, cluster.cert, b"junk"),
    )
    for parts in broken:
        with pytest.raises(PetsemError) as caught:
            _issue(parts)
        assert caught.value.code is Code.CORRUPT


def test_validity(cluster: Cluster) -> None:
    """From an hour before it was issued, in whole seconds, until its days are over."""
    leaf = _issue(cluster, days=2)
    now_ms = NOW_MS // 1000 * 1000
    assert ca.validity_of(leaf.cert) == (now_ms - 3_600_000, now_ms + 2 * DAY_MS)
    for nonsense in (b"", b"hunter2", leaf.key):
        with pytest.raises(PetsemError) as refused:
            ca.validity_of(nonsense)
        assert refused.value.code is Code.CORRUPT
        assert "hunter2" not in refused.value.message


def test_what_fits(cluster: Cluster) -> None:
    """A certificate fits its own key and the CA that signed it, and nothing else."""
    leaf, other = _issue(cluster), _issue(cluster)
    stranger = _cluster(CLUSTER)
    assert ca.fits(leaf.cert, leaf.key, cluster.cert)
    assert not ca.fits(leaf.cert, other.key, cluster.cert)
    assert not ca.fits(leaf.cert, leaf.key, stranger.cert)
    assert not ca.fits(leaf.cert, leaf.key, other.cert)
    assert not ca.fits(b"hunter2", leaf.key, cluster.cert)


def test_the_key_of_a_request() -> None:
    """Each request for a key has its id, whatever its signature; an unsound request has none."""
    key = ca.new_node_key()
    one, again = ca.node_csr(key), ca.node_csr(key)
    assert one != again
    assert ca.requested_key_id(one) == ca.requested_key_id(again)
    assert len(ca.requested_key_id(one)) == 32
    assert ca.requested_key_id(one) != ca.requested_key_id(ca.node_csr(ca.new_node_key()))
    with pytest.raises(PetsemError) as refused:
        ca.requested_key_id(b"hunter2")
    assert refused.value.code is Code.INVALID
