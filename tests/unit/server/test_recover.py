"""`petsem operator recover`: a token from the cluster key, and who gets none."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from petsem.crypto.keys import Purpose
from petsem.errors import Code, PetsemError
from petsem.model import Kind, Position
from petsem.server import files
from petsem.server.check import check
from petsem.server.policy import NODES_ADMIN
from petsem.server.principal import Request
from petsem.server.recover import recover
from tests.unit.server.cluster import Cluster


async def test_the_new_token_is_an_operator_s(cluster: Cluster) -> None:
    """It is of the cluster key, limited by nothing but a day, and works once the node starts."""
    cluster.clock.advance(30 * 24 * 3600)
    before = cluster.token
    path = recover(cluster.directory, {}, clock=cluster.clock)
    assert path == cluster.datadir.default_operator_token
    assert path.stat().st_mode & 0o777 == 0o600
    assert cluster.token != before
    async with cluster.running() as node:
        with node.pool.snapshot() as db:
            token = node.auth.authorize(db, Request(cluster.token, None), NODES_ADMIN).token
        assert (token.kind, token.org, token.depth) == (Kind.OPERATOR, None, 0)
        assert token.subject == f"operator:{token.token_id}"
        assert token.expires_at_ms == cluster.clock.unix_ms() + 24 * 3600 * 1000
        assert [caveat.partition(b" ")[0] for caveat in token.caveats] == [b"time"]
        (listed,) = [t for t in node.tokens.list(None, None, 10).tokens if t.id == token.token_id]
        assert listed.created_by == "recover"


async def test_it_is_an_ordinary_transaction(cluster: Cluster) -> None:
    """The next TXID in the same epoch; nothing else changes, and everything still holds."""
    with cluster.stopped() as db:
        before = db.execute("SELECT epoch, txid FROM position").fetchall()
    recover(cluster.directory, {}, clock=cluster.clock)
    with cluster.stopped() as db:
        assert db.execute("SELECT epoch, txid FROM position").fetchall() == [
            (before[0][0], before[0][1] + 1)
        ]
        assert db.execute("SELECT epoch, txid FROM tokens WHERE created_by = 'recover'").fetchall()
    assert check(cluster.directory, {}, clock=cluster.clock).ok


async def test_tokens_from_before_still_hold(cluster: Cluster) -> None:
    """Recovery takes nothing away."""
    before = cluster.token
    recover(cluster.directory, {}, clock=cluster.clock)
    async with cluster.running() as node:
        with node.pool.snapshot() as db:
            node.auth.authorize(db, Request(before, None), NODES_ADMIN)


def test_another_file(cluster: Cluster, tmp_path: Path) -> None:
    """A file that was named is made, and the default one stays."""
    before = cluster.token
    path = recover(cluster.directory, {}, tmp_path / "elsewhere", clock=cluster.clock)
    assert path == tmp_path / "elsewhere"
    assert path.read_text().startswith("petsem_")
    assert path.stat().st_mode & 0o777 == 0o600
    assert cluster.token == before


def position(cluster: Cluster) -> Position:
    with cluster.stopped() as db:
        return Position(*db.execute("SELECT epoch, txid FROM position").fetchall()[0])


def test_a_file_that_was_named_is_never_replaced(cluster: Cluster, tmp_path: Path) -> None:
    """It is refused before any token is issued."""
    taken = tmp_path / "mine"
    taken.write_text("precious")
    before = position(cluster)
    with pytest.raises(PetsemError, match="exists already") as refused:
        recover(cluster.directory, {}, taken, clock=cluster.clock)
    assert refused.value.code is Code.CONFLICT
    assert taken.read_text() == "precious"
    assert position(cluster) == before


def test_needs_the_cluster_key(cluster: Cluster) -> None:
    """Without that KEK nobody gets a token, and the answer says which key is lacking."""
    lacking, before = cluster.kek(Purpose.CLUSTER), position(cluster)
    cluster.remove_kek(lacking)
    with pytest.raises(PetsemError, match=f"lacks the cluster key {lacking}") as refused:
        recover(cluster.directory, {}, clock=cluster.clock)
    assert refused.value.code is Code.UNAVAILABLE
    assert position(cluster) == before


def test_needs_no_other_key(cluster: Cluster) -> None:
    """The KEKs for secrets and tokens play no part."""
    for purpose in (Purpose.SECRETS, Purpose.TOKENS):
        cluster.remove_kek(cluster.kek(purpose))
    assert recover(cluster.directory, {}, clock=cluster.clock).exists()


async def test_refused_while_the_node_runs(cluster: Cluster) -> None:
    """The directory's lock is the node's."""
    async with cluster.running():
        with pytest.raises(PetsemError, match="in use by process") as refused:
            recover(cluster.directory, {}, clock=cluster.clock)
    assert refused.value.code is Code.CONFLICT


def test_refused_on_a_replica(cluster: Cluster) -> None:
    """A transaction of a replica's own would be on no branch but its own."""
    state = cluster.datadir.read_state()
    cluster.datadir.write_state(dataclasses.replace(state, role="replica"))
    with pytest.raises(PetsemError, match="directory of the last leader"):
        recover(cluster.directory, {}, clock=cluster.clock)


def test_refused_on_what_is_no_data_directory(tmp_path: Path) -> None:
    """One sentence, and nothing is made there."""
    with pytest.raises(PetsemError, match="is not a Petsem data directory"):
        recover(tmp_path, {})
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_root_key_is_said(cluster: Cluster) -> None:
    """Recovery cannot help where the cluster's root key does not open."""
    with cluster.stopped() as db:
        db.execute("UPDATE root_keys SET envelope = zeroblob(length(envelope))")
    with pytest.raises(PetsemError, match="root key is damaged") as refused:
        recover(cluster.directory, {}, clock=cluster.clock)
    assert refused.value.code is Code.CORRUPT


def test_one_line_for_the_log_and_no_token_in_it(
    cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    """It goes to standard error, with the position, in the shape that a node's log has; standard
    output is the command's own."""
    recover(cluster.directory, {}, clock=cluster.clock)
    shown = capsys.readouterr()
    assert shown.out == ""
    record = json.loads(shown.err)
    assert list(record) == ["time", "level", "logger", "event", "position", "file"]
    assert record | {"time": ""} == {
        "time": "",
        "level": "warning",
        "logger": "petsem.server.recover",
        "event": "operator_recovered",
        "position": str(position(cluster)),
        "file": str(cluster.datadir.default_operator_token),
    }
    assert cluster.token not in shown.err


def test_a_token_that_cannot_be_written_is_no_harm(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old file stays whole, and the next attempt issues another token."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    before = cluster.token
    with monkeypatch.context() as patch:
        patch.setattr(files.SYSTEM, "write", full)
        with pytest.raises(PetsemError, match="the disk or quota is full"):
            recover(cluster.directory, {}, clock=cluster.clock)
    assert cluster.token == before
    recover(cluster.directory, {}, clock=cluster.clock)
    assert cluster.token != before
