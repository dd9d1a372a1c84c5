"""What a watch and a feed have in common, without the network: stream after stream.

Guarantees: a stream that ends for a reason that may pass is opened again, elsewhere or after a
pause; a final refusal is raised. One that only ran out of its token's time is no failure.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Final, Generic, TypeVar

from petsem.errors import unavailable
from petsem_client.failures import Failure, Retry
from petsem_client.narrowing import Narrowed, Scope
from petsem_client.session import Session, Step
from petsem_client.shared import Shared
from petsem_client.tour import Patience

Told = TypeVar("Told")

_LIVED_S: Final = 10.0
"""A stream that stood this long was a good one: what ends it starts a new tour."""
_RENEW_BEFORE_S: Final = 30.0


class StreamSession(Session, Generic[Told]):
    """`start`; then `received` for each message, `failed` or `closed` when the stream ends."""

    def __init__(self, shared: Shared, scope: Scope, pause_max_s: float) -> None:
        self._opened_s = 0.0
        super().__init__(shared, scope, Patience(None, shared.attempt_timeout_s, pause_max_s))

    @abstractmethod
    def received(self, body: bytes) -> Told | Step | None:
        """A message: what to tell the caller, None for nothing new, or a step off this stream."""

    def failed(self, failure: Failure) -> Step:
        """The stream ended with an error; its own deadline is only the time to narrow again."""
        shared = self._shared
        now_s = shared.clock.boot_s()
        # Only time makes a stream good, not a message: a node that sends one and hangs up, over
        # and over, must not be asked without a pause.
        if now_s - self._opened_s >= _LIVED_S:
            if failure.tires and not failure.timed_out:
                shared.rotation.failed(self._asked, now_s)
            self._begin()
            if failure.timed_out:
                return self._next()
        return super().failed(failure)

    def closed(self) -> Step:
        """The node ended the stream in order: it is stopping, or sheds load."""
        return self.failed(Failure(unavailable("the node ended the stream"), Retry.LATER))

    def _opening(self, token: Narrowed) -> float:
        """A stream is opened now: how long it may stand."""
        self._opened_s = self._shared.clock.boot_s()
        # The stream is left just before its token ends, so that no node has to cut it off. One
        # that seems to be over already (our clock may be wrong) gets a first hearing.
        return max(token.ends_boot_s - self._opened_s - _RENEW_BEFORE_S, _RENEW_BEFORE_S)
