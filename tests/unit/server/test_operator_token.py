"""The operator token of a node's own machine."""

from __future__ import annotations

import msgspec
import pytest

from petsem.errors import Code, PetsemError
from petsem.model import Kind, Position
from petsem.server.keys import Keys
from petsem.server.operator_token import issue_operator_token
from petsem.server.store import tokens
from petsem.tokens.identifier import Identifier
from petsem.tokens.text import parse_token
from tests.unit.server.cluster import Cluster

NOW_MS = 1_800_000_000_123


def test_its_row_says_what_the_token_says(cluster: Cluster) -> None:
    """Identifier, caveats and expiry are the same in both; it ends on a whole second."""
    keys = Keys(cluster.keyring)
    cluster_id = cluster.datadir.read_identity().cluster_id
    with cluster.stopped() as db:
        text = issue_operator_token(
            db, keys, cluster_id, Position(3, 9), NOW_MS, 60, created_by="recover"
        )
        macaroon = parse_token(text).root
        identifier = Identifier.parse(macaroon.identifier)
        row = tokens.get(db, identifier.nonce)
    assert (identifier.cluster_id, identifier.kind) == (cluster_id, Kind.OPERATOR)
    assert (identifier.epoch, identifier.txid) == (3, 9)
    assert [caveat.cid for caveat in macaroon.caveats] == [b"time < 2027-01-15T08:01:00Z"]
    assert row == tokens.TokenRow(
        nonce=identifier.nonce,
        org=None,
        root_key=identifier.root_key_id,
        kind=Kind.OPERATOR,
        subject=f"operator:{identifier.nonce.hex()}",
        parent=None,
        depth=0,
        caveats=msgspec.json.encode(["time < 2027-01-15T08:01:00Z"]).decode(),
        label=None,
        created_at=NOW_MS,
        created_by="recover",
        expires_at=1_800_000_060_000,
        epoch=3,
        txid=9,
    )


def test_two_tokens_are_two(cluster: Cluster) -> None:
    """Each has a nonce of its own, so that each can be revoked alone."""
    keys = Keys(cluster.keyring)
    with cluster.stopped() as db:
        made = {
            issue_operator_token(db, keys, b"c" * 16, Position(1, 1), NOW_MS, created_by="init")
            for _ in range(2)
        }
    assert len(made) == 2


def test_a_moved_root_key_signs_nothing(cluster: Cluster) -> None:
    """A root key that does not open in its place is damage, and no token is issued."""
    keys = Keys(cluster.keyring)
    with cluster.stopped() as db:
        db.execute("UPDATE root_keys SET id = zeroblob(16)")
        with pytest.raises(PetsemError) as refused:
            issue_operator_token(db, keys, b"c" * 16, Position(1, 1), NOW_MS, created_by="init")
        assert db.execute("SELECT count(*) FROM tokens").fetchall() == [(1,)]
    assert refused.value.code is Code.CORRUPT
