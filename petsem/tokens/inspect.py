"""What a token says about itself, for `petsem token inspect`: offline and without any key.

Guarantees: the description never holds a signature or a sealed key, so it cannot be used as a
token, and holds text from the token only if that is printable ASCII.

Does not verify anything: every line of it is the holder's claim, and `verified` is always False.
"""

from __future__ import annotations

from collections.abc import Set
from typing import Any

from petsem.clock import rfc3339
from petsem.model import Position
from petsem.tokens.caveats import actions_of, expiry_of, values_of
from petsem.tokens.grammar import Predicate, parse_predicate
from petsem.tokens.identifier import Identifier
from petsem.tokens.macaroon import Caveat, Macaroon
from petsem.tokens.reasons import TokenRefused, caveat_text
from petsem.tokens.text import parse_token

NOT_IN_GRAMMAR = "not in the grammar, so it denies everything"
NOT_ASKED_FOR = "no caveat asks for it, so the token is refused"


def describe(text: str) -> dict[str, Any]:
    """The token as plain JSON values; TokenRefused if the text is not a token at all.

    `expires_at`, `orgs` and `actions` come from the root's caveats, and are None where those set no
    limit. `identifier` is None if another program minted it. `discharged` says of a third-party
    caveat that the text has a discharge for it, good or not.
    """
    token = parse_token(text)
    sent = {part.identifier for part in token.discharges}
    wanted = {
        caveat.cid
        for part in (token.root, *token.discharges)
        for caveat in part.caveats
        if caveat.vid is not None
    }
    root = [
        predicate
        for caveat in token.root.caveats
        if caveat.vid is None and (predicate := parse_predicate(caveat.cid)) is not None
    ]
    return {
        "verified": False,
        "note": "read offline; no signature was checked",
        "identifier": _identifier(token.root.identifier),
        "expires_at": _expiry(root),
        "orgs": _sorted(values_of(root, "org")),
        "actions": _sorted(actions_of(root)),
        "characters": len(text),
        "caveats": [_caveat(caveat, sent) for caveat in token.root.caveats],
        "discharges": [_discharge(part, sent, wanted) for part in token.discharges],
    }


def _identifier(data: bytes) -> dict[str, str] | None:
    try:
        found = Identifier.parse(data)
    except TokenRefused:
        return None
    return {
        "token_id": found.token_id,
        "kind": found.kind.text,
        "cluster_id": found.cluster_id.hex(),
        "root_key_id": found.root_key_id.hex(),
        "minted_at": str(Position(found.epoch, found.txid)),
    }


def _expiry(predicates: list[Predicate]) -> str | None:
    seconds = expiry_of(predicates)
    return None if seconds is None else rfc3339(seconds * 1000)


def _sorted(values: frozenset[str] | None) -> list[str] | None:
    return None if values is None else sorted(values)


def _caveat(caveat: Caveat, sent: Set[bytes]) -> dict[str, Any]:
    if caveat.vid is not None:
        place = caveat.location or b""
        return {
            "third_party": caveat_text(place) if place else "",
            "ticket": caveat.cid.hex(),
            "discharged": caveat.cid in sent,
        }
    described: dict[str, Any] = {"caveat": caveat_text(caveat.cid)}
    if parse_predicate(caveat.cid) is None:
        described["problem"] = NOT_IN_GRAMMAR
    return described


def _discharge(macaroon: Macaroon, sent: Set[bytes], wanted: Set[bytes]) -> dict[str, Any]:
    described: dict[str, Any] = {
        "location": caveat_text(macaroon.location),
        "ticket": macaroon.identifier.hex(),
        "caveats": [_caveat(caveat, sent) for caveat in macaroon.caveats],
    }
    if macaroon.identifier not in wanted:
        described["problem"] = NOT_ASKED_FOR
    return described
