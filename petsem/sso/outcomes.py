"""How sign-ins go, in numbers, for whoever watches the node.

Guarantees: what is counted by are words of two closed sets; nothing of a person, an org, an address
or a provider is kept. It counts since the node was started, and decides nothing.
"""

from __future__ import annotations

import contextlib
import enum
from collections import Counter
from collections.abc import Iterator
from typing import Final

from petsem.errors import Code, PetsemError


class Step(enum.StrEnum):
    """How far a sign-in came."""

    STARTED = "started"
    """A command line was told where its person has to go."""
    CONFIRMED = "confirmed"
    """The code of the terminal was typed in; there is none where the browser is on its machine."""
    SIGNED_IN = "signed_in"
    """The provider says who it is, and the org lets him in."""
    REFUSED = "refused"
    """The person does not want it, and has said so on the page or at the provider."""


class Failure(enum.StrEnum):
    """Why a step was not taken. One sign-in may fail several times, and succeed then."""

    CODE = "code"
    """Another code than the terminal shows."""
    BROWSER = "browser"
    """Another browser than the one that was given the cookie."""
    NOT_ALLOWED = "not_allowed"
    """Somebody whom the org does not let in, by his domain or his groups."""
    NOT_CONFIRMED = "not_confirmed"
    """What the provider answered is no evidence, or it answered with an error."""
    PROVIDER = "provider"
    """The provider could not be asked, or had no answer for now."""
    LIMIT = "limit"
    OVER = "over"
    """Later than ten minutes after the beginning, or once more than once."""
    OTHER = "other"
    """What no browser sends that was here before, for the most part."""


_BY_CODE: Final = {
    Code.LIMIT: Failure.LIMIT,
    Code.UNAVAILABLE: Failure.PROVIDER,
    Code.NOT_FOUND: Failure.OVER,
    Code.CONFLICT: Failure.OVER,
}


class NotSignedIn(PetsemError):  # noqa: N818 - an answer, not a fault
    """The person is not let in, or not on this evidence; `why` is None if he does not want to."""

    def __init__(self, why: Failure | None, message: str) -> None:
        super().__init__(Code.DENIED, message)
        self.why = why


class Outcomes:
    """The numbers."""

    def __init__(self) -> None:
        self.steps: Counter[Step] = Counter()
        self.failures: Counter[Failure] = Counter()

    @contextlib.contextmanager
    def judging(self) -> Iterator[None]:
        """Counts the failure that ends what is done meanwhile, if one does."""
        try:
            yield
        except NotSignedIn as error:
            if error.why is not None:
                self.failures[error.why] += 1
            raise
        except PetsemError as error:
            self.failures[_BY_CODE.get(error.code, Failure.OTHER)] += 1
            raise
