"""What people are told when a sign-in cannot go on.

Guarantees: nothing that a provider or a browser sent is in any of these sentences.
"""

from __future__ import annotations

from petsem.errors import Code, PetsemError, unavailable


def refused(why: str) -> PetsemError:
    """The person is not let in, or not on this evidence."""
    return PetsemError(Code.DENIED, f"{why}; sign in again, or ask whoever runs the org's sign-in")


def provider_failed() -> PetsemError:
    """The provider has no answer that can be used."""
    return unavailable(
        "the org's sign-in provider could not be reached, or did not answer as it should; try "
        "again, and if it goes on have an operator look at the org's sso",
        retry_after_s=5,
    )


def other_browser() -> PetsemError:
    """The browser is not the one that was sent on this trip."""
    return PetsemError(
        Code.DENIED,
        "this sign-in was not begun in this browser, or too long ago; if somebody sent you the "
        "link, close this page, else open the link that the terminal shows again",
    )


def no_ticket() -> PetsemError:
    """The ticket is of nobody here."""
    return PetsemError(Code.UNAUTHENTICATED, "that is no ticket of this cluster; begin again")
