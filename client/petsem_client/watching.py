"""One watch, without the network: stream after stream until the caller stops.

Guarantees: versions only rise; a stream that ends for a reason that may pass is opened again,
elsewhere or after a pause; a final refusal (the app is gone, the token ended) is raised. It does
not promise every version: several changes while no stream stood are told as the last of them.
"""

from __future__ import annotations

from typing import Final

from petsem.errors import unavailable
from petsem_client.failures import Failure, Retry
from petsem_client.narrowing import Narrowed
from petsem_client.replies import AppChanged, BrokenReply, parse_changed
from petsem_client.requests import Watch
from petsem_client.session import Send, Session, Step
from petsem_client.shared import Shared
from petsem_client.tour import Ask, Patience

_PAUSE_MAX_S: Final = 15.0
_LIVED_S: Final = 10.0
"""A stream that stood this long was a good one: what ends it starts a new tour."""
_RENEW_BEFORE_S: Final = 30.0


class WatchSession(Session):
    """`start`; then `received` for each message, `failed` or `closed` when the stream ends."""

    def __init__(self, shared: Shared, wanted: Watch) -> None:
        self._wanted = wanted
        self._seen = wanted.after_version
        self._opened_s = 0.0
        super().__init__(
            shared, wanted.scope, Patience(None, shared.attempt_timeout_s, _PAUSE_MAX_S)
        )

    def received(self, body: bytes) -> AppChanged | Step | None:
        """A message: what to tell the caller, None for nothing new, or a step off this stream."""
        try:
            changed = parse_changed(body)
        except BrokenReply as broken:
            return self._broke(broken)
        self._shared.server_clock.learn(changed.freshness.server_time_ms)
        self._shared.rotation.worked(self._asked)
        if changed.version <= self._seen:
            return None
        self._seen = changed.version
        return changed

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

    def _request(self, ask: Ask, token: Narrowed) -> Send:
        self._opened_s = self._shared.clock.boot_s()
        # The stream is left just before its token ends, so that no node has to cut it off. One
        # that seems to be over already (our clock may be wrong) gets a first hearing.
        left_s = token.ends_boot_s - self._opened_s - _RENEW_BEFORE_S
        body = self._wanted.encode(self._seen)
        return Send(ask.endpoint, body, token.text, max(left_s, _RENEW_BEFORE_S))
