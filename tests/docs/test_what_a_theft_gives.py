"""What `docs/threat-model.md` says of thieves, and of whoever writes to the disk, tried."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import msgspec

from petsem.clock import rfc3339
from petsem.crypto.envelope import OVERHEAD_BYTES, Record
from petsem.crypto.keyring import Keyring
from petsem.crypto.keys import Purpose, random_id
from petsem.server.database import open_reader
from petsem.server.datadir import DataDir
from petsem.server.keys import Keys, Owner
from petsem.tokens.identifier import Identifier
from petsem.tokens.macaroon import attenuate
from petsem.tokens.mint import mint
from petsem.tokens.text import encode_token, parse_token
from tests.docs.house import Doors, House
from tests.support.cluster import make
from tests.support.processes import node

_CURRENT_A = "name = 'A' AND until IS NULL AND app = (SELECT id FROM apps WHERE name = 'web')"


def _values(reply: Any) -> dict[str, bytes]:
    """What a Connect fetch answered."""
    return {each["name"]: base64.b64decode(each["value"]) for each in reply["secrets"]}


def _root_secret(house: House, token: str) -> tuple[bytes, Identifier]:
    """What disk and keyring together give: the root key's secret bytes."""
    identifier = Identifier.parse(parse_token(token).root.identifier)
    ((envelope, org, uid),) = house.rows(
        "SELECT r.envelope, r.org, o.uid FROM root_keys r JOIN orgs o ON o.id = r.org"
        " WHERE r.id = ?",
        identifier.root_key_id,
    )
    keys = Keys(Keyring.parse(house.directory.with_name("node.keyring.json").read_bytes()))
    owner = Owner(Purpose.TOKENS, org, uid)
    db = open_reader(DataDir(house.directory).database)
    try:
        place = owner.place(Record.ROOT_KEY, identifier.root_key_id)
        return keys.open(db, owner, place, envelope), identifier
    finally:
        db.close()


# The disk


def test_a_copy_of_the_disk_holds_no_value_token_or_key(house: House) -> None:
    """Names are there to be read; values, tokens and KEKs are not, in any spelling of theirs."""
    files = b"".join(house.files().values())
    assert b"acme" in files
    keyring = json.loads(house.directory.with_name("node.keyring.json").read_bytes())
    keks = [each["key"] for each in keyring["keys"]]
    texts = ["first of web's A", "second of A", "the value of B", house.host, house.operator, *keks]
    raw = [base64.b64decode(kek) for kek in keks]
    raw += [parse_token(token).root.signature for token in (house.host, house.operator)]
    for secret in (*(text.encode() for text in texts), *raw):
        assert secret not in files


def test_lengths_are_visible(house: House) -> None:
    """An envelope is longer than its value by a constant."""
    ((length, size),) = house.rows(f"SELECT length(envelope), size FROM secrets WHERE {_CURRENT_A}")
    assert (length, size) == (OVERHEAD_BYTES + size, len("second of A"))


# Disk and keyring


async def test_disk_and_keyring_make_every_live_token_again(house: House) -> None:
    """An issued row and the root key are all of a token."""
    secret, identifier = _root_secret(house, house.host)
    ((caveats,),) = house.rows("SELECT caveats FROM tokens WHERE nonce = ?", identifier.nonce)
    again = encode_token(mint(secret, identifier, msgspec.json.decode(caveats, type=list[str])))
    assert again == house.host


async def test_a_stolen_root_key_signs_nothing_for_a_nonce_without_a_row(house: House) -> None:
    """A token counts only if it was issued here."""
    secret, known = _root_secret(house, house.host)
    made_up = Identifier(
        known.cluster_id, known.kind, known.root_key_id, random_id(), known.epoch, known.txid
    )
    forged = encode_token(mint(secret, made_up, ["action = secrets:read"]))
    async with house.open() as doors:
        assert await doors.app("GET", "/secrets/values", token=forged) == "refuse unauthenticated"
        assert doors.reply["details"]["reason"] == "NOT_ISSUED"


async def test_a_stolen_root_key_widens_no_issued_token(house: House) -> None:
    """The row says with which caveats a token was issued; without one of them it was not."""
    secret, identifier = _root_secret(house, house.host)
    forged = encode_token(mint(secret, identifier, ["action = secrets:write"]))
    async with house.open() as doors:
        batch = {"set": {"A": "forged"}}
        path = "/v1/orgs/acme/apps/api/secrets"
        assert await doors.http("PATCH", path, batch, token=forged) == "refuse unauthenticated"
        assert doors.reply["details"]["reason"] == "NOT_ISSUED"


# Tokens


async def test_a_host_s_token_does_what_its_caveats_say(house: House) -> None:
    """Its app, reading; not another app, not writing, not another org."""
    async with house.open() as doors:
        assert await doors.http("POST", "/v1/orgs", {"org": "other"}) == "serve"
        assert await doors.fetch(token=house.host) == "serve"
        assert await doors.fetch("api", token=house.host) == "refuse denied"
        batch = {"set": {"A": "x"}}
        assert await doors.app("PATCH", "/secrets", batch, token=house.host) == "refuse denied"
        other = await doors.http("GET", "/v1/orgs/other/apps", token=house.host)
        assert other == "refuse denied"


async def test_a_machine_is_what_the_caller_says(house: House) -> None:
    """What remains: any machine that the token does not exclude."""
    narrowed = encode_token(attenuate(parse_token(house.host).root, ["machine = 3d8d9014"]))
    async with house.open() as doors:
        assert await doors.fetch(machine="any", token=house.host) == "serve"
        assert await doors.fetch(machine="3d8d9014", token=narrowed) == "serve"
        for other in ("", "any"):
            assert await doors.fetch(machine=other, token=narrowed) == "refuse denied"


async def test_stolen_tokens_end(house: House) -> None:
    """The first operator token after 24 hours; a host's lives 90 days and an operator's 30 at
    most."""
    now_ms = house.clock.unix_ms()
    ((expires_at,),) = house.rows("SELECT expires_at FROM tokens WHERE org IS NULL")
    assert expires_at == now_ms + 24 * 3600 * 1000
    async with house.open() as doors:
        for org, kind, days in (("acme", "host", 90), (None, "operator", 30)):
            for longer, outcome in ((0, "serve"), (1, "refuse invalid")):
                end = rfc3339(now_ms + (days * 86_400 + longer) * 1000)
                body = {"org": org, "kind": kind, "caveats": ["action = x:y", f"time < {end}"]}
                assert await doors.http("POST", "/v1/tokens", body) == outcome


async def test_revoking_ends_what_was_minted_on_its_authority(house: House) -> None:
    """A thief's children end with the token that he stole."""
    async with house.open() as doors:
        assert await doors.mint("action in tokens:mint, secrets:read", kind="service") == "serve"
        stolen, stolen_id = doors.reply["token"], doors.reply["id"]
        assert await doors.mint("action = secrets:read", token=stolen) == "serve"
        child = doors.reply["token"]
        assert await doors.fetch(token=child) == "serve"
        assert await doors.http("DELETE", f"/v1/orgs/acme/tokens/{stolen_id}") == "serve"
        assert await doors.fetch(token=child) == "refuse denied"


async def test_an_app_made_again_is_another_app_under_an_old_token(house: House) -> None:
    """No old value comes back, but a token that names the app reads the new one."""
    async with house.open() as doors:
        assert await doors.app("DELETE", "?now=true") == "serve"
        assert await doors.http("POST", "/v1/orgs/acme/apps", {"app": "web"}) == "serve"
        assert await doors.fetch(token=house.host) == "serve"
        assert doors.reply.get("secrets", []) == []


async def test_a_writer_can_test_a_guess_and_it_shows(house: House) -> None:
    """The digest stays the same for the same value, at the price of a version."""
    async with house.open() as doors:
        sought = await _digest(doors)
        assert await doors.app("PATCH", "/secrets", {"set": {"A": "second of A"}}) == "serve"
        assert await _digest(doors) == sought
        assert await doors.app("PATCH", "/secrets", {"set": {"A": "a bad guess"}}) == "serve"
        assert await _digest(doors) != sought
        await doors.app("GET", "/versions")
        assert [each["set"] for each in doors.reply["versions"][:2]] == [["A"], ["A"]]


async def _digest(doors: Doors) -> str:
    await doors.app("GET", "/secrets")
    found: str = next(each["digest"] for each in doors.reply["secrets"] if each["name"] == "A")
    return found


# Whoever writes to the disk


async def test_an_earlier_value_can_be_put_back(house: House) -> None:
    """What remains: an envelope does not say that it is the newest."""
    ((old, sealed_at),) = house.rows(
        "SELECT envelope, sealed_at FROM secrets WHERE name = 'A' AND until IS NOT NULL"
    )
    house.write(f"UPDATE secrets SET envelope = ? WHERE {_CURRENT_A}", old)
    house.write("DELETE FROM bundles")
    async with house.open() as doors:
        assert await doors.fetch() == "refuse corrupt"
    house.write(f"UPDATE secrets SET sealed_at = ? WHERE {_CURRENT_A}", sealed_at)
    async with house.open() as doors:
        assert await doors.fetch() == "serve"
        assert _values(doors.reply)["A"] == b"first of web's A"


async def test_app_names_can_be_swapped_in_an_org(house: House) -> None:
    """What remains: an app's name is not bound into what is sealed for it."""
    for old, new in (("web", "tmp"), ("api", "web"), ("tmp", "api")):
        house.write("UPDATE apps SET name = ? WHERE name = ?", new, old)
    async with house.open() as doors:
        assert await doors.fetch(token=house.host) == "serve"
        assert _values(doors.reply) == {"A": b"the value of api"}


async def test_a_revocation_can_be_withdrawn_but_time_holds(house: House) -> None:
    """What remains: rows are not sealed. The token's own time caveat is signed."""
    async with house.open() as doors:
        _, identifier = _root_secret(house, house.host)
        path = f"/v1/orgs/acme/tokens/{identifier.token_id}"
        assert await doors.http("DELETE", path) == "serve"
        assert await doors.fetch(token=house.host) == "refuse denied"
    house.write("DELETE FROM revocations")
    house.write("UPDATE tokens SET expires_at = expires_at + 1000000000")
    async with house.open() as doors:
        assert await doors.fetch(token=house.host) == "serve"
        house.clock.advance(3600)
        assert await doors.fetch(token=house.host) == "refuse unauthenticated"


async def test_a_value_cannot_be_moved(house: House) -> None:
    """Not to another name of the app, not to another app."""
    ((b,),) = house.rows("SELECT envelope FROM secrets WHERE name = 'B'")
    ((api,),) = house.rows(
        "SELECT envelope FROM secrets WHERE app = (SELECT id FROM apps WHERE name = 'api')"
    )
    house.write("DELETE FROM bundles")
    for moved in (b, api):
        house.write(f"UPDATE secrets SET envelope = ?, sealed_at = 1 WHERE {_CURRENT_A}", moved)
        async with house.open() as doors:
            assert await doors.fetch() == "refuse corrupt"


async def test_an_org_s_root_key_cannot_become_the_cluster_s(house: House) -> None:
    """The row says whose a key is, and its envelope agrees or does not open."""
    house.write("UPDATE root_keys SET org = NULL, is_primary = 0 WHERE org IS NOT NULL")
    async with house.open() as doors:
        assert await doors.http("GET", "/v1/status", token=house.host) == "refuse corrupt"


# What is left behind


async def test_a_destroyed_value_is_in_no_file(house: House) -> None:
    """Neither its envelope nor the bundle that held it, in the database or its WAL. The transaction
    log keeps sealed copies for a while, as the answer says."""
    of_web = "app = (SELECT id FROM apps WHERE name = 'web')"
    sealed = house.rows(
        f"SELECT envelope FROM secrets WHERE name = 'A' AND {of_web}"
        f" UNION ALL SELECT envelope FROM bundles WHERE {of_web}"
    )
    assert len(sealed) == 3
    async with house.open() as doors:
        assert await doors.app("POST", "/secrets/destroy", {"names": ["A"]}) == "serve"
        files = b"".join(
            data for name, data in house.files().items() if "ltx" not in Path(name).parts
        )
    for (envelope,) in sealed:
        assert envelope[-48:] not in files


def test_a_node_leaves_no_core_dump(tmp_path: Path) -> None:
    """The kernel is told so before any key is read."""
    with node(make(tmp_path).directory) as running:
        limits = Path(f"/proc/{running.pid}/limits").read_text().splitlines()
    (core,) = [line.split() for line in limits if line.startswith("Max core file size")]
    assert core[4:6] == ["0", "0"]
