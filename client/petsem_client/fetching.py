"""One fetch, without the network.

Guarantees: ends with a `Bundle` that answers what was asked, or with a `PetsemError`, within its
deadline as long as the reader honours the steps' timeouts.
"""

from __future__ import annotations

from petsem_client.bundle import Bundle
from petsem_client.failures import Failure, Retry
from petsem_client.replies import BrokenReply, parse_fetched, unmet_fence
from petsem_client.requests import Fetch
from petsem_client.session import Step
from petsem_client.shared import Shared
from petsem_client.unary import UnarySession


class FetchSession(UnarySession[Bundle]):
    """The call that brings an app's secrets."""

    def __init__(self, shared: Shared, wanted: Fetch, timeout_s: float | None) -> None:
        self._wanted = wanted
        body = wanted.encode()
        super().__init__(shared, wanted.scope, body, timeout_s, may_wait=wanted.may_wait)

    def answered(self, body: bytes) -> Bundle | Step:
        """The bundle, or the next step if it cannot be used."""
        try:
            bundle = parse_fetched(self._wanted, body)
        except BrokenReply as broken:
            return self._broke(broken)
        self._shared.server_clock.learn(bundle.freshness.server_time_ms)
        self._shared.rotation.worked(self._asked)
        behind = unmet_fence(self._wanted, bundle)
        return bundle if behind is None else self.failed(Failure(behind, Retry.LATER))
