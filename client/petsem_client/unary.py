"""What a fetch and an ask have in common, without the network: one call, at node after node.

Guarantees: ends with an answer, or with a `PetsemError`, within its deadline as long as whoever
performs the steps honours their timeouts. What counts as an answer, the subclass says.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Final, Generic, TypeVar

from petsem_client.narrowing import Narrowed, Scope
from petsem_client.session import Send, Session, Step
from petsem_client.shared import Shared, checked_timeout
from petsem_client.tour import Ask, Patience

Answer = TypeVar("Answer")

_PAUSE_MAX_S: Final = 2.0


class UnarySession(Session, Generic[Answer]):
    """`start`, then `answered` or `failed` after each Send and `resumed` after each Pause."""

    def __init__(
        self,
        shared: Shared,
        scope: Scope,
        body: bytes,
        timeout_s: float | None,
        *,
        may_wait: bool = False,
    ) -> None:
        self._body = body
        whole_s = shared.timeout_s if timeout_s is None else checked_timeout(timeout_s)
        patience = Patience(whole_s, shared.attempt_timeout_s, _PAUSE_MAX_S, may_wait)
        super().__init__(shared, scope, patience)

    @abstractmethod
    def answered(self, body: bytes) -> Answer | Step:
        """The last Send brought `body`: the answer, or the next step if it cannot be used."""

    def _request(self, ask: Ask, token: Narrowed) -> Send:
        return Send(ask.endpoint, self._body, token.text, ask.timeout_s)
