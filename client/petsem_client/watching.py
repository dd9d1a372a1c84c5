"""One watch, without the network: stream after stream until the caller stops.

Guarantees: versions only rise; a stream that ends for a reason that may pass is opened again,
elsewhere or after a pause; a final refusal (the app is gone, the token ended) is raised. It does
not promise every version: several changes while no stream stood are told as the last of them.
"""

from __future__ import annotations

from typing import Final

from petsem_client.narrowing import Narrowed
from petsem_client.replies import AppChanged, BrokenReply, parse_changed
from petsem_client.requests import Watch
from petsem_client.session import Send, Step
from petsem_client.shared import Shared
from petsem_client.streaming import StreamSession
from petsem_client.tour import Ask

_PAUSE_MAX_S: Final = 15.0


class WatchSession(StreamSession[AppChanged]):
    """`start`; then `received` for each message, `failed` or `closed` when the stream ends."""

    def __init__(self, shared: Shared, wanted: Watch) -> None:
        self._wanted = wanted
        self._seen = wanted.after_version
        super().__init__(shared, wanted.scope, _PAUSE_MAX_S)

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

    def _request(self, ask: Ask, token: Narrowed) -> Send:
        left_s = self._opening(token)
        return Send(ask.endpoint, self._wanted.encode(self._seen), token.text, left_s)
