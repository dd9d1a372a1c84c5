"""Bad tokens, and addresses that somebody only claims: refused at every door, and never shown."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest
from google.protobuf import json_format

from petsem.clock import rfc3339
from petsem.tokens.identifier import Identifier
from petsem.tokens.text import parse_token
from tests.integration.bad_input.node import FETCH, MARK, SECRETS, Site, raw_call, say
from tests.support import cluster
from tests.support.daemon import Daemon, configure
from tests.support.doors import Doors, fetch_request, narrowed
from tests.support.offline import nonce_of
from tests.unit.tokens import build

pytestmark = pytest.mark.xdist_group("bad_input")
"""In one process with the others of this directory, which share a node."""


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
    refused = raw_call(
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
