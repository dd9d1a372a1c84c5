"""One fetch, without the network.

Guarantees: ends with a `Bundle` that answers what was asked, or with a `PetsemError`, within its
deadline as long as the reader honours the steps' timeouts.
"""

from __future__ import annotations

from typing import Final

from petsem_client.bundle import Bundle
from petsem_client.failures import Failure, Retry
from petsem_client.narrowing import Narrowed
from petsem_client.replies import BrokenReply, parse_fetched, unmet_fence
from petsem_client.requests import Fetch
from petsem_client.session import Send, Session, Step
from petsem_client.shared import Shared, checked_timeout
from petsem_client.tour import Ask, Patience

_PAUSE_MAX_S: Final = 2.0


class FetchSession(Session):
    """`start`, then `answered` or `failed` after each Send and `resumed` after each Pause."""

    def __init__(self, shared: Shared, wanted: Fetch, timeout_s: float | None) -> None:
        self._wanted = wanted
        self._body = wanted.encode()
        whole_s = shared.timeout_s if timeout_s is None else checked_timeout(timeout_s)
        patience = Patience(whole_s, shared.attempt_timeout_s, _PAUSE_MAX_S, wanted.may_wait)
        super().__init__(shared, wanted.scope, patience)

    def answered(self, body: bytes) -> Bundle | Step:
        """The last Send brought `body`: the bundle, or the next step if it cannot be used."""
        try:
            bundle = parse_fetched(self._wanted, body)
        except BrokenReply as broken:
            return self._broke(broken)
        self._shared.server_clock.learn(bundle.freshness.server_time_ms)
        self._shared.rotation.worked(self._asked)
        behind = unmet_fence(self._wanted, bundle)
        return bundle if behind is None else self.failed(Failure(behind, Retry.LATER))

    def _request(self, ask: Ask, token: Narrowed) -> Send:
        return Send(ask.endpoint, self._body, token.text, ask.timeout_s)
