"""The cluster's certificate authority: who is a node of this cluster.

Guarantees: a certificate that chains to a cluster's CA names that cluster, one holder and one
role, in one URI (`petsem://CLUSTER/node/ID`). It verifies no chain (TLS does, and `identity_of`
is for certificates that TLS has verified), revokes nothing (the `nodes` table does: a removed
node is refused whatever its certificate says), and does not seal the CA's key (the caller does).

ECDSA on P-256 and not Ed25519, which the TLS of grpc refuses in certificates (tried: no common
signature algorithm). Naming: `docs/formats/envelope.md`.
"""

from __future__ import annotations

import enum
import hashlib
import re
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from petsem.crypto import aead
from petsem.errors import Code, PetsemError, invalid

CLUSTER_ID_BYTES: Final = 16
CA_YEARS: Final = 30
PEM_MAX_BYTES: Final = 8 * 1024
# A new node may believe it is a little earlier than the node that signed for it.
_BACKDATE: Final = timedelta(hours=1)

# A node's id is one DNS label, because it is part of the name that dialling nodes check.
_NODE_ID: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
_IDENTITY: Final = re.compile(rf"petsem://([0-9a-f]{{32}})/(node|join)/({_NODE_ID.pattern})")

# What `cryptography` raises for bytes that are not what they should be.
_FOREIGN: Final = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.ExtensionNotFound,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)


class CertRole(enum.StrEnum):
    """What a certificate lets its holder do on the peer port: everything, or join once."""

    NODE = "node"
    JOIN = "join"


class Identity(NamedTuple):
    """Whom a certificate names: the cluster (16 bytes), the node or invitation, the role."""

    cluster_id: bytes
    node_id: str
    role: CertRole


def create_ca(cluster_id: bytes, now_ms: int) -> tuple[bytes, bytes]:
    """A new cluster's CA: its certificate and its private key (secret), both PEM.

    Thirty years: every node's certificate dies with it, and replacing it means visiting all of
    them. Who holds the key can add nodes anyhow, so a shorter life would protect nothing.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name("ca", cluster_id)
    builder = (
        _builder(name, name, key.public_key(), key, now_ms)
        .not_valid_after(_time(now_ms) + timedelta(days=365 * CA_YEARS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(ca=True), critical=True)
    )
    return _pem(builder.sign(key, hashes.SHA256())), _key_pem(key)


def new_node_key() -> bytes:
    """A new private key for a node's certificate (PKCS #8 PEM, secret); it never travels.

    OpenSSL draws it, and not `petsem.crypto.aead`: so does it every ECDSA nonce, and a key that
    trusted another generator than its signatures would be no stronger.
    """
    return _key_pem(ec.generate_private_key(ec.SECP256R1()))


def node_csr(key_pem: bytes) -> bytes:
    """The request (PEM) by which the holder of a private key asks for a certificate.

    It names nobody: whoever issues decides the names, and would ignore others.
    """
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(_load_key(key_pem), hashes.SHA256()).public_bytes(
        serialization.Encoding.PEM
    )


def issue_node(
    ca_cert_pem: bytes,
    ca_key_pem: bytes,
    *,
    cluster_id: bytes,
    node_id: str,
    csr_pem: bytes,
    now_ms: int,
    days: float,
    role: CertRole = CertRole.NODE,
) -> bytes:
    """A certificate (PEM) for the key that signed `csr_pem`, good for `days` from `now_ms`.

    Only the public key is taken from the request. `invalid` for a request that is not sound or
    not P-256, `corrupt` if certificate, key and `cluster_id` are not of one CA.
    """
    if _NODE_ID.fullmatch(node_id) is None:
        raise invalid(
            "a node's id is 1 to 63 lower-case letters, digits and hyphens, "
            "with no hyphen first or last"
        )
    ca_key = _load_key(ca_key_pem)
    ca = _load_ca(ca_cert_pem, cluster_id, ca_key.public_key())
    names: list[x509.GeneralName] = [
        x509.UniformResourceIdentifier(f"petsem://{cluster_id.hex()}/{role}/{node_id}")
    ]
    usage = [ExtendedKeyUsageOID.CLIENT_AUTH]
    if role is CertRole.NODE:
        # Nobody may serve with a join certificate: it has no name to be dialled by.
        names += [
            x509.DNSName(dns_name(cluster_id, node_id)),
            x509.DNSName(dns_name(cluster_id)),
        ]
        usage += [ExtendedKeyUsageOID.SERVER_AUTH]
    builder = (
        _builder(_name(node_id, cluster_id), ca.subject, _requested_key(csr_pem), ca_key, now_ms)
        .not_valid_after(min(_time(now_ms) + timedelta(days=days), ca.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(ca=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usage), critical=True)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
    )
    return _pem(builder.sign(ca_key, hashes.SHA256()))


def dns_name(cluster_id: bytes, node_id: str | None = None) -> str:
    """The name to check when dialling: that of one node, or of any node of the cluster.

    Nodes are reached by addresses that change; the name says whom the dialler means to reach.
    """
    cluster = f"{cluster_id.hex()}.petsem.internal"
    return cluster if node_id is None else f"{node_id}.{cluster}"


def identity_of(cert_pem: bytes) -> Identity:
    """Whom a certificate names, *once TLS has verified it*; `unauthenticated` if nobody.

    A claim only, until then. The one URI counts; subject and DNS names do not.
    """
    match = _IDENTITY.fullmatch(_only_uri(cert_pem))
    if match is None:
        raise PetsemError(Code.UNAUTHENTICATED, "the certificate does not name a node of a cluster")
    cluster, role, node_id = match.group(1, 2, 3)
    return Identity(bytes.fromhex(cluster), node_id, CertRole(role))


def validity_of(cert_pem: bytes) -> tuple[int, int]:
    """From when until when a certificate is good, in Unix milliseconds; `corrupt` if it is none."""
    try:
        cert = x509.load_pem_x509_certificate(cert_pem)
        times = cert.not_valid_before_utc, cert.not_valid_after_utc
    except _FOREIGN:
        raise PetsemError(Code.CORRUPT, "that is not one certificate in PEM") from None
    start, end = (int(time.timestamp()) * 1000 for time in times)
    return start, end


def fits(cert_pem: bytes, key_pem: bytes, ca_cert_pem: bytes) -> bool:
    """Whether a certificate is for this private key, and its signature that of this CA.

    For a certificate that was just issued or read from disk; who dials or is dialled is TLS's to
    verify.
    """
    try:
        cert = x509.load_pem_x509_certificate(cert_pem)
        cert.verify_directly_issued_by(x509.load_pem_x509_certificate(ca_cert_pem))
    except (*_FOREIGN, InvalidSignature):
        return False
    return cert.public_key() == _load_key(key_pem).public_key()


def requested_key_id(csr_pem: bytes) -> bytes:
    """A 32-byte id of the public key that a sound request is for; `invalid` if it is not sound."""
    key = _requested_key(csr_pem)
    return hashlib.sha256(
        key.public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    ).digest()


def _only_uri(cert_pem: bytes) -> str:
    """The certificate's single URI name, or the empty text."""
    if len(cert_pem) > PEM_MAX_BYTES:
        return ""
    try:
        (cert,) = x509.load_pem_x509_certificates(cert_pem)
        san = cert.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        (uri,) = san.value.get_values_for_type(x509.UniformResourceIdentifier)
    except _FOREIGN:
        return ""
    return uri


def _load_ca(
    cert_pem: bytes, cluster_id: bytes, key: ec.EllipticCurvePublicKey
) -> x509.Certificate:
    try:
        ca = x509.load_pem_x509_certificate(cert_pem)
        if ca.public_key() == key and ca.subject == _name("ca", cluster_id):
            return ca
    except _FOREIGN:
        pass
    raise PetsemError(Code.CORRUPT, "the cluster's CA certificate and key do not match")


def _requested_key(csr_pem: bytes) -> ec.EllipticCurvePublicKey:
    try:
        if len(csr_pem) <= PEM_MAX_BYTES:
            csr = x509.load_pem_x509_csr(csr_pem)
            key = csr.public_key()
            # The signature shows that the asker holds the key, and does not claim another's.
            if (
                isinstance(key, ec.EllipticCurvePublicKey)
                and isinstance(key.curve, ec.SECP256R1)
                and csr.is_signature_valid
            ):
                return key
    except _FOREIGN:
        pass
    raise invalid("the certificate request is not a signed request for a P-256 key")


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    issuer_key: ec.EllipticCurvePrivateKey,
    now_ms: int,
) -> x509.CertificateBuilder:
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(int.from_bytes(aead.random_bytes(16)) | 1)
        .not_valid_before(_time(now_ms) - _BACKDATE)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(authority, critical=False)
    )


def _name(common: str, cluster_id: bytes) -> x509.Name:
    assert len(cluster_id) == CLUSTER_ID_BYTES
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, f"petsem {cluster_id.hex()}"),
            x509.NameAttribute(NameOID.COMMON_NAME, common),
        ]
    )


def _key_usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )


def _time(unix_ms: int) -> datetime:
    return datetime.fromtimestamp(unix_ms // 1000, UTC)


def _load_key(key_pem: bytes) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(key_pem, password=None)
    except _FOREIGN:
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise PetsemError(Code.CORRUPT, "a private key is not an EC key in PEM")
    return key


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _pem(cert: x509.Certificate) -> bytes:
    return cert.public_bytes(serialization.Encoding.PEM)
