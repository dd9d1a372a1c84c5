"""Verifying: did the holder of the root key sign this, and is each discharge the right one?

Guarantees: returns caveats only after every signature of the token has been recomputed and
compared in constant time. Each discharge sent is asked for by exactly one third-party caveat and
bound to the root. The walk is a loop, so no token makes it recurse; its length is bounded by the
limits of the text form.

Does not clear: whether the caveats hold is `caveats.clear`'s to say, afterwards. Does not look up
the key, the issued row or revocations.
"""

from __future__ import annotations

import hmac
from collections import deque
from typing import NamedTuple

from petsem.tokens.macaroon import Macaroon, bind_signature, derive_key, sign_third_party
from petsem.tokens.reasons import Reason, TokenRefused
from petsem.tokens.text import UnverifiedToken
from petsem.tokens.thirdparty import open_key

__all__ = ["Signed", "derive_key", "signature_under", "verify_signatures", "walk_signatures"]

_Wanted = tuple[bytes, bytes, bytes]
"""A third-party caveat met on the walk: ticket, sealed key, and the signature that opens it."""


class Signed(NamedTuple):
    """What a token is once its signatures hold. `caveats` are all first-party ones: the root's in
    order, then its discharges'. `tickets` are those of the root's third-party caveats, in order.
    `discharges` are the signatures of the discharges, in the order they were sent, from before they
    were bound: with them one can tell the same discharges bound to a narrower copy."""

    caveats: tuple[bytes, ...]
    tickets: tuple[bytes, ...]
    discharges: tuple[bytes, ...]


def verify_signatures(token: UnverifiedToken, root_key: bytes) -> tuple[bytes, ...]:
    """Every first-party caveat of the token; raises as `walk_signatures` does."""
    return walk_signatures(token, root_key).caveats


def walk_signatures(token: UnverifiedToken, root_key: bytes) -> Signed:
    """The token with every signature recomputed and compared.

    `root_key` is the derived key (`derive_key` of the root secret). Raises TokenRefused:
    BAD_SIGNATURE for the root; DISCHARGE_MISSING; DISCHARGE_INVALID for a discharge that is
    altered, unbound, bound to anything but the root, used by two caveats, or used by none.
    """
    root = token.root
    caveats: list[bytes] = []
    wanted: deque[_Wanted] = deque()
    signature = _walk(root_key, root, caveats, wanted)
    if not hmac.compare_digest(signature, root.signature):
        raise TokenRefused(Reason.BAD_SIGNATURE)
    tickets = tuple(ticket for ticket, _, _ in wanted)
    discharges: tuple[bytes, ...] = ()
    if wanted or token.discharges:
        discharges = _verify_discharges(token, caveats, wanted)
    return Signed(tuple(caveats), tickets, discharges)


def signature_under(root_key: bytes, macaroon: Macaroon) -> bytes:
    """The signature that a (derived) key gives `macaroon`, for whoever has just minted it."""
    return _walk(root_key, macaroon, [], deque())


def _verify_discharges(
    token: UnverifiedToken, caveats: list[bytes], wanted: deque[_Wanted]
) -> tuple[bytes, ...]:
    unused = {discharge.identifier: discharge for discharge in token.discharges}
    if len(unused) != len(token.discharges):
        raise TokenRefused(
            Reason.DISCHARGE_INVALID, "two discharges are for the same caveat; send one of them"
        )
    used: dict[bytes, bytes] = {}
    while wanted:
        ticket, vid, signature = wanted.popleft()
        discharge = unused.pop(ticket, None)
        if discharge is None:
            # A second caveat on one ticket, or discharges that ask for each other in a ring.
            if ticket in used:
                raise TokenRefused(
                    Reason.DISCHARGE_INVALID, "two caveats share one discharge; ask for a new token"
                )
            raise TokenRefused(Reason.DISCHARGE_MISSING)
        used[ticket] = walked = _walk(open_key(signature, vid), discharge, caveats, wanted)
        bound = bind_signature(token.root.signature, walked)
        if not hmac.compare_digest(bound, discharge.signature):
            raise TokenRefused(Reason.DISCHARGE_INVALID)
    if unused:
        raise TokenRefused(
            Reason.DISCHARGE_INVALID, "a discharge is not asked for by any caveat; leave it out"
        )
    return tuple(used[discharge.identifier] for discharge in token.discharges)


def _walk(key: bytes, macaroon: Macaroon, caveats: list[bytes], wanted: deque[_Wanted]) -> bytes:
    """The signature that `key` gives `macaroon`; its caveats are added to the two collections."""
    digest = hmac.digest
    signature = digest(key, macaroon.identifier, "sha256")
    for caveat in macaroon.caveats:
        cid, vid = caveat.cid, caveat.vid
        if vid is None:
            caveats.append(cid)
            signature = digest(signature, cid, "sha256")
        else:
            wanted.append((cid, vid, signature))
            signature = sign_third_party(signature, vid, cid)
    return signature
