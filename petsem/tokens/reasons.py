"""Why a token was refused.

Guarantees: a `TokenRefused` holds a reason from a set that other programs know, a sentence that is
safe to show to whoever sent the token, and, where one caveat is to blame, its text if that can be
printed. It never holds a key, a signature or the token.
"""

from __future__ import annotations

import enum
import re

from petsem.errors import Code, Detail, PetsemError

_PRINTABLE = re.compile(rb"[\x20-\x7e]{1,2048}")
UNPRINTABLE_CAVEAT = "(a caveat that cannot be printed)"


class Reason(enum.StrEnum):
    """An open set to those who read it: one that they do not know is a denial too."""

    MALFORMED = "MALFORMED"
    TRUNCATED = "TRUNCATED"
    BAD_SIGNATURE = "BAD_SIGNATURE"
    UNKNOWN_KEY = "UNKNOWN_KEY"
    WRONG_CLUSTER = "WRONG_CLUSTER"
    WRONG_ORG = "WRONG_ORG"
    NOT_ISSUED = "NOT_ISSUED"
    REVOKED = "REVOKED"
    EXPIRED = "EXPIRED"
    NOT_YET_VALID = "NOT_YET_VALID"
    CAVEAT = "CAVEAT"
    DISCHARGE_MISSING = "DISCHARGE_MISSING"
    DISCHARGE_INVALID = "DISCHARGE_INVALID"
    NOT_KNOWN_YET = "NOT_KNOWN_YET"
    """In a batch alone: the node may be too far behind to know the token. Elsewhere that is an
    error, `stale`."""


MESSAGES = {
    Reason.MALFORMED: "this is not a token in Petsem's format; check what was pasted",
    Reason.TRUNCATED: "the token is cut short or mistyped; paste it again in full",
    Reason.BAD_SIGNATURE: "the token's signature is wrong: it was altered, or never minted "
    "here; ask for a new one",
    Reason.UNKNOWN_KEY: "the token's root key is not known here; ask for a new token",
    Reason.WRONG_CLUSTER: "the token belongs to another cluster; ask a node of that "
    "one, or get a token of this one",
    Reason.WRONG_ORG: "the token belongs to another org; use one of the org that is asked about",
    Reason.NOT_ISSUED: "the token was never issued; ask for a new one",
    Reason.REVOKED: "the token was revoked; ask for a new one",
    Reason.EXPIRED: "the token has expired; ask for a new one",
    Reason.NOT_YET_VALID: "the token is not valid yet; check the clock of whoever narrowed it",
    Reason.CAVEAT: "a caveat of the token does not allow this",
    Reason.DISCHARGE_MISSING: "the token needs a discharge that was not sent with it; get one with "
    "'petsem login ORG' or 'petsem token discharge', or for a host with 'petsem boot allow'",
    Reason.DISCHARGE_INVALID: "a discharge sent with the token does not belong to it; get one for "
    "this token with 'petsem login ORG' or 'petsem token discharge', and bind it to what is sent",
    Reason.NOT_KNOWN_YET: "the token may have been minted since this node last heard, and nobody "
    "who would know can be reached from here; ask another node, or later",
}

_DENIED = frozenset({Reason.REVOKED, Reason.WRONG_ORG, Reason.CAVEAT})


class TokenRefused(Exception):  # noqa: N818 - a refusal is an answer, not a fault
    """The token allows nothing, or not this. `caveat` is the predicate that failed, if one did."""

    def __init__(
        self, reason: Reason, message: str | None = None, caveat: str | None = None
    ) -> None:
        self.reason = reason
        self.message = MESSAGES[reason] if message is None else message
        self.caveat = caveat
        super().__init__(self.message)

    def as_error(self) -> PetsemError:
        """The same refusal as an error of the one family: `denied` or `unauthenticated`."""
        code = Code.DENIED if self.reason in _DENIED else Code.UNAUTHENTICATED
        return PetsemError(code, self.message, Detail(reason=self.reason.value, caveat=self.caveat))


def malformed(message: str) -> TokenRefused:
    """A refusal for bytes or text that are not a token."""
    return TokenRefused(Reason.MALFORMED, message)


def caveat_text(cid: bytes) -> str:
    """The caveat as people may see it: its text if that is printable ASCII."""
    return cid.decode("ascii") if _PRINTABLE.fullmatch(cid) else UNPRINTABLE_CAVEAT
