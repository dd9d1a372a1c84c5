"""The text of a join token: one spelling each, and every rule of the parser."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path
from typing import Any

import pytest

from petsem import limits
from petsem.crypto import ca
from petsem.crypto.ca import CertRole
from petsem.secretbytes import SecretBytes
from petsem.server.address import Address
from petsem.server.peer.join_token import PREFIX, JoinToken, JoinTokenError
from petsem.tokens.text import check_of

CLUSTER = bytes(range(16))
ROOT = Path(__file__).parents[4]
PAGE = ROOT / "docs" / "formats" / "join-token.md"
VECTORS = json.loads((ROOT / "tests" / "vectors" / "join_token.json").read_text())


def _token(*addresses: str) -> JoinToken:
    now_ms = time.time_ns() // 1_000_000
    ca_cert, ca_key = ca.create_ca(CLUSTER, now_ms)
    key = ca.new_node_key()
    certificate = ca.issue_node(
        ca_cert,
        ca_key,
        cluster_id=CLUSTER,
        node_id="ab" * 16,
        csr_pem=ca.node_csr(key),
        now_ms=now_ms,
        days=0.01,
        role=CertRole.JOIN,
    )
    found = tuple(map(Address.parse, addresses or ("127.0.0.1:7402",)))
    return JoinToken(CLUSTER, found, ca_cert, certificate, SecretBytes(key))


def _spelled(raw: bytes) -> str:
    """The text of these bytes, with the right check."""
    head = PREFIX + base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
    return f"{head}.{check_of(head)}"


def _raw(token: JoinToken) -> bytes:
    body = token.encode()[len(PREFIX) :].rpartition(".")[0]
    return base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))


@pytest.mark.parametrize(
    "addresses",
    [
        ("127.0.0.1:7402",),
        ("[fdaa::3]:7402",),
        ("ams.example.net:7402", "10.0.0.1:1", "[::1]:2", "x:3"),
    ],
)
def test_what_was_written_is_read(addresses: tuple[str, ...]) -> None:
    """Every part comes back, PEM to the byte; the text fits one line of a shell."""
    token = _token(*addresses)
    text = token.encode()
    assert JoinToken.parse(text) == token
    assert len(text) < 2_200
    assert text.startswith("petsem_join_")
    assert "PRIVATE" not in repr(token)
    assert text[12:40] not in repr(token)


def test_every_cut_is_noticed() -> None:
    """A paste that lost its end, wherever, is no token, and no longer one than it may be."""
    text = _token().encode()
    for end in range(len(text)):
        with pytest.raises(JoinTokenError) as refused:
            JoinToken.parse(text[:end])
        assert refused.value.rule == ("prefix" if end < len(PREFIX) else "truncated")


def _with_addresses(raw: bytes, field: bytes) -> bytes:
    rest = raw[17:]
    size = int.from_bytes(rest[:2])
    return raw[:17] + len(field).to_bytes(2) + field + rest[2 + size :]


@pytest.mark.parametrize(
    ("rule", "change"),
    [
        ("format", lambda raw: b"\x02" + raw[1:]),
        ("format", lambda raw: b""),
        ("length", lambda raw: raw[:10]),
        ("length", lambda raw: raw[:-1]),
        ("length", lambda raw: raw[:17] + b"\xff\xff" + raw[19:]),
        ("length", lambda raw: _with_addresses(raw, b"")),
        ("trailing bytes", lambda raw: raw + b"\0"),
        ("address", lambda raw: _with_addresses(raw, b"nowhere")),
        ("address", lambda raw: _with_addresses(raw, b"127.0.0.1:07402")),
        ("address", lambda raw: _with_addresses(raw, b"[::0]:7402")),
        ("address", lambda raw: _with_addresses(raw, b"\xff:7402")),
        ("address", lambda raw: _with_addresses(raw, b",".join([b"x:1"] * 5))),
    ],
)
def test_what_is_refused(rule: str, change: object) -> None:
    """By the rule that it breaks, with a right check."""
    raw = _raw(_token())
    with pytest.raises(JoinTokenError) as refused:
        JoinToken.parse(_spelled(change(raw)))  # type: ignore[operator]
    assert refused.value.rule == rule


def test_one_spelling() -> None:
    """Padding, spare bits, the other alphabet and white space are not a second one."""
    head = _token().encode().rpartition(".")[0]
    raw = _raw(_token())
    spare = _spelled(raw[: len(raw) // 3 * 3] + b"\x00").rpartition(".")[0]
    assert spare.endswith("AA")
    for other in (head + "=", head.replace("_join_", "_join_ "), spare[:-1] + "B", head + "\n"):
        with pytest.raises(JoinTokenError) as refused:
            JoinToken.parse(f"{other}.{check_of(other)}")
        assert refused.value.rule == "base64"


def test_size_before_anything() -> None:
    """A text that is too long is not looked at."""
    with pytest.raises(JoinTokenError) as refused:
        JoinToken.parse("x" * (limits.JOIN_TOKEN_MAX_CHARS + 1))
    assert refused.value.rule == "size"


@pytest.mark.parametrize("case", VECTORS["valid"], ids=lambda case: case["addresses"][0])
def test_vectors(case: dict[str, Any]) -> None:
    """The published ones are read and written to the letter, and stand in the documentation."""
    token = JoinToken.parse(case["text"])
    assert token.encode() == case["text"]
    assert token.cluster_id.hex() == case["cluster_id"]
    assert [str(each) for each in token.addresses] == case["addresses"]
    pems = (token.ca, token.certificate, token.key.reveal())
    ders = [base64.b64decode(b"".join(pem.splitlines()[1:-1])).hex() for pem in pems]
    assert ders == [case["ca_der"], case["certificate_der"], case["key_der"]]
    assert case["text"] in PAGE.read_text()


@pytest.mark.parametrize("case", VECTORS["refused"], ids=lambda case: case["why"])
def test_refused_vectors(case: dict[str, str]) -> None:
    """Each by the rule that is named in the documentation."""
    with pytest.raises(JoinTokenError) as refused:
        JoinToken.parse(case["text"])
    assert refused.value.rule == case["rule"]
    assert f"| `{case['rule']}` |" in PAGE.read_text()


def test_other_text() -> None:
    """A token of the other kind, or none, is told from one that was cut."""
    for text in ("", "petsem_AgEGcGV0c2Vt.0A1b2C", "hunter2", "PETSEM_JOIN_x", "petsem_join\u00e9"):
        with pytest.raises(JoinTokenError) as refused:
            JoinToken.parse(text)
        assert refused.value.rule == "prefix"
        assert "hunter2" not in str(refused.value)
