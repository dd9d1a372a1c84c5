"""The sealed texts, byte by byte: `docs/formats/ticket.md` and its vectors."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from petsem.errors import Code, PetsemError
from petsem.sso import flow as flows
from petsem.sso.flow import Flow, State, open_flow, open_state
from petsem.sso.orgs import SsoOrg
from petsem.sso.sealing import Use, derive, parse, seal
from petsem.sso.session import Session, open_session, provider_hash, ticket_hash
from petsem.tokens.ticket import Ticket, open_ticket
from tests.support.daemon import ROOT

VECTORS: Any = json.loads((ROOT / "tests" / "vectors" / "sso.json").read_text())
PAGE = (ROOT / "docs" / "formats" / "ticket.md").read_text()
NOW_MS = 1_800_000_003_000

b = bytes.fromhex
ORG = SsoOrg(
    uid=b(VECTORS["org"]),
    name="acme",
    key_id=b(VECTORS["key_id"]),
    key=b(VECTORS["key"]),
    issuer=VECTORS["issuer"],
    client_id=VECTORS["client_id"],
    client_secret="a-secret-thing",
    discharge_s=3_600,
    session_s=43_200,
)
TICKET = b(VECTORS["ticket"]["bytes"])


def _flow(vector: Any) -> Flow:
    return Flow(
        b(vector["id"]),
        vector["begun_ms"],
        b(vector["commitment"]),
        vector["port"],
        vector["ip"],
        TICKET,
    )


def test_keys() -> None:
    """Each use has its own, and the page names them all."""
    assert {use.value.decode(): derive(use, ORG.key).hex() for use in Use} == VECTORS["derived"]
    assert len(set(VECTORS["derived"].values())) == len(Use)
    assert all(f"`{use.value.decode()}`" in PAGE for use in Use)


def test_ticket() -> None:
    """What an authenticator reads in it."""
    vector = VECTORS["ticket"]
    assert open_ticket(ORG.key_id, ORG.key, TICKET) == Ticket(
        ORG.uid,
        b(vector["token"]),
        b(vector["caveat_key"]),
        vector["made_ms"],
        tuple(vector["domains"]),
    )


@pytest.mark.parametrize("vector", VECTORS["flows"], ids=["by code", "by loopback"])
def test_flow(vector: Any) -> None:
    """Read, written again, and its code."""
    flow = _flow(vector)
    sealed = parse(vector["text"], flows.TEXT_MAX_CHARS)
    assert open_flow(sealed, ORG, NOW_MS) == flow
    assert flow.encode() == b(vector["plain"]) == sealed.open(Use.FLOW, ORG.key)
    assert flow.code(ORG) == vector["code"]
    assert flow.is_code(ORG, vector["code"].lower().replace("-", ""))
    assert not flow.is_code(ORG, vector["code"][:-1])
    assert flow.proves(bytes(32))
    assert not flow.proves(bytes(31) + b"\1")


def test_state() -> None:
    """A flow, and what belongs to one trip."""
    vector = VECTORS["state"]
    state = open_state(parse(vector["text"], flows.TEXT_MAX_CHARS), ORG, NOW_MS)
    assert state == State(
        b(vector["nonce"]),
        b(vector["verifier"]),
        b(vector["cookie_hash"]),
        _flow(VECTORS["flows"][0]),
    )
    assert state.is_of(bytes(32))


def test_session() -> None:
    """For whom, with whom, and since when."""
    vector = VECTORS["session"]
    session = open_session(parse(vector["text"], 12_288), ORG)
    assert session == Session(
        ORG.uid,
        b(vector["provider"]),
        b(vector["ticket"]),
        vector["signed_in_ms"],
        vector["subject"],
        vector["email"],
        vector["refresh_token"],
    )
    assert session.provider == provider_hash(ORG)
    assert session.ticket == ticket_hash(TICKET)
    assert session.holds(ORG, TICKET, NOW_MS)


def test_the_longest_state_fits() -> None:
    """A ticket of the size that is taken, with the longest address, still makes a short state."""
    ticket = bytes(flows.TICKET_MAX_BYTES)
    flow = Flow(bytes(16), 0, bytes(32), 65_535, "f" * 45, ticket)
    assert len(flow.seal(ORG)) <= flows.TEXT_MAX_CHARS
    assert len(State.new(flow, bytes(32)).seal(ORG)) <= flows.TEXT_MAX_CHARS


@pytest.mark.parametrize("use", list(Use))
def test_one_use_is_not_another(use: Use) -> None:
    """What was sealed for one opens for no other."""
    sealed = parse(seal(use, ORG.key_id, ORG.key, b"x"), 200)
    assert sealed.open(use, ORG.key) == b"x"
    for other in set(Use) - {use}:
        with pytest.raises(PetsemError) as caught:
            sealed.open(other, ORG.key)
        assert caught.value.code is Code.INVALID


def test_lengths_that_lie() -> None:
    """What opens and is still not what it says is refused as well."""
    flow = _flow(VECTORS["flows"][0]).encode()
    for plain in (b"", flow[:50], flow[:58] + b"\xff" + flow[59:80]):
        sealed = parse(seal(Use.FLOW, ORG.key_id, ORG.key, plain), 4_096)
        with pytest.raises(PetsemError):
            open_flow(sealed, ORG, NOW_MS)
    sealed = parse(seal(Use.STATE, ORG.key_id, ORG.key, bytes(95)), 4_096)
    with pytest.raises(PetsemError):
        open_state(sealed, ORG, NOW_MS)
    for plain in (bytes(88), bytes(88) + b"\xff\xff", bytes(90), bytes(88) + b"\0\1\xff\0x"):
        sealed = parse(seal(Use.SESSION, ORG.key_id, ORG.key, plain), 4_096)
        with pytest.raises(PetsemError):
            open_session(sealed, ORG)


def test_nothing_secret_is_shown() -> None:
    """Neither an org's keys nor anything sealed is in a `repr`."""
    session = open_session(parse(VECTORS["session"]["text"], 12_288), ORG)
    state = open_state(parse(VECTORS["state"]["text"], 4_096), ORG, NOW_MS)
    shown = f"{ORG!r} {session!r} {state!r}"
    for secret in (repr(ORG.key), "a-secret-thing", "refresh-1", repr(state.verifier)):
        assert secret not in shown


def test_the_page_has_the_offsets() -> None:
    """Offsets follow from the sizes before them."""
    for section in ("Ticket", "Flow", "State", "Session"):
        table = PAGE.split(f"## {section}\n")[1].split("\n## ")[0]
        rows = re.findall(r"^\| (\d+) \| (\d+)( \+ \*n\*)? \|", table, re.M)
        at = 0
        for offset, size, _ in rows:
            assert int(offset) == at, section
            at += int(size)
