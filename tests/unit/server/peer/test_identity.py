"""Keys and certificates on disk, and who callers are."""

from __future__ import annotations

from pathlib import Path

import pytest

from petsem.crypto import ca
from petsem.crypto.ca import CertRole, Identity
from petsem.errors import Code, PetsemError
from petsem.server.keys import Keys
from petsem.server.peer.certificates import open_authority
from petsem.server.peer.identity import Caller, Callers, OwnCertificate
from tests.support.peers import Authority, now_ms
from tests.unit.server.cluster import Cluster

CLUSTER = bytes(range(16))


@pytest.fixture
def own(cluster: Cluster) -> OwnCertificate:
    return OwnCertificate(cluster.datadir, cluster.datadir.read_identity())


def test_what_init_made(cluster: Cluster, own: OwnCertificate) -> None:
    """Key, certificate and CA are read as they are, and say whose they are."""
    identity = cluster.datadir.read_identity()
    assert (own.cluster_id, own.node_id) == (identity.cluster_id, identity.node_id)
    assert own.tls.certificate == (cluster.datadir.tls / "node.crt").read_bytes()
    start, end = own.validity
    assert (start, end) == (
        cluster.clock.unix_ms() - 3_600_000,
        cluster.clock.unix_ms() + 90 * 86_400_000,
    )
    assert "PRIVATE" not in repr(own.tls)


@pytest.mark.parametrize("name", ["node.crt", "node.key", "ca.crt"])
def test_what_does_not_belong_together(cluster: Cluster, tmp_path: Path, name: str) -> None:
    """Files of another cluster are not taken for this node's."""
    other = Cluster(tmp_path / "other")
    (cluster.datadir.tls / name).write_bytes((other.datadir.tls / name).read_bytes())
    with pytest.raises(PetsemError) as refused:
        OwnCertificate(cluster.datadir, cluster.datadir.read_identity())
    assert refused.value.code is Code.CORRUPT


def test_a_key_that_others_can_read(cluster: Cluster) -> None:
    """Is refused with the command that mends it."""
    (cluster.datadir.tls / "node.key").chmod(0o640)
    with pytest.raises(PetsemError) as refused:
        OwnCertificate(cluster.datadir, cluster.datadir.read_identity())
    assert "chmod 600" in refused.value.message


def test_a_certificate_in_its_place(cluster: Cluster, own: OwnCertificate) -> None:
    """Only this node's own, of this CA and for this key, takes the place of the one before."""
    authority = _authority(cluster)
    before = own.tls
    others = [
        authority.issue(own.node_id).certificate,
        _issue(authority, "fra-1", own.csr()),
        _issue(authority, own.node_id, own.csr(), CertRole.JOIN),
        _issue(Authority.new(own.cluster_id), own.node_id, own.csr()),
        b"",
    ]
    for wrong in others:
        with pytest.raises(PetsemError) as refused:
            own.replace(wrong)
        assert refused.value.code is Code.CORRUPT
    assert (own.tls, own.generation) == (before, 0)
    renewed = _issue(authority, own.node_id, own.csr())
    own.replace(renewed)
    assert (own.tls.certificate, own.generation) == (renewed, 1)
    read = OwnCertificate(cluster.datadir, cluster.datadir.read_identity())
    assert read.tls.certificate == renewed


def _authority(cluster: Cluster) -> Authority:
    """The cluster's CA, opened while no node runs."""
    with cluster.stopped() as db:
        found = open_authority(db, Keys(cluster.keyring))
    return Authority(found.cluster_id, found.certificate, found.key.reveal())


def _issue(authority: Authority, name: str, csr: bytes, role: CertRole = CertRole.NODE) -> bytes:
    return ca.issue_node(
        authority.cert,
        authority.key,
        cluster_id=authority.cluster_id,
        node_id=name,
        csr_pem=csr,
        now_ms=now_ms(),
        days=1,
        role=role,
    )


def test_callers() -> None:
    """Named by the verified certificate, until it ends, and once more from memory."""
    callers = Callers(CLUSTER)
    certificate = Authority.new(CLUSTER).issue("fra-1").certificate
    end = ca.validity_of(certificate)[1]
    context = {"x509_pem_cert": [certificate]}
    expected = Caller(Identity(CLUSTER, "fra-1", CertRole.NODE), end)
    for _ in range(2):
        assert callers.of(context, end - 1) == expected
        with pytest.raises(PetsemError) as refused:
            callers.of(context, end)
        assert refused.value.message.startswith("the certificate has ended")


@pytest.mark.parametrize("shown", [{}, {"x509_pem_cert": []}, {"x509_pem_cert": [b"", b""]}])
def test_no_single_certificate(shown: dict[str, list[bytes]]) -> None:
    """Nobody is named by none, nor by two."""
    with pytest.raises(PetsemError) as refused:
        Callers(CLUSTER).of(shown, 0)
    assert refused.value.code is Code.UNAUTHENTICATED


def test_another_cluster_s_caller() -> None:
    """The name counts, whoever signed."""
    certificate = Authority.new(bytes(16)).issue("fra-1").certificate
    with pytest.raises(PetsemError) as refused:
        Callers(CLUSTER).of({"x509_pem_cert": [certificate]}, 0)
    assert refused.value.message == "the certificate is of another cluster than this node"
