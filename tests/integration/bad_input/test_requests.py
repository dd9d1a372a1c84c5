"""Bad requests and calls: a clear refusal, nothing stored, and the node as it was."""

from __future__ import annotations

import base64
import json
from typing import Any, Final

import pytest

from petsem.wire import petsem_pb2 as pb
from tests.integration.bad_input.node import (
    APP,
    FETCH,
    MARK,
    SECRETS,
    Site,
    batch,
    head_of,
    raw_call,
    say,
)
from tests.support.doors import fetch_request

pytestmark = pytest.mark.xdist_group("bad_input")
"""In one process with the others of this directory, which share a node."""


# HTTP


def _set(**values: Any) -> bytes:
    return json.dumps({"set": values}).encode()


DEEP: Final = b"[" * 100_000
BODIES: Final[dict[str, tuple[bytes, int]]] = {
    "no body": (b"", 400),
    "no JSON": (MARK.encode(), 400),
    "cut short": (batch()[:-2], 400),
    "something after it": (batch() + b"{}", 400),
    "an array": (b'["%s"]' % MARK.encode(), 400),
    "deep": (b'{"set":' + DEEP, 400),
    "deep and closed": (b'{"set":' + DEEP + b"]" * 100_000 + b"}", 400),
    "not UTF-8": (b'{"set":{"A":"%s\xff"}}' % MARK.encode(), 400),
    "half a surrogate pair": (b'{"set":{"A":"%s\\ud800"}}' % MARK.encode(), 400),
    "a byte-order mark": (b"\xef\xbb\xbf" + batch(), 400),
    "UTF-16": (batch().decode().encode("utf-16"), 400),
    "NaN": (b'{"set":{"A":NaN}}', 400),
    "a name twice": (b'{"set":{"A":"1","B":"%s","A":"2"}}' % MARK.encode(), 400),
    "a name twice, once escaped": (b'{"set":{"A":"%s","\\u0041":"2"}}' % MARK.encode(), 400),
    "a field twice": (b'{"set":{"A":"%s"},"set":{"B":""}}' % MARK.encode(), 400),
    "a field of a value twice": (b'{"set":{"A":{"base64":"","base64":"QQ=="}}}', 400),
    "an unknown field": (batch(**{MARK: 1}), 400),
    "an unknown field of a value": (_set(A={"base64": "", MARK: ""}), 400),
    "an empty batch": (b"{}", 400),
    "an empty name": (_set(**{"": MARK}), 400),
    "a name that is too long": (_set(**{"N" * 256: MARK}), 400),
    "a name with a digit first": (_set(**{"1A": MARK}), 400),
    "a name with a space": (_set(**{f"A {MARK}": MARK}), 400),
    "a name that is not ASCII": (_set(NAMÉ=MARK), 400),
    "a name with a NUL": (_set(**{"A\0": MARK}), 400),
    "set and unset": (batch(unset=["A"]), 400),
    "unset twice": (b'{"unset":["A","A"]}', 400),
    "unset of nothing": (json.dumps({"unset": ["ABSENT"]}).encode(), 404),
    "a number": (_set(A=1), 400),
    "null": (_set(A=None), 400),
    "an object": (_set(A={MARK: MARK}), 400),
    "no base64": (_set(A={"base64": MARK + "!"}), 400),
    "base64 without padding": (_set(A={"base64": "QQ"}), 400),
    "a value that is too long": (_set(A="x" * 65_537), 413),
    "base64 that is too long": (
        _set(A={"base64": base64.b64encode(bytes(65_537)).decode()}),
        413,
    ),
    "too many names": (_set(**{f"N{n}": "" for n in range(1_001)}), 413),
    "too much for an app": (_set(**{f"N{n}": "x" * 65_000 for n in range(17)}), 413),
    "a version that is text": (batch(if_version="1"), 400),
    "a version with a fraction": (batch(if_version=1.5), 400),
    "a negative version": (batch(if_version=-1), 400),
    "a version over 32 bits": (batch(if_version=1 << 32), 400),
    "a huge version": (batch(if_version=10**30), 400),
    "a durability that is not known": (batch(durability=MARK), 400),
    "a durability of none": (batch(durability={"replicated": 0}), 400),
}


def test_bodies(site: Site) -> None:
    """Each is refused with its status, says what is wrong without repeating it, and stores
    nothing."""
    before = site.stored
    got: dict[str, int] = {}
    for what, (body, _) in BODIES.items():
        answer = site.doors.ask("PATCH", SECRETS, body)
        got[what] = answer.status
        assert answer.error is not None, what
        assert MARK.encode() not in answer.raw, what
        assert len(answer.raw) < 600, what
    assert got == {what: status for what, (_, status) in BODIES.items()}
    assert site.stored == before
    site.unharmed()


def test_content_types(site: Site) -> None:
    """A body that does not say that it is JSON, or is compressed, is not looked at."""
    before = site.stored
    for headers in (
        {"content_type": "text/plain"},
        {"content_type": "application/json; charset=latin-1"},
        {"content_type": f"application/{MARK}"},
        {"content_encoding": "gzip"},
        {"content_encoding": "br"},
    ):
        answer = site.doors.ask("PATCH", SECRETS, batch(), **headers)
        assert answer.error == (400, "invalid", None), headers
        assert MARK.encode() not in answer.raw
    assert site.stored == before


def test_paths_and_queries(site: Site) -> None:
    """Names in paths and parameters in queries are held to their bounds too, and one that a route
    does not know is refused and not passed over."""
    before = site.stored
    for name in ("ACME", "-a", "a-", "a" * 64, "a_b", "%20", "caf%C3%A9", "%00", "a%2Fb", ".."):
        for path in (f"/v1/orgs/{name}/apps/web/secrets", f"/v1/orgs/acme/apps/{name}/secrets"):
            assert site.doors.ask("GET", path).status in (400, 404), path
    values = SECRETS + "/values"
    for query in (
        "nonsense", f"{MARK}=1", "version=", "version=x", "version=-1", "version=1.0",
        "version=4294967296", "version=1&version=1", "names=", "names=A,,B", "names=%FF",
        f"names={MARK}!", "machine=a%20b", "min_position=1-2", "durable=yes", "version=%31%",
        "&".join(f"version={n}" for n in range(20)),
    ):  # fmt: skip
        answer = site.doors.ask("GET", f"{values}?{query}")
        assert answer.error == (400, "invalid", None), query
        assert MARK.encode() not in answer.raw
    for method, path in (
        ("GET", SECRETS), ("PATCH", SECRETS), ("GET", "/v1/status"), ("GET", "/v1/nodes"),
        ("POST", "/v1/orgs"), ("POST", "/v1/tokens"), ("GET", APP + "/versions"),
        ("DELETE", APP), ("GET", "/v1/orgs"), ("POST", APP + "/rollback"),
    ):  # fmt: skip
        body = batch() if method != "GET" else None
        answer = site.doors.ask(method, f"{path}?{MARK}={MARK}", body)
        assert answer.error == (400, "invalid", None), (method, path)
        assert MARK.encode() not in answer.raw
    assert site.stored == before
    site.unharmed()


def test_bodies_where_none_is_taken(site: Site) -> None:
    """What somebody took the trouble to send is not passed over."""
    before = site.stored
    for method, path in (("DELETE", APP), ("POST", "/v1/orgs/acme/root-keys")):
        assert site.doors.ask(method, path, batch()).error == (400, "invalid", None)
    assert site.stored == before


def test_a_wrong_version(site: Site) -> None:
    """409 with the version that the app has, for a program to go on from."""
    before = site.stored
    for path, body in (
        (SECRETS, {"set": {"A": MARK}, "if_version": 7}),
        (APP + "/rollback", {"to": 0, "if_version": 7}),
    ):
        answer = site.doors.ask("PATCH" if path == SECRETS else "POST", path, body)
        assert answer.error == (409, "conflict", None)
        assert answer.body["details"] == {"have_version": 1, "need_version": 7}
    assert site.stored == before


def test_idempotency_keys(site: Site) -> None:
    """One key is one request: another body or query under it is a conflict, and changes nothing;
    another path or token is another request."""
    doors = site.doors
    doors.furnish("keys", "web", "api")
    path = "/v1/orgs/keys/apps/web/secrets"
    first = doors.ask("PATCH", path, {"set": {"A": "one"}}, idempotency_key="k")
    assert first.body["version"] == 1
    assert doors.ask("PATCH", path, {"set": {"A": "one"}}, idempotency_key="k").raw == first.raw
    before = site.stored
    # The same JSON in another spelling is another body: what is compared are bytes.
    for body in ({"set": {"A": MARK}}, b'{"set": {"A":"one"}}'):
        answer = doors.ask("PATCH", path, body, idempotency_key="k")
        assert answer.error == (409, "conflict", None)
        assert MARK.encode() not in answer.raw
    for key in (b"", b"x" * 129, b"caf\xc3\xa9", b"k\r\nIdempotency-Key: k"):
        head = head_of(site, len(batch())).replace(
            b"Host: x", b"Host: x\r\nIdempotency-Key: " + key
        )
        assert say(site.port, head + batch()).startswith(b"HTTP/1.1 400 "), key
    assert site.stored == before
    other = "/v1/orgs/keys/apps/api/secrets"
    assert doors.ask("PATCH", other, {"set": {"A": "one"}}, idempotency_key="k").status == 200
    writer = doors.mint("keys", "action = secrets:write")
    body = {"set": {"A": "two"}}
    told = doors.ask("PATCH", path, body, idempotency_key="k", token=writer)
    assert told.body["version"] == 2
    doors.done("POST", "/v1/orgs/keys/apps", {"app": "gone"}, idempotency_key="d")
    gone = "/v1/orgs/keys/apps/gone"
    doors.done("DELETE", gone, idempotency_key="d")
    answer = doors.ask("DELETE", gone + "?now=true", idempotency_key="d")
    assert answer.error == (409, "conflict", None)


# gRPC and Connect


def test_bad_calls(site: Site) -> None:
    """What is no message, or has names and positions out of bounds, is INVALID_ARGUMENT over gRPC
    and Connect alike."""
    before = site.stored
    for request in (
        fetch_request("acme/web", names=["not a name"]),
        fetch_request("acme/web", names=["A" * 256]),
        fetch_request("acme/web", names=[f"N{n}" for n in range(1_001)]),
        fetch_request("acme/web", machine=f"{MARK} with spaces"),
        fetch_request("acme/web", machine="m" * 256),
        fetch_request(f"{MARK.upper()}/web"),
        fetch_request("acme/" + "w" * 64),
        pb.FetchRequest(),
    ):
        for reply in (site.doors.rpc(FETCH, request), site.doors.connect(FETCH, request)):
            assert reply.code == "invalid", request
            assert MARK not in reply.sentence
    verify = "/petsem.v1.Tokens/Verify"
    for asked in (
        pb.VerifyRequest(token=site.reader),
        pb.VerifyRequest(token=site.reader, access={"org": "acme"}),
        pb.VerifyRequest(token=site.reader, access={"org": "ACME", "action": "a"}),
        pb.VerifyRequest(token=site.reader, access={f"k{n}": "v" for n in range(65)}),
        pb.VerifyRequest(token=site.reader, access={"org": "acme", "action": "a", "x": MARK * 30}),
    ):
        reply = site.doors.rpc(verify, asked)
        assert (reply.code, MARK in reply.sentence) == ("invalid", False), asked
    item = pb.VerifyRequest(token="x", access={"org": "acme", "action": "a"})
    many = pb.VerifyBatchRequest(requests=[item] * 513)
    assert site.doors.rpc("/petsem.v1.Tokens/VerifyBatch", many).code == "invalid"
    assert site.stored == before


def test_calls_that_are_no_messages(site: Site) -> None:
    """Noise, messages and metadata over their bounds, and two tokens."""
    bearer = ("authorization", f"Bearer {site.doors.operator}")
    noise = raw_call(site, b"\xff" + MARK.encode(), bearer)
    assert (noise.code, MARK in noise.sentence) == ("invalid", False)
    good = fetch_request("acme/web").SerializeToString()
    assert raw_call(site, good, bearer, bearer).code == "invalid"
    assert raw_call(site, good, ("authorization", f"Basic {MARK}")).code == "unauthenticated"
    large = fetch_request("acme/web", known_etag=bytes(4 * 1024 * 1024)).SerializeToString()
    assert raw_call(site, large, bearer).status == "RESOURCE_EXHAUSTED"
    heavy = raw_call(site, good, bearer, ("x-heavy", MARK * 2_000))
    assert heavy.status in ("RESOURCE_EXHAUSTED", "INTERNAL", "UNAVAILABLE")
    for body in (b"", b"{", b'{"org":"acme","app":"web","org":"acme"}', b'{"orgg":"acme"}',
                 b'{"org":1}', b"\xff", DEEP):  # fmt: skip
        reply = site.doors.connect(FETCH, body, proto=False)
        assert reply.code == "invalid", body[:60]
    site.unharmed()
