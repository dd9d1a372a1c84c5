"""Bad input on a running node: a clear refusal, nothing stored, and the node as it was.

What is sent holds a marked word wherever there is room, and no answer or log may repeat it.
"""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc
import pytest
from google.protobuf import json_format

from petsem.clock import rfc3339
from petsem.tokens.identifier import Identifier
from petsem.tokens.text import parse_token
from petsem.wire import petsem_pb2 as pb
from tests.support import cluster
from tests.support.daemon import Daemon, configure, until
from tests.support.doors import Doors, Reply, fetch_request, grpc_error, narrowed, values_of
from tests.support.offline import Disk, nonce_of
from tests.unit.tokens import build

pytestmark = pytest.mark.xdist_group("bad_input")
"""In one process, so that what is made once for this file is."""

MARK: Final = "canary-7c1f"
APP: Final = "/v1/orgs/acme/apps/web"
SECRETS: Final = APP + "/secrets"
FETCH: Final = "/petsem.v1.Secrets/Fetch"
DEADLINE_S: Final = 0.4
PATIENCE_S: Final = 5.0
"""No connection that the node should end lasts this long."""


@dataclass
class Site:
    """A running node with short deadlines, and acme/web with one secret in it."""

    doors: Doors
    disk: Disk
    reader: str

    @property
    def port(self) -> int:
        return self.doors.daemon.http

    @property
    def stored(self) -> object:
        """What no bad request may change."""
        return self.disk.rows("SELECT epoch, txid FROM position")

    def unharmed(self) -> None:
        assert values_of(self.doors.fetch("acme/web")) == {"A": b"value of A"}
        assert self.doors.ask("GET", "/readyz").status == 200


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = cluster.make(tmp_path_factory.mktemp("bad"))
    short = {"http_header_deadline_s": DEADLINE_S, "http_body_deadline_s": DEADLINE_S}
    configure(made.directory, "limits", **short, http_connections=64)
    with Daemon(made.directory) as daemon, Doors(daemon, made.operator) as doors:
        doors.furnish("acme", "web")
        doors.set("acme/web", A="value of A")
        reader = doors.mint("acme", "action = secrets:read")
        yield Site(doors, Disk(made.directory), reader)
        said = daemon.said()
        assert MARK not in said
        unexpected = [e for e in daemon.events() if e["level"] == "error"]
        assert unexpected == []


def _batch(**more: Any) -> bytes:
    return json.dumps({"set": {"A": MARK}, **more}).encode()


def _set(**values: Any) -> bytes:
    return json.dumps({"set": values}).encode()


DEEP: Final = b"[" * 100_000
BODIES: Final[dict[str, tuple[bytes, int]]] = {
    "no body": (b"", 400),
    "no JSON": (MARK.encode(), 400),
    "cut short": (_batch()[:-2], 400),
    "something after it": (_batch() + b"{}", 400),
    "an array": (b'["%s"]' % MARK.encode(), 400),
    "deep": (b'{"set":' + DEEP, 400),
    "deep and closed": (b'{"set":' + DEEP + b"]" * 100_000 + b"}", 400),
    "not UTF-8": (b'{"set":{"A":"%s\xff"}}' % MARK.encode(), 400),
    "half a surrogate pair": (b'{"set":{"A":"%s\\ud800"}}' % MARK.encode(), 400),
    "a byte-order mark": (b"\xef\xbb\xbf" + _batch(), 400),
    "UTF-16": (_batch().decode().encode("utf-16"), 400),
    "NaN": (b'{"set":{"A":NaN}}', 400),
    "a name twice": (b'{"set":{"A":"1","B":"%s","A":"2"}}' % MARK.encode(), 400),
    "a name twice, once escaped": (b'{"set":{"A":"%s","\\u0041":"2"}}' % MARK.encode(), 400),
    "a field twice": (b'{"set":{"A":"%s"},"set":{"B":""}}' % MARK.encode(), 400),
    "a field of a value twice": (b'{"set":{"A":{"base64":"","base64":"QQ=="}}}', 400),
    "an unknown field": (_batch(**{MARK: 1}), 400),
    "an unknown field of a value": (_set(A={"base64": "", MARK: ""}), 400),
    "an empty batch": (b"{}", 400),
    "an empty name": (_set(**{"": MARK}), 400),
    "a name that is too long": (_set(**{"N" * 256: MARK}), 400),
    "a name with a digit first": (_set(**{"1A": MARK}), 400),
    "a name with a space": (_set(**{f"A {MARK}": MARK}), 400),
    "a name that is not ASCII": (_set(NAMÉ=MARK), 400),
    "a name with a NUL": (_set(**{"A\0": MARK}), 400),
    "set and unset": (_batch(unset=["A"]), 400),
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
    "a version that is text": (_batch(if_version="1"), 400),
    "a version with a fraction": (_batch(if_version=1.5), 400),
    "a negative version": (_batch(if_version=-1), 400),
    "a version over 32 bits": (_batch(if_version=1 << 32), 400),
    "a huge version": (_batch(if_version=10**30), 400),
    "a durability that is not known": (_batch(durability=MARK), 400),
    "a durability of none": (_batch(durability={"replicated": 0}), 400),
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
        answer = site.doors.ask("PATCH", SECRETS, _batch(), **headers)
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
        body = _batch() if method != "GET" else None
        answer = site.doors.ask(method, f"{path}?{MARK}={MARK}", body)
        assert answer.error == (400, "invalid", None), (method, path)
        assert MARK.encode() not in answer.raw
    assert site.stored == before
    site.unharmed()


def test_bodies_where_none_is_taken(site: Site) -> None:
    """What somebody took the trouble to send is not passed over."""
    before = site.stored
    for method, path in (("DELETE", APP), ("POST", "/v1/orgs/acme/root-keys")):
        assert site.doors.ask(method, path, _batch()).error == (400, "invalid", None)
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
        head = _head(site, len(_batch())).replace(b"Host: x", b"Host: x\r\nIdempotency-Key: " + key)
        assert say(site.port, head + _batch()).startswith(b"HTTP/1.1 400 "), key
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


# Tokens


def _altered(site: Site) -> str:
    """With one bit of the signature changed, and a right check."""
    root = parse_token(site.reader).root
    data = bytearray(build.binary(root))
    data[-1] ^= 1
    return build.prefixed(build.bare(bytes(data)))


def _with_a_caveat_taken_away(site: Site) -> str:
    root = parse_token(site.reader).root
    fewer = type(root)(root.location, root.identifier, root.caveats[:-1], root.signature)
    return build.prefixed(build.bare(build.binary(fewer)))


def _with_a_caveat_put_in(site: Site) -> str:
    root = parse_token(site.reader).root
    more = build.added(root, b"org = acme").caveats
    forged = type(root)(root.location, root.identifier, more, root.signature)
    return build.prefixed(build.bare(build.binary(forged)))


def _of_another_cluster(site: Site) -> str:
    root = parse_token(site.reader).root
    identifier = Identifier.parse(root.identifier)
    elsewhere = Identifier(
        b"x" * 16, identifier.kind, identifier.root_key_id, identifier.nonce, 1, 1
    )
    moved = type(root)(root.location, elsewhere.encode(), root.caveats, root.signature)
    return build.prefixed(build.bare(build.binary(moved)))


def _of_a_gone_org(site: Site) -> str:
    site.doors.furnish("gone")
    token = site.doors.mint("gone", "action = secrets:read")
    site.doors.done("DELETE", "/v1/orgs/gone?now=true")
    return token


def _revoked(site: Site) -> str:
    token = site.doors.mint("acme", "action = secrets:read")
    site.doors.done("DELETE", f"/v1/orgs/acme/tokens/{nonce_of(token).hex()}")
    return token


def _with_a_revoked_parent(site: Site) -> str:
    parent = site.doors.mint("acme", "action in tokens:mint, secrets:read")
    child = site.doors.mint("acme", "action = secrets:read", token=parent)
    site.doors.done("DELETE", f"/v1/orgs/acme/tokens/{nonce_of(parent).hex()}")
    return narrowed(child, "app = web")


def _third_party(site: Site) -> str:
    root = build.required(parse_token(site.reader).root, b"k" * 32, b"ticket")
    return build.prefixed(build.bare(build.binary(root)))


def _needless_discharge(site: Site) -> str:
    return f"{site.reader},{site.reader}"


def _in_an_hour(_: Site) -> str:
    return rfc3339(int(time.time() + 3_600) * 1000)


TOKENS: Final[dict[str, tuple[str, str, Callable[[Site], str]]]] = {
    "nonsense": ("unauthenticated", "MALFORMED", lambda s: MARK),
    "a password": ("unauthenticated", "TRUNCATED", lambda s: "petsem_" + MARK + ".000000"),
    "cut short": ("unauthenticated", "TRUNCATED", lambda s: s.reader[:-9]),
    "without its first letter": ("unauthenticated", "MALFORMED", lambda s: s.reader[1:]),
    "mistyped": ("unauthenticated", "TRUNCATED", lambda s: s.reader[:40] + "_" + s.reader[41:]),
    "a trailing comma": ("unauthenticated", "TRUNCATED", lambda s: s.reader + ","),
    "too long": ("unauthenticated", "MALFORMED", lambda s: "petsem_" + "A" * 6_200),
    "altered": ("unauthenticated", "BAD_SIGNATURE", _altered),
    "a caveat taken away": ("unauthenticated", "BAD_SIGNATURE", _with_a_caveat_taken_away),
    "a caveat put in": ("unauthenticated", "BAD_SIGNATURE", _with_a_caveat_put_in),
    "another cluster's": ("unauthenticated", "WRONG_CLUSTER", _of_another_cluster),
    "an org's that is gone": ("unauthenticated", "UNKNOWN_KEY", _of_a_gone_org),
    "never issued": (
        "unauthenticated",
        "NOT_ISSUED",
        lambda s: s.disk.forged("acme", "action = secrets:read"),
    ),
    "expired": (
        "unauthenticated",
        "EXPIRED",
        lambda s: s.disk.expired("acme", int(time.time()), "action = secrets:read"),
    ),
    "not valid yet": (
        "unauthenticated",
        "NOT_YET_VALID",
        lambda s: narrowed(s.reader, f"time >= {_in_an_hour(s)}"),
    ),
    "without its discharge": ("unauthenticated", "DISCHARGE_MISSING", _third_party),
    "with a needless discharge": ("unauthenticated", "DISCHARGE_INVALID", _needless_discharge),
    "revoked": ("denied", "REVOKED", _revoked),
    "with a revoked parent": ("denied", "REVOKED", _with_a_revoked_parent),
    "another org's": (
        "denied",
        "WRONG_ORG",
        lambda s: s.doors.mint("other", "action = secrets:read"),
    ),
    "for another machine": ("denied", "CAVEAT", lambda s: narrowed(s.reader, "machine = m1")),
    "with a caveat of no known key": (
        "denied",
        "CAVEAT",
        lambda s: narrowed(s.reader, "moon = full"),
    ),
    "with a caveat of no known form": (
        "denied",
        "CAVEAT",
        lambda s: build.prefixed(
            build.bare(build.binary(build.added(parse_token(s.reader).root, b"moon is full")))
        ),
    ),
}
HTTP_STATUS: Final = {"unauthenticated": 401, "denied": 403}
RPC_STATUS: Final = {"unauthenticated": "UNAUTHENTICATED", "denied": "PERMISSION_DENIED"}


def test_tokens(site: Site) -> None:
    """Each is refused at every door with the reason that it has, and with no part of it."""
    site.doors.furnish("other")
    wrong: dict[tuple[str, str], object] = {}
    for what, (code, reason, make) in TOKENS.items():
        token = make(site)
        http = site.doors.ask("GET", SECRETS + "/values", token=token)
        request = fetch_request("acme/web")
        over_grpc = site.doors.rpc(FETCH, request, token=token)
        body = json_format.MessageToJson(request).encode()
        over_connect = site.doors.connect(FETCH, body, token=token, proto=False)
        named = RPC_STATUS[code]
        for door, got, expected in (
            ("HTTP", http.error, (HTTP_STATUS[code], code, reason)),
            ("gRPC", over_grpc.error, (named, code, reason)),
            ("Connect", over_connect.error, (f"{HTTP_STATUS[code]} {named.lower()}", code, reason)),
            ("verify", _verdict(site, token), reason),
        ):
            if got != expected:
                wrong[what, door] = got
        for said in (http.raw, over_grpc.raw, over_connect.raw):
            assert token[-12:].encode() not in said, what
            assert MARK.encode() not in said
    assert wrong == {}
    site.unharmed()


def _verdict(site: Site, token: str) -> str:
    access = {"org": "acme", "action": "secrets:read", "app": "web"}
    told = site.doors.done("POST", "/v1/tokens/verify", {"token": token, "access": access})
    assert told["allowed"] is False
    return str(told["reason"])


def test_tokens_of_the_command_line(site: Site) -> None:
    """It exits with 3, in one sentence, whatever is wrong with the token."""
    for what in ("nonsense", "cut short", "altered", "expired"):
        token = TOKENS[what][2](site)
        ran = site.doors.cli("secrets", "get", "A", app="acme/web", token=token)
        assert (ran.code, ran.out) == (3, b""), ran
        assert ran.err.count("\n") == 1
        assert MARK not in ran.err
        assert token[-12:] not in ran.err


def test_credentials_in_other_shapes(site: Site) -> None:
    """Two headers, another scheme, a token where none belongs: refused, never guessed at."""
    bearer = f"Bearer {site.doors.operator}"
    for raw, status in (
        (f"Authorization: Basic {MARK}\r\n", 401),
        ("Authorization: Bearer\r\n", 401),
        ("Authorization: \r\n", 401),
        (f"Authorization: {bearer}\r\nAuthorization: {bearer}\r\n", 400),
        (f"Cookie: token={site.doors.operator}\r\n", 401),
        (f"Proxy-Authorization: {bearer}\r\n", 401),
    ):
        said = say(site.port, f"GET /v1/status HTTP/1.1\r\nHost: x\r\n{raw}\r\n".encode())
        assert said.startswith(b"HTTP/1.1 %d " % status), (raw, said)
    answer = site.doors.ask("GET", f"/v1/status?token={site.doors.operator}", token=None)
    assert answer.status in (400, 401)
    assert site.doors.operator[-12:].encode() not in answer.raw


# Sockets


def say(port: int, *parts: bytes, pause_s: float = 0.0, finish: bool = False) -> bytes:
    """Send `parts`, then hear what the node says until it ends the connection, which it must."""
    heard = b""
    with socket.create_connection(("127.0.0.1", port), PATIENCE_S) as line:
        line.settimeout(PATIENCE_S)
        with contextlib.suppress(ConnectionError):
            for part in parts:
                line.sendall(part)
                if pause_s:
                    time.sleep(pause_s)
            if finish:
                line.shutdown(socket.SHUT_WR)
            while said := line.recv(65_536):
                heard += said
                # An answer that keeps the connection is whole when its body is.
                if _is_whole(heard):
                    break
    return heard


def _is_whole(heard: bytes) -> bool:
    head, end, body = heard.partition(b"\r\n\r\n")
    low = head.lower()
    if not end or b"connection: close" in low or b"content-length:" not in low:
        return False
    return len(body) >= int(low.split(b"content-length:")[1].split(b"\r\n")[0])


def _head(site: Site, length: int | str, *more: str) -> bytes:
    lines = (
        f"PATCH {SECRETS} HTTP/1.1", "Host: x", f"Authorization: Bearer {site.doors.operator}",
        "Content-Type: application/json", f"Content-Length: {length}", *more, "", "",
    )  # fmt: skip
    return "\r\n".join(lines).encode()


def test_what_never_ends(site: Site) -> None:
    """A header or a body that does not come whole in time is answered 408 and the connection
    ended, however the bytes dribble in; nothing of it counts."""
    before = site.stored
    body = _batch()
    head = _head(site, len(body))
    chunked = head.replace(b"Content-Length: %d" % len(body), b"Transfer-Encoding: chunked")
    drops = [head[at : at + 1] for at in range(40)]
    for parts, pause_s in (
        ((head[:-2],), 0.0),
        ((head[:60],), 0.0),
        (tuple(drops), DEADLINE_S / 10),
        ((head + body[:-1],), 0.0),
        ((head, *(body[at : at + 1] for at in range(15))), DEADLINE_S / 10),
        ((chunked + b'5\r\n{"set\r\n',), 0.0),
    ):
        started_s = time.monotonic()
        said = say(site.port, *parts, pause_s=pause_s)
        assert time.monotonic() - started_s < PATIENCE_S
        assert said.startswith(b"HTTP/1.1 408 "), said
        assert b'"code":"unavailable"' in said
    # Whoever hangs up in the middle is owed nothing.
    say(site.port, head + body[:-1], finish=True)
    assert site.stored == before
    site.unharmed()


def test_what_is_too_large(site: Site) -> None:
    """Headers, URLs and bodies over their bounds are refused before they are taken in, also when
    their length was never declared."""
    before = site.stored
    over = 2 * 1024 * 1024 + 1
    chunk = b"8000\r\n" + b" " * 0x8000 + b"\r\n"
    chunked = _head(site, 0).replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    for status, parts in (
        (413, (_head(site, over),)),
        (413, (_head(site, 10**18),)),
        (413, (chunked, *[chunk] * 66)),
        (431, (_head(site, 0, *(f"X-{n}: {MARK * 20}" for n in range(80))),)),
        (431, (b"GET /healthz HTTP/1.1\r\nX: " + b"y" * 40_000,)),
        (414, (b"GET /" + MARK.encode() * 800 + b" HTTP/1.1\r\nHost: x\r\n\r\n",)),
    ):
        said = say(site.port, *parts)
        assert said.startswith(b"HTTP/1.1 %d " % status), said[:200]
        assert MARK.encode() not in said
    assert site.stored == before
    site.unharmed()


def test_what_is_no_http(site: Site) -> None:
    """Ambiguous framing, other protocols and noise get a refusal or nothing, and a close."""
    before = site.stored
    body = _batch()
    head = _head(site, len(body))
    for parts in (
        (head.replace(b"\r\n\r\n", b"\r\nTransfer-Encoding: chunked\r\n\r\n") + body,),
        (head.replace(b"\r\n\r\n", b"\r\nContent-Length: 5\r\n\r\n") + body,),
        (head.replace(b"Content-Length: %d" % len(body), b"Content-Length: +5") + body,),
        (head.replace(b"Content-Length: %d" % len(body), b"Transfer-Encoding: gzip, x") + body,),
        (head.replace(b"Host: x", b"Host: x\r\nHost: y") + body,),
        (head.replace(b"Host: x\r\n", b"") + body,),
        (head.replace(b"Host: x", b"Host: x\r\n folded: y") + body,),
        (head.replace(b"HTTP/1.1", b"HTTP/9.9") + body,),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),),
        (b"CONNECT localhost:22 HTTP/1.1\r\nHost: x\r\n\r\n",),
        (b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",),
        (bytes(range(256)) * 8,),
    ):
        said = say(site.port, *parts)
        assert b" 200 " not in said.partition(b"\r\n")[0], (parts, said)
        assert MARK.encode() not in said
    assert site.stored == before
    site.unharmed()


def test_more_connections_than_it_takes(site: Site) -> None:
    """Those over the bound are told so; those that stand are served, and room comes back."""
    lines = [socket.create_connection(("127.0.0.1", site.port), PATIENCE_S) for _ in range(90)]
    try:
        said = say(site.port, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert said.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after" in said.lower()
    finally:
        for line in lines:
            line.close()
    until(lambda: site.doors.ask("GET", "/readyz").status == 200, "room for connections")
    site.unharmed()


# gRPC


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


def _raw_call(site: Site, raw: bytes, *metadata: tuple[str, str]) -> Reply:
    call: Any = site.doors.channel.unary_unary(FETCH, None, None)
    with pytest.raises(grpc.RpcError) as caught:
        call(raw, metadata=metadata, timeout=10)
    return grpc_error(caught.value)


def test_calls_that_are_no_messages(site: Site) -> None:
    """Noise, messages and metadata over their bounds, and two tokens."""
    bearer = ("authorization", f"Bearer {site.doors.operator}")
    noise = _raw_call(site, b"\xff" + MARK.encode(), bearer)
    assert (noise.code, MARK in noise.sentence) == ("invalid", False)
    good = fetch_request("acme/web").SerializeToString()
    assert _raw_call(site, good, bearer, bearer).code == "invalid"
    assert _raw_call(site, good, ("authorization", f"Basic {MARK}")).code == "unauthenticated"
    large = fetch_request("acme/web", known_etag=bytes(4 * 1024 * 1024)).SerializeToString()
    assert _raw_call(site, large, bearer).status == "RESOURCE_EXHAUSTED"
    heavy = _raw_call(site, good, bearer, ("x-heavy", MARK * 2_000))
    assert heavy.status in ("RESOURCE_EXHAUSTED", "INTERNAL", "UNAVAILABLE")
    for body in (b"", b"{", b'{"org":"acme","app":"web","org":"acme"}', b'{"orgg":"acme"}',
                 b'{"org":1}', b"\xff", DEEP):  # fmt: skip
        reply = site.doors.connect(FETCH, body, proto=False)
        assert reply.code == "invalid", body[:60]
    site.unharmed()


# Where a request comes from


def test_a_forged_address(site: Site) -> None:
    """`X-Forwarded-For` of somebody who is no proxy of ours moves nothing, at any door."""
    inside = narrowed(site.reader, "ip in 10.0.0.0/8")
    here = narrowed(site.reader, "ip in 127.0.0.0/8")
    forged: dict[str, str] = {
        "x_forwarded_for": "10.1.2.3", "x_real_ip": "10.1.2.3", "forwarded": "for=10.1.2.3",
        "true_client_ip": "10.1.2.3",
    }  # fmt: skip
    request = fetch_request("acme/web")
    for token, status in ((inside, 403), (here, 200)):
        answer = site.doors.ask("GET", SECRETS + "/values", token=token, **forged)
        assert answer.status == status
        reply = site.doors.connect(FETCH, request, token=token, headers=forged)
        expected = None if status == 200 else ("403 permission_denied", "denied", "CAVEAT")
        assert reply.error == expected
    metadata = [(name.replace("_", "-"), value) for name, value in forged.items()]
    refused = _raw_call(
        site,
        request.SerializeToString(),
        ("authorization", f"Bearer {inside}"),
        *metadata,
    )
    assert refused.error == ("PERMISSION_DENIED", "denied", "CAVEAT")
    assert site.doors.fetch("acme/web", token=here).error is None


def test_a_trusted_proxy(tmp_path: Path) -> None:
    """Of a proxy that is named, the last hop that is not a proxy itself is believed, whatever the
    client wrote before it; of its neighbour nothing."""
    made = cluster.make(tmp_path)
    configure(made.directory, "http", trusted_proxies=["127.0.0.1/32", "192.0.2.0/24"])
    with (
        Daemon(made.directory) as daemon,
        Doors(daemon, made.operator) as proxy,
        Doors(daemon, made.operator, source="127.0.0.2") as neighbour,
    ):
        inside = narrowed(made.operator, "ip in 10.0.0.0/8")
        for doors, forwarded, status in (
            (proxy, "10.1.2.3", 200),
            (proxy, "203.0.113.9, 10.1.2.3", 200),
            (proxy, "10.1.2.3, 192.0.2.7", 200),
            (proxy, "10.1.2.3, 203.0.113.9", 403),
            (proxy, "10.1.2.3, 203.0.113.9, 192.0.2.7", 403),
            (proxy, "10.1.2.3, nonsense", 403),
            (proxy, "10.1.2.3,", 403),
            (proxy, "::ffff:10.1.2.3", 200),
            (proxy, "", 403),
            (neighbour, "10.1.2.3", 403),
        ):
            answer = doors.ask("GET", "/v1/status", token=inside, x_forwarded_for=forwarded)
            assert answer.status == status, forwarded
