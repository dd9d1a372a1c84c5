"""What a provider may answer: the wrong replies, each by itself, and what is fetched when."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

import pytest
from joserfc.jwk import ECKey, OctKey

from petsem.errors import Code, PetsemError
from petsem.sso import fetching
from petsem.sso.id_token import key_id_of
from petsem.sso.keys import fitting, read_keys
from petsem.sso.urls import leads_to, may_ask
from tests.support.oidc import OTHER_KEY, EvilProvider
from tests.unit.sso.world import World

NOW_S = 1_800_000_000


async def outcome(world: World) -> Code | str:
    """Who signed in, or the code that the sign-in is refused with."""
    who = await world.begin()
    try:
        await world.sign_in(who)
    except PetsemError as error:
        if not await world.pending(who):
            # The terminal is told, and gets nothing else.
            with pytest.raises(PetsemError) as told:
                await world.fetch(who)
            assert told.value.code is Code.DENIED
        return error.code
    return (await world.fetch(who)).user


@pytest.mark.parametrize(
    "claims",
    [
        {"iss": "https://evil.example"},
        {"iss": None},
        {"aud": "another"},
        {"aud": ["another"]},
        {"aud": "another", "azp": "petsem"},
        {"aud": ["another", "petsem2"], "azp": "petsem"},
        {"aud": None},
        {"aud": {"petsem": 1}},
        {"aud": ["petsem", "another"]},
        {"aud": ["petsem", "another"], "azp": "another"},
        {"azp": "another"},
        {"nonce": "another"},
        {"nonce": None},
        {"exp": NOW_S - 61},
        {"exp": None},
        {"exp": "soon"},
        {"iat": NOW_S + 61},
        {"iat": None},
        {"iat": True},
        {"nbf": NOW_S + 61},
        {"sub": None},
        {"sub": ""},
        {"sub": "s" * 256},
        {"sub": 7},
        {"email_verified": False},
        {"email_verified": "true"},
        {"email_verified": 1},
        {"email_verified": None},
        {"email": None},
        {"email": "ana"},
        {"email": "ana@evil.example"},
        {"email": "ana@example.com.evil.example"},
        {"email": "ana@evil.example@example.com"},
        {"email": "ana,bob@example.com"},
        {"email": "ana bob@example.com"},
        {"email": "ana@example.com\n"},
        {"email": "anä@example.com"},
        {"email": "an\N{KELVIN SIGN}@example.com"},
        {"email": "a" * 300 + "@example.com"},
        {"email": ["ana@example.com"]},
        {"at_hash": "another"},
    ],
    ids=str,
)
async def test_claims_that_let_nobody_in(world: World, claims: dict[str, Any]) -> None:
    """Each wrong by itself, in a token that the provider's own key has signed."""
    world.provider.claims = claims
    assert await outcome(world) is Code.DENIED


@pytest.mark.parametrize(
    ("claims", "user"),
    [
        ({"email": "Ana@Example.COM"}, "ana@example.com"),
        ({"aud": ["petsem"]}, "ana@example.com"),
        ({"aud": ["petsem", "another"], "azp": "petsem"}, "ana@example.com"),
        ({"exp": NOW_S - 59}, "ana@example.com"),
        ({"iat": NOW_S + 60}, "ana@example.com"),
    ],
    ids=str,
)
async def test_claims_that_do(world: World, claims: dict[str, Any], user: str) -> None:
    """What is in order, though it looks unusual, and clocks that differ by a minute."""
    world.provider.claims = claims
    assert await outcome(world) == user


Sign = Callable[[EvilProvider, dict[str, Any]], str]


def _by_another_key(provider: EvilProvider, claims: dict[str, Any]) -> str:
    provider.key = OTHER_KEY
    return provider.signed(claims)


def _by_another_key_under_this_name(provider: EvilProvider, claims: dict[str, Any]) -> str:
    name = provider.key.kid
    provider.key = OTHER_KEY
    return provider.signed(claims, kid=name)


def _with_its_own_key(provider: EvilProvider, claims: dict[str, Any]) -> str:
    name = provider.key.kid
    provider.key = OTHER_KEY
    return provider.signed(claims, kid=name, jwk=OTHER_KEY.as_dict(private=False))


def _altered(provider: EvilProvider, claims: dict[str, Any]) -> str:
    head, body, signature = provider.signed(claims).split(".")
    return f"{head}.{body}.{signature[:-6]}AAAAAA"


def _none_in_capitals(provider: EvilProvider, claims: dict[str, Any]) -> str:
    head, body, _ = provider.unsigned(claims).split(".")
    return f"{head.replace('bm9uZ', 'Tm9uZ')}.{body}."


@pytest.mark.parametrize(
    "sign",
    [
        EvilProvider.unsigned,
        EvilProvider.signed_with_public_key,
        _by_another_key,
        _by_another_key_under_this_name,
        _with_its_own_key,
        _altered,
        _none_in_capitals,
        lambda *_: "",
        lambda *_: "x.y.z",
        lambda *_: "é",
        lambda *_: "[" * 20_000,
        lambda *_: "A" * 100_000,
        lambda p, c: p.signed([c]),
        lambda p, c: p.signed(c, crit=["x"], x=1),
    ],
    ids=range(14),
)
async def test_signatures_that_let_nobody_in(world: World, sign: Sign) -> None:
    """`none`, HS256 with the public key as the secret, a key of nobody's or of the token's own,
    and what is no token at all."""
    world.provider.sign = lambda claims: sign(world.provider, claims)
    assert await outcome(world) is Code.DENIED


def test_a_header_has_one_spelling(world: World) -> None:
    """Padded, with spare bits set, or with what a decoder would skip: it cannot be read."""
    head, rest = world.provider.signed({}, kid="k").split(".", 1)
    assert (key_id_of(f"{head}.{rest}"), len(head) % 4) == ("k", 2)
    for other in (f"{head}==", f"{head[:-1]}R", f"{head[:8]}!{head[8:]}", f"{head}\n"):
        with pytest.raises(PetsemError, match="cannot be read"):
            key_id_of(f"{other}.{rest}")


async def test_hs256_with_a_secret_in_the_key_set(world: World) -> None:
    """Not even a provider that publishes a shared secret can have it used."""
    secret = OctKey.generate_key(256, {"kid": "k1"})
    found = read_keys({"keys": [secret.as_dict()]})
    assert found == ()


async def test_groups(world: World) -> None:
    """With `groups` set, one of them, in the claim that the org names."""
    world.change(groups=("staff", "ops"), groups_claim="roles")
    for groups in (None, [], ["guests"], "guests", {"staff": 1}, 7, ["staff2"]):
        world.provider.claims = {"roles": groups, "groups": ["staff"]}
        assert await outcome(world) is Code.DENIED
    for groups in (["guests", "ops"], "staff"):
        world.provider.claims = {"roles": groups}
        assert await outcome(world) == "ana@example.com"


# The endpoints


def _reply(status: int, body: bytes | Any, **headers: str) -> Callable[..., Any]:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return lambda *_: (status, headers, raw)


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        (_reply(400, {"error": "invalid_grant"}), Code.DENIED),
        (_reply(401, {"error": "invalid_client"}), Code.DENIED),
        (_reply(200, {"error": "x"}), Code.DENIED),
        (_reply(200, {"access_token": "a"}), Code.DENIED),
        (_reply(200, {"id_token": {"a": 1}}), Code.DENIED),
        (_reply(403, b"no"), Code.DENIED),
        (_reply(429, b"slower"), Code.UNAVAILABLE),
        (_reply(400, {"error": "temporarily_unavailable"}), Code.UNAVAILABLE),
        (_reply(302, b"", location="http://127.0.0.1:1/"), Code.UNAVAILABLE),
        (_reply(500, b"oops"), Code.UNAVAILABLE),
        (_reply(200, b"oops"), Code.UNAVAILABLE),
        (_reply(200, []), Code.UNAVAILABLE),
        (_reply(200, b"[" * 100_000), Code.UNAVAILABLE),
        (_reply(200, b"\xff"), Code.UNAVAILABLE),
        (_reply(200, b" " * (fetching.REPLY_MAX_BYTES + 1)), Code.UNAVAILABLE),
        (_reply(200, b"", **{"content-encoding": "gzip"}), Code.UNAVAILABLE),
    ],
    ids=range(16),
)
async def test_token_endpoint(world: World, reply: Any, code: Code) -> None:
    """What refuses the person, and what is no answer."""
    world.provider.token_reply = reply
    assert await outcome(world) is code


@pytest.mark.parametrize(
    "changed",
    [
        {"issuer": "https://evil.example"},
        {"issuer": None},
        {"authorization_endpoint": "http://evil.example/a"},
        {"authorization_endpoint": "javascript:alert(1)"},
        {"authorization_endpoint": None},
        {"token_endpoint": "http://10.0.0.1/token"},
        {"token_endpoint": "file:///etc/passwd"},
        {"jwks_uri": "ftp://127.0.0.1/keys"},
        {"jwks_uri": ["https://a.example"]},
        {"id_token_signing_alg_values_supported": ["HS256", "none"]},
    ],
    ids=str,
)
async def test_discovery_that_is_not_believed(world: World, changed: dict[str, Any]) -> None:
    """Another issuer, endpoints that are not https, and algorithms that do not count."""
    world.provider.metadata = changed
    assert await outcome(world) is Code.UNAVAILABLE
    assert world.provider.asked == ["/.well-known/openid-configuration"]


@pytest.mark.parametrize(
    "reply",
    [
        _reply(404, {}),
        _reply(200, b"no"),
        _reply(200, []),
        _reply(301, b"", location="https://evil.example"),
        _reply(200, b"{" + b" " * fetching.REPLY_MAX_BYTES + b"}"),
    ],
    ids=range(5),
)
async def test_discovery_that_is_no_answer(world: World, reply: Any) -> None:
    """It is not asked for again at once."""
    world.provider.document_reply = reply
    for _ in range(3):
        assert await outcome(world) is Code.UNAVAILABLE
    assert len(world.provider.asked) == 1
    world.clock.advance(5)
    world.provider.document_reply = None
    assert await outcome(world) == "ana@example.com"


async def test_nobody_is_there(world: World) -> None:
    """An issuer that cannot be reached."""
    world.change(issuer="http://127.0.0.1:9")
    assert await outcome(world) is Code.UNAVAILABLE


async def test_a_provider_that_never_answers() -> None:
    """A whole answer has to come within the bound."""
    with EvilProvider() as provider:
        provider.hold = threading.Event()
        fetcher = fetching.Fetcher(timeout_s=0.05)
        with pytest.raises(PetsemError) as caught:
            await fetcher.ask("POST", f"{provider.issuer}/token", body="a=b")
        assert caught.value.code is Code.UNAVAILABLE
        provider.hold.set()
        await fetcher.close()


async def test_what_is_kept(world: World) -> None:
    """Discovery and keys for an hour; keys again for one that is not known, once a minute."""

    def fetched() -> tuple[int, int]:
        asked = world.provider.asked
        return asked.count("/.well-known/openid-configuration"), asked.count("/jwks")

    assert await outcome(world) == "ana@example.com"
    assert await outcome(world) == "ana@example.com"
    assert fetched() == (1, 1)
    world.provider.key = OTHER_KEY
    assert await outcome(world) is Code.DENIED
    assert fetched() == (1, 1)
    world.clock.advance(60)
    assert await outcome(world) is Code.DENIED
    assert await outcome(world) is Code.DENIED
    assert fetched() == (1, 2)
    world.provider.published.append(OTHER_KEY)
    world.clock.advance(60)
    assert await outcome(world) == "ana@example.com"
    assert fetched() == (1, 3)
    world.clock.advance(3_600)
    assert await outcome(world) == "ana@example.com"
    assert fetched() == (2, 4)


async def test_how_the_client_says_who_it_is(world: World) -> None:
    """With a secret in the header, or in the body where the provider wants that; else by id."""
    world.change(client_secret="another")
    assert await outcome(world) is Code.DENIED
    world.change(client_secret=None)
    world.provider.secret = None
    assert await outcome(world) == "ana@example.com"
    world.change(client_secret="s&ecret=")
    seen: dict[str, str] = {}

    def look(form: dict[str, str]) -> Any:
        seen.update(form)
        return 400, {}, b'{"error":"invalid_client"}'

    world.provider.metadata = {"token_endpoint_auth_methods_supported": ["client_secret_post"]}
    world.clock.advance(3_600)
    world.provider.token_reply = look
    assert await outcome(world) is Code.DENIED
    assert (seen["client_id"], seen["client_secret"]) == ("petsem", "s&ecret=")


def test_keys_that_are_not_used() -> None:
    """Too small, for encryption, damaged, of a kind that is not known, or too many."""
    good = ECKey.generate_key("P-256", {"kid": "e"}).as_dict(private=False)
    small = {"kty": "RSA", "n": "0" + "A" * 170, "e": "AQAB", "kid": "s"}
    bad = [small, {**good, "use": "enc"}, {**good, "x": "!"}, {**good, "x": 7}, {"kty": "XYZ"}]
    huge = {"kty": "RSA", "n": "A" * 5_000, "e": "AQAB"}
    assert read_keys({"keys": [*bad, huge, "x", None]}) == ()
    assert read_keys({}) == read_keys({"keys": {}}) == ()
    found = read_keys({"keys": [*bad, good]})
    assert [key.kid for key in found] == ["e"]
    assert fitting(found, "e") == fitting(found, None) == found
    assert fitting(found, "f") == ()
    assert len(read_keys({"keys": [good] * 100})) == 64


@pytest.mark.parametrize(
    ("url", "issuer", "may"),
    [
        ("https://p.example/a?b=c", "https://p.example", True),
        ("http://p.example/a", "https://p.example", False),
        ("http://127.0.0.1:80/a", "https://p.example", False),
        ("https://localhost/a", "https://p.example", False),
        ("https://localhost./a", "https://p.example", False),
        ("https://x.localhost/a", "https://p.example", False),
        ("https://0.0.0.0/a", "https://p.example", False),
        ("https://[::]/a", "https://p.example", False),
        ("https://[::ffff:127.0.0.1]/a", "https://p.example", False),
        ("https://[::1]/a", "https://p.example", False),
        ("http://[::1]:80/a", "http://localhost:81", True),
        ("https://u:p@p.example/", "https://p.example", False),
        ("https://p.example/#f", "https://p.example", False),
        ("https://p.example/ a", "https://p.example", False),
        ("https://p.example/\r\nx: y", "https://p.example", False),
        ("https://p.example:99999/", "https://p.example", False),
        ("https:///a", "https://p.example", False),
        ("https://" + "a" * 3_000, "https://p.example", False),
        (None, "https://p.example", False),
    ],
)
def test_urls_that_a_provider_may_name(url: object, issuer: str, may: bool) -> None:
    """https only, and this machine's own ports for a provider on it alone."""
    assert may_ask(url, issuer) is may


def test_where_a_form_may_lead() -> None:
    """On loopback to the one provider, else anywhere by https."""
    assert leads_to("http://127.0.0.1:81/a") == "http://127.0.0.1:81"
    assert leads_to("https://p.example/a") == "https:"


async def test_redirects_are_not_followed(world: World) -> None:
    """Where a provider points, whatever is there, nobody goes."""
    moved = {"location": f"{world.provider.issuer}/jwks"}
    world.provider.document_reply = lambda: (302, moved, b"")
    assert await outcome(world) is Code.UNAVAILABLE
    world.provider.document_reply = None
    world.clock.advance(5)
    world.provider.token_reply = lambda _: (302, moved, b"")
    assert await outcome(world) is Code.UNAVAILABLE
    assert "/jwks" not in world.provider.asked
