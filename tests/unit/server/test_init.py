"""`init`: what a new cluster consists of, and what it leaves when it is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from petsem.clock import ManualClock
from petsem.crypto.ca import identity_of
from petsem.crypto.envelope import Record
from petsem.crypto.keyring import Keyring
from petsem.crypto.keys import Purpose
from petsem.errors import Code, PetsemError
from petsem.model import Kind, Position
from petsem.server import policy, sql
from petsem.server.auth import Authenticator
from petsem.server.changes import Changes
from petsem.server.config import load_config
from petsem.server.database import open_reader, read_position
from petsem.server.datadir import DataDir, NodeState
from petsem.server.init import init_cluster
from petsem.server.keys import CLUSTER, Keys
from petsem.server.principal import Names, Request
from petsem.tokens.text import parse_token


def modes(directory: Path) -> dict[str, int]:
    """The permissions of everything under a directory, by relative path."""
    found = {p.relative_to(directory).as_posix(): p for p in directory.rglob("*")}
    return {name: path.stat().st_mode & 0o777 for name, path in found.items()}


def test_a_new_cluster_is_whole_and_private(tmp_path: Path) -> None:
    """Every file is there and closed to others; both secrets lie beside the directory."""
    made = init_cluster(tmp_path / "node", region="ams", clock=ManualClock())
    files = {
        *("node.json", "state.json", "petsem.toml", "petsem.db", "petsem.db-wal", "petsem.db-shm"),
        *("tls/ca.crt", "tls/node.crt", "tls/node.key"),
    }
    directories = {"ltx", "tls", "audit", "lost"}
    assert modes(tmp_path) == {
        "node": 0o700,
        "node.keyring.json": 0o600,
        "node.operator.token": 0o600,
        **{f"node/{name}": 0o600 for name in files},
        **{f"node/{name}": 0o700 for name in directories},
    }
    datadir = DataDir(tmp_path / "node")
    identity = datadir.read_identity()
    assert (identity.node_id, identity.cluster_id, identity.region) == (
        made.node_id,
        made.cluster_id,
        "ams",
    )
    assert datadir.read_state() == NodeState("leader", 1, made.node_id)
    assert load_config(datadir).http.bind.port == 7400
    certificate = identity_of((datadir.tls / "node.crt").read_bytes())
    assert certificate[:2] == (made.cluster_id, made.node_id)


def test_its_database_is_at_the_first_position(tmp_path: Path) -> None:
    """One epoch, one member, one primary KEK a purpose, and a CA key that only `cluster` opens."""
    clock = ManualClock()
    made = init_cluster(tmp_path / "node", region="ams", clock=clock)
    keyring = Keyring.parse(made.keyring_file.read_bytes())
    db = open_reader(tmp_path / "node" / "petsem.db")
    assert read_position(db) == Position(1, 1)
    assert sql.rows(db, "SELECT * FROM epochs") == [(1, 1, made.node_id, clock.unix_ms())]
    assert sql.rows(db, "SELECT id, region, voter FROM nodes") == [(made.node_id, "ams", 1)]
    assert set(sql.rows(db, "SELECT * FROM keks")) == {
        (purpose.value, keyring.ids(purpose)[0], "primary") for purpose in Purpose
    }
    sealed = sql.rows(db, "SELECT ca_key FROM cluster")[0][0]
    place = CLUSTER.place(Record.CA_KEY, b"ca")
    assert b"PRIVATE KEY" in Keys(keyring).open(db, CLUSTER, place, sealed)
    assert b"PRIVATE KEY" not in sealed
    db.close()


def test_the_first_operator_can_do_everything_for_a_day(tmp_path: Path) -> None:
    """The token is of the cluster key, limited by nothing but 24 hours."""
    clock = ManualClock()
    made = init_cluster(tmp_path / "node", region="ams", clock=clock)
    text = made.operator_token_file.read_text().strip()
    caveats = [caveat.cid for caveat in parse_token(text).root.caveats]
    assert caveats == [b"time < 2027-01-16T08:00:00Z"]
    keys = Keys(Keyring.parse(made.keyring_file.read_bytes()))
    auth = Authenticator(keys, clock, made.cluster_id, "ams", Changes())
    db = open_reader(tmp_path / "node" / "petsem.db")
    asked = Request(text, None)
    for rule in (policy.NODES_ADMIN, policy.ORGS_ADMIN, policy.SECRETS_READ):
        found = auth.authorize(db, asked, rule, Names("any-org", "any-app"))
        assert (found.token.kind, found.token.org, found.token.depth) == (Kind.OPERATOR, None, 0)
    clock.advance(24 * 3600)
    with pytest.raises(PetsemError) as refused:
        auth.authorize(db, asked, policy.NODES_READ)
    assert refused.value.detail.reason == "EXPIRED"
    db.close()


@pytest.mark.parametrize("taken", ["node.keyring.json", "node.operator.token"])
def test_a_secret_of_another_cluster_is_not_replaced(tmp_path: Path, taken: str) -> None:
    """A file in the way of a secret is found out before anything is made, so nothing is left."""
    (tmp_path / taken).write_text("precious")
    with pytest.raises(PetsemError) as refused:
        init_cluster(tmp_path / "node", region="ams")
    assert refused.value.code is Code.CONFLICT
    assert (tmp_path / taken).read_text() == "precious"
    assert [path.name for path in tmp_path.iterdir()] == [taken]


def test_a_directory_in_use_is_refused(tmp_path: Path) -> None:
    """Init never touches a directory that has something in it."""
    init_cluster(tmp_path / "node", region="ams")
    before = modes(tmp_path)
    with pytest.raises(PetsemError) as refused:
        init_cluster(
            tmp_path / "node",
            region="ams",
            keyring_file=tmp_path / "k",
            operator_token_file=tmp_path / "t",
        )
    assert refused.value.code is Code.CONFLICT
    assert modes(tmp_path) == before


def test_an_init_that_was_cut_short_is_no_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`node.json` comes last: what crashed before it is refused by whoever would serve it."""

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(DataDir, "write_identity", crash)
    with pytest.raises(KeyboardInterrupt):
        init_cluster(tmp_path / "node", region="ams")
    with pytest.raises(PetsemError) as refused:
        DataDir(tmp_path / "node").read_identity()
    assert refused.value.code is Code.INVALID


@pytest.mark.parametrize("region", ["a" * 63, "a" * 53 + "-" + "b" * 9])
def test_the_longest_region_makes_a_node_id_that_fits(tmp_path: Path, region: str) -> None:
    """A node's id is its region, shortened if need be, and eight digits."""
    made = init_cluster(tmp_path / "node", region=region)
    assert len(made.node_id) <= 63
    assert DataDir(tmp_path / "node").read_identity().region == region


@pytest.mark.parametrize("region", ["", "AMS", "ams.1", "-a", "a" * 64, "a/b", "a\n"])
def test_a_bad_region_is_refused_before_anything_is_made(tmp_path: Path, region: str) -> None:
    """Nothing is left of an init with a region that cannot be one."""
    with pytest.raises(PetsemError) as refused:
        init_cluster(tmp_path / "node", region=region)
    assert refused.value.code is Code.INVALID
    assert list(tmp_path.iterdir()) == []
