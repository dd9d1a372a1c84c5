"""Who this node is to others, and who they are: keys and certificates of the cluster's own CA.

Guarantees: a private key is shown by no `repr`; a certificate on disk is replaced by one for the
same key and the same node or not at all, in one rename, so key and certificate always fit
together. Whoever calls is named only after TLS has verified the certificate, and not past its end
(TLS looks at that once, when a connection begins, and connections live long). It does not know
who is a member; `petsem.server.peer.membership` does.

A renewed certificate is for the same key: whoever copied the key could renew by himself, so a new
one would lock nobody out. `petsem node remove` does.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from petsem.crypto import ca
from petsem.crypto.ca import CertRole, Identity
from petsem.errors import Code, PetsemError
from petsem.secretbytes import SecretBytes
from petsem.server import files
from petsem.server.datadir import DataDir, NodeIdentity

KEY_FILE: Final = "node.key"
CERTIFICATE_FILE: Final = "node.crt"
CA_FILE: Final = "ca.crt"
_CALLERS_REMEMBERED: Final = 512


@dataclass(frozen=True, slots=True)
class TlsMaterial:
    """What one side of a connection shows and trusts, in PEM."""

    key: SecretBytes
    certificate: bytes
    ca: bytes


class OwnCertificate:
    """This node's key and certificate. `generation` goes up when the certificate is renewed."""

    def __init__(self, datadir: DataDir, identity: NodeIdentity) -> None:
        """Read `tls/`; `corrupt` if what is there is not this node's."""
        self._datadir = datadir
        self._identity = identity
        read = files.read_bounded
        self._tls = TlsMaterial(
            SecretBytes(read(datadir.tls / KEY_FILE, ca.PEM_MAX_BYTES, private=True)),
            read(datadir.tls / CERTIFICATE_FILE, ca.PEM_MAX_BYTES),
            read(datadir.tls / CA_FILE, ca.PEM_MAX_BYTES),
        )
        self.generation = 0
        self._require_ours(self._tls.certificate)

    @property
    def tls(self) -> TlsMaterial:
        """What to show now."""
        return self._tls

    @property
    def cluster_id(self) -> bytes:
        return self._identity.cluster_id

    @property
    def node_id(self) -> str:
        return self._identity.node_id

    @property
    def validity(self) -> tuple[int, int]:
        """From when until when the certificate is good, in Unix milliseconds."""
        return ca.validity_of(self._tls.certificate)

    def csr(self) -> bytes:
        """The request for the next certificate."""
        return ca.node_csr(self._tls.key.reveal())

    def replace(self, certificate: bytes) -> None:
        """Use `certificate` from now on, durably; `corrupt` if it is not this node's."""
        self._require_ours(certificate)
        files.write_atomic(self._datadir.tls / CERTIFICATE_FILE, certificate)
        self._tls = TlsMaterial(self._tls.key, certificate, self._tls.ca)
        self.generation += 1

    def _require_ours(self, certificate: bytes) -> None:
        ours = Identity(self.cluster_id, self.node_id, CertRole.NODE)
        if not is_certificate_of(certificate, ours, self._tls):
            raise PetsemError(
                Code.CORRUPT,
                f"{self._datadir.tls} does not hold this node's key, its certificate and the "
                "cluster's CA; restore the directory from a backup, or remove the node and join "
                "it again",
            )


def is_certificate_of(certificate: bytes, who: Identity, tls: TlsMaterial) -> bool:
    """Whether `certificate` names `who`, and is for the key and of the CA in `tls`."""
    try:
        return ca.identity_of(certificate) == who and ca.fits(certificate, tls.key.reveal(), tls.ca)
    except PetsemError:
        return False


@dataclass(frozen=True, slots=True)
class Caller:
    """Whom a verified certificate names, and until when it is good."""

    identity: Identity
    ends_ms: int


class Callers:
    """Names callers of one cluster by the certificates that TLS has verified."""

    def __init__(self, cluster_id: bytes) -> None:
        self._cluster_id = cluster_id
        # Parsing takes longer than the rest of a short call.
        self._seen: OrderedDict[bytes, Caller] = OrderedDict()

    def of(self, auth_context: Mapping[str, Iterable[bytes]], now_ms: int) -> Caller:
        """Who calls, by a call's authentication context; `unauthenticated` if that is nobody of
        this cluster, or not any more."""
        certificates = list(auth_context.get("x509_pem_cert", ()))
        if len(certificates) != 1:
            raise PetsemError(Code.UNAUTHENTICATED, "this port needs a node's certificate")
        caller = self._seen.get(certificates[0]) or self._read(certificates[0])
        if now_ms >= caller.ends_ms:
            raise ended()
        return caller

    def _read(self, certificate: bytes) -> Caller:
        identity = ca.identity_of(certificate)
        # The chain says so too, since each cluster has a CA of its own; the name is what counts.
        if identity.cluster_id != self._cluster_id:
            raise PetsemError(
                Code.UNAUTHENTICATED, "the certificate is of another cluster than this node"
            )
        caller = Caller(identity, ca.validity_of(certificate)[1])
        if len(self._seen) >= _CALLERS_REMEMBERED:
            self._seen.popitem(last=False)
        self._seen[certificate] = caller
        return caller


def ended() -> PetsemError:
    """The refusal of a certificate whose time is over."""
    return PetsemError(
        Code.UNAUTHENTICATED, "the certificate has ended; connect again with the one after it"
    )
