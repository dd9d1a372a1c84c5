"""Minting: pymacaroons writes, we read back, and none of its exceptions gets out."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import nacl.exceptions
import pymacaroons
import pymacaroons.exceptions
import pytest

from petsem.errors import Code, PetsemError
from petsem.limits import CAVEATS_MAX
from petsem.tokens import mint as mint_module
from petsem.tokens.macaroon import Caveat, encode
from petsem.tokens.mint import ThirdParty, mint
from petsem.tokens.text import UnverifiedToken
from petsem.tokens.verifier import verify_signatures
from tests.unit.tokens.build import IDENTIFIER, SECRET, binary, bound, derived, made

CAVEATS = ("org = acme", "action in secrets:read, secrets:list", "time < 2030-01-01T00:00:00Z")
CIDS = tuple(text.encode() for text in CAVEATS)

FOREIGN = [
    RecursionError("maximum recursion depth exceeded"),
    IndexError("list index out of range"),
    TypeError("'NoneType' object is not iterable"),
    UnicodeDecodeError("utf-8", b"org = acme\xff", 10, 11, "invalid start byte"),
    Exception("cannot read uvarint from buffer"),
    ValueError("empty macaroon"),
    nacl.exceptions.CryptoError("Decryption failed"),
    *(
        getattr(pymacaroons.exceptions, name)("org = acme")
        for name in sorted(vars(pymacaroons.exceptions))
        if name.startswith("Macaroon")
    ),
]


def test_a_minted_token_is_what_was_asked_for() -> None:
    """The same bytes as a token written by hand, our location included."""
    macaroon = mint(SECRET, IDENTIFIER, CAVEATS)
    assert macaroon == made(SECRET, IDENTIFIER.encode(), CIDS)
    assert encode(macaroon) == binary(made(SECRET, IDENTIFIER.encode(), CIDS), b"petsem")
    assert verify_signatures(UnverifiedToken(macaroon), derived(SECRET)) == CIDS


def test_minting_again_gives_the_same_token() -> None:
    """So a reply is derived again from what is stored, and never stored itself."""
    assert mint(SECRET, IDENTIFIER, CAVEATS) == mint(SECRET, IDENTIFIER, CAVEATS)


def test_third_party_caveats_follow_and_are_discharged() -> None:
    """Ticket and location are kept; the key comes back out of the sealed form."""
    party = ThirdParty("https://auth.example", b"caveat key", b"\x00ticket\xff")
    macaroon = mint(SECRET, IDENTIFIER, CAVEATS, [party])
    last = macaroon.caveats[-1]
    assert last == Caveat(b"\x00ticket\xff", last.vid, b"https://auth.example")
    discharge = bound(macaroon, made(b"caveat key", b"\x00ticket\xff", [b"user = a"]))
    token = UnverifiedToken(macaroon, (discharge,))
    assert verify_signatures(token, derived(SECRET)) == (*CIDS, b"user = a")


def test_sealed_keys_never_share_a_nonce() -> None:
    """The library's default nonce is not relied on, and never repeated."""
    party = ThirdParty("https://auth.example", b"caveat key", b"ticket")
    vids = [mint(SECRET, IDENTIFIER, (), [party]).caveats[0].vid or b"" for _ in range(16)]
    assert len({vid[:24] for vid in vids}) == 16


@pytest.mark.parametrize(
    ("caveats", "third_party"),
    [
        (["org=acme"], []),
        (["org = acme"] * (CAVEATS_MAX + 1), []),
        (["org = acme"] * CAVEATS_MAX, [ThirdParty("x", b"k", b"t")]),
        ([], [ThirdParty("x", b"k", b"t" * 2049)]),
    ],
    ids=["grammar", "caveats", "caveats with third parties", "ticket"],
)
def test_what_could_not_be_verified_is_not_minted(
    caveats: list[str], third_party: list[ThirdParty]
) -> None:
    """The asker is told; nothing is half made."""
    with pytest.raises(PetsemError) as info:
        mint(SECRET, IDENTIFIER, caveats, third_party)
    assert info.value.code is Code.INVALID


@pytest.mark.parametrize("error", FOREIGN, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("where", ["__init__", "add_first_party_caveat", "add_third_party_caveat"])
def test_every_exception_of_the_library_is_internal(
    error: Exception, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it raises and quotes, wherever, the answer is one code and one safe sentence."""

    def failing(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(pymacaroons.Macaroon, where, failing)
    with pytest.raises(PetsemError) as info:
        mint(SECRET, IDENTIFIER, CAVEATS, [ThirdParty("x", b"k", b"t")])
    assert info.value.code is Code.INTERNAL
    assert "acme" not in info.value.message


@pytest.mark.parametrize("number", range(4))
def test_a_library_that_writes_something_else_is_found_out(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A caveat left out, another identifier, another key, a stray byte: no token leaves."""
    wrong = (
        binary(made(SECRET, IDENTIFIER.encode(), CIDS[:-1])),
        binary(made(SECRET, b"another", CIDS)),
        binary(made(bytes(32), IDENTIFIER.encode(), CIDS)),
        binary(made(SECRET, IDENTIFIER.encode(), CIDS)) + b"\x00",
    )[number]
    monkeypatch.setattr(mint_module, "_write", lambda *_: wrong)
    with pytest.raises(PetsemError) as info:
        mint(SECRET, IDENTIFIER, CAVEATS)
    assert info.value.code is Code.INTERNAL


def test_no_repr_shows_a_caveat_key() -> None:
    """A third party's key in a log is the power to discharge."""
    assert "caveat key" not in repr(ThirdParty("x", b"caveat key", b"t"))


@pytest.mark.parametrize("module", ["macaroon", "text", "identifier", "caveats", "reasons"])
def test_the_boot_client_s_modules_import_no_library(module: str) -> None:
    """Neither nacl nor pymacaroons is loaded, not even through another module of ours."""
    program = (
        f"import petsem.tokens.{module}, sys; "
        "sys.exit(any(n.split('.')[0] in ('nacl', 'pymacaroons', 'cryptography') "
        "for n in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
