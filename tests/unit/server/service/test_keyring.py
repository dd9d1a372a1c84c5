"""KEKs: listed, promoted, retired, and read again."""

from __future__ import annotations

import threading

import pytest

from petsem.crypto.keyring import Keyring
from petsem.crypto.keys import Purpose, generate_kek
from petsem.errors import Code, PetsemError
from petsem.server.service.keyring import KeyringService
from petsem.wire import http
from petsem.wire import petsem_pb2 as pb
from tests.unit.server.cluster import Cluster, call


async def states(cluster: Cluster) -> dict[str, str]:
    """State by id, of one purpose after the other."""
    return {kek.id: kek.state for kek in (await cluster.node.keyring.list()).keys}


async def test_lists_the_keys_that_init_made(cluster: Cluster) -> None:
    """Each purpose has one primary key, held here, with the number of data keys under it."""
    async with cluster.running():
        await cluster.org("acme", "web", "api")
        listed = await cluster.node.keyring.list()
    assert listed.keys == [
        http.KekInfo("secrets", cluster.kek(Purpose.SECRETS), "primary", True, 2),
        http.KekInfo("tokens", cluster.kek(Purpose.TOKENS), "primary", True, 1),
        http.KekInfo("cluster", cluster.kek(Purpose.CLUSTER), "primary", True, 1),
    ]


async def test_a_new_key_waits_from_the_start_on(cluster: Cluster) -> None:
    """A key that is in the keyring at start is in the table without anybody's asking."""
    new = cluster.add_kek(Purpose.TOKENS)
    async with cluster.running():
        rows = cluster.query("SELECT purpose, state FROM keks WHERE id = ?", bytes.fromhex(new))
    assert rows == [("tokens", "waiting")]


async def test_a_new_key_waits_once_the_keyring_is_read_again(cluster: Cluster) -> None:
    """Reloading needs no restart, and listing reloads."""
    async with cluster.running() as node:
        new = cluster.add_kek(Purpose.SECRETS)
        assert await node.keyring.reload()
        assert cluster.query("SELECT state FROM keks WHERE id = ?", bytes.fromhex(new))
        another = cluster.add_kek(Purpose.SECRETS)
        assert (await states(cluster))[another] == "waiting"


async def test_promoting_retires_the_key_before(cluster: Cluster) -> None:
    """New data keys are wrapped by the new primary, older ones stay as they are."""
    async with cluster.running() as node:
        await cluster.org("acme", "web")
        old, new = cluster.kek(Purpose.SECRETS), cluster.add_kek(Purpose.SECRETS)
        promoted = await node.keyring.promote(cluster.operator, call(), new, False)
        assert promoted == http.KekInfo("secrets", new, "primary", True, 0)
        await cluster.node.orgs.create_app(cluster.operator, call(), "acme", "api")
        listed = {kek.id: kek for kek in (await node.keyring.list()).keys}
    assert (listed[new].state, listed[new].wraps) == ("primary", 1)
    assert (listed[old].state, listed[old].wraps) == ("retired", 1)


async def test_a_retired_key_can_be_promoted_again(cluster: Cluster) -> None:
    """Going back is a promotion like any other, and promoting the primary changes nothing."""
    async with cluster.running() as node:
        old, new = cluster.kek(Purpose.TOKENS), cluster.add_kek(Purpose.TOKENS)
        for key_id in (new, old, old):
            await node.keyring.promote(cluster.operator, call(), key_id, False)
        found = await states(cluster)
    assert (found[old], found[new]) == ("primary", "retired")


async def test_refuses_to_promote_a_key_that_nobody_knows(cluster: Cluster) -> None:
    """An id that is in no table and no keyring here is not found."""
    async with cluster.running() as node:
        with pytest.raises(PetsemError) as refused:
            await node.keyring.promote(cluster.operator, call(), "ab" * 32, False)
    assert refused.value.code is Code.NOT_FOUND


@pytest.mark.parametrize("force", [False, True])
async def test_refuses_to_promote_a_key_that_this_node_lacks(cluster: Cluster, force: bool) -> None:
    """The node that wraps needs the key itself; force is for others."""
    async with cluster.running() as node:
        new = cluster.add_kek(Purpose.SECRETS)
        await node.keyring.reload()
        cluster.remove_kek(new)
        with pytest.raises(PetsemError, match=f"does not hold the secrets key {new}") as refused:
            await node.keyring.promote(cluster.operator, call(), new, force)
        assert (await states(cluster))[cluster.kek(Purpose.SECRETS)] == "primary"
    assert refused.value.code is Code.CONFLICT


@pytest.mark.parametrize("key_id", ["", "ab", "AB" * 32, "zz" * 32, "ab" * 33])
async def test_refuses_what_is_no_id(cluster: Cluster, key_id: str) -> None:
    """An id is 64 lower-case hexadecimal digits and nothing else is looked up."""
    async with cluster.running() as node:
        with pytest.raises(PetsemError) as refused:
            await node.keyring.promote(cluster.operator, call(), key_id, False)
        assert refused.value.code is Code.INVALID
        with pytest.raises(PetsemError):
            await node.keyring.retire(cluster.operator, call(), key_id)


async def test_refuses_to_retire_a_primary_key(cluster: Cluster) -> None:
    """Something has to wrap new data keys."""
    async with cluster.running() as node:
        with pytest.raises(PetsemError, match="promote another one first") as refused:
            await node.keyring.retire(cluster.operator, call(), cluster.kek(Purpose.CLUSTER))
    assert refused.value.code is Code.CONFLICT


async def test_refuses_to_retire_a_key_that_wraps_what_is_deleted_softly(cluster: Cluster) -> None:
    """An app that can be undeleted needs its key; the answer says how many and what to run."""
    async with cluster.running() as node:
        await cluster.org("acme", "web")
        await node.orgs.delete_app(cluster.operator, call(), "acme", "web", False)
        old, new = cluster.kek(Purpose.SECRETS), cluster.add_kek(Purpose.SECRETS)
        await node.keyring.promote(cluster.operator, call(), new, False)
        with pytest.raises(PetsemError, match="still wraps 1 data key; run 'petsem keyring rew"):
            await node.keyring.retire(cluster.operator, call(), old)


async def test_the_whole_way_out_of_a_key(cluster: Cluster) -> None:
    """Promote, rewrap, retire, remove from the keyring: then the cluster forgets the key."""
    async with cluster.running() as node:
        await cluster.org("acme", "web")
        await cluster.set("acme", "web", A="1")
        old, new = cluster.kek(Purpose.SECRETS), cluster.add_kek(Purpose.SECRETS)
        await node.keyring.promote(cluster.operator, call(), new, False)
        await node.keyring.rewrap(cluster.operator, call(), http.KeyringStep())
        retired = await node.keyring.retire(cluster.operator, call(), old)
        assert retired == http.KekInfo("secrets", old, "retired", True, 0)
        assert (await states(cluster))[old] == "retired"
        cluster.remove_kek(old)
        assert old not in await states(cluster)
        assert await cluster.get("acme", "web") == {"A": "1"}


async def test_a_key_that_never_was_used_can_be_retired(cluster: Cluster) -> None:
    """A waiting key that was made by mistake goes the same way."""
    async with cluster.running() as node:
        new = cluster.add_kek(Purpose.SECRETS)
        await node.keyring.reload()
        cluster.remove_kek(new)
        await node.keyring.reload()
        assert (await states(cluster))[new] == "waiting"
        retired = await node.keyring.retire(cluster.operator, call(), new)
        assert retired == http.KekInfo("secrets", new, "retired", False, 0)
        assert new not in await states(cluster)


async def test_a_repeated_promotion_answers_as_before(cluster: Cluster) -> None:
    """With an Idempotency-Key a retry is told what the first call did, though it was undone."""
    async with cluster.running() as node:
        old, new = cluster.kek(Purpose.SECRETS), cluster.add_kek(Purpose.SECRETS)
        first = await node.keyring.promote(cluster.operator, call("k"), new, False)
        await node.keyring.promote(cluster.operator, call(), old, False)
        assert await node.keyring.promote(cluster.operator, call("k"), new, False) == first
        assert (await states(cluster))[old] == "primary"


async def test_a_keyring_without_a_key_in_use_is_not_taken(cluster: Cluster) -> None:
    """A file that lost a key takes nothing from a running node, which warns until it is mended."""
    async with cluster.running() as node:
        await cluster.org("acme", "web")
        await cluster.set("acme", "web", A="1")
        before, lost = cluster.keyring, cluster.kek(Purpose.SECRETS)
        cluster.remove_kek(lost)
        assert not await node.keyring.reload()
        assert node.keyring.last_error is not None
        assert lost in node.keyring.last_error
        assert await cluster.get("acme", "web") == {"A": "1"}
        assert any(lost in text for text in node.status.status().nodes[0].warnings)
        cluster.write_keyring(before)
        assert await node.keyring.reload()
        assert node.keyring.last_error is None


async def test_listing_goes_on_with_a_broken_file(cluster: Cluster) -> None:
    """What cannot be read again is not taken, and never quoted."""
    async with cluster.running() as node:
        cluster.datadir.default_keyring.write_text('{"keys": [] "s3cret"')
        assert len((await node.keyring.list()).keys) == 3
        assert node.keyring.last_error is not None
        assert "s3cret" not in node.keyring.last_error


async def test_a_promotion_tells_why_the_keyring_was_not_read(cluster: Cluster) -> None:
    """Whoever added a key to a file that is wrong learns that, not only that the key is unknown."""
    async with cluster.running() as node:
        cluster.datadir.default_keyring.chmod(0o644)
        with pytest.raises(PetsemError, match=r"not read again: .*chmod 600"):
            await node.keyring.promote(cluster.operator, call(), "ab" * 32, False)


async def test_the_keyring_is_read_away_from_the_loop(cluster: Cluster) -> None:
    """A source may be a command that takes seconds: neither the loop nor commits wait for it."""
    threads: list[str] = []
    keyring = cluster.keyring

    def load(_: object) -> Keyring:
        threads.append(threading.current_thread().name)
        return keyring

    async with cluster.running() as node:
        service = KeyringService(
            node_id=node.identity.node_id,
            writes=node.keyring._writes,
            writer=node.writer,
            pool=node.pool,
            keys=node.keys,
            source=node.keyring._source,
            load=load,
        )
        await service.reload()
    assert len(threads) == 1
    assert threads[0] != threading.main_thread().name
    assert not threads[0].startswith("petsem-helper")


async def test_keys_are_used_though_the_disk_is_full(cluster: Cluster) -> None:
    """Making a key known needs a write; holding it does not."""
    async with cluster.running() as node:
        new = generate_kek()
        cluster.write_keyring(cluster.keyring.with_key(Purpose.SECRETS, new))
        node.space.exhausted()
        assert await node.keyring.reload()
        listed = {kek.id: kek for kek in (await node.keyring.list()).keys}
    assert listed[new.id.hex()] == http.KekInfo("secrets", new.id.hex(), "waiting", True, 0)


def _live(cluster: Cluster, *held: str, lag_ms: int = 0) -> dict[str, pb.NodeReport]:
    """Word of a replica that holds some keys for secrets."""
    ids = [bytes.fromhex(key_id) for key_id in held]
    keks = [pb.KekIds(purpose="secrets", ids=ids)]
    return {"fra-1": pb.NodeReport(node="fra-1", region="fra", keks=keks, lag_ms=lag_ms)}


async def test_a_key_that_a_live_node_lacks_is_not_promoted(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The refusal names the region; with force it is promoted, and the answer names the node."""
    async with cluster.running() as node:
        old, new = cluster.kek(Purpose.SECRETS), cluster.add_kek(Purpose.SECRETS)
        reports = _live(cluster, old)
        monkeypatch.setattr(node.keyring._followers, "live", lambda: reports)
        with pytest.raises(PetsemError, match="fra-1 in fra") as refused:
            await node.keyring.promote(cluster.operator, call(), new, False)
        assert refused.value.code is Code.CONFLICT
        assert (await states(cluster))[new] == "waiting"
        forced = await node.keyring.promote(cluster.operator, call(), new, True)
        assert (forced.state, forced.lacking) == ("primary", ["fra-1"])
        reports = _live(cluster, old, new)
        held = await node.keyring.promote(cluster.operator, call(), old, False)
        assert (held.state, held.lacking) == ("primary", [])


async def test_a_key_that_a_live_node_may_need_is_not_retired(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that is behind has rows from before the rewrap."""
    async with cluster.running() as node:
        new = cluster.add_kek(Purpose.SECRETS)
        await node.keyring.reload()
        reports = _live(cluster, new, lag_ms=60_000)
        monkeypatch.setattr(node.keyring._followers, "live", lambda: reports)
        with pytest.raises(PetsemError, match="fra-1 in fra") as refused:
            await node.keyring.retire(cluster.operator, call(), new)
        assert refused.value.code is Code.CONFLICT
        reports = _live(cluster, new)
        assert (await node.keyring.retire(cluster.operator, call(), new)).state == "retired"


async def _join(cluster: Cluster, *names: str) -> None:
    for name in names:
        await cluster.change("INSERT INTO nodes VALUES (?, 'fra', 0, 'x:1', 'x:2', 'x:3', 0)", name)


async def test_a_key_is_promoted_though_a_member_is_not_heard(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is off would hold everything up for ever: it is named; who promotes decides."""
    async with cluster.running() as node:
        old, new = cluster.kek(Purpose.SECRETS), cluster.add_kek(Purpose.SECRETS)
        await _join(cluster, "fra-1", "nrt-1")
        followers = node.keyring._followers
        monkeypatch.setattr(followers, "live", dict)
        promoted = await node.keyring.promote(cluster.operator, call(), new, False)
        assert (promoted.state, promoted.lacking) == ("primary", [])
        assert promoted.unknown == ["fra-1", "nrt-1"]
        monkeypatch.setattr(followers, "live", lambda: _live(cluster, old, new))
        back = await node.keyring.promote(cluster.operator, call(), old, False)
        assert back.unknown == ["nrt-1"]
        assert all(not each.unknown for each in (await node.keyring.list()).keys)


async def test_a_key_is_not_retired_while_a_member_is_not_heard(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be behind, or keep a lost branch. With force it is retired, and the answer names the
    node; a node that was removed does not count."""
    async with cluster.running() as node:
        new, other = cluster.add_kek(Purpose.SECRETS), cluster.add_kek(Purpose.SECRETS)
        await node.keyring.reload()
        await _join(cluster, "fra-1", "nrt-1")
        followers = node.keyring._followers
        monkeypatch.setattr(followers, "live", lambda: _live(cluster, new))
        with pytest.raises(PetsemError, match=r"not known .* needed by nrt-1:") as refused:
            await node.keyring.retire(cluster.operator, call(), new)
        assert refused.value.code is Code.CONFLICT
        assert (await states(cluster))[new] == "waiting"
        forced = await node.keyring.retire(cluster.operator, call(), new, True)
        assert (forced.state, forced.unknown) == ("retired", ["nrt-1"])
        await cluster.change("DELETE FROM nodes WHERE id = 'nrt-1'")
        assert (await node.keyring.retire(cluster.operator, call(), other)).unknown == []


@pytest.mark.parametrize("where", ["here", "there"])
@pytest.mark.parametrize("known", [True, False])
async def test_a_key_that_a_lost_branch_may_need_is_not_retired(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, where: str, known: bool
) -> None:
    """Of this node or of another, and also where it is not known what it needs; with force it is
    retired, and the answer says whose branch that is. Other keys are not held up."""
    async with cluster.running() as node:
        old, new = cluster.add_kek(Purpose.SECRETS), cluster.add_kek(Purpose.SECRETS)
        await node.keyring.reload()
        keks = [pb.KekIds(purpose="secrets", ids=[bytes.fromhex(old) if known else b""])]
        report = pb.NodeReport(node="fra-1", region="fra", lag_ms=0, lost_keks=keks)
        if where == "here":
            monkeypatch.setattr(node.keyring, "_own_lost", lambda: report)
        else:
            monkeypatch.setattr(node.keyring._followers, "live", lambda: {"fra-1": report})
        with pytest.raises(PetsemError, match="under lost/ of fra-1 in fra") as refused:
            await node.keyring.retire(cluster.operator, call(), old)
        assert refused.value.code is Code.CONFLICT
        assert (await states(cluster))[old] == "waiting"
        forced = await node.keyring.retire(cluster.operator, call(), old, True)
        assert (forced.state, forced.lost) == ("retired", ["fra-1"])
        if known:
            assert (await node.keyring.retire(cluster.operator, call(), new)).lost == []
        tokens = cluster.add_kek(Purpose.TOKENS)
        await node.keyring.reload()
        assert (await node.keyring.retire(cluster.operator, call(), tokens)).lost == []
