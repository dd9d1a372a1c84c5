"""`petsem init`: a new cluster of one node.

Guarantees: the directory counts as a node only once everything in it is on the disk (`node.json`
is written last), so an init that was cut short is refused by `serve` and can be made again in an
empty place. Keyring and operator token are put beside the directory, never in it, mode 0600.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import apsw

from petsem.clock import Clock, SystemClock
from petsem.crypto.ca import create_ca, issue_node, new_node_key, node_csr
from petsem.crypto.envelope import Record
from petsem.crypto.keyring import Keyring
from petsem.crypto.keys import Purpose, generate_kek, random_id
from petsem.errors import conflict
from petsem.model import Position
from petsem.server import sql
from petsem.server.address import Address
from petsem.server.config import render_default
from petsem.server.database import open_writer
from petsem.server.datadir import DataDir, NodeIdentity, NodeState, check_region
from petsem.server.files import present, write_new
from petsem.server.keys import CLUSTER, Keys
from petsem.server.leadership import begin_epoch
from petsem.server.operator_token import issue_operator_token
from petsem.server.peer.certificates import CERTIFICATE_DAYS, new_node_id
from petsem.server.schema import migrate
from petsem.server.service.tokens import add_root_key

DEFAULT_ADDRESSES: Final = {
    "http": Address("127.0.0.1", 7400),
    "grpc": Address("127.0.0.1", 7401),
    "peer": Address("127.0.0.1", 7402),
}


@dataclass(frozen=True, slots=True)
class NewCluster:
    """What was made, and where its two secrets are."""

    node_id: str
    cluster_id: bytes
    keyring_file: Path
    operator_token_file: Path


def init_cluster(
    directory: Path,
    *,
    region: str,
    http: Address | None = None,
    grpc: Address | None = None,
    peer: Address | None = None,
    keyring_file: Path | None = None,
    operator_token_file: Path | None = None,
    clock: Clock | None = None,
) -> NewCluster:
    """Make the directory, keyring, database, CA and first operator token of a new cluster."""
    clock = clock or SystemClock()
    now_ms = clock.unix_ms()
    check_region(region)
    datadir = DataDir(directory)
    keyring_path = (keyring_file or datadir.default_keyring).absolute()
    token_path = (operator_token_file or datadir.default_operator_token).absolute()
    for path in (keyring_path, token_path):
        # Found out now, nothing is left behind that the next try would stumble over.
        if present(path):
            raise conflict(f"{path} exists already; move it away or choose another name")
    datadir.create()
    keyring = Keyring()
    for purpose in Purpose:
        keyring = keyring.with_key(purpose, generate_kek())
    write_new(keyring_path, keyring.encode())
    identity = NodeIdentity(new_node_id(region), random_id(), region)
    addresses = {
        "http": http or DEFAULT_ADDRESSES["http"],
        "grpc": grpc or DEFAULT_ADDRESSES["grpc"],
        "peer": peer or DEFAULT_ADDRESSES["peer"],
    }
    config = render_default(
        region, http=http, grpc=grpc, peer=peer,
        keyring_file=None if keyring_file is None else keyring_path,
    )  # fmt: skip
    write_new(datadir.config_file, config.encode())
    ca_cert, ca_key = create_ca(identity.cluster_id, now_ms)
    _write_certificate(datadir, identity, ca_cert, ca_key, now_ms)
    # Made here, so that it and its WAL are ours alone from the first byte.
    write_new(datadir.database, b"")
    db = open_writer(datadir.database, create=True)
    try:
        token = _fill(db, Keys(keyring), identity, addresses, (ca_cert, ca_key), now_ms)
    finally:
        db.close()
    datadir.write_state(NodeState("leader", bound_epoch=1, bound_leader=identity.node_id))
    write_new(token_path, token.encode() + b"\n")
    datadir.write_identity(identity)
    return NewCluster(identity.node_id, identity.cluster_id, keyring_path, token_path)


def _fill(
    db: apsw.Connection,
    keys: Keys,
    identity: NodeIdentity,
    addresses: dict[str, Address],
    ca: tuple[bytes, bytes],
    now_ms: int,
) -> str:
    """The first transaction; the operator token that it issues."""
    db.execute("BEGIN IMMEDIATE")
    migrate(db)
    position = begin_epoch(db, Position(1, 1), identity.node_id, now_ms)
    held = keys.keyring.keys()
    for purpose, key in held:
        sql.run(db, "INSERT INTO keks VALUES (?, ?, 'primary')", (purpose.value, key.id))
    keys.create(db, CLUSTER, now_ms)
    add_root_key(db, keys, CLUSTER, now_ms)
    ca_cert, ca_key = ca
    sealed = keys.seal(db, CLUSTER, CLUSTER.place(Record.CA_KEY, b"ca"), ca_key)
    sql.run(
        db,
        "INSERT INTO cluster (id, cluster_id, created_at, ca_cert, ca_key) VALUES (1, ?, ?, ?, ?)",
        (identity.cluster_id, now_ms, ca_cert, sealed),
    )
    sql.run(
        db,
        "INSERT INTO nodes (id, region, voter, http, grpc, peer, joined_at)"
        " VALUES (?, ?, 1, ?, ?, ?, ?)",
        (identity.node_id, identity.region, *map(str, addresses.values()), now_ms),
    )
    token = issue_operator_token(db, keys, identity.cluster_id, position, now_ms, created_by="init")
    db.execute("COMMIT")
    return token


def _write_certificate(
    datadir: DataDir, identity: NodeIdentity, ca_cert: bytes, ca_key: bytes, now_ms: int
) -> None:
    """The node's own key and certificate of the cluster's CA, for its peer port."""
    key = new_node_key()
    certificate = issue_node(
        ca_cert,
        ca_key,
        cluster_id=identity.cluster_id,
        node_id=identity.node_id,
        csr_pem=node_csr(key),
        now_ms=now_ms,
        days=CERTIFICATE_DAYS,
    )
    write_new(datadir.tls / "node.key", key)
    write_new(datadir.tls / "node.crt", certificate)
    write_new(datadir.tls / "ca.crt", ca_cert)
