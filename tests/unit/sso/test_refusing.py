"""A no is an answer: whoever waits for a sign-in that will not be is told at once, and nobody else
can say it."""

from __future__ import annotations

import pytest

from petsem import base64url
from petsem.crypto import aead
from petsem.errors import Code, PetsemError
from petsem.sso.pages import Page
from tests.unit.sso.test_authenticator import PORT, refused
from tests.unit.sso.world import Requester, World


async def told(world: World, who: Requester) -> str:
    """The sentence that the terminal gets."""
    assert not await world.pending(who)
    with pytest.raises(PetsemError) as caught:
        await world.fetch(who)
    assert caught.value.code is Code.DENIED
    return caught.value.message


async def test_on_the_page(world: World) -> None:
    """The other button ends the sign-in without a code: the terminal has it from its next poll."""
    who = await world.begin()
    page = await world.page(who.flow)
    assert '<button name="refuse" value="yes" formnovalidate>' in page
    # What Enter in the field of the code presses is the first one.
    assert page.index("<button>Sign in") < page.index("<button name=")
    assert await world.pending(who)
    going = await world.refuse(who)
    assert isinstance(going.to, Page)
    assert "You have refused" in going.to.html
    assert going.cookie is not None
    assert "Max-Age=0" in going.cookie
    said = await told(world, who)
    assert said == "the sign-in was refused on its page; begin it again if that was a mistake"
    assert "/token" not in world.provider.asked


async def test_what_was_refused_stays_so(world: World) -> None:
    """Neither the page, nor the code, nor a browser that is at the provider brings it back; nor is
    the answer given twice."""
    who = await world.begin()
    came = world.provider.sign_in(await world.away(who))
    cookie = world.cookie
    await world.refuse(who)
    assert await refused(world.page(who.flow)) is Code.CONFLICT
    assert await refused(world.authenticator.confirm(who.flow, "x", cookie, None)) is Code.CONFLICT
    assert await refused(world.back(came, cookie)) is Code.CONFLICT
    assert await refused(world.refuse(who, cookie)) is Code.CONFLICT
    await told(world, who)
    assert await refused(world.fetch(who)) is Code.NOT_FOUND
    assert await refused(world.pending(who)) is Code.NOT_FOUND


async def test_who_may_refuse(world: World) -> None:
    """The browser that was shown the page, and no other; and not what was signed in already."""
    who = await world.begin()
    await world.page(who.flow)
    (name,) = world.cookies
    for cookie in ("", f"{name}=x", f"{name}x={world.cookies[name]}"):
        assert await refused(world.refuse(who, cookie)) is Code.DENIED
    wrong = base64url.encode(aead.random_bytes(32))
    assert await refused(world.refuse(Requester(b"", who.answer), f"{name}={wrong[:-1]}")) is (
        Code.DENIED
    )
    assert await world.pending(who)
    port = await world.begin(port=PORT)
    await world.away(port)
    assert await refused(world.refuse(port)) is Code.INVALID
    cookie = world.cookie
    await world.sign_in(who)
    assert await refused(world.refuse(who, cookie)) is Code.CONFLICT
    assert await world.fetch(who)


async def test_only_who_began_it_is_told_why(world: World) -> None:
    """Without the secret one learns that there is an answer, and with another one not even that."""
    who = await world.begin()
    await world.page(who.flow)
    await world.refuse(who)
    stranger = Requester(aead.random_bytes(32), who.answer)
    with pytest.raises(PetsemError) as caught:
        await world.fetch(stranger)
    assert caught.value.message.startswith("secret is not the one")
    await told(world, who)


@pytest.mark.parametrize("port", [None, PORT])
async def test_at_the_provider(world: World, port: int | None) -> None:
    """The provider's `access_denied` is the person's no too, where a browser is local as well."""
    who = await world.begin(port=port)
    came = world.provider.sign_in(await world.away(who))
    gone = {"state": came["state"], "error": "access_denied"}
    assert await refused(world.back(gone, cookie="")) is Code.DENIED
    assert await refused(world.back({**gone, "iss": "https://evil.example"})) is Code.DENIED
    assert await world.pending(who)
    assert await refused(world.back(gone)) is Code.DENIED
    assert (await told(world, who)).startswith("the sign-in was refused at the org's provider; ")
    assert await refused(world.back(came)) is Code.CONFLICT


async def test_a_no_that_comes_after_the_yes(world: World) -> None:
    """Somebody who goes back in his browser and refuses takes away nothing that was given."""
    who = await world.begin()
    came = world.provider.sign_in(await world.away(who))
    cookie = world.cookie
    await world.back(came)
    gone = {"state": came["state"], "error": "access_denied"}
    assert await refused(world.back(gone, cookie)) is Code.CONFLICT
    assert await world.fetch(who)


@pytest.mark.parametrize("port", [None, PORT])
async def test_somebody_whom_the_org_does_not_let_in(world: World, port: int | None) -> None:
    """The terminal is told which rule it was, and does not wait for another account."""
    who = await world.begin(port=port)
    world.provider.person = {"sub": "eve", "email": "eve@evil.example", "email_verified": True}
    assert await refused(world.sign_in(who)) is Code.DENIED
    said = await told(world, who)
    assert "of a domain that the org refuses" in said
    assert "evil" not in said


async def test_refusals_are_counted_like_codes(world: World) -> None:
    """Nobody fills the memory with sign-ins that he begins and refuses: an address has so many."""
    codes = []
    for _ in range(25):
        who = await world.begin()
        await world.page(who.flow)
        codes.append(await _code(world, who))
    assert codes[0] is None
    assert codes[-1] is Code.LIMIT


async def _code(world: World, who: Requester) -> Code | None:
    try:
        await world.refuse(who)
    except PetsemError as error:
        return error.code
    return None
