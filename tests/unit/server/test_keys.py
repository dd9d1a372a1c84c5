"""Data keys at run time: whose they are, which KEK is missing, and what damage looks like."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from petsem.crypto.envelope import DamagedEnvelope, Record
from petsem.crypto.keyring import Keyring
from petsem.crypto.keys import Key, Purpose, generate_data_key, generate_kek, random_id
from petsem.errors import Code, PetsemError
from petsem.server import keys as keys_module
from petsem.server import sql
from petsem.server.database import open_writer
from petsem.server.keys import CLUSTER, Keys, Owner
from petsem.server.schema import migrate
from petsem.server.store import orgs

NAME = b"NAME"


class _Rig:
    """A database with one org and two apps, and the keyring for it."""

    def __init__(self, directory: Path) -> None:
        self.db = open_writer(directory / "petsem.db", create=True)
        migrate(self.db)
        self.keyring = Keyring()
        for purpose in Purpose:
            kek = generate_kek()
            self.keyring = self.keyring.with_key(purpose, kek)
            sql.run(self.db, "INSERT INTO keks VALUES (?, ?, 'primary')", (purpose.value, kek.id))
        self.keys = Keys(self.keyring)
        self.org = orgs.insert_org(self.db, random_id(), "acme", 0)
        self.web, self.api = (
            orgs.insert_app(self.db, self.org, random_id(), app, 0).owner(self.org.uid)
            for app in ("web", "api")
        )
        self.made = {
            owner: self.keys.create(self.db, owner, 0)
            for owner in (CLUSTER, self.org.tokens_owner, self.web, self.api)
        }

    def seal(self, owner: Owner, plaintext: bytes = b"value") -> bytes:
        return self.keys.seal(self.db, owner, owner.place(Record.VALUE, NAME, 1), plaintext)

    def open(self, keys: Keys, owner: Owner, envelope: bytes) -> bytes:
        return keys.open(self.db, owner, owner.place(Record.VALUE, NAME, 1), envelope)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[_Rig]:
    rig = _Rig(tmp_path)
    yield rig
    rig.db.close()


def secret(key: Key) -> bytes:
    return key.secret.reveal()


def test_each_owner_has_a_key_of_its_own(rig: _Rig) -> None:
    """The cluster, an org and each app seal under different keys, found again by another node."""
    assert len({secret(key) for key in rig.made.values()}) == 4
    again = Keys(rig.keyring)
    for owner, key in rig.made.items():
        assert secret(again.primary(rig.db, owner)) == secret(key)
        assert rig.open(again, owner, rig.seal(owner)) == b"value"


@pytest.mark.parametrize("warm", [False, True])
def test_a_key_opens_nothing_of_another_owner(rig: _Rig, warm: bool) -> None:
    """An envelope under one app's key is damaged as another's, whether the key is known or not:
    so a stolen data key forges nothing for its neighbour."""
    envelope = rig.keys.seal(rig.db, rig.web, rig.api.place(Record.VALUE, NAME, 1), b"forged")
    keys = rig.keys if warm else Keys(rig.keyring)
    if warm:
        assert keys.data_key(rig.db, rig.web, rig.made[rig.web].id) == rig.made[rig.web]
    with pytest.raises(DamagedEnvelope):
        rig.open(keys, rig.api, envelope)


def test_a_moved_key_row_is_damaged(rig: _Rig) -> None:
    """Wrapped keys are bound to their rows: exchanging two apps' rows opens neither."""
    web, api = rig.made[rig.web].id, rig.made[rig.api].id
    sql.run(rig.db, "UPDATE data_keys SET is_primary = 0, app = ? WHERE id = ?", (rig.api.app, web))
    with pytest.raises(DamagedEnvelope):
        Keys(rig.keyring).data_key(rig.db, rig.api, web)
    sql.run(rig.db, "UPDATE data_keys SET is_primary = 0 WHERE id = ?", (api,))
    sql.run(rig.db, "UPDATE data_keys SET is_primary = 1 WHERE id = ?", (web,))
    with pytest.raises(PetsemError) as refused:
        Keys(rig.keyring).primary(rig.db, rig.api)
    assert refused.value.code is Code.CORRUPT


def test_a_new_key_is_primary_and_the_old_one_still_opens(rig: _Rig) -> None:
    """What was sealed before a new data key was made stays readable."""
    before = rig.seal(rig.web)
    key = rig.keys.create(rig.db, rig.web, 5)
    after = rig.seal(rig.web)
    assert rig.keys.primary(rig.db, rig.web) == key
    for keys in (rig.keys, Keys(rig.keyring)):
        assert [rig.open(keys, rig.web, each) for each in (before, after)] == [b"value"] * 2
    rows = sql.rows(
        rig.db, "SELECT id, is_primary FROM data_keys WHERE app = ? ORDER BY 2", (rig.web.app,)
    )
    assert rows == [(rig.made[rig.web].id, 0), (key.id, 1)]


def test_a_missing_kek_is_named(rig: _Rig) -> None:
    """A node without a purpose's KEK says which one it lacks, and opens what it can."""
    without = Keyring().with_key(
        Purpose.TOKENS, rig.keyring.get(Purpose.TOKENS, rig.keyring.ids(Purpose.TOKENS)[0])
    )
    envelope, token_side = rig.seal(rig.web), rig.seal(rig.org.tokens_owner)
    keys = Keys(without)
    assert rig.open(keys, rig.org.tokens_owner, token_side) == b"value"
    for ask in (
        lambda: rig.open(keys, rig.web, envelope),
        lambda: keys.primary(rig.db, rig.web),
        lambda: keys.create(rig.db, rig.web, 0),
    ):
        with pytest.raises(PetsemError) as refused:
            ask()
        assert refused.value.code is Code.UNAVAILABLE
        assert rig.keyring.ids(Purpose.SECRETS)[0].hex() in refused.value.message


def test_a_keyring_that_was_read_again_forgets_what_the_old_one_opened(rig: _Rig) -> None:
    """Keys that a lost KEK had opened are not used on from memory."""
    envelope = rig.seal(rig.web)
    rig.keys.replace(Keyring())
    with pytest.raises(PetsemError) as refused:
        rig.open(rig.keys, rig.web, envelope)
    assert refused.value.code is Code.UNAVAILABLE
    rig.keys.replace(rig.keyring)
    assert rig.open(rig.keys, rig.web, envelope) == b"value"


def test_damage_to_a_key_row(rig: _Rig) -> None:
    """A flipped bit in a wrapped key damages what is under it, and stops what would be sealed."""
    envelope = rig.seal(rig.web)
    wrapped = sql.rows(rig.db, "SELECT wrapped FROM data_keys WHERE app = ?", (rig.web.app,))[0][0]
    flipped = wrapped[:-1] + bytes((wrapped[-1] ^ 1,))
    sql.run(rig.db, "UPDATE data_keys SET wrapped = ? WHERE app = ?", (flipped, rig.web.app))
    keys = Keys(rig.keyring)
    with pytest.raises(DamagedEnvelope):
        rig.open(keys, rig.web, envelope)
    with pytest.raises(PetsemError) as refused:
        keys.seal(rig.db, rig.web, rig.web.place(Record.VALUE, NAME, 2), b"")
    assert refused.value.code is Code.CORRUPT
    sql.run(rig.db, "DELETE FROM data_keys WHERE app = ?", (rig.web.app,))
    with pytest.raises(PetsemError) as missing:
        keys.primary(rig.db, rig.web)
    assert missing.value.code is Code.CORRUPT


def test_an_unknown_key_and_a_strange_envelope_are_damaged(rig: _Rig) -> None:
    """A key id that no row has, and bytes that are no envelope, are told apart by nobody."""
    stranger = generate_data_key()
    with pytest.raises(DamagedEnvelope):
        rig.keys.data_key(rig.db, rig.web, stranger.id)
    for envelope in (b"", b"PTSM", rig.seal(rig.web)[:-1], b"x" * 200):
        with pytest.raises(DamagedEnvelope):
            rig.open(rig.keys, rig.web, envelope)


def test_the_cache_is_bounded(rig: _Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many owners there are, only so many keys are held; the others are opened again."""
    monkeypatch.setattr(keys_module, "_CACHE_MAX", 2)
    keys = Keys(rig.keyring)
    for _ in range(2):
        for owner, key in rig.made.items():
            assert keys.primary(rig.db, owner) == key
            assert len(keys._open) <= 2


def test_no_key_shows_in_a_repr(rig: _Rig) -> None:
    """Neither the cache nor the keyring spells a key's bytes."""
    shown = f"{rig.keys!r} {rig.keys._open!r} {rig.keyring!r} {rig.web!r}"
    for key in rig.made.values():
        assert secret(key).hex() not in shown
        assert repr(secret(key)) not in shown


def test_a_cluster_without_a_primary_kek_makes_no_keys(rig: _Rig) -> None:
    """A table of KEKs that lost its primary one is corrupt, not a reason to guess."""
    sql.run(rig.db, "UPDATE keks SET state = 'retired' WHERE purpose = 'secrets'")
    with pytest.raises(PetsemError) as refused:
        rig.keys.create(rig.db, rig.web, 0)
    assert refused.value.code is Code.CORRUPT
