"""Routes of secrets, through the door."""

from __future__ import annotations

import base64

import pytest

from petsem import limits
from petsem.server.api.diff_rate import BURST
from petsem.tokens.identifier import Identifier
from petsem.tokens.macaroon import Macaroon
from petsem.tokens.text import encode_token, parse_token
from tests.unit.server.api.world import APP, SECRETS, Answer, Api, narrowed

MARK = "hunter2canary"
LAST = "00000002-0000000000000005"
"""The position after `furnish`: the epoch's, the org, the app, the batch."""


async def test_patch_list_and_values(api: Api) -> None:
    """A batch makes a version; the listing shows who and when, the values show what."""
    batch = {"set": {"B": {"base64": "/w=="}, "C": "ü"}, "unset": ["A"]}
    done = await api.done("PATCH", SECRETS, body=batch)
    assert done == {
        "version": 2,
        "position": "00000002-0000000000000006",
        "durability": {"asked": "local", "met": True, "replicated_to": []},
        "set": [
            {"name": "B", "digest": done["set"][0]["digest"]},
            {"name": "C", "digest": done["set"][1]["digest"]},
        ],
        "unset": ["A"],
    }
    listed = await api.get(SECRETS)
    assert [(s["name"], s["version"], s["digest"]) for s in listed["secrets"]] == [
        (each["name"], 2, each["digest"]) for each in done["set"]
    ]
    assert listed["secrets"][0]["updated_by"]["subject"].startswith("operator:")
    assert listed["freshness"]["position"] == done["position"]
    values = await api.get(SECRETS + "/values")
    assert (values["version"], values["filtered"]) == (2, False)
    assert values["secrets"] == {"B": {"base64": "/w=="}, "C": "ü"}
    before = await api.get(SECRETS + "/values", version=1, names="B")
    assert (before["version"], before["secrets"]) == (1, {"B": "beta"})


async def test_version_0_is_the_current_one(api: Api) -> None:
    """Of the names as of the values; and nothing is stored in it that could be destroyed."""
    await api.set(A="second")
    for path in (SECRETS, SECRETS + "/values"):
        told = [await api.get(path, **query) for query in ({}, {"version": 0}, {"version": 1})]
        assert [each["version"] for each in told] == [2, 2, 1]
        assert told[1]["secrets"] == told[0]["secrets"] != told[2]["secrets"]
    body = {"names": ["A"], "version": 0}
    answer = await api.ask("POST", SECRETS + "/destroy", body=body)
    assert answer.error == (400, "invalid", None)


async def test_durability(api: Api) -> None:
    """Nobody else holds a write on a single node, and the answer says so."""
    done = await api.done(
        "PATCH", SECRETS, body={"set": {"C": "c"}, "durability": {"replicated": 1}}
    )
    assert done["durability"] == {"asked": {"replicated": 1}, "met": False, "replicated_to": []}


BAD_BATCHES = [
    ({}, "the batch is empty; give names to set or to unset"),
    ({"set": {"1A": MARK}}, "a secret's name is a letter or underscore followed by"),
    ({"set": {"A B": MARK}}, "a secret's name is a letter or underscore followed by"),
    ({"set": {"A" * 256: MARK}}, "a secret's name is a letter or underscore followed by"),
    ({"set": {"É": MARK}}, "a secret's name is a letter or underscore followed by"),
    ({"unset": ["B", "B"]}, "a name is unset twice in one batch"),
    ({"set": {"B": MARK}, "unset": ["B"]}, "a name is both set and unset in one batch"),
    ({"set": {"B": {"base64": MARK + "!"}}}, "the base64 of B is not valid"),
    ({"set": {"B": {"base64": "QQ"}}}, "the base64 of B is not valid"),
    ({"set": {"B": None}}, "set[...] must be a string or an object"),
    ({"set": {"B": 1}}, "set[...] must be a string or an object"),
    ({"set": {"B": MARK}, "durability": "best"}, "durability is not one of the values"),
    ({"set": {"B": MARK}, MARK: 1}, "the body has a field that is not known"),
    ([MARK], "the body must be an object"),
]


async def test_bad_batches(api: Api) -> None:
    """Each bad batch is refused whole, in one sentence without the input, and stores nothing."""
    for batch, sentence in BAD_BATCHES:
        for method, path in (("PATCH", SECRETS), ("POST", SECRETS + "/diff")):
            answer = await api.ask(method, path, body=batch)
            if answer.status == 429:
                api.cluster.clock.advance(BURST)
                answer = await api.ask(method, path, body=batch)
            assert answer.error == (400, "invalid", None)
            assert answer.json["message"].startswith(sentence)
            assert MARK not in answer.content.decode()
    assert (await api.get(SECRETS + "/values"))["secrets"] == {"A": "alpha", "B": "beta"}
    assert str(api.node.writer.position) == LAST


async def test_too_large(api: Api) -> None:
    """A value, an app, a batch or a body over its bound is 413 and stores nothing."""
    most = "x" * limits.VALUE_MAX_BYTES
    refused = [
        {"set": {"C": most + "x"}},
        {"set": {"C": {"base64": base64.b64encode(most.encode() + b"x").decode()}}},
        {"set": {f"C{n}": most for n in range(17)}},
        {"set": {f"C{n}": "" for n in range(1001)}},
        {"set": {f"C{n}": "" for n in range(999)}},
        {"set": {"C": "x" * limits.HTTP_BODY_MAX_BYTES}},
    ]
    for batch in refused:
        answer = await api.ask("PATCH", SECRETS, body=batch)
        assert answer.error == (413, "invalid", "TOO_LARGE")
    assert str(api.node.writer.position) == LAST
    assert (await api.set(C=most))["version"] == 2


async def test_body_forms(api: Api) -> None:
    """A body that is no JSON by its header or bytes is refused before it is looked at."""
    good = b'{"set":{"C":"c"}}'
    for headers in (
        [("content-type", "text/plain")],
        [("content-type", "application/x-www-form-urlencoded")],
        [("content-type", "application/json"), ("content-encoding", "gzip")],
        [("content-type", "application/json"), ("content-type", "application/json")],
    ):
        answer = await api.ask("PATCH", SECRETS, content=good, headers=headers)
        assert answer.error == (400, "invalid", None)
    for content in (b"", b'{"set":{"C":"\xff"}}', b'{"set":{"C":"a","C":"b"}}', good + b"x"):
        answer = await api.ask("PATCH", SECRETS, content=content)
        assert answer.error == (400, "invalid", None)
    assert str(api.node.writer.position) == LAST


async def test_if_version(api: Api) -> None:
    """Another version than the one assumed is a conflict that says which one there is."""
    for method, path, body in (
        ("PATCH", SECRETS, {"set": {"C": "c"}, "if_version": 7}),
        ("POST", SECRETS + "/diff", {"set": {"C": "c"}, "if_version": 7}),
        ("POST", APP + "/rollback", {"to": 0, "if_version": 7}),
    ):
        answer = await api.ask(method, path, body=body)
        assert answer.error == (409, "conflict", None)
        assert answer.json["details"] == {"have_version": 1, "need_version": 7}


async def test_idempotency(api: Api) -> None:
    """A write that is sent again is done once; another body under its key is a conflict."""
    batch = {"set": {"C": "c"}}
    first = await api.done("PATCH", SECRETS, body=batch, key="k1")
    assert await api.done("PATCH", SECRETS, body=batch, key="k1") == first
    other = await api.ask("PATCH", SECRETS, body={"set": {"C": MARK}}, key="k1")
    assert other.error == (409, "conflict", None)
    assert (await api.done("PATCH", SECRETS, body=batch, key="k2"))["version"] == 3
    for key in ("", "k" * 129, "ü"):
        answer = await api.ask("PATCH", SECRETS, body=batch, headers=[("idempotency-key", key)])
        assert answer.error == (400, "invalid", None)
    twice = [("idempotency-key", "a"), ("idempotency-key", "a")]
    assert (await api.ask("PATCH", SECRETS, body=batch, headers=twice)).status == 400


async def test_idempotency_of_a_query(api: Api) -> None:
    """A query that changes what a call does is compared as its body is."""
    assert (await api.ask("DELETE", APP, key="k")).status == 200
    assert (await api.ask("DELETE", APP, key="k", now="true")).error == (409, "conflict", None)


async def test_secret_caveat(api: Api) -> None:
    """With a `secret` caveat reads are filtered and say so, and a write needs every name."""
    token = narrowed(await api.mint(), "secret in B, DB_*")
    assert [s["name"] for s in (await api.get(SECRETS, token=token))["secrets"]] == ["B"]
    values = await api.get(SECRETS + "/values", token=token)
    assert (values["secrets"], values["filtered"]) == ({"B": "beta"}, True)
    hidden = await api.get(SECRETS + "/values", token=token, names="A,B,NEVER_WAS")
    assert hidden["secrets"] == {"B": "beta"}
    assert (await api.ask("PATCH", SECRETS, token=token, body={"set": {"DB_X": "x"}})).status == 200
    denied = (403, "denied", "CAVEAT")
    for body in ({"set": {"B": "b", "A": "a"}}, {"set": {"B": "b"}, "unset": ["A"]}):
        assert (await api.ask("PATCH", SECRETS, token=token, body=body)).error == denied
        assert (await api.ask("POST", SECRETS + "/diff", token=token, body=body)).error == denied
    destroy = {"names": ["B", "A"]}
    answer = await api.ask("POST", SECRETS + "/destroy", token=token, body=destroy)
    assert answer.error == denied
    assert (await api.ask("GET", APP + "/versions", token=token)).error == denied
    assert (await api.ask("POST", APP + "/rollback", token=token, body={"to": 1})).error == denied


async def test_machine_caveat(api: Api) -> None:
    """The machine that a token is narrowed to must be named; it is checked like any attribute."""
    token = narrowed(await api.mint(), "machine = 3d8d")
    path = SECRETS + "/values"
    assert (await api.ask("GET", path, token=token, machine="3d8d")).status == 200
    for query in ({}, {"machine": "other"}):
        assert (await api.ask("GET", path, token=token, **query)).error == (403, "denied", "CAVEAT")
    assert (await api.ask("GET", path, token=token, machine="a b")).error == (400, "invalid", None)


async def test_ip_caveat(api: Api) -> None:
    """The address is the peer's: X-Forwarded-For from whom nobody trusts changes nothing."""
    mine = narrowed(await api.mint(), "ip in 192.0.2.0/24")
    other = narrowed(await api.mint(), "ip in 10.0.0.0/8")
    forged = [("x-forwarded-for", "10.1.2.3")]
    assert (await api.ask("GET", SECRETS, token=mine, headers=forged)).status == 200
    answer = await api.ask("GET", SECRETS, token=other, headers=forged)
    assert answer.error == (403, "denied", "CAVEAT")


async def test_diff(api: Api) -> None:
    """A writer learns which names are there; only who may read all of them, whether values are."""
    batch = {"set": {"A": "alpha", "B": "other", "C": "c"}, "unset": []}
    writer = await api.mint("action = secrets:write")
    told = await api.done("POST", SECRETS + "/diff", token=writer, body=batch)
    assert told == {"added": ["C"], "removed": [], "present": ["A", "B"]}
    told = await api.done("POST", SECRETS + "/diff", body=batch)
    assert told == {"added": ["C"], "removed": [], "same": ["A"], "changed": ["B"]}
    assert str(api.node.writer.position) == "00000002-0000000000000006"


async def test_diff_is_limited(api: Api) -> None:
    """Each token may ask for a few diffs at once; attenuating it gives no more."""
    token = await api.mint()
    batch = {"set": {"A": "guess"}}

    async def ask(with_token: str) -> Answer:
        return await api.ask("POST", SECRETS + "/diff", token=with_token, body=batch)

    assert {(await ask(token)).status for _ in range(BURST)} == {200}
    for again in (token, narrowed(token, "app = web")):
        refused = await ask(again)
        assert refused.error == (429, "limit", None)
        assert refused.headers["retry-after"] == "1"
        assert refused.json["details"] == {"retry_after_s": 1}
    assert (await ask("operator")).status == 200
    api.cluster.clock.advance(1)
    assert (await ask(token)).status == 200


async def test_history(api: Api) -> None:
    """Versions are listed newest first, a page at a time, and rollback makes another one."""
    await api.done("PATCH", SECRETS, body={"set": {"A": "2"}, "unset": ["B"]})
    done = await api.done("POST", APP + "/rollback", body={"to": 1})
    assert (done["version"], [s["name"] for s in done["set"]], done["unset"]) == (3, ["A", "B"], [])
    page = await api.get(APP + "/versions", limit=2)
    assert [(v["version"], v["change"], v["rolled_back_to"]) for v in page["versions"]] == [
        (3, "rollback", 1),
        (2, "set", None),
    ]
    assert page["next"] == 2
    rest = await api.get(APP + "/versions", limit=2, before=page["next"])
    assert [v["version"] for v in rest["versions"]] == [1]
    assert rest["next"] is None
    assert (await api.get(SECRETS + "/values"))["secrets"] == {"A": "alpha", "B": "beta"}
    missing = await api.ask("POST", APP + "/rollback", body={"to": 9})
    assert missing.error == (404, "not_found", None)


async def test_destroy(api: Api) -> None:
    """A destroyed value is gone from every version, and reading that version says so."""
    await api.set(A="second")
    done = await api.done("POST", SECRETS + "/destroy", body={"names": ["A"], "version": 1})
    assert done["destroyed"] == [{"name": "A", "versions": [1]}]
    gone = await api.ask("GET", SECRETS + "/values", version=1)
    assert gone.error == (404, "not_found", None)
    current = {"names": ["A"], "version": 2}
    answer = await api.ask("POST", SECRETS + "/destroy", body=current)
    assert answer.error == (409, "conflict", None)
    for body in ({"names": []}, {"names": ["A", "A"]}, {"names": ["A B"]}, {"version": 1}):
        answer = await api.ask("POST", SECRETS + "/destroy", body=body)
        assert answer.error == (400, "invalid", None)


async def test_not_there(api: Api) -> None:
    """An app, version, name or org that is not there is `not_found`, to who may know."""
    for path, query in (
        ("/v1/orgs/acme/apps/nope/secrets", {}),
        ("/v1/orgs/nope/apps/web/secrets", {}),
        (SECRETS + "/values", {"version": 9}),
        (SECRETS + "/values", {"names": "NOPE"}),
    ):
        assert (await api.ask("GET", path, **query)).error == (404, "not_found", None)
    answer = await api.ask("PATCH", SECRETS, body={"unset": ["NOPE"]})
    assert answer.error == (404, "not_found", None)


@pytest.mark.parametrize("query", ["version=x", "durable=1", "names=A,,B", "names=a b", "x=1"])
async def test_bad_queries(api: Api, query: str) -> None:
    """A bad query is refused; without a token that is told first."""
    path = f"{SECRETS}/values?{query}"
    assert (await api.ask("GET", path)).error == (400, "invalid", None)
    assert (await api.ask("GET", path, token=None)).error == (401, "unauthenticated", None)


async def test_counterfeits(api: Api) -> None:
    """A token with another signature, of another cluster, or sent twice opens nothing."""
    good = parse_token(await api.mint()).root
    forged = Macaroon(good.location, good.identifier, good.caveats, bytes(32))
    shorter = Macaroon(good.location, good.identifier, good.caveats[:-1], good.signature)
    identifier = Identifier.parse(good.identifier)
    abroad = Identifier(
        b"x" * 16, identifier.kind, identifier.root_key_id, identifier.nonce,
        identifier.epoch, identifier.txid,
    )  # fmt: skip
    foreign = Macaroon(good.location, abroad.encode(), good.caveats, good.signature)
    unknown_key = Identifier(
        identifier.cluster_id, identifier.kind, b"x" * 16, identifier.nonce,
        identifier.epoch, identifier.txid,
    )  # fmt: skip
    unknown = Macaroon(good.location, unknown_key.encode(), good.caveats, good.signature)
    for macaroon, reason in (
        (forged, "BAD_SIGNATURE"),
        (shorter, "BAD_SIGNATURE"),
        (foreign, "WRONG_CLUSTER"),
        (unknown, "UNKNOWN_KEY"),
    ):
        answer = await api.ask("GET", SECRETS, token=encode_token(macaroon))
        assert answer.error == (401, "unauthenticated", reason)
        assert answer.json["details"]["server_time_ms"] == api.cluster.clock.unix_ms()
        assert answer.headers["www-authenticate"].startswith("Bearer ")
    twice = [("authorization", f"Bearer {api.operator}")] * 2
    assert (await api.ask("GET", SECRETS, headers=twice)).error == (400, "invalid", None)
    basic = [("authorization", "Basic eDp5")]
    answer = await api.ask("GET", SECRETS, headers=basic)
    assert answer.error == (401, "unauthenticated", None)


async def test_strangers_bodies_are_not_parsed(api: Api) -> None:
    """Who has no valid token is told so, whatever the body is."""
    for method, path in (
        ("PATCH", SECRETS),
        ("POST", SECRETS + "/destroy"),
        ("POST", "/v1/orgs"),
        ("POST", "/v1/tokens"),
        ("POST", "/v1/tokens/verify-batch"),
        ("PATCH", "/v1/orgs/acme/settings"),
    ):
        answer = await api.ask(method, path, token="nonsense", content=b"{" * 1000)
        assert answer.error == (401, "unauthenticated", "MALFORMED")


async def test_full_disk(api: Api) -> None:
    """While the disk is full writes are `unavailable` with a time to wait, and reads go on."""
    api.node.space.exhausted()
    answer = await api.ask("PATCH", SECRETS, body={"set": {"C": "c"}})
    assert answer.error == (503, "unavailable", None)
    assert answer.headers["retry-after"] == "5"
    assert (await api.get(SECRETS + "/values"))["secrets"] == {"A": "alpha", "B": "beta"}
    assert (await api.ask("GET", "/readyz", token=None)).status == 200
