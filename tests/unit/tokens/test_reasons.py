"""Refusals: complete, safe to show, and mapped to the one family of errors."""

from __future__ import annotations

import pytest

from petsem.errors import Code
from petsem.tokens.reasons import (
    MESSAGES,
    UNPRINTABLE_CAVEAT,
    Reason,
    TokenRefused,
    caveat_text,
)


def test_every_reason_has_a_message() -> None:
    """A reason without a sentence would answer with a KeyError."""
    assert set(MESSAGES) == set(Reason)


@pytest.mark.parametrize("reason", [each for each in Reason if each is not Reason.CAVEAT])
def test_every_message_says_what_to_do_next(reason: Reason) -> None:
    """After what happened, as every error does. What to do about a caveat only its text says."""
    happened, semicolon, next_step = MESSAGES[reason].partition("; ")
    assert semicolon, reason
    assert min(len(happened), len(next_step)) > 10
    assert "\n" not in next_step


def test_reasons_are_the_published_set() -> None:
    """Other programs compare these names."""
    assert " ".join(Reason) == (
        "MALFORMED TRUNCATED BAD_SIGNATURE UNKNOWN_KEY WRONG_CLUSTER WRONG_ORG NOT_ISSUED REVOKED "
        "EXPIRED NOT_YET_VALID CAVEAT DISCHARGE_MISSING DISCHARGE_INVALID NOT_KNOWN_YET"
    )


@pytest.mark.parametrize("reason", Reason)
def test_a_refusal_is_denied_only_for_three_reasons(reason: Reason) -> None:
    """REVOKED, WRONG_ORG and CAVEAT are `denied`; all others say who are you."""
    error = TokenRefused(reason, caveat="org = acme").as_error()
    denied = reason in (Reason.REVOKED, Reason.WRONG_ORG, Reason.CAVEAT)
    assert error.code is (Code.DENIED if denied else Code.UNAUTHENTICATED)
    assert (error.detail.reason, error.detail.caveat) == (reason.value, "org = acme")
    assert error.message == MESSAGES[reason]


def test_a_caveat_is_shown_if_it_can_be_printed() -> None:
    """Text that could move a terminal's cursor or forge a log line is not repeated."""
    assert caveat_text(b"org = acme") == "org = acme"
    for hostile in (b"", b"a\x1b[2J", b"a\nb", b"\xff", "é".encode(), b"x" * 2049):
        assert caveat_text(hostile) == UNPRINTABLE_CAVEAT
