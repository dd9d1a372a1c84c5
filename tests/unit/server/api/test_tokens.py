"""Routes of tokens and root keys, through the door."""

from __future__ import annotations

from petsem.tokens.text import parse_token
from tests.unit.server.api.world import SECRETS, Api, nonce_of

UNTIL = "time < 2027-01-15T09:00:00Z"


async def test_mint_list_and_revoke(api: Api) -> None:
    """A token is minted, works, is listed without itself, and ends when it is revoked."""
    answer = await api.ask(
        "POST",
        "/v1/tokens",
        body={
            "org": "acme",
            "kind": "host",
            "label": "hosts",
            "caveats": ["app = web", "action = secrets:read", UNTIL],
        },
    )
    assert answer.status == 201
    minted = answer.json
    assert minted["id"] == nonce_of(minted["token"]).hex()
    assert minted["expires_at"] == "2027-01-15T09:00:00Z"
    path = SECRETS + "/values"
    assert (await api.ask("GET", path, token=minted["token"])).status == 200
    (listed,) = (await api.get("/v1/orgs/acme/tokens"))["tokens"]
    assert (listed["id"], listed["kind"], listed["label"], listed["state"]) == (
        minted["id"],
        "host",
        "hosts",
        "live",
    )
    assert listed["caveats"] == ["org = acme", "app = web", "action = secrets:read", UNTIL]
    revoked = await api.done("DELETE", f"/v1/orgs/acme/tokens/{minted['id']}")
    assert (revoked["id"], revoked["durability"]["met"]) == (minted["id"], True)
    answer = await api.ask("GET", path, token=minted["token"])
    assert answer.error == (403, "denied", "REVOKED")
    (listed,) = (await api.get("/v1/orgs/acme/tokens"))["tokens"]
    assert (listed["state"], listed["revoked_at"]) == ("revoked", "2027-01-15T08:00:00Z")


async def test_mint_again(api: Api) -> None:
    """A mint that is sent again answers with the same token."""
    body = {"org": "acme", "caveats": ["action = secrets:read", UNTIL]}
    first = await api.done("POST", "/v1/tokens", body=body, key="k")
    assert await api.done("POST", "/v1/tokens", body=body, key="k") == first


async def test_operators(api: Api) -> None:
    """Tokens of the cluster key are minted, listed and revoked under /v1/tokens."""
    body = {"caveats": ["action = nodes:read", UNTIL]}
    minted = await api.done("POST", "/v1/tokens", body=body)
    listed = (await api.get("/v1/tokens"))["tokens"]
    assert [token["kind"] for token in listed] == ["operator", "operator"]
    assert (await api.ask("GET", "/v1/status", token=minted["token"])).status == 200
    assert (await api.ask("GET", "/v1/orgs", token=minted["token"])).error == (
        403,
        "denied",
        "CAVEAT",
    )
    wrong_place = await api.ask("DELETE", f"/v1/orgs/acme/tokens/{minted['id']}")
    assert wrong_place.error == (404, "not_found", None)
    await api.done("DELETE", f"/v1/tokens/{minted['id']}")
    assert (await api.ask("GET", "/v1/status", token=minted["token"])).status == 403


async def test_pages(api: Api) -> None:
    """A long list comes a page at a time."""
    for action in ("a:b", "c:d", "e:f"):
        await api.mint(f"action = {action}")
    first = await api.get("/v1/orgs/acme/tokens", limit=2)
    second = await api.get("/v1/orgs/acme/tokens", limit=2, after=first["next"])
    assert (len(first["tokens"]), len(second["tokens"]), second["next"]) == (2, 1, None)
    assert not {t["id"] for t in first["tokens"]} & {t["id"] for t in second["tokens"]}
    bad = await api.ask("GET", "/v1/orgs/acme/tokens", after="hunter2")
    assert bad.error == (400, "invalid", None)


async def test_bad_mints(api: Api) -> None:
    """A mint that cannot be is refused in one sentence, without what was sent."""
    good = ["action = secrets:read", UNTIL]
    for body in (
        {"org": "acme"},
        {"org": "acme", "caveats": []},
        {"org": "acme", "caveats": [UNTIL]},
        {"org": "acme", "caveats": ["action = secrets:read"]},
        {"org": "acme", "caveats": [*good, "hunter2"]},
        {"org": "acme", "caveats": good, "kind": "hunter2"},
        {"org": "acme", "caveats": good, "label": "x" * 129},
        {"org": "ACME", "caveats": good},
        {"org": "acme", "caveats": good, "token": "hunter2"},
        {"org": "acme", "caveats": "hunter2"},
    ):
        answer = await api.ask("POST", "/v1/tokens", body=body)
        assert answer.error == (400, "invalid", None), body
        assert "hunter2" not in answer.content.decode()
    more = await api.mint("action in tokens:mint, secrets:list")
    answer = await api.ask("POST", "/v1/tokens", token=more, body={"org": "acme", "caveats": good})
    assert answer.error == (403, "denied", "CAVEAT")


async def test_bad_ids(api: Api) -> None:
    """An id that is none is refused; to a stranger it is not even looked at."""
    for token_id in ("x", "0" * 31, "A" * 32):
        path = f"/v1/orgs/acme/tokens/{token_id}"
        assert (await api.ask("DELETE", path)).error == (400, "invalid", None)
        assert (await api.ask("DELETE", path, token=None)).error[0] == 401
    unknown = await api.ask("DELETE", f"/v1/orgs/acme/tokens/{'0' * 32}")
    assert unknown.error == (404, "not_found", None)


async def test_rotate(api: Api) -> None:
    """After a rotation new tokens are of another key, and those before it go on."""
    before = await api.mint()
    done = await api.done("POST", "/v1/orgs/acme/root-keys")
    after = await api.mint(fresh=True)
    assert len(done["retired"]) == 1
    assert bytes.fromhex(done["key_id"]) in parse_token(after).root.identifier
    for token in (before, after):
        assert (await api.ask("GET", SECRETS, token=token)).status == 200
