"""What people are told when a sign-in cannot go on.

Guarantees: nothing that a provider or a browser sent is in any of these sentences.
"""

from __future__ import annotations

from petsem.errors import Code, PetsemError, unavailable
from petsem.sso.outcomes import Failure, NotSignedIn


def refused(why: str, failure: Failure | None = Failure.NOT_CONFIRMED) -> NotSignedIn:
    """The person is not let in, or not on this evidence."""
    return NotSignedIn(failure, f"{why}; sign in again, or ask whoever runs the org's sign-in")


def said_no() -> NotSignedIn:
    """The person does not want it."""
    return NotSignedIn(
        None, "the sign-in was refused on its page; begin it again if that was a mistake"
    )


def wrong_code() -> PetsemError:
    """What was typed is not what the terminal shows."""
    return NotSignedIn(
        Failure.CODE, "that is not the code that the terminal shows; go back and type it"
    )


def provider_failed() -> PetsemError:
    """The provider has no answer that can be used."""
    return unavailable(
        "the org's sign-in provider could not be reached, or did not answer as it should; try "
        "again, and if it goes on have an operator look at the org's sso",
        retry_after_s=5,
    )


def other_browser() -> PetsemError:
    """The browser is not the one that was sent on this trip."""
    return NotSignedIn(
        Failure.BROWSER,
        "this sign-in was not begun in this browser, or too long ago; if somebody sent you the "
        "link, close this page, else open the link that the terminal shows again",
    )


def no_ticket() -> PetsemError:
    """The ticket is of nobody here."""
    return PetsemError(Code.UNAUTHENTICATED, "that is no ticket of this cluster; begin again")
