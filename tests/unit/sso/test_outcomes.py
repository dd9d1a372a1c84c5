"""How sign-ins go is counted, each step and each failure once, by words of closed sets."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Awaitable

from petsem.errors import PetsemError
from petsem.sso.outcomes import Failure, Step
from tests.unit.sso.test_authenticator import PORT
from tests.unit.sso.world import World


async def counted(world: World, *calls: Awaitable[object]) -> dict[str, int]:
    """What was counted more after those than before."""
    before = _words(world)
    for call in calls:
        with contextlib.suppress(PetsemError):
            await call
    return dict(_words(world) - before)


def _words(world: World) -> Counter[str]:
    outcomes = world.authenticator.outcomes
    return Counter(
        str(word) for word in (*outcomes.steps.elements(), *outcomes.failures.elements())
    )


async def test_a_sign_in(world: World) -> None:
    """Started, confirmed where there is a code, signed in."""
    assert world.authenticator.outcomes.steps == {}
    who = await world.begin()
    assert await counted(world, world.sign_in(who), world.fetch(who)) == {
        "confirmed": 1,
        "signed_in": 1,
    }
    assert await counted(world, world.begin(port=PORT)) == {"started": 1}
    other = await world.begin(port=PORT)
    assert await counted(world, world.sign_in(other)) == {"signed_in": 1}


async def test_a_no_is_no_failure(world: World) -> None:
    """On the page and at the provider."""
    who, other = await world.begin(), await world.begin(port=PORT)
    await world.page(who.flow)
    assert await counted(world, world.refuse(who)) == {"refused": 1}
    came = world.provider.sign_in(await world.away(other))
    gone = {"state": came["state"], "error": "access_denied"}
    assert await counted(world, world.back(gone)) == {"refused": 1}


async def test_each_failure(world: World) -> None:
    """By what stood in the way."""
    who = await world.begin()
    await world.page(who.flow)
    found = [await counted(world, world.confirm(who, "BBBB-BBBB"))]
    found.append(await counted(world, world.authenticator.confirm(who.flow, "x", "", None)))
    came = world.provider.sign_in(await world.away(who))
    found.append(await counted(world, world.back({"state": came["state"]})))
    found.append(await counted(world, world.back({**came, "code": "made up"})))
    world.provider.token_reply = lambda _: (503, {}, b"down")
    found.append(await counted(world, world.back(came)))
    world.provider.token_reply = None
    world.change(domains=("example.org",))
    came = world.provider.sign_in(await world.away(who))
    found.append(await counted(world, world.back(came)))
    found.append(await counted(world, world.page(who.flow)))
    found.append(await counted(world, world.page("x")))
    for _ in range(5):
        other = await world.begin()
        await world.page(other.flow)
        await counted(world, *(world.confirm(other, "BBBB-BBBB") for _ in range(5)))
    found.append(await counted(world, world.confirm(other)))
    assert found == [
        {each: 1}
        for each in (
            Failure.CODE, Failure.BROWSER, Failure.NOT_CONFIRMED, Failure.NOT_CONFIRMED,
            Failure.PROVIDER, Failure.NOT_ALLOWED, Failure.OVER, Failure.OTHER, Failure.LIMIT,
        )
    ]  # fmt: skip


async def test_nothing_of_anybody(world: World) -> None:
    """The words are all that there is."""
    who = await world.begin()
    await world.sign_in(who)
    outcomes = world.authenticator.outcomes
    assert set(outcomes.steps) <= set(Step)
    assert set(outcomes.failures) <= set(Failure)
