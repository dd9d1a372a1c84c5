"""A directory that becomes a node's: against a real peer port, broken off at every step, and with
answers that are none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from petsem.clock import ManualClock
from petsem.crypto import ca
from petsem.crypto.ca import CertRole
from petsem.crypto.keyring import Keyring
from petsem.crypto.keys import Purpose, generate_kek
from petsem.errors import PetsemError
from petsem.server import files, join
from petsem.server.address import Address
from petsem.server.config import load_config
from petsem.server.datadir import DataDir, NodeIdentity, NodeState
from petsem.server.files import FileOps
from petsem.server.join import Joined, KekInUse, join_cluster
from petsem.server.peer.identity import OwnCertificate
from petsem.server.peer.join_token import JoinToken
from petsem.server.peer.methods import membership_methods
from petsem.server.peer.renewal import LeaderAt, Renewal, asking
from petsem.server.service.nodes import Nodes
from petsem.wire import petsem_pb2 as pb
from tests.support.peers import Port, nodes_of, open_port
from tests.unit.server.cluster import call


@dataclass
class Site:
    """A leader with its port open, and an empty place beside it."""

    port: Port
    nodes: Nodes
    directory: Path

    async def invite(self, region: str = "fra") -> str:
        invited = await self.nodes.invite(self.port.cluster.operator, call(), region)
        return invited.join_token

    async def join(self, token: str, region: str = "fra", **options: Any) -> Joined:
        """As the command does it: in a thread, since it has a loop of its own."""
        options = {"environ": {}, "clock": self.port.cluster.clock, **options}
        return await asyncio.to_thread(
            join_cluster, self.directory, token, region=region, **options
        )

    async def refused(self, token: str, **options: Any) -> tuple[str, str]:
        with pytest.raises(PetsemError) as refused:
            await self.join(token, **options)
        return refused.value.code.value, refused.value.message

    @property
    def members(self) -> list[str]:
        return [
            row[0] for row in self.port.cluster.query("SELECT id FROM nodes ORDER BY joined_at")
        ]


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    made: list[Nodes] = []

    def methods(node: Any) -> Any:
        made.append(nodes_of(node))
        return membership_methods(made[0])

    async with open_port(tmp_path / "leader", methods) as port:
        made[0].peer_address = Address.parse(port.address)
        yield Site(port, made[0], tmp_path / "replica")


async def test_a_new_replica(site: Site) -> None:
    """Every file is there, private, and says who and where; the keys to place are named."""
    joined = await site.join(
        await site.invite(),
        http=Address("127.0.0.1", 7410),
        grpc=Address("127.0.0.1", 7411),
        peer=Address("127.0.0.1", 7412),
    )
    datadir = DataDir(site.directory)
    leader = site.port.node.identity
    assert joined == Joined(
        node_id=joined.node_id,
        cluster_id=leader.cluster_id,
        upstream=Address.parse(site.port.address),
        keyring=str(datadir.default_keyring),
        keks=tuple(
            KekInUse(each, bytes.fromhex(site.port.cluster.kek(each)), False) for each in Purpose
        ),
    )
    assert datadir.read_identity() == NodeIdentity(joined.node_id, leader.cluster_id, "fra")
    assert datadir.read_state() == NodeState("replica")
    config = load_config(datadir)
    assert config.peer.upstream == joined.upstream
    assert [str(each.bind) for each in (config.http, config.grpc, config.peer)] == [
        "127.0.0.1:7410", "127.0.0.1:7411", "127.0.0.1:7412",
    ]  # fmt: skip
    own = OwnCertificate(datadir, datadir.read_identity())
    assert own.tls.ca == site.port.authority.cert
    found = sorted(str(path.relative_to(site.directory)) for path in site.directory.rglob("*"))
    assert found == [
        "audit", "lock", "lost", "ltx", "node.json", "petsem.toml", "state.json",
        "tls", "tls/ca.crt", "tls/node.crt", "tls/node.key",
    ]  # fmt: skip
    for path in (site.directory, *site.directory.rglob("*")):
        assert path.stat().st_mode & 0o077 == 0, path
    assert site.port.cluster.query(
        "SELECT id, region, voter, http, grpc, peer FROM nodes WHERE id <> ?", leader.node_id
    ) == [(joined.node_id, "fra", 0, "127.0.0.1:7410", "127.0.0.1:7411", "127.0.0.1:7412")]


async def test_it_renews(site: Site) -> None:
    """With what the join left in the directory it is known as a member, and gets its next
    certificate from the leader; the leader gets its own from itself."""
    joined = await site.join(await site.invite())
    datadir, leader = DataDir(site.directory), site.port.own
    at = LeaderAt(site.port.address, leader.node_id)
    replica = OwnCertificate(datadir, datadir.read_identity())
    for own, where in ((replica, at), (leader, None)):
        before = own.tls.certificate
        clock = ManualClock(own.validity[1] - 1)
        renewal = Renewal(own, clock, asking(own, site.nodes, lambda where=where: where))
        await renewal.step()
        assert (renewal.last_error, own.generation) == (None, 1)
        assert own.tls.certificate != before
    assert ca.identity_of(replica.tls.certificate).node_id == joined.node_id
    elsewhere = LeaderAt(site.port.address, joined.node_id)
    renewal = Renewal(replica, clock, asking(replica, site.nodes, lambda: elsewhere))
    await renewal.step()
    assert renewal.last_error == (
        "what answers at its address does not show that node's certificate of this cluster"
    )


async def test_the_keyring_is_looked_at(site: Site, tmp_path: Path) -> None:
    """The default one or the named one, for the keys in use; one that is broken stops the join
    before the token is used."""
    token = await site.invite()
    keyring = tmp_path / "keys.json"
    keyring.write_bytes(b"hunter2")
    keyring.chmod(0o600)
    code, message = await site.refused(token, keyring_file=keyring)
    assert code == "invalid"
    assert "hunter2" not in message
    assert not site.directory.exists()
    held = site.port.cluster.keyring.keys()[0]
    keyring.write_bytes(Keyring().with_key(*held).with_key(Purpose.TOKENS, generate_kek()).encode())
    joined = await site.join(token, keyring_file=keyring)
    assert {each.purpose: each.held for each in joined.keks} == {
        each: each is held[0] for each in Purpose
    }
    assert load_config(DataDir(site.directory)).keyring.file == keyring
    assert joined.keyring == str(keyring)


async def test_another_address(site: Site) -> None:
    """`leader` is asked instead of the token's, and is what the replica will follow."""
    site.nodes.peer_address = Address("127.0.0.1", 1)
    token = await site.invite()
    leader = Address("localhost", site.port.server.port)
    assert (await site.join(token, leader=leader)).upstream == leader
    assert load_config(DataDir(site.directory)).peer.upstream == leader


async def test_nobody_there(site: Site) -> None:
    """The address is named, and the same command works once somebody is."""
    site.nodes.peer_address = Address("127.0.0.1", 1)
    token = await site.invite()
    code, message = await site.refused(token)
    assert code == "unavailable"
    assert "127.0.0.1:1" in message
    assert "run the same command again" in message
    with pytest.raises(PetsemError) as refused:
        DataDir(site.directory).require()
    assert "has not joined its cluster yet; run petsem join again" in refused.value.message
    joined = await site.join(token, leader=Address.parse(site.port.address))
    assert site.members == [site.port.node.identity.node_id, joined.node_id]


async def test_a_used_token(site: Site, tmp_path: Path) -> None:
    """A second machine is refused, and told by whom it was used; with a new token the same
    directory joins."""
    token = await site.invite()
    first = await site.join(token)
    site.directory = tmp_path / "second"
    code, message = await site.refused(token)
    assert code == "denied"
    assert first.node_id in message
    second = await site.join(await site.invite())
    assert len({first.node_id, second.node_id}) == 2


@pytest.mark.parametrize("used", [False, True])
async def test_an_ended_token(site: Site, used: bool) -> None:
    """It is not even sent, whether it was used or not."""
    token = await site.invite()
    if used:
        await site.join(token)
        site.directory = site.directory.with_name("second")
    later = ManualClock(site.port.cluster.clock.unix_ms() + 21 * 60 * 1000)
    assert await site.refused(token, clock=later) == (
        "denied",
        "the join token has ended; ask for a new one",
    )
    assert not site.directory.exists()


async def test_another_region(site: Site) -> None:
    """The leader's words come through, and the right region works with the same token."""
    token = await site.invite()
    assert await site.refused(token, region="ams") == (
        "denied",
        "the join token is for a node in fra, and for no other region",
    )
    assert (await site.join(token)).node_id.startswith("fra-")


class Crash(FileOps):
    """The n-th step that shows on the disk is the last thing that happens, or just does not."""

    def __init__(self, left: int, *, after: bool) -> None:
        self.left = left
        self.after = after

    def _step(self, step: Callable[..., None], *paths: Path) -> None:
        self.left -= 1
        if self.left or self.after:
            step(*paths)
        if self.left == 0:
            raise KeyboardInterrupt

    def fsync_directory(self, path: Path) -> None:
        self._step(super().fsync_directory, path)

    def rename(self, source: Path, target: Path) -> None:
        self._step(super().rename, source, target)

    def link(self, source: Path, target: Path) -> None:
        self._step(super().link, source, target)


@pytest.mark.parametrize("after", [False, True])
async def test_broken_off_anywhere(
    site: Site, monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    """Whatever write was the last, the same command with the same token ends it, and there is one
    node more in the cluster."""
    token = await site.invite()
    steps = 0
    while True:
        steps += 1
        site.directory = site.directory.with_name(f"replica-{steps}")
        crash = Crash(steps, after=after)
        monkeypatch.setattr(files, "SYSTEM", crash)
        for write in (files.write_new, files.write_atomic):
            monkeypatch.setitem(write.__kwdefaults__, "ops", crash)
        monkeypatch.setitem(DataDir.write_state.__kwdefaults__, "ops", crash)
        before = len(site.members)
        try:
            await site.join(token)
        except KeyboardInterrupt:
            pass
        else:
            break
        finally:
            monkeypatch.undo()
        if DataDir(site.directory).node_file.exists():
            code, message = await site.refused(token)
            assert code == "conflict"
            assert "is a node already; run: petsem serve" in message
        else:
            await site.join(token)
        datadir = DataDir(site.directory)
        OwnCertificate(datadir, datadir.read_identity())
        assert load_config(datadir).peer.upstream is not None
        assert datadir.read_state().role == "replica"
        assert len(site.members) == before + 1
        token = await site.invite()
    assert steps > 10


async def test_a_place_that_is_not_empty(site: Site) -> None:
    """Nothing in it is touched; a node is told from other things."""
    token = await site.invite()
    site.directory.mkdir(mode=0o700)
    (site.directory / "notes.txt").write_text("mine")
    assert (await site.refused(token))[0] == "conflict"
    assert [path.name for path in site.directory.iterdir()] == ["notes.txt"]
    site.directory = site.port.cluster.directory
    code, message = await site.refused(token)
    assert code == "conflict"
    assert "is a node already" in message
    assert len(site.members) == 1


async def test_what_is_no_join_token(site: Site) -> None:
    """Told apart: cut short, something else, parts of two tokens, a node's certificate."""
    one, two = [JoinToken.parse(await site.invite()) for _ in range(2)]
    node = site.port.authority.issue("fra-1")
    texts = {
        one.encode()[:-9]: "the join token is not whole; copy it again",
        site.port.cluster.token: "that is not a join token; "
        "'petsem node invite' on the cluster prints one",
        _mixed(
            one, key=two.key
        ): "the parts of the join token do not fit together; ask for a new one",
        _mixed(one, cluster_id=bytes(16)): "the parts of the join token do not fit together; "
        "ask for a new one",
        _mixed(one, key=node.key, certificate=node.certificate): "the parts of the join token do "
        "not fit together; ask for a new one",
    }
    for text, message in texts.items():
        assert await site.refused(text) == ("invalid", message)
    assert not site.directory.exists()


def _mixed(token: JoinToken, **change: Any) -> str:
    parts = {name: getattr(token, name) for name in token.__slots__}
    return JoinToken(**{**parts, **change}).encode()


@pytest.mark.parametrize("lie", ["cluster", "node", "key", "join role", "ca", "nothing"])
async def test_a_leader_that_lies(site: Site, monkeypatch: pytest.MonkeyPatch, lie: str) -> None:
    """An answer that is no certificate of this cluster for this machine makes no node."""
    real = join.ask

    async def lying(
        channel: Any, path: str, request: pb.JoinRequest, *args: Any, **more: Any
    ) -> Any:
        answer = await real(channel, path, request, *args, **more)
        authority = site.port.authority
        match lie:
            case "cluster":
                answer.cluster = bytes(16)
            case "node":
                answer.node = "ams-1"
            case "key":
                answer.certificate = authority.issue(answer.node).certificate
            case "join role":
                answer.certificate = authority.issue(answer.node, CertRole.JOIN).certificate
            case "ca":
                stranger = type(authority).new(authority.cluster_id)
                answer.certificate = stranger.issue(answer.node).certificate
            case "nothing":
                answer = pb.JoinResponse()
        return answer

    token = await site.invite()
    monkeypatch.setattr(join, "ask", lying)
    code, message = await site.refused(token)
    assert (code, message) == (
        "corrupt",
        "the answer to the join token is not a certificate of this cluster for this machine",
    )
    assert not DataDir(site.directory).node_file.exists()


async def test_a_stranger_at_the_address(site: Site, tmp_path: Path) -> None:
    """Another cluster's leader there gets nothing but the handshake."""
    token = await site.invite()
    async with open_port(tmp_path / "other", lambda n: membership_methods(nodes_of(n))) as other:
        code, _ = await site.refused(token, leader=Address.parse(other.address))
        assert code == "unavailable"
        assert other.cluster.query("SELECT count(*) FROM nodes") == [(1,)]
