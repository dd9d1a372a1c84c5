"""An app's secrets: whole batches, every bound to the byte, history, and nothing shown."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import structlog

from petsem import limits
from petsem.clock import rfc3339
from petsem.errors import Code, PetsemError
from petsem.server import policy
from petsem.server.auth import Names
from petsem.server.service.boot import Fetch
from petsem.server.service.secrets import Batch, check_batch
from petsem.wire import http
from tests.support.nodes import Running, call, id_of, narrowed, outcome, refusal, running

INVALID, CONFLICT, NOT_FOUND = Code.INVALID, Code.CONFLICT, Code.NOT_FOUND
CANARY = "canary-77e1-value"


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Running]:
    async with running(tmp_path) as node:
        yield node


async def refused(write: Any) -> tuple[Code, str | None, str | None]:
    """How a write is refused."""
    with pytest.raises(PetsemError) as error:
        await write
    return refusal(error.value)


def counts(node: Running) -> tuple[int, int, int]:
    """(version, secrets, size) of acme/web."""
    found = node.rows("SELECT version, secrets, size FROM apps WHERE name = 'web'")[0]
    return found[0], found[1], found[2]


def batch(**body: Any) -> Batch:
    return check_batch(http.SecretsPatch(**body))


# Batches


async def test_a_batch_is_one_version(node: Running) -> None:
    """What is set and unset together becomes the next version, with a digest for each name."""
    first = await node.patch({"A": "alpha", "B": b"\xff\x00", "EMPTY": "", "Ü".encode().hex(): "x"})
    assert (first.version, first.unset, first.position) == (1, [], str(node.node.writer.position))
    assert [each.name for each in first.set] == ["A", "B", "EMPTY", "c39c"]
    assert first.durability == http.DurabilityReport("local", True, [])
    second = await node.patch({"A": "changed"}, unset=["B", "EMPTY"])
    assert (second.version, second.unset) == (2, ["B", "EMPTY"])
    assert await node.values() == {"A": b"changed", "c39c": b"x"}
    assert await node.values(version=1) == {
        "A": b"alpha", "B": b"\xff\x00", "EMPTY": b"", "c39c": b"x",
    }  # fmt: skip
    assert counts(node) == (2, 2, len("Achanged") + len("c39cx"))


async def test_a_batch_that_fails_leaves_nothing(node: Running) -> None:
    """One absent name to unset, or one secret too many, and no part of the batch is stored."""
    await node.patch({"A": "alpha"})
    before = node.rows("SELECT * FROM secrets"), node.rows("SELECT * FROM versions"), counts(node)
    assert await refused(node.patch({"B": "x"}, unset=["A", "GONE"])) == (NOT_FOUND, None, None)
    too_much = {f"N{n}": "x" * limits.VALUE_MAX_BYTES for n in range(17)}
    assert await refused(node.patch(too_much)) == (INVALID, "TOO_LARGE", None)
    assert before == (
        node.rows("SELECT * FROM secrets"), node.rows("SELECT * FROM versions"), counts(node),
    )  # fmt: skip


async def test_setting_an_equal_value_makes_a_version(node: Running) -> None:
    """Who asked for a version gets one, with the same digest and another ciphertext."""
    first, second = await node.patch({"A": "same"}), await node.patch({"A": "same"})
    assert (first.version, second.version, first.set) == (1, 2, second.set)
    sealed = [row[0] for row in node.rows("SELECT envelope FROM secrets ORDER BY since")]
    assert len(set(sealed)) == 2


async def test_digests_differ_for_equal_values_of_two_names_and_two_apps(node: Running) -> None:
    """A digest compares a value of one name with itself, and says nothing of others."""
    await node.create_app("acme", "api")
    web = await node.patch({"A": "same", "B": "same"})
    api = await node.patch({"A": "same"}, app="api")
    digests = [each.digest for each in (*web.set, *api.set)]
    assert len(set(digests)) == 3
    assert all(len(bytes.fromhex(digest)) == 16 for digest in digests)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"set": {"A": "x"}, "unset": ["A"]},
        {"unset": ["A", "A"]},
        {"set": {"1A": "x"}},
        {"set": {"": "x"}},
        {"set": {"A" * 256: "x"}},
        {"set": {"A B": "x"}},
        {"set": {"Ä": "x"}},
        {"unset": ["A\n"]},
        {"set": {"A": http.Base64Value(base64="?")}},
        {"set": {"A": http.Base64Value(base64="QQ")}},
        {"set": {"A": http.Base64Value(base64="ü")}},
        {"set": {"A": "x" * (limits.VALUE_MAX_BYTES + 1)}},
        {"set": {"A": "ü" * (limits.VALUE_MAX_BYTES // 2 + 1)}},
        {"set": {f"N{n}": "" for n in range(1001)}},
        {"set": {f"N{n}": "" for n in range(1000)}, "unset": ["A"]},
        {"set": {"A": "x"}, "durability": http.ReplicatedDurability(replicated=0)},
    ],
)
def test_a_batch_is_checked_before_anything_is_sealed(body: dict[str, Any]) -> None:
    """Names, doubles, encodings and sizes out of bounds are `invalid`, and no value is quoted."""
    with pytest.raises(PetsemError) as error:
        batch(**body)
    assert error.value.code is INVALID
    assert "xxx" not in error.value.message
    assert "üüü" not in error.value.message


def test_the_longest_of_everything_is_taken() -> None:
    """1,000 names, a name of 255 characters and a value of 64 KiB are within bounds."""
    largest = batch(set={f"N{n}": "" for n in range(999)}, unset=["A" * 255])
    assert len(largest.names) == 1000
    text = batch(set={"A": "ü" * (limits.VALUE_MAX_BYTES // 2)})
    assert len(text.set["A"]) == limits.VALUE_MAX_BYTES
    raw = base64.b64encode(b"\xff" * limits.VALUE_MAX_BYTES).decode()
    assert batch(set={"A": http.Base64Value(base64=raw)}).set["A"].reveal() == b"\xff" * 65536


def test_values_do_not_show_in_a_batch() -> None:
    """The repr of a batch and of what made it has names and no value."""
    made = batch(
        set={"A": CANARY, "B": http.Base64Value(base64=base64.b64encode(CANARY.encode()).decode())}
    )
    assert "A" in repr(made)
    assert CANARY not in repr(made) + str(made) + repr(call("/x", CANARY))


# Limits of an app


async def test_a_thousand_secrets_and_not_one_more(node: Running) -> None:
    """The 1,001st name is refused; in exchange for another one it is taken."""
    await node.patch({f"N{n}": "" for n in range(1000)})
    assert counts(node)[1] == 1000
    assert await refused(node.patch({"ONE_MORE": ""})) == (INVALID, "TOO_LARGE", None)
    await node.patch({"ONE_MORE": "", "N1": "again"}, unset=["N0"])
    assert counts(node)[1] == 1000
    assert len(await node.values()) == 1000


async def test_a_mebibyte_of_names_and_values_and_not_one_byte_more(node: Running) -> None:
    """Names count as values do, to the byte, and room that is given back can be used again."""
    values = {f"N{n:02}": "x" * (limits.VALUE_MAX_BYTES - 3) for n in range(16)}
    await node.patch(values)
    assert counts(node)[2] == limits.APP_MAX_BYTES
    assert await refused(node.patch({"A": ""})) == (INVALID, "TOO_LARGE", None)
    assert await refused(node.patch({"N00": "x" * (limits.VALUE_MAX_BYTES - 2)}))
    await node.patch({"A": "ab", "N00": "x" * (limits.VALUE_MAX_BYTES - 6)})
    assert counts(node)[2] == limits.APP_MAX_BYTES
    await node.patch({"B": "x" * 100}, unset=["N01"])
    assert counts(node)[2] == limits.APP_MAX_BYTES - limits.VALUE_MAX_BYTES + 101


async def test_the_last_version_there_can_be(node: Running) -> None:
    """A version is 32 bits; after the last one nothing is written any more."""
    await node.tamper("UPDATE apps SET version = ?", limits.VERSION_MAX - 1)
    assert (await node.patch({"A": "x"})).version == limits.VERSION_MAX
    assert (await refused(node.patch({"A": "y"})))[0] is CONFLICT
    assert (await refused(node.destroy("A")))[0] is CONFLICT


# Conditions


async def test_if_version_tells_the_current_one(node: Running) -> None:
    """A batch, a rollback and a diff that assume another version are told which there is."""
    await node.patch({"A": "1"}, if_version=0)
    await node.patch({"A": "2"}, if_version=1)
    for write in (node.patch({"A": "3"}, if_version=1), node.rollback(1, if_version=3)):
        with pytest.raises(PetsemError) as error:
            await write
        detail = error.value.detail
        assert (error.value.code, detail.have_version) == (CONFLICT, 2)
    with pytest.raises(PetsemError) as error:
        diff(node, {"A": "3"}, if_version=1)
    assert error.value.detail.have_version == 2
    assert (await node.rollback(1, if_version=2)).version == 3


async def test_of_two_that_assume_the_same_version_one_wins(node: Running) -> None:
    """In one group too: the second sees what the first one did."""
    found = await asyncio.gather(
        *(node.patch({"A": f"{n}"}, if_version=0) for n in range(3)), return_exceptions=True
    )
    assert [getattr(each, "version", None) for each in found] == [1, None, None]
    assert await node.values() == {"A": b"0"}


async def test_an_app_that_is_not_there(node: Running) -> None:
    """Every operation on an app or org that does not exist is `not_found`."""
    secrets, operator = node.node.secrets, node.principal(policy.ORGS_ADMIN)
    for org, app in (("acme", "gone"), ("gone", "web")):
        assert await refused(node.patch({"A": "x"}, org=org, app=app)) == (NOT_FOUND, None, None)
        for read in (
            lambda org=org, app=app: secrets.list(operator, org, app),
            lambda org=org, app=app: secrets.versions(org, app, None, 10),
        ):
            assert outcome(read) == (NOT_FOUND, None, None)


async def test_a_durability_that_this_node_cannot_give_is_told(node: Running) -> None:
    """Asked for two replicas, a lone node stores the write and says that the wish is not met; an
    org's own setting counts where a write does not say."""
    wish = http.ReplicatedDurability(replicated=2)
    body = http.SecretsPatch(set={"A": "x"}, durability=wish)
    operator = node.principal(policy.ORGS_ADMIN, Names("acme"))
    asked = await node.node.secrets.patch(operator, call(), "acme", "web", check_batch(body))
    assert asked.durability == http.DurabilityReport(wish, False, [])
    await node.node.orgs.patch_settings(
        operator, call(), "acme", http.SettingsPatch(durability=wish)
    )
    assert (await node.patch({"A": "y"})).durability == asked.durability


# Rollback


async def test_a_rollback_copies_what_was_sealed(node: Running) -> None:
    """The new version has the old one's values in the same envelopes, byte for byte, still sealed
    for the version that set them."""
    await node.patch({"A": "1", "B": "1", "KEPT": "k"})
    await node.patch({"A": "2", "C": "2"}, unset=["B"])
    back = await node.rollback(1)
    assert (back.version, back.unset, sorted(each.name for each in back.set)) == (
        3, ["C"], ["A", "B"],
    )  # fmt: skip
    assert await node.values() == {"A": b"1", "B": b"1", "KEPT": b"k"}
    for name in ("A", "B"):
        rows = node.rows(
            "SELECT since, sealed_at, digest, envelope, size FROM secrets"
            " WHERE name = ? AND since IN (1, 3) ORDER BY since",
            name,
        )
        assert [row[:2] for row in rows] == [(1, 1), (3, 1)]
        assert rows[0][2:] == rows[1][2:]
    assert node.rows("SELECT count(*) FROM secrets WHERE name = 'KEPT'") == [(1,)]
    assert counts(node) == (3, 3, len("A1B1KEPTk"))


async def test_unset_then_rollback_brings_a_value_back(node: Running) -> None:
    """What was unset is in the history, and a second rollback copies the copy."""
    await node.patch({"A": "1"})
    await node.patch(unset=["A"])
    assert await node.values() == {}
    await node.rollback(1)
    await node.patch(unset=["A"])
    await node.rollback(3)
    assert await node.values() == {"A": b"1"}
    rows = node.rows("SELECT since, until, sealed_at FROM secrets ORDER BY since")
    assert rows == [(1, 2, 1), (3, 4, 1), (5, None, 1)]


async def test_a_rollback_to_nothing_and_to_what_is_not_there(node: Running) -> None:
    """Version 0 is the empty app; the current version and later ones are nothing to go back to."""
    await node.patch({"A": "1"})
    assert (await node.rollback(0)).unset == ["A"]
    assert await node.values() == {}
    for to in (2, 3, limits.VERSION_MAX):
        assert await refused(node.rollback(to)) == (NOT_FOUND, None, None)
    assert counts(node) == (2, 0, 0)


async def test_a_rollback_of_a_destroyed_value_conflicts(node: Running) -> None:
    """The version cannot be made again, so nothing is, and the name is told."""
    await node.patch({"A": "1", "B": "1"})
    await node.patch({"A": "2", "B": "2"})
    await node.destroy("A", version=1)
    before = counts(node)
    with pytest.raises(PetsemError) as error:
        await node.rollback(1)
    assert error.value.code is CONFLICT
    assert "A" in error.value.message
    assert counts(node) == before
    assert await node.values() == {"A": b"2", "B": b"2"}


# Destroy


def envelopes(node: Running) -> dict[tuple[str, int], bool]:
    """Whether each stored row still has its value, by name and version."""
    rows = node.rows("SELECT name, since, envelope IS NOT NULL, digest IS NOT NULL FROM secrets")
    assert all(row[2] == row[3] for row in rows)
    return {(name, since): bool(there) for name, since, there, _ in rows}


async def test_destroying_a_name_removes_every_value_it_ever_had(node: Running) -> None:
    """It is unset by a version of its own, and no version has a value of it any more."""
    await node.patch({"A": "1", "B": "b"})
    await node.patch({"A": "2"})
    await node.rollback(1)
    gone = await node.destroy("A")
    assert (gone.version, gone.destroyed) == (4, [http.DestroyedSecret("A", [1, 2, 3])])
    assert envelopes(node) == {
        ("A", 1): False, ("A", 2): False, ("A", 3): False, ("B", 1): True,
    }  # fmt: skip
    assert await node.values() == {"B": b"b"}
    assert counts(node) == (4, 1, 2)
    for version in (1, 2, 3):
        with pytest.raises(PetsemError) as error:
            await node.values(version=version)
        assert error.value.code is NOT_FOUND
        assert await node.values(version=version, names=("B",)) == {"B": b"b"}


async def test_destroying_one_version_takes_its_copies_along(node: Running) -> None:
    """A value is one envelope, wherever a rollback copied it; other values of the name stay."""
    await node.patch({"A": "1"})
    await node.patch({"A": "2"})
    await node.rollback(1)
    await node.patch({"A": "4"})
    gone = await node.destroy("A", version=3)
    assert (gone.version, gone.destroyed) == (4, [http.DestroyedSecret("A", [1, 3])])
    assert envelopes(node) == {
        ("A", 1): False, ("A", 2): True, ("A", 3): False, ("A", 4): True,
    }  # fmt: skip
    assert await node.values() == {"A": b"4"}


async def test_the_current_value_is_not_destroyed_by_version(node: Running) -> None:
    """Not by its own version, nor by that of the version it was copied from; and not by one that
    there is not yet."""
    await node.patch({"A": "1"})
    await node.patch({"A": "2"})
    await node.rollback(1)
    for version in (1, 3):
        assert await refused(node.destroy("A", version=version)) == (CONFLICT, None, None)
    for version in (0, 4, limits.VERSION_MAX):
        assert await refused(node.destroy("A", version=version)) == (NOT_FOUND, None, None)
    assert all(envelopes(node).values())


async def test_a_destroy_is_whole_or_nothing(node: Running) -> None:
    """A name that never had a value fails the whole of it; so does one given twice."""
    await node.patch({"A": "1"})
    assert await refused(node.destroy("A", "GONE")) == (NOT_FOUND, None, None)
    assert (await refused(node.destroy("A", "A")))[0] is INVALID
    assert (await refused(node.destroy()))[0] is INVALID
    assert (await refused(node.destroy("A B")))[0] is INVALID
    assert envelopes(node) == {("A", 1): True}
    await node.destroy("A")
    assert await refused(node.destroy("A")) == (NOT_FOUND, None, None)


async def test_destroying_history_makes_no_version(node: Running) -> None:
    """A name that was unset already changes nothing that is current."""
    await node.patch({"A": "1"})
    await node.patch(unset=["A"])
    assert (await node.destroy("A")).version == 2
    assert counts(node) == (2, 0, 0)


@pytest.mark.parametrize("how", ["name", "version", "app", "org"])
async def test_what_is_destroyed_is_on_no_page_of_the_database(node: Running, how: str) -> None:
    """Neither the value's envelope nor the boot bundle that held it is left in the database or its
    WAL when the answer is given."""
    await node.patch({"A": "1" * 5000, "B": "b"})
    sealed = node.rows("SELECT envelope FROM secrets WHERE name = 'A'")[0][0]
    bundle = node.rows("SELECT envelope FROM bundles")[0][0]
    await node.patch({"A": "2"})
    assert sealed[-1000:] in node.on_disk()
    if how in ("name", "version"):
        await node.destroy("A", version=1 if how == "version" else None)
    elif how == "app":
        await node.delete_app(now=True)
    else:
        await node.delete_org(now=True)
    for secret in (sealed, bundle):
        assert secret[-1000:] not in node.on_disk()


# Listing and history


async def test_a_listing_says_who_set_what_and_shows_no_value(node: Running) -> None:
    """Name, the version that set it, its digest, when and by whom; filtered for a narrow token."""
    first = await node.patch({"A": CANARY, "B": "b"})
    node.clock.advance(60)
    token = await node.org_token()
    second = await node.patch({"B": CANARY}, token=token)
    found = node.listed()
    operator = id_of(node.operator)
    now = node.clock.unix_ms()
    assert found == {
        "A": http.SecretInfo(
            "A", 1, first.set[0].digest, rfc3339(now - 60_000),
            http.Who(f"operator:{operator}", operator),
        ),
        "B": http.SecretInfo(
            "B", 2, second.set[0].digest, rfc3339(now),
            http.Who(f"org:{id_of(token)}", id_of(token)),
        ),
    }  # fmt: skip
    assert CANARY not in repr(found)
    assert set(node.listed(narrowed(token, "secret in B*, Z"))) == {"B"}
    names = Names("acme", "web", filterable=True)
    narrow = node.principal(policy.SECRETS_LIST, names, narrowed(token, "secret = A"))
    assert node.node.secrets.list(narrow, "acme", "web").filtered


async def test_a_listing_of_an_earlier_version(node: Running) -> None:
    """Names as they were, with who set them; one that is not there yet is not found."""
    await node.patch({"A": "1", "B": "1"})
    await node.patch({"A": "2"}, unset=["B"])
    operator = node.principal(policy.SECRETS_LIST, Names("acme", "web", filterable=True))

    def names(version: int | None) -> object:
        found = node.node.secrets.list(operator, "acme", "web", version)
        return found.version, [(each.name, each.version) for each in found.secrets]

    assert [names(version) for version in (0, 1, 2, None)] == [
        (0, []), (1, [("A", 1), ("B", 1)]), (2, [("A", 2)]), (2, [("A", 2)]),
    ]  # fmt: skip
    assert outcome(lambda: names(3)) == (NOT_FOUND, None, None)


async def test_the_history_says_what_each_version_did(node: Running) -> None:
    """Newest first, a page at a time: names set and taken away, what kind of change, by whom."""
    await node.patch({"A": "1", "B": "1"})
    await node.patch({"A": "2", "C": "2"}, unset=["B"])
    await node.rollback(1)
    await node.destroy("A")
    history = node.node.secrets.versions("acme", "web", None, 10)
    found = [(v.version, v.change, v.rolled_back_to, v.set, v.unset) for v in history.versions]
    assert found == [
        (4, "destroy", None, [], ["A"]),
        (3, "rollback", 1, ["A", "B"], ["C"]),
        (2, "set", None, ["A", "C"], ["B"]),
        (1, "set", None, ["A", "B"], []),
    ]
    who = http.Who(f"operator:{id_of(node.operator)}", id_of(node.operator))
    assert {v.updated_by for v in history.versions} == {who}
    assert history.next is None
    page = node.node.secrets.versions("acme", "web", None, 3)
    assert ([v.version for v in page.versions], page.next) == ([4, 3, 2], 2)
    rest = node.node.secrets.versions("acme", "web", page.next, 3)
    assert (rest.versions, rest.next) == (history.versions[3:], None)
    assert node.node.secrets.versions("acme", "web", 0, 3).versions == []


# Diff


def diff(node: Running, values: dict[str, str], **more: Any) -> http.SecretsDiff:
    """What a reader is told."""
    may_read = more.pop("may_read", True)
    operator = node.principal(policy.SECRETS_WRITE, Names("acme", "web"))
    body = batch(set=values, **more)
    return node.node.secrets.diff(operator, "acme", "web", body, may_read=may_read)


async def test_a_diff_tells_writers_less_than_readers(node: Running) -> None:
    """A writer learns which names there are, a reader also which values would change."""
    await node.patch({"A": "same", "B": "old", "GONE": "x"})
    values = {"A": "same", "B": "new", "NEW": "n"}
    assert diff(node, values, unset=["GONE", "NEVER"], may_read=False) == http.SecretsDiff(
        added=["NEW"], removed=["GONE"], present=["A", "B"]
    )
    assert diff(node, values, unset=["GONE"]) == http.SecretsDiff(
        added=["NEW"], removed=["GONE"], same=["A"], changed=["B"]
    )
    assert counts(node)[0] == 1


async def test_a_diff_of_a_damaged_value_calls_it_changed(node: Running) -> None:
    """What cannot be compared would be changed by the import, which is the safe answer."""
    await node.patch({"A": "same"})
    await node.flip("secrets", "envelope", "name = 'A'", at=10)
    assert diff(node, {"A": "same"}).changed == ["A"]


# Nothing shown


async def test_no_log_and_no_error_shows_a_value(node: Running) -> None:
    """Batches that succeed and that fail in each way log nothing of their values."""
    with structlog.testing.capture_logs() as logs:
        messages = []
        await node.patch({"A": CANARY})
        for write in (
            node.patch({"A": CANARY}, if_version=9),
            node.patch({"A": CANARY}, unset=["GONE"]),
            node.patch({"A": CANARY}, app="gone"),
            node.patch({f"N{n}": CANARY * 3000 for n in range(21)}),
        ):
            with pytest.raises(PetsemError) as error:
                await write
            messages.append(f"{error.value!r} {error.value.detail!r}")
        await node.flip("secrets", "envelope", "name = 'A'")
        await node.tamper("DELETE FROM bundles")
        await node.patch({"B": CANARY})
        with pytest.raises(PetsemError):
            await node.fetch(names=("A",))
        good = await node.fetch(names=("B",))
    assert CANARY not in repr(logs) + "".join(messages) + repr(good)
    assert any(record["event"] == "bundle_dropped" for record in logs)
    assert CANARY.encode() in good.body
    assert CANARY.encode() not in node.on_disk()
    assert Fetch("acme", "web").names == ()
    assert msgspec.json.encode(good.position.txid)
