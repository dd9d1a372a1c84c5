"""An app's secrets: whole batches, history, what is told of them, and nothing shown."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import structlog

from petsem import limits
from petsem.clock import rfc3339
from petsem.errors import PetsemError
from petsem.server import policy
from petsem.server.principal import Names
from petsem.server.service.batches import check_batch
from petsem.server.service.boot import Fetch
from petsem.wire import http
from tests.support.nodes import Running, call, id_of, narrowed, outcome, running
from tests.unit.server.service.web_app import CONFLICT, INVALID, NOT_FOUND, counts, diff, refused

CANARY = "canary-77e1-value"


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Running]:
    async with running(tmp_path) as node:
        yield node


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
