"""Minting, through pymacaroons: the only module that imports it.

Guarantees: what leaves here was written by pymacaroons, read back by our strict parser, compared
with what was asked for, and its signature recomputed by our own walk. Every exception of the
library, whatever its class, becomes one `PetsemError` that quotes nothing.

Does not decide who may mint what, and does not record it: that is the server's transaction. Reads
nothing that a stranger wrote; requests go through our own parser and verifier only.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import pymacaroons
from pymacaroons.macaroon import MACAROON_V2
from pymacaroons.serializers import BinarySerializer

from petsem.crypto.aead import random_bytes
from petsem.errors import Code, PetsemError, invalid
from petsem.limits import CAVEAT_MAX_BYTES, CAVEATS_MAX
from petsem.tokens.grammar import parse_predicates
from petsem.tokens.identifier import Identifier
from petsem.tokens.macaroon import LOCATION, Macaroon, derive_key, parse
from petsem.tokens.thirdparty import NONCE_BYTES
from petsem.tokens.verifier import signature_under

ROOT_SECRET_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class ThirdParty:
    """A caveat that another party discharges: `ticket` tells it what to check, and the key."""

    location: str
    caveat_key: bytes = field(repr=False)
    ticket: bytes


def mint(
    root_key: bytes,
    identifier: Identifier,
    caveats: Sequence[str],
    third_party: Sequence[ThirdParty] = (),
) -> Macaroon:
    """A new token under the 32-byte root secret: first-party caveats in order, then third-party.

    `invalid` if a caveat is not in the grammar or there are too many; `internal` if the library
    fails or writes anything but what was asked for.
    """
    assert len(root_key) == ROOT_SECRET_BYTES, "a root secret is 32 random bytes"
    parse_predicates(caveats)
    if len(caveats) + len(third_party) > CAVEATS_MAX:
        raise invalid(f"a token has at most {CAVEATS_MAX} caveats")
    if any(len(each.ticket) > CAVEAT_MAX_BYTES for each in third_party):
        raise invalid(f"a third-party caveat's ticket is at most {CAVEAT_MAX_BYTES} bytes long")
    try:
        macaroon = parse(_write(root_key, identifier.encode(), caveats, third_party))
    except Exception as error:
        # The library raises RecursionError, IndexError, TypeError, UnicodeDecodeError and bare
        # Exception beside its own classes, and may quote what it was given.
        raise _failed() from error
    asked = [text.encode("ascii") for text in caveats] + [each.ticket for each in third_party]
    same = macaroon.identifier == identifier.encode() and asked == [c.cid for c in macaroon.caveats]
    signature = signature_under(derive_key(root_key), macaroon)
    if not same or not hmac.compare_digest(signature, macaroon.signature):
        raise _failed()
    return macaroon


def _write(
    secret: bytes, identifier: bytes, caveats: Sequence[str], third_party: Sequence[ThirdParty]
) -> bytes:
    made = pymacaroons.Macaroon(
        location=LOCATION.decode("ascii"), identifier=identifier, key=secret, version=MACAROON_V2
    )
    for text in caveats:
        made.add_first_party_caveat(text)
    for each in third_party:
        nonce = random_bytes(NONCE_BYTES)
        made.add_third_party_caveat(each.location, each.caveat_key, each.ticket, nonce=nonce)
    return bytes(BinarySerializer().serialize_raw(made))


def _failed() -> PetsemError:
    return PetsemError(Code.INTERNAL, "the token could not be minted; the node's log says why")
