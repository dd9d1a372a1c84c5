"""The table *Which way it fails* of `docs/threat-model.md`, cell by cell."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import pytest

from petsem.crypto.keys import Purpose
from petsem.errors import unavailable
from tests.docs import people
from tests.docs.house import SECOND, Doors, House
from tests.docs.pages import Page, table
from tests.docs.people import Household
from tests.support.following import Line, follow

Operation = Callable[[Doors], Awaitable[str]]
Damage = Callable[[House], None]

_PAGE: Final = "docs/threat-model.md"
_COLUMNS: Final = (
    "leader unheard", "over 24 h", "clock doubtful", "key missing", "row damaged", "disk full",
)  # fmt: skip
_OF_PEOPLE: Final = "operation of a person or a host"
_ALONE: Final = "provider unreachable"
_UNHEARD_S: Final = {"leader unheard": 3600, "over 24 h": 25 * 3600}


async def _set_either(doors: Doors) -> str:
    first = await doors.app("PATCH", "/secrets", {"set": {"B": "new"}})
    second = await doors.app("PATCH", "/secrets", {"set": {"A": "new"}})
    assert first == second
    return second


async def _verify(doors: Doors) -> str:
    access = {"org": "acme", "app": "web", "action": "secrets:read"}
    body = {"token": doors.house.host, "access": access}
    return await doors.http("POST", "/v1/tokens/verify", body)


async def _revoke(doors: Doors) -> str:
    assert await doors.http("GET", "/v1/orgs/acme/tokens") == "serve"
    (token,) = doors.reply["tokens"]
    return await doors.http("DELETE", f"/v1/orgs/acme/tokens/{token['id']}")


async def _list_and_history(doors: Doors) -> str:
    listed = await doors.app("GET", "/secrets")
    assert await doors.app("GET", "/versions") == listed
    return listed


OPERATIONS: Final[Mapping[str, Operation]] = {
    "Fetch": lambda d: d.fetch(),
    "Fetch, its bundle damaged or gone": lambda d: d.fetch(),
    "Watch": lambda d: d.watch(),
    "values over HTTP": lambda d: d.app("GET", "/secrets/values"),
    "values of other names": lambda d: d.app("GET", "/secrets/values?names=B"),
    "list, history": _list_and_history,
    "set, of the damaged name or another": _set_either,
    "unset": lambda d: d.app("PATCH", "/secrets", {"unset": ["B"]}),
    "rollback": lambda d: d.app("POST", "/rollback", {"to": 1}),
    "destroy": lambda d: d.app("POST", "/secrets/destroy", {"names": ["B"]}),
    "create an app": lambda d: d.http("POST", "/v1/orgs/acme/apps", {"app": "new"}),
    "create an org": lambda d: d.http("POST", "/v1/orgs", {"org": "new"}),
    "any request with an org's token": lambda d: d.fetch(token=d.house.host),
    "any request with an operator's token": lambda d: d.http("GET", "/v1/status"),
    "verify an org's token": _verify,
    "mint": lambda d: d.mint("action = secrets:read"),
    "revoke": _revoke,
    "feed of revocations": lambda d: d.http("GET", "/v1/revocations?org=acme"),
    "a write with an Idempotency-Key": lambda d: d.app("PATCH", "/secrets", SECOND, key="k"),
    "`/healthz`": lambda d: d.http("GET", "/healthz"),
    "`/readyz`": lambda d: d.http("GET", "/readyz"),
}

_ORG_KEY: Final[Damage] = lambda h: h.damage("root_keys", "envelope", "org IS NOT NULL")  # noqa: E731


def _damage_value(house: House) -> None:
    house.damage("secrets", "envelope", "name = 'A' AND until IS NULL")


def _damage_bundle_and_value(house: House) -> None:
    house.damage("bundles", "envelope")
    _damage_value(house)


DAMAGE: Final[Mapping[str, Damage]] = {
    "Fetch, its bundle damaged or gone": _damage_bundle_and_value,
    "any request with an org's token": _ORG_KEY,
    "any request with an operator's token": lambda h: h.damage(
        "root_keys", "envelope", "org IS NULL"
    ),
    "verify an org's token": _ORG_KEY,
    "mint": _ORG_KEY,
    "revoke": _ORG_KEY,
    "a write with an Idempotency-Key": lambda h: h.damage("idempotency", "outcome"),
}
"""What is damaged for an operation, if not the current value of A."""


def _rows(heading: str) -> list[dict[str, str]]:
    return table(Page.read(_PAGE).section("Which way it fails"), heading)


def _cells(heading: str, *more: str) -> list[tuple[str, str, str, str]]:
    return [
        (row[heading], row["KEK"], column, row[column])
        for row in _rows(heading)
        for column in (*_COLUMNS, *more)
        if row[column] != "–"
    ]


def test_every_operation_is_in_the_tables_once() -> None:
    """The page and this file name the same operations."""
    assert [row["operation"] for row in _rows("operation")] == list(OPERATIONS)
    assert [row[_OF_PEOPLE] for row in _rows(_OF_PEOPLE)] == list(people.OPERATIONS)


@pytest.mark.parametrize(("operation", "kek", "column", "expected"), _cells("operation"))
async def test_a_cell(house: House, operation: str, kek: str, column: str, expected: str) -> None:
    """The operation does what the page says."""
    if column == "row damaged":
        DAMAGE.get(operation, _damage_value)(house)
    elif "bundle damaged" in operation:
        house.damage("bundles", "envelope")
    await _see(house, OPERATIONS[operation], kek, column, expected)


@pytest.mark.parametrize(("operation", "kek", "column", "expected"), _cells(_OF_PEOPLE, _ALONE))
async def test_a_cell_of_people(
    household: Household, operation: str, kek: str, column: str, expected: str
) -> None:
    """What people sign in for, and hosts boot with, does what the page says."""
    if column == "row damaged":
        people.DAMAGE[operation](household)
    with contextlib.nullcontext() if column == _ALONE else household.at_home():
        await _see(household, people.OPERATIONS[operation], kek, column, expected)


async def _see(house: House, operation: Operation, kek: str, column: str, expected: str) -> None:
    without: set[Purpose] = set()
    if column == "key missing":
        # Where no key is needed, all go but the one that the operator's own token needs.
        without = {Purpose.SECRETS, Purpose.TOKENS} if kek == "–" else {Purpose(kek)}
    async with house.open(without) as doors:
        if column == "clock doubtful":
            house.clock.advance(-3600)
        if column == "disk full":
            doors.node.space._free = lambda _: 0
        if column in _UNHEARD_S:
            follow(doors.node, heard_s=_UNHEARD_S[column], upstream=_cut())
        outcome = await operation(doors)
        if expected == "serve marked":
            assert _age_ms(doors.reply["freshness"]) >= _UNHEARD_S[column] * 1000
            outcome += " marked"
        assert outcome == expected


def _cut() -> Line:
    """A way upstream that leads nowhere."""
    line = Line(_nobody)
    line.connected, line.failure = False, unavailable("nobody can be reached")
    return line


async def _nobody(*_: object) -> None:
    raise AssertionError("nobody is there")


def _age_ms(freshness: Mapping[str, Any]) -> int:
    """How old the answer of a replica says that it may be, over HTTP or Connect."""
    assert freshness["role"].lower() == "replica"
    return int(freshness["lag_ms"] if "lag_ms" in freshness else freshness["lagMs"])


async def test_a_damaged_value_is_named_and_nothing_of_the_app_is_sent(house: House) -> None:
    """A boot is whole or it is an error with the secret's name."""
    _damage_bundle_and_value(house)
    async with house.open() as doors:
        assert await doors.fetch() == "refuse corrupt"
        assert "value of A " in doors.reply["message"]
        assert "secrets" not in doors.reply


@pytest.mark.parametrize("purpose", Purpose)
async def test_a_missing_key_is_named(house: House, purpose: Purpose) -> None:
    """`status` warns with the id of the KEK that is lacking; only without `tokens` is a node not
    ready."""
    ((kek,),) = house.rows("SELECT hex(id) FROM keks WHERE purpose = ?", purpose.value)
    async with house.open({purpose}) as doors:
        warnings = " ".join(doors.node.status.status().nodes[0].warnings)
        assert kek.lower() in warnings
        assert (doors.node.status.ready() != []) == (purpose is Purpose.TOKENS)


async def test_a_clock_set_back_revives_an_expired_token(house: House) -> None:
    """Nothing notices; one set ahead refuses a good token."""
    async with house.open() as doors:
        house.clock.advance(3600)
        assert await doors.fetch(token=house.host) == "refuse unauthenticated"
        house.clock.advance(-1800)
        assert await doors.fetch(token=house.host) == "serve"


async def test_a_damaged_data_key_harms_no_neighbour(house: House) -> None:
    """Writes to two apps in one group: one app's key is damaged, the other's write is stored."""
    house.damage("data_keys", "wrapped", "app = (SELECT id FROM apps WHERE name = 'web')")
    other = "/v1/orgs/acme/apps/api/secrets"
    async with house.open() as doors:
        before = doors.node.writer.commits
        found = await asyncio.gather(
            doors.http("PATCH", other, {"set": {"B": "new"}}),
            doors.app("PATCH", "/secrets", {"set": {"B": "new"}}),
            doors.app("PATCH", "/secrets", {"unset": ["A", "B"]}),
            doors.http("PATCH", other, {"set": {"C": "new"}}),
        )
        assert list(found) == ["serve", "refuse corrupt", "serve", "serve"]
        assert doors.node.writer.commits == before + 1


async def test_an_unheard_revocation_counts_for_boot_reads_only_as_long_as_they_are_served(
    house: House,
) -> None:
    """A replica that is cut off honours a token that was revoked elsewhere, and says how old it
    is; whoever asks it for a verdict gets none."""
    async with house.open() as doors:
        follow(doors.node, heard_s=3600, upstream=_cut())
        assert await doors.fetch(token=house.host) == "serve"
        assert _age_ms(doors.reply["freshness"]) == 3_600_000
        assert await _verify(doors) == "refuse stale"


async def test_every_answer_says_how_fresh_it_is(house: House) -> None:
    """One node is the leader and lags by nothing."""
    async with house.open() as doors:
        await doors.app("GET", "/secrets")
        freshness = doors.reply["freshness"]
        assert (freshness["role"], freshness["lag_ms"]) == ("leader", 0)
        assert freshness["position"] == str(doors.node.writer.position)
