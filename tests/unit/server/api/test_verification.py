"""Routes of verification and revocations, through the door."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from petsem import limits
from petsem.server.api import verification
from tests.support.patience import PATIENCE_S
from tests.unit.server.api.world import SECRETS, Api, narrowed, nonce_of

ACCESS = {"org": "acme", "app": "web", "action": "secrets:read"}


async def _ask(api: Api, kind: str, token: str, **access: str) -> Any:
    body = {"token": token, "access": {**ACCESS, **access}}
    return await api.done("POST", f"/v1/tokens/{kind}", body=body)


async def test_verify(api: Api) -> None:
    """An allowed token is told who it is, a refused one why, and both how fresh that is."""
    token = await api.mint("app = web", "action = secrets:read")
    allowed = await _ask(api, "verify", token)
    freshness = allowed.pop("freshness")
    assert freshness["role"] == "leader"
    assert allowed == {
        "allowed": True,
        "token_id": nonce_of(token).hex(),
        "org": "acme",
        "subject": f"org:{nonce_of(token).hex()}",
        "expires_at": "2027-01-15T09:00:00Z",
    }
    refused = await _ask(api, "verify", token, app="api")
    assert refused.pop("freshness")["position"] == freshness["position"]
    assert refused == {
        "allowed": False,
        "reason": "CAVEAT",
        "caveat": "app = web",
        "message": "the token's caveat 'app = web' does not allow this",
    }
    nonsense = await _ask(api, "verify", "nonsense")
    assert (nonsense["allowed"], nonsense["reason"]) == (False, "MALFORMED")
    assert "caveat" not in nonsense


async def test_time_is_the_servers(api: Api) -> None:
    """`time` in an access counts in the dry run only, whose answer has no `allowed`."""
    token = narrowed(await api.mint(), "time < 2027-01-15T08:30:00Z")
    late = "2027-01-15T08:45:00Z"
    assert (await _ask(api, "verify", token, time=late))["allowed"] is True
    dry = await _ask(api, "can", token, time=late)
    assert (dry["would_allow"], dry["reason"]) == (False, "EXPIRED")
    assert "allowed" not in dry
    dry = await _ask(api, "can", token)
    assert (dry["would_allow"], dry["expires_at"]) == (True, "2027-01-15T08:30:00Z")
    bad = await api.ask(
        "POST", "/v1/tokens/can", body={"token": token, "access": {**ACCESS, "time": "noon"}}
    )
    assert bad.error == (400, "invalid", None)


async def test_batch(api: Api) -> None:
    """A batch answers in order, and only about orgs that the asker may verify for."""
    good = await api.mint()
    body = {"requests": [{"token": t, "access": ACCESS} for t in (good, "x", good)]}
    done = await api.done("POST", "/v1/tokens/verify-batch", body=body)
    assert [each["allowed"] for each in done["responses"]] == [True, False, True]
    body["requests"].append({"token": good, "access": {**ACCESS, "org": "other"}})
    answer = await api.ask("POST", "/v1/tokens/verify-batch", token=good, body=body)
    assert answer.error == (403, "denied", "WRONG_ORG")
    for requests in ([], body["requests"][:1] * (limits.VERIFY_BATCH_MAX + 1)):
        answer = await api.ask("POST", "/v1/tokens/verify-batch", body={"requests": requests})
        assert answer.error == (400, "invalid", None)


async def test_bad_questions(api: Api) -> None:
    """A question that cannot be answered is an error, never a denial."""
    for access in (
        {},
        {"org": "acme"},
        {"action": "a"},
        {"org": "ACME", "action": "a"},
        {**ACCESS, "x": "y" * 256},
        {**ACCESS, **{f"k{n}": "v" for n in range(64)}},
        {**ACCESS, "app": 1},
    ):
        for kind in ("verify", "can"):
            answer = await api.ask(
                "POST", f"/v1/tokens/{kind}", body={"token": "x", "access": access}
            )
            assert answer.error == (400, "invalid", None)
    large = await api.ask(
        "POST", "/v1/tokens/verify", body={"token": "x" * 70_000, "access": ACCESS}
    )
    assert large.error == (413, "invalid", "TOO_LARGE")


async def _feed(api: Api, **query: object) -> Any:
    return await api.get("/v1/revocations", **query)


async def test_feed(api: Api) -> None:
    """Without `after` the position to begin at; with it what was revoked since, in order."""
    start = await _feed(api)
    assert (start["revocations"], start["next"]) == ([], start["freshness"]["position"])
    first, second = await api.mint("action = a:b"), await api.mint("action = c:d")
    await api.revoke(first)
    await api.revoke(second)
    feed = await _feed(api, after=start["next"])
    assert [row["token_id"] for row in feed["revocations"]] == [
        nonce_of(first).hex(),
        nonce_of(second).hex(),
    ]
    assert {(row["org"], row["revoked_at"]) for row in feed["revocations"]} == {
        ("acme", "2027-01-15T08:00:00Z")
    }
    assert (await _feed(api, after=feed["next"], wait_s=0))["revocations"] == []
    only = await _feed(api, org="acme", after=feed["revocations"][0]["position"])
    assert [row["token_id"] for row in only["revocations"]] == [nonce_of(second).hex()]


async def _until_somebody_waits(api: Api) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not api.node.changes.waited_for:  # noqa: ASYNC110 (it tells nobody)
            await asyncio.sleep(0)


async def test_long_poll(api: Api) -> None:
    """A poll waits for a revocation and answers as soon as there is one."""
    token = await api.mint()
    start = (await _feed(api))["next"]
    waiting = asyncio.create_task(_feed(api, after=start))
    await _until_somebody_waits(api)
    assert not waiting.done()
    await api.revoke(token)
    async with asyncio.timeout(PATIENCE_S):
        feed = await waiting
    assert [row["token_id"] for row in feed["revocations"]] == [nonce_of(token).hex()]
    assert not api.node.changes.waited_for


async def test_long_poll_of_one_who_leaves(api: Api) -> None:
    """When the client goes away its poll ends, and nobody waits any more."""
    start = (await _feed(api))["next"]
    gone = asyncio.Event()
    sent: list[Any] = []
    events: list[Any] = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> Any:
        if events:
            return events.pop()
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "GET",
        "path": "/v1/revocations",
        "raw_path": b"/v1/revocations",
        "root_path": "",
        "scheme": "http",
        "query_string": f"after={start}".encode(),
        "headers": [(b"authorization", b"Bearer " + api.operator.encode())],
        "client": ("192.0.2.7", 1),
        "server": ("node", 80),
    }
    poll = asyncio.create_task(api.app(scope, receive, send))  # type: ignore[arg-type]
    await _until_somebody_waits(api)
    gone.set()
    async with asyncio.timeout(PATIENCE_S):
        await poll
    assert not api.node.changes.waited_for
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]


async def test_long_poll_of_a_stopping_node(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """A poll while the node stops ends at its next look, long before its time."""
    monkeypatch.setattr(verification, "_RECHECK_S", 0.01)
    start = (await _feed(api))["next"]
    api.node.status.draining = True
    async with asyncio.timeout(PATIENCE_S):
        assert (await _feed(api, after=start, wait_s=30))["revocations"] == []


async def test_long_poll_of_a_revoked_asker(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token that ends while it waits is refused at the next look."""
    monkeypatch.setattr(verification, "_RECHECK_S", 0.01)
    token = narrowed(await api.mint(), "time < 2027-01-15T08:10:00Z")
    start = (await _feed(api))["next"]
    query = {"org": "acme", "after": start, "wait_s": 30}
    waiting = asyncio.create_task(api.ask("GET", "/v1/revocations", token=token, **query))
    await _until_somebody_waits(api)
    api.cluster.clock.advance(600)
    async with asyncio.timeout(PATIENCE_S):
        assert (await waiting).error == (401, "unauthenticated", "EXPIRED")


async def test_bad_feeds(api: Api) -> None:
    """A position that is none, not reached yet, or on no known branch is told apart."""
    invalid = (400, "invalid", None)
    assert (await api.ask("GET", "/v1/revocations", after="x")).error == invalid
    assert (await api.ask("GET", "/v1/revocations", org="ACME")).error == invalid
    assert (await api.ask("GET", "/v1/revocations", wait_s=31)).error == invalid
    ahead = await api.ask("GET", "/v1/revocations", after="00000002-00000000000fffff")
    assert ahead.error == (412, "stale", None)
    assert ahead.json["details"]["need"] == "00000002-00000000000fffff"
    lost = await api.ask("GET", "/v1/revocations", after="00000001-00000000000fffff")
    assert lost.error == (409, "conflict", "LOST")
    nobody = await api.ask("GET", "/v1/revocations", token=None, after="x")
    assert nobody.error == (401, "unauthenticated", None)
    of_an_org = await api.mint()
    assert (await api.ask("GET", "/v1/revocations", token=of_an_org)).error[2] == "WRONG_ORG"
    assert (await api.ask("GET", "/v1/revocations", token=of_an_org, org="acme")).status == 200


async def test_a_revoked_asker(api: Api) -> None:
    """Whoever lost the right to verify gets no answers, and revoking ends what it minted."""
    parent = await api.mint()
    body = {"org": "acme", "caveats": ["action = secrets:list", "time < 2027-01-15T08:50:00Z"]}
    child = (await api.done("POST", "/v1/tokens", token=parent, body=body))["token"]
    assert (await api.ask("GET", SECRETS, token=child)).status == 200
    await api.revoke(parent)
    assert (await api.ask("GET", SECRETS, token=child)).error == (403, "denied", "REVOKED")
    question = {"token": child, "access": ACCESS}
    answer = await api.ask("POST", "/v1/tokens/verify", token=parent, body=question)
    assert answer.error == (403, "denied", "REVOKED")
