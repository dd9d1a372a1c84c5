"""How long a token of each kind may live, and which kinds may be asked for."""

from __future__ import annotations

from typing import Final

from petsem.errors import invalid
from petsem.model import Kind

_HOUR_S: Final = 3600
_DAY_S: Final = 24 * _HOUR_S

LIFE_MAX_S: Final = {
    Kind.OPERATOR: 30 * _DAY_S,
    Kind.ORG: 90 * _DAY_S,
    Kind.DEPLOY: 90 * _DAY_S,
    Kind.READ_ONLY: 90 * _DAY_S,
    Kind.HOST: 90 * _DAY_S,
    Kind.SERVICE: _DAY_S,
    Kind.PERSON: 12 * _HOUR_S,
}
"""The longest life of a token of each kind, whatever its parent's. No token lives for ever."""


def kind_for(asked: str | None, org: str | None) -> Kind:
    """The kind that a mint makes: what was asked for, or the natural one of the signing key."""
    if asked is None:
        return Kind.OPERATOR if org is None else Kind.ORG
    kind = Kind.from_text(asked)
    if kind is Kind.PERSON:
        raise invalid("a person's token comes from signing in (petsem login ORG), not from minting")
    if (kind is Kind.OPERATOR) != (org is None):
        raise invalid("an operator token has no org, and every other kind has one")
    return kind
