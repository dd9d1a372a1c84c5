"""One macaroon in the libmacaroons V2 binary form: parse, encode, attenuate, bind.

Guarantees: `parse` accepts one spelling of each macaroon (the location apart, see below), reads
nothing past its bounds, and raises only `TokenRefused`. `attenuate` adds only caveats that are in
the grammar. Nothing here needs a library beyond `hmac`, so the boot client can use it.

Does not verify: whatever `parse` returns is what a stranger wrote until `verifier` has walked it.
The location is not signed and never decides anything. An absent or empty one becomes ours; any
other is kept, since a discharge carries its maker's. Byte table: `docs/formats/token.md`.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

import msgspec

from petsem.errors import invalid
from petsem.limits import CAVEAT_MAX_BYTES, CAVEATS_MAX, TOKEN_MAX_BYTES
from petsem.tokens.grammar import parse_predicates
from petsem.tokens.reasons import TokenRefused, malformed

LOCATION: Final = b"petsem"
SIGNATURE_BYTES: Final = 32
VID_BYTES: Final = 72
"""Nonce (24), tag (16) and the sealed key (32) of a third-party caveat."""

_V2, _EOS = 0x02, 0x00
_LOCATION, _IDENTIFIER, _VID, _SIGNATURE = 0x01, 0x02, 0x04, 0x06
_KEY_GENERATOR = b"macaroons-key-generator"
_BIND_KEY = bytes(32)


class Caveat(msgspec.Struct, frozen=True):
    """First-party when `vid` is None: `cid` is then the predicate, and there is no location.

    Third-party otherwise: `cid` is the ticket, `vid` the discharge's key sealed for the verifier.
    A struct, because a token has many, and a frozen dataclass takes eight times as long to make.
    """

    cid: bytes
    vid: bytes | None = None
    location: bytes | None = None


@dataclass(frozen=True, slots=True)
class Macaroon:
    """A macaroon whose signature nobody has checked yet. The signature is a credential."""

    location: bytes
    identifier: bytes
    caveats: tuple[Caveat, ...]
    signature: bytes = field(repr=False)


def derive_key(secret: bytes) -> bytes:
    """The HMAC key of a root secret (or a caveat's key), as every libmacaroons relative does."""
    return hmac.digest(_KEY_GENERATOR, secret, "sha256")


def sign_third_party(signature: bytes, vid: bytes, cid: bytes) -> bytes:
    """The signature after a third-party caveat."""
    return _digest_two(signature, vid, cid)


def parse(binary: bytes) -> Macaroon:
    """The macaroon that `binary` spells in full; TokenRefused MALFORMED for anything else."""
    size = len(binary)
    if size > TOKEN_MAX_BYTES:
        raise malformed(f"a token is at most {TOKEN_MAX_BYTES} bytes long")
    # Reading past the end is an IndexError in one place; slices are checked in `_field`.
    try:
        return _parse(binary, size)
    except IndexError:
        raise _cut_short() from None


def parse_rest(data: bytes, at: int, before: int) -> tuple[tuple[Caveat, ...], bytes]:
    """The caveats from `at` on and the signature, of a macaroon of which the head and `before`
    caveats were parsed already; refused as by `parse`, except that no whole is measured."""
    try:
        return _parse_rest(data, at, len(data), before)
    except IndexError:
        raise _cut_short() from None


def _parse(data: bytes, size: int) -> Macaroon:
    if data[0] != _V2:
        raise malformed("only macaroons of the binary format V2 are accepted")
    at = 1
    location = b""
    if data[at] == _LOCATION:
        location, at = _field(data, at + 1, size)
    if data[at] != _IDENTIFIER:
        raise malformed("the macaroon has no identifier where one belongs")
    identifier, at = _field(data, at + 1, size)
    if data[at] != _EOS:
        raise malformed("the macaroon's head has a field too many")
    caveats, signature = _parse_rest(data, at + 1, size, 0)
    return Macaroon(location or LOCATION, identifier, caveats, signature)


def _parse_rest(data: bytes, at: int, size: int, before: int) -> tuple[tuple[Caveat, ...], bytes]:
    caveats: list[Caveat] = []
    while data[at] != _EOS:
        if before + len(caveats) == CAVEATS_MAX:
            raise malformed(f"a token has at most {CAVEATS_MAX} caveats")
        caveat, at = _parse_caveat(data, at, size)
        caveats.append(caveat)
    at += 1
    if data[at] != _SIGNATURE or data[at + 1] != SIGNATURE_BYTES:
        raise malformed("the macaroon has no signature where one belongs")
    signature = data[at + 2 :]
    if len(signature) != SIGNATURE_BYTES:
        raise malformed("the macaroon's signature is cut short, or something follows it")
    return tuple(caveats), signature


def _cut_short() -> TokenRefused:
    return malformed("the macaroon ends before its signature")


def _parse_caveat(data: bytes, at: int, size: int) -> tuple[Caveat, int]:
    location: bytes | None = None
    if data[at] == _LOCATION:
        location, at = _field(data, at + 1, size)
    if data[at] != _IDENTIFIER:
        raise malformed("a caveat has no identifier where one belongs")
    cid, at = _field(data, at + 1, size)
    if len(cid) > CAVEAT_MAX_BYTES:
        raise malformed(f"a caveat is at most {CAVEAT_MAX_BYTES} bytes long")
    if data[at] == _EOS:
        if location is not None:
            raise malformed("a first-party caveat has no location")
        return Caveat(cid), at + 1
    if data[at] != _VID:
        raise malformed("a caveat has a field that does not belong there")
    vid, at = _field(data, at + 1, size)
    if len(vid) != VID_BYTES or data[at] != _EOS:
        raise malformed("a third-party caveat's sealed key has the wrong form")
    return Caveat(cid, vid, location or None), at + 1


def _field(data: bytes, at: int, size: int) -> tuple[bytes, int]:
    """The field whose length starts at `at`, and where the next one starts."""
    length = data[at]
    at += 1
    if length >= 0x80:
        high = data[at]
        at += 1
        # Two bytes reach 16,383, more than any token holds, so a third is never minimal or never
        # honest; and a second byte of 0 is a longer spelling of a length that fits in one.
        if high >= 0x80 or high == 0:
            raise malformed("a length is not written in its one form")
        length = length & 0x7F | high << 7
    end = at + length
    if end > size:
        raise malformed("a field runs past the end of the macaroon")
    return data[at:end], end


def encode(macaroon: Macaroon) -> bytes:
    """The one binary spelling of `macaroon`; `invalid` if it is over the limits of a token."""
    if len(macaroon.caveats) > CAVEATS_MAX:
        raise invalid(f"a token has at most {CAVEATS_MAX} caveats")
    out = bytearray((_V2,))
    _append(out, _LOCATION, macaroon.location or LOCATION)
    _append(out, _IDENTIFIER, macaroon.identifier)
    out.append(_EOS)
    for caveat in macaroon.caveats:
        if caveat.location:
            _append(out, _LOCATION, caveat.location)
        _append(out, _IDENTIFIER, caveat.cid)
        if caveat.vid is not None:
            _append(out, _VID, caveat.vid)
        out.append(_EOS)
    out.append(_EOS)
    _append(out, _SIGNATURE, macaroon.signature)
    if len(out) > TOKEN_MAX_BYTES:
        raise invalid(f"a token is at most {TOKEN_MAX_BYTES} bytes long")
    return bytes(out)


def _append(out: bytearray, tag: int, value: bytes) -> None:
    out.append(tag)
    length = len(value)
    while length >= 0x80:
        out.append(length & 0x7F | 0x80)
        length >>= 7
    out.append(length)
    out += value


def attenuate(macaroon: Macaroon, predicates: Iterable[str]) -> Macaroon:
    """`macaroon` with first-party caveats added; `invalid` if one is not in the grammar.

    Discharges already bound to `macaroon` are void afterwards: bind them to the result.
    """
    texts = tuple(predicates)
    parse_predicates(texts)
    if len(macaroon.caveats) + len(texts) > CAVEATS_MAX:
        raise invalid(f"a token has at most {CAVEATS_MAX} caveats")
    cids = [text.encode("ascii") for text in texts]
    signature = macaroon.signature
    for cid in cids:
        signature = hmac.digest(signature, cid, "sha256")
    caveats = macaroon.caveats + tuple(Caveat(cid) for cid in cids)
    return Macaroon(macaroon.location, macaroon.identifier, caveats, signature)


def bind_signature(root_signature: bytes, signature: bytes) -> bytes:
    """The signature with which a discharge travels beside its root."""
    return join_binding(half_of_binding(root_signature), half_of_binding(signature))


def half_of_binding(signature: bytes) -> bytes:
    """What the root's signature and a discharge's each come to before they are joined, for whoever
    binds the same again and again."""
    return hmac.digest(_BIND_KEY, signature, "sha256")


def join_binding(root_half: bytes, half: bytes) -> bytes:
    """The signature of a bound discharge."""
    return hmac.digest(_BIND_KEY, root_half + half, "sha256")


def bind_discharge(root: Macaroon, discharge: Macaroon) -> Macaroon:
    """`discharge` bound to `root` as it now stands, ready to be sent with it.

    Nested discharges are bound to the root too, never to the discharge that asked for them.
    """
    signature = bind_signature(root.signature, discharge.signature)
    return Macaroon(discharge.location, discharge.identifier, discharge.caveats, signature)


def _digest_two(key: bytes, first: bytes, second: bytes) -> bytes:
    digest = hmac.digest
    return digest(key, digest(key, first, "sha256") + digest(key, second, "sha256"), "sha256")
