"""Attacks on tokens at the doors of a running node: what a stranger, a holder or another org's
people could send, wherever a token is taken.

What the verifier does with each of them is told in `tests/unit/tokens/test_verifier.py`; here it
is seen to reach every door, with the same reason at each, and to cost the node little.
"""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import grpc
import pytest

from petsem.tokens.macaroon import Caveat, Macaroon, attenuate, bind_discharge
from petsem.tokens.text import encode_part, encode_token, parse_token
from petsem.tokens.thirdparty import require_discharge
from petsem.tokens.ticket import discharge
from petsem.wire import petsem_pb2 as pb
from tests.support import cluster
from tests.support.daemon import Daemon
from tests.support.doors import Doors, fetch_request, grpc_error
from tests.support.patience import PATIENCE_S
from tests.unit.tokens import build

pytestmark = pytest.mark.xdist_group("token-attacks")

FETCH: Final = "/petsem.v1.Secrets/Fetch"
VERIFY: Final = "/petsem.v1.Tokens/Verify"
BATCH: Final = "/petsem.v1.Tokens/VerifyBatch"
VALUES: Final = "/v1/orgs/acme/apps/web/secrets/values"
ACCESS: Final = {"org": "acme", "action": "secrets:read", "app": "web"}
FETCH_JSON: Final = b'{"org":"acme","app":"web"}'
MEMORY_KIB: Final = 32 * 1024
"""How much more a node may take for a while, whatever it is sent."""
OWN_KEY, OTHER_KEY = b"o" * 32, b"p" * 32


@dataclass
class Site:
    """A node with a secret, and a token that reads it."""

    doors: Doors
    reader: str

    @property
    def root(self) -> Macaroon:
        """The reader's macaroon."""
        return parse_token(self.reader).root

    @property
    def peak_kib(self) -> int:
        """The most memory that the node ever had."""
        status = Path(f"/proc/{self.doors.daemon.pid}/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = cluster.make(tmp_path_factory.mktemp("attacks"))
    with Daemon(made.directory) as daemon, Doors(daemon, made.operator) as doors:
        for org in ("acme", "umbrella"):
            doors.furnish(org, "web")
            doors.set(f"{org}/web", A=f"value of {org}")
        yield Site(doors, doors.mint("acme", "action = secrets:read"))
        assert [each for each in daemon.events() if each["level"] == "error"] == []
        assert "Traceback" not in daemon.said()


def everywhere(site: Site, token: str) -> dict[str, str | None]:
    """The reason that each door gives for refusing a token; None where it is taken."""
    doors, request = site.doors, fetch_request("acme/web")
    asked = pb.VerifyRequest(token=token, access=ACCESS)
    good = pb.VerifyRequest(token=site.reader, access=ACCESS)
    both = pb.VerifyBatchRequest(requests=[asked, good, asked])
    body = {"token": token, "access": ACCESS}
    batch = {"requests": [body, {"token": site.reader, "access": ACCESS}, body]}
    in_json = json.dumps(body).encode()
    found = {
        "verify, HTTP": _reason(doors.done("POST", "/v1/tokens/verify", body)),
        "can, HTTP": _reason(doors.done("POST", "/v1/tokens/can", body)),
        "verify, Connect": _reason(doors.connect(VERIFY, in_json, proto=False).message),
        "verify, protobuf": _reason(_fields(doors.connect(VERIFY, asked).message)),
        "verify, gRPC": _reason(_fields(doors.rpc(VERIFY, asked).message)),
        "HTTP": (doors.ask("GET", VALUES, token=token).error or (0, "", None))[2],
        "gRPC": doors.rpc(FETCH, request, token=token).reason,
        "Connect": doors.connect(FETCH, FETCH_JSON, token=token, proto=False).reason,
        "protobuf": doors.connect(FETCH, request, token=token).reason,
    }
    for door, answers in (
        ("HTTP", doors.done("POST", "/v1/tokens/verify-batch", batch)["responses"]),
        ("gRPC", [_fields(each) for each in doors.rpc(BATCH, both).message.responses]),
    ):
        # A good one beside it is answered whatever the bad one is.
        assert _reason(answers[1]) is None, door
        found[f"batch, {door}"], found[f"batch again, {door}"] = map(_reason, answers[::2])
    return found


def _fields(message: Any) -> dict[str, Any]:
    return {field.name: value for field, value in message.ListFields()}


def _reason(verdict: Mapping[str, Any]) -> str | None:
    if verdict.get("allowed") or verdict.get("would_allow"):
        return None
    assert not {"token_id", "tokenId", "subject", "org"} & verdict.keys()
    return str(verdict["reason"])


def reason_of(site: Site, token: str) -> str | None:
    """The one reason that all doors give."""
    found = everywhere(site, token)
    reasons = set(found.values())
    assert len(reasons) == 1, found
    return reasons.pop()


def sent(root: Macaroon, *discharges: Macaroon) -> str:
    """Root and discharges, bound to it, as they are sent."""
    return encode_token(root, [bind_discharge(root, each) for each in discharges])


# Caveats

EDITS: Final[dict[str, Callable[[tuple[Caveat, ...]], tuple[Caveat, ...]]]] = {
    "all removed": lambda caveats: (),
    "one removed": lambda caveats: caveats[1:],
    "reordered": lambda caveats: caveats[::-1],
    "edited": lambda caveats: (Caveat(b"org = umbrella"), *caveats[1:]),
    "duplicated": lambda caveats: (*caveats, caveats[-1]),
    "put in": lambda caveats: (Caveat(b"app = web"), *caveats),
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_edited_caveats(site: Site, edit: Callable[..., tuple[Caveat, ...]]) -> None:
    """Whatever is done to the list of caveats, the signature is not that of it any more."""
    narrow = attenuate(site.root, ["app = web"])
    assert reason_of(site, encode_part(narrow)) is None
    edited = replace(narrow, caveats=edit(narrow.caveats))
    assert reason_of(site, encode_part(edited)) == "BAD_SIGNATURE"


def test_a_caveat_twice_is_once(site: Site) -> None:
    """A holder may add what is there already; nothing comes of it."""
    again = attenuate(site.root, [each.cid.decode() for each in site.root.caveats])
    assert reason_of(site, encode_part(again)) is None


# Third parties


def asking(site: Site) -> Macaroon:
    """The reader with a third-party caveat that somebody who holds it added, with a key of his."""
    return require_discharge(site.root, b"https://evil.example", OWN_KEY, b"ticket")


def _nested(site: Site) -> str:
    inner = discharge(b"inner", OTHER_KEY, ["app = web"])
    outer = require_discharge(discharge(b"ticket", OWN_KEY, []), b"x", OTHER_KEY, b"inner")
    return sent(asking(site), outer, inner)


def _in_a_loop(site: Site) -> str:
    one = require_discharge(discharge(b"ticket", OWN_KEY, []), b"x", OTHER_KEY, b"inner")
    other = require_discharge(discharge(b"inner", OTHER_KEY, []), b"x", OWN_KEY, b"ticket")
    return sent(asking(site), one, other)


def _nested_in_another_order(site: Site) -> str:
    root, *discharges = parse_parts(_nested(site))
    return encode_token(root, discharges[::-1])


def _bound_to_the_discharge(site: Site) -> str:
    root, outer, _ = parse_parts(_nested(site))
    inner = discharge(b"inner", OTHER_KEY, ["app = web"])
    return encode_token(root, [outer, bind_discharge(outer, inner)])


def _for_another_root(site: Site) -> str:
    other = parse_token(site.doors.mint("acme", "action = secrets:read")).root
    other = require_discharge(other, b"x", OWN_KEY, b"ticket")
    return encode_token(asking(site), [bind_discharge(other, discharge(b"ticket", OWN_KEY, []))])


def _reused(site: Site) -> str:
    root = require_discharge(asking(site), b"x", OWN_KEY, b"ticket")
    return sent(root, discharge(b"ticket", OWN_KEY, []))


def _two_with_one_id(site: Site) -> str:
    made = discharge(b"ticket", OWN_KEY, [])
    return sent(asking(site), made, discharge(b"ticket", OWN_KEY, ["app = web"]))


def _narrowed_after_binding(site: Site) -> str:
    root = asking(site)
    bound = bind_discharge(root, discharge(b"ticket", OWN_KEY, []))
    return encode_token(attenuate(root, ["app = web"]), [bound])


def _a_sealed_key_of_noise(site: Site) -> str:
    noise = Caveat(b"ticket", bytes(72), b"x")
    root = build.mac(site.root.signature, bytes(72), b"ticket")
    return sent(
        replace(site.root, caveats=(*site.root.caveats, noise), signature=root),
        discharge(b"ticket", OWN_KEY, []),
    )


def parse_parts(token: str) -> tuple[Macaroon, ...]:
    """Root and discharges."""
    parsed = parse_token(token)
    return parsed.root, *parsed.discharges


THIRD_PARTIES: Final[dict[str, tuple[str | None, Callable[[Site], str]]]] = {
    "discharged": (None, lambda s: sent(asking(s), discharge(b"ticket", OWN_KEY, []))),
    "discharged within limits": (
        None,
        lambda s: sent(asking(s), discharge(b"ticket", OWN_KEY, ["app = web"])),
    ),
    "discharged for another app": (
        "CAVEAT",
        lambda s: sent(asking(s), discharge(b"ticket", OWN_KEY, ["app = api"])),
    ),
    "discharged in the past": (
        "EXPIRED",
        lambda s: sent(asking(s), discharge(b"ticket", OWN_KEY, ["time < 2020-01-01T00:00:00Z"])),
    ),
    "nested": (None, _nested),
    "nested, in another order": (None, _nested_in_another_order),
    "nested, bound to the discharge": ("DISCHARGE_INVALID", _bound_to_the_discharge),
    "missing": ("DISCHARGE_MISSING", lambda s: sent(asking(s))),
    "the inner one missing": (
        "DISCHARGE_MISSING",
        lambda s: encode_token(*_head_and(parse_parts(_nested(s))[:2])),
    ),
    "in a loop": ("DISCHARGE_INVALID", _in_a_loop),
    "of another key": (
        "DISCHARGE_INVALID",
        lambda s: sent(asking(s), discharge(b"ticket", OTHER_KEY, [])),
    ),
    "not bound": (
        "DISCHARGE_INVALID",
        lambda s: encode_token(asking(s), [discharge(b"ticket", OWN_KEY, [])]),
    ),
    "bound to another root": ("DISCHARGE_INVALID", _for_another_root),
    "bound, then narrowed": ("DISCHARGE_INVALID", _narrowed_after_binding),
    "used for two caveats": ("DISCHARGE_INVALID", _reused),
    "two with one id": ("DISCHARGE_INVALID", _two_with_one_id),
    "one too many": (
        "DISCHARGE_INVALID",
        lambda s: sent(
            asking(s), discharge(b"ticket", OWN_KEY, []), discharge(b"more", OWN_KEY, [])
        ),
    ),
    "nobody asked": (
        "DISCHARGE_INVALID",
        lambda s: sent(s.root, discharge(b"ticket", OWN_KEY, [])),
    ),
    "the root for its own discharge": (
        "DISCHARGE_INVALID",
        lambda s: encode_token(*_head_and((s.root, s.root))),
    ),
    "a sealed key of noise": ("DISCHARGE_INVALID", _a_sealed_key_of_noise),
}


def _head_and(parts: tuple[Macaroon, ...]) -> tuple[Macaroon, list[Macaroon]]:
    return parts[0], list(parts[1:])


@pytest.mark.parametrize("what", THIRD_PARTIES)
def test_third_parties_of_an_attacker(site: Site, what: str) -> None:
    """A holder may ask for discharges under keys of his own, which narrows his token and no more;
    any that is not the one that is asked for, once and for this root, is refused."""
    expected, make = THIRD_PARTIES[what]
    assert reason_of(site, make(site)) == expected


def test_a_third_party_of_his_own_opens_nothing(site: Site) -> None:
    """Not the other org, not another action, and not with any caveat in his discharge that says
    so: what a discharge says takes away, too."""
    for predicate in ("org = umbrella", "action = secrets:write", "user = root@example.com"):
        token = sent(asking(site), discharge(b"ticket", OWN_KEY, [predicate]))
        assert reason_of(site, token) == "CAVEAT"
    token = sent(asking(site), discharge(b"ticket", OWN_KEY, []))
    other = VALUES.replace("acme", "umbrella")
    assert site.doors.ask("GET", other, token=token).error == (403, "denied", "WRONG_ORG")
    answer = site.doors.ask("GET", "/v1/orgs/acme/tokens", token=token)
    assert answer.error == (403, "denied", "CAVEAT")


# Size, depth and bytes


def _with_caveats(site: Site, count: int) -> str:
    """Signed in order, by hand, however many they are."""
    root = site.root
    for _ in range(count):
        root = build.added(root, b"app = web")
    return build.prefixed(build.bare(build.binary(root)))


def _with_caveats_of_a_discharge(site: Site, count: int, of_discharge: int) -> str:
    """The root's three, `count`, the one for the third party, and the discharge's."""
    root = attenuate(site.root, ["app = web"] * count)
    root = require_discharge(root, b"", OWN_KEY, b"ticket")
    made = bind_discharge(root, discharge(b"ticket", OWN_KEY, ["app = web"] * of_discharge))
    return ",".join(build.bare(build.binary(each)) for each in (root, made))


def _in_discharges(site: Site, count: int) -> str:
    """A chain of discharges, each of which asks for the next."""
    root = require_discharge(site.root, b"", OWN_KEY, b"0")
    made = [
        require_discharge(discharge(b"%d" % n, OWN_KEY, []), b"", OWN_KEY, b"%d" % (n + 1))
        for n in range(count - 1)
    ]
    made.append(discharge(b"%d" % (count - 1), OWN_KEY, []))
    parts = (root, *(bind_discharge(root, each) for each in made))
    return ",".join(build.bare(build.binary(each)) for each in parts)


FITTING: Final[dict[str, tuple[str | None, Callable[[Site], str]]]] = {
    "as many caveats as there may be": (None, lambda s: _with_caveats(s, 61)),
    "a caveat too many": ("MALFORMED", lambda s: _with_caveats(s, 62)),
    "as many with those of a discharge": (None, lambda s: _with_caveats_of_a_discharge(s, 50, 10)),
    "one too many with those of a discharge": (
        "MALFORMED",
        lambda s: _with_caveats_of_a_discharge(s, 50, 11),
    ),
    "eight nested discharges": (None, lambda s: _in_discharges(s, 8)),
    "nine nested discharges": ("MALFORMED", lambda s: _in_discharges(s, 9)),
    "a caveat that is not UTF-8": (
        "CAVEAT",
        lambda s: build.bare(build.binary(build.added(s.root, b"app = \xff\xfe"))),
    ),
    "a caveat with a NUL": (
        "CAVEAT",
        lambda s: build.bare(build.binary(build.added(s.root, b"app = web\0"))),
    ),
    "an empty caveat": ("CAVEAT", lambda s: build.bare(build.binary(build.added(s.root, b"")))),
    "a ticket of any bytes": (
        None,
        lambda s: sent(
            require_discharge(s.root, b"\xff\0", OWN_KEY, bytes(range(256))),
            discharge(bytes(range(256)), OWN_KEY, []),
        ),
    ),
    "commas alone": ("TRUNCATED", lambda s: "," * 6_000),
    "a dot": ("MALFORMED", lambda s: "."),
}


@pytest.mark.parametrize("what", FITTING)
def test_at_the_limits(site: Site, what: str) -> None:
    """Tokens that fit into a header, with as much in them as may be and a little more."""
    expected, make = FITTING[what]
    assert reason_of(site, make(site)) == expected


HUGE: Final[dict[str, Callable[[Site], str]]] = {
    "10,000 caveats": lambda s: _with_caveats(s, 10_000),
    "1,000 nested discharges": lambda s: _in_discharges(s, 1_000),
    "a million parts": lambda s: "," * 1_000_000,
    "a megabyte of letters": lambda s: "petsem_" + "A" * 1_000_000,
    "letters that are no ASCII": lambda s: "\u00e9" * 250_000,
}


TOO_LARGE: Final = (413, "invalid", "TOO_LARGE")


@pytest.mark.parametrize("what", HUGE)
def test_tokens_that_fit_into_a_body_alone(site: Site, what: str) -> None:
    """A question about one token has no room for them, and one about many finds them MALFORMED by
    their length; as a header they are refused before they are taken in. The node's memory does not
    grow with them, and it goes on answering."""
    token = HUGE[what](site)
    asked = pb.VerifyRequest(token=token, access=ACCESS)
    body = {"token": token, "access": ACCESS}
    batch = {"requests": [body, {"token": site.reader, "access": ACCESS}]}
    before = site.peak_kib
    for _ in range(3):
        for path in ("/v1/tokens/verify", "/v1/tokens/can"):
            assert site.doors.ask("POST", path, body).error == TOO_LARGE
        bad, good = site.doors.done("POST", "/v1/tokens/verify-batch", batch)["responses"]
        assert (bad["reason"], good["allowed"]) == ("MALFORMED", True)
        assert site.doors.rpc(VERIFY, asked).message.reason == "MALFORMED"
        over_connect = site.doors.connect(VERIFY, json.dumps(body).encode(), proto=False)
        assert _reason(over_connect.message) == "MALFORMED"
        assert site.doors.connect(VERIFY, asked).message.reason == "MALFORMED"
    assert site.peak_kib - before < MEMORY_KIB
    if token.isascii():
        _refused_as_a_header(site, token)


def test_ten_mebibytes(site: Site) -> None:
    """More than a body may be: refused by its length at every door, before it is taken in."""
    token = "petsem_" + "A" * 10 * 1024 * 1024
    asked = pb.VerifyRequest(token=token, access=ACCESS)
    item = {"token": token, "access": ACCESS}
    body = json.dumps(item).encode()
    before = site.peak_kib
    for _ in range(3):
        assert site.doors.ask("POST", "/v1/tokens/verify", body).error == TOO_LARGE
        batch = {"requests": [item]}
        assert site.doors.ask("POST", "/v1/tokens/verify-batch", batch).error == TOO_LARGE
        for form, content in (("json", body), ("proto", asked.SerializeToString())):
            answer = site.doors.ask("POST", VERIFY, content, content_type=f"application/{form}")
            assert (answer.status, answer.body["code"]) == (413, "invalid_argument")
        assert site.doors.rpc(VERIFY, asked).status == "RESOURCE_EXHAUSTED"
    _refused_as_a_header(site, token)
    assert site.peak_kib - before < MEMORY_KIB


def _refused_as_a_header(site: Site, token: str) -> None:
    for path in (f"GET {VALUES}", f"POST {FETCH}"):
        said = _said(site, path, b"Authorization: Bearer " + token.encode("ascii"))
        assert said.startswith(b"HTTP/1.1 431 "), said[:200]
    call: Any = site.doors.channel.unary_unary(FETCH, None, None)
    metadata = (("authorization", f"Bearer {token}"),)
    request = fetch_request("acme/web").SerializeToString()
    with pytest.raises(grpc.RpcError) as caught:
        call(request, metadata=metadata, timeout=PATIENCE_S)
    assert grpc_error(caught.value).status in ("RESOURCE_EXHAUSTED", "UNAVAILABLE", "INTERNAL")
    assert site.doors.ask("GET", VALUES, token=site.reader).status == 200
    assert site.doors.fetch("acme/web", token=site.reader).error is None


def _said(site: Site, line: str, *headers: bytes) -> bytes:
    """The answer to a request of these bytes, as far as it comes."""
    request = b"\r\n".join((f"{line} HTTP/1.1".encode(), b"Host: x", *headers, b"", b""))
    heard = b""
    with socket.create_connection(("127.0.0.1", site.doors.daemon.http), PATIENCE_S) as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(request)
        with contextlib.suppress(ConnectionError):
            while b"\r\n\r\n" not in heard and (more := connection.recv(65_536)):
                heard += more
    return heard


def test_bytes_that_are_no_text(site: Site) -> None:
    """What is no UTF-8 or holds a NUL is refused by whoever reads it first, never with a 5xx."""
    part = site.reader.encode()
    for raw in (b"\xff\xfe", part + b"\xff", b"\xc0\xaf" + part, b"\xed\xa0\x80"):
        said = _said(site, f"GET {VALUES}", b"Authorization: Bearer " + raw)
        assert said.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 401 ")), said
    for raw in (b"\0", part + b"\0", part[:20] + b"\0" + part[20:]):
        said = _said(site, f"GET {VALUES}", b"Authorization: Bearer " + raw)
        assert said.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 401 ")), said
    access = json.dumps(ACCESS).encode()
    for raw in (b"\xff\xfe", part + b"\xc0\x80", b"\\ud800", b"\0"):
        spelled = b'{"token":"%b","access":%b}' % (raw, access)
        assert site.doors.ask("POST", "/v1/tokens/verify", spelled).error == (400, "invalid", None)
        assert site.doors.connect(VERIFY, spelled, proto=False).code == "invalid"
    verify: Any = site.doors.channel.unary_unary(VERIFY, None, None)
    for raw in (b"\xff\xfe", b"a\xc0\x80", b"\xed\xa0\x80"):
        field = b"\x0a" + bytes((len(raw),)) + raw
        assert site.doors.connect(VERIFY, field).code == "invalid"
        with pytest.raises(grpc.RpcError) as caught:
            verify(
                field, metadata=(("authorization", f"Bearer {site.reader}"),), timeout=PATIENCE_S
            )
        assert grpc_error(caught.value).code == "invalid"
    for text in ("\0", site.reader + "\0", site.reader[:20] + "\0" + site.reader[20:], "\u202e"):
        body = {"token": text, "access": ACCESS}
        told = site.doors.done("POST", "/v1/tokens/verify", body)["reason"]
        assert told in ("MALFORMED", "TRUNCATED")
        asked = pb.VerifyRequest(token=text, access=ACCESS)
        assert site.doors.rpc(VERIFY, asked).message.reason == told
        assert site.doors.connect(VERIFY, asked).message.reason == told
