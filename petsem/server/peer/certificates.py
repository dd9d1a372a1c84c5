"""Issuing certificates with the cluster's CA, whose key is sealed in the database.

Guarantees: the CA's key is opened for one use and kept nowhere; a node without the `cluster` KEK
issues nothing. It decides nobody's membership: `petsem.server.service.nodes` does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import apsw

from petsem.crypto.ca import CertRole, issue_node
from petsem.crypto.envelope import DamagedEnvelope, Record
from petsem.crypto.keys import random_id
from petsem.errors import Code, PetsemError
from petsem.secretbytes import SecretBytes
from petsem.server import sql
from petsem.server.keys import CLUSTER, Keys

CERTIFICATE_DAYS: Final = 90
_DAY_MS: Final = 24 * 3600 * 1000


@dataclass(frozen=True, slots=True)
class Authority:
    """The cluster's CA, opened."""

    cluster_id: bytes
    certificate: bytes
    key: SecretBytes

    def node(self, node_id: str, csr: bytes, now_ms: int) -> bytes:
        """A node's certificate for the key in `csr`; `invalid` for a request that is not sound."""
        return self._issue(node_id, csr, now_ms, CERTIFICATE_DAYS, CertRole.NODE)

    def join(self, invitation: str, csr: bytes, now_ms: int, until_ms: int) -> bytes:
        """The certificate of whoever is invited, good until the invitation ends."""
        return self._issue(invitation, csr, now_ms, (until_ms - now_ms) / _DAY_MS, CertRole.JOIN)

    def _issue(self, name: str, csr: bytes, now_ms: int, days: float, role: CertRole) -> bytes:
        return issue_node(
            self.certificate,
            self.key.reveal(),
            cluster_id=self.cluster_id,
            node_id=name,
            csr_pem=csr,
            now_ms=now_ms,
            days=days,
            role=role,
        )


def open_authority(db: apsw.Connection, keys: Keys) -> Authority:
    """The CA; `unavailable` if this node lacks the `cluster` KEK, `corrupt` if the CA's key is
    damaged."""
    cluster_id, certificate, sealed = sql.rows(
        db, "SELECT cluster_id, ca_cert, ca_key FROM cluster"
    )[0]
    try:
        key = keys.open(db, CLUSTER, CLUSTER.place(Record.CA_KEY, b"ca"), sealed)
    except DamagedEnvelope:
        raise PetsemError(
            Code.CORRUPT,
            "the private key of the cluster's CA is damaged; run 'petsem check' on this node",
        ) from None
    return Authority(cluster_id, certificate, SecretBytes(key))


def new_node_id(region: str) -> str:
    """A name for people to tell nodes by, within the bounds of a host's name."""
    return f"{region[:54].rstrip('-')}-{random_id().hex()[:8]}"
