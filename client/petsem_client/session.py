"""What a fetch and a watch have in common, without the network: failures in, steps out.

Guarantees: the client's whole policy on failures is here, for both readers alike. A reader only
performs `Send` and `Pause` and reports back. Nothing blocks or reads a clock but the one given.

Failing over: `unavailable`, `limit` and `stale` may be better elsewhere or later; `corrupt`,
`internal` and a broken protocol only elsewhere; every other answer is final. When nothing helped,
the error that says most is raised: a node that is damaged before one that is behind, that before
an overloaded one, and that nobody answered last; of the same kind, the first.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Final

from petsem.clock import rfc3339
from petsem.errors import Code, Detail, PetsemError, unavailable
from petsem.secretbytes import SecretBytes
from petsem.tokens.reasons import Reason
from petsem_client.endpoints import Endpoint
from petsem_client.failures import Failure, Retry
from petsem_client.narrowing import Narrowed, Scope
from petsem_client.replies import BrokenReply
from petsem_client.shared import Shared
from petsem_client.tour import Ask, Patience, Pause, Tour

_TOLD_MAX: Final = 3
"""How many nodes' troubles are told in one message."""
_RANK: Final = (
    Code.CORRUPT,
    Code.INTERNAL,
    Code.STALE,
    Code.LIMIT,
    Code.UNAVAILABLE,
    Code.INDETERMINATE,
)

_log = logging.getLogger("petsem_client")


@dataclass(frozen=True, slots=True)
class Send:
    """Send `body` to `endpoint` with `token`; give up after `timeout_s`."""

    endpoint: Endpoint
    body: bytes
    token: SecretBytes
    timeout_s: float


Step = Send | Pause


class Session(ABC):
    """One call: its tour of the nodes, its token, and what failed so far."""

    def __init__(self, shared: Shared, scope: Scope, patience: Patience) -> None:
        self._shared = shared
        self._scope = scope
        self._patience = patience
        self._endpoint: Endpoint | None = None
        self._begin()

    def start(self) -> Step:
        """The first step."""
        return self._next()

    def resumed(self) -> Step:
        """The pause is over."""
        return self._next()

    def failed(self, failure: Failure) -> Step:
        """The last Send brought no answer: the next step. Raises what is final."""
        shared, error = self._shared, failure.error
        shared.server_clock.learn(failure.server_time_ms)
        if failure.tires:
            shared.rotation.failed(self._asked, shared.clock.boot_s())
        else:
            shared.rotation.worked(self._asked)
        if error.detail.reason == Reason.EXPIRED:
            return self._expired(failure)
        if failure.retry is Retry.NO:
            raise error
        if failure.retry is Retry.ELSEWHERE:
            self._tour.give_up_on(self._asked)
        _log.info("%s: %s; asking on", self._asked, error.code.value)
        self._failures.setdefault(self._asked, error)
        return self._next()

    @abstractmethod
    def _request(self, ask: Ask, token: Narrowed) -> Send:
        """What to send to the node asked."""

    def _begin(self) -> None:
        """Start a tour as if nothing had failed."""
        shared = self._shared
        self._tour = Tour(shared.rotation, self._patience, shared.jitter, shared.clock.boot_s())
        self._failures: dict[Endpoint, PetsemError] = {}
        self._renarrowed: set[Endpoint] = set()

    @property
    def _asked(self) -> Endpoint:
        """The node that the last Send was for."""
        assert self._endpoint is not None, "events come after a Send"
        return self._endpoint

    def _next(self) -> Step:
        step = self._tour.next(self._shared.clock.boot_s())
        if step is None:
            raise self._outcome()
        return step if isinstance(step, Pause) else self._ask(step)

    def _ask(self, ask: Ask) -> Send:
        self._endpoint = ask.endpoint
        return self._request(ask, self._shared.narrower.narrow(self._scope))

    def _broke(self, broken: BrokenReply) -> Step:
        error = unavailable(f"the node broke the protocol: it sent {broken}")
        return Session.failed(self, Failure(error, Retry.ELSEWHERE))

    def _expired(self, failure: Failure) -> Step:
        """Narrow once more for this node, by the time it told, unless the parent is over."""
        shared, told_ms = self._shared, failure.server_time_ms
        shared.narrower.forget(self._scope)
        ends_ms = shared.narrower.ends_ms
        if told_ms is None:
            raise failure.error
        far_off = shared.server_clock.is_capped(told_ms)
        if ends_ms is not None and told_ms >= ends_ms and not far_off:
            raise _expired(f"the token ended at {rfc3339(ends_ms)}; ask for a new one")
        ask = self._tour.again(self._asked, shared.clock.boot_s())
        if ask is not None and self._asked not in self._renarrowed:
            self._renarrowed.add(self._asked)
            return self._ask(ask)
        if far_off:
            raise _expired(
                "this machine's clock and the node's are more than 2 hours apart, so the token "
                "cannot be narrowed for it; set the clock, then try again"
            )
        raise failure.error

    def _outcome(self) -> PetsemError:
        """The error of a call that ran out of nodes or time."""
        worst = min(self._failures.values(), key=lambda e: _RANK.index(e.code), default=None)
        if worst is not None and worst.code not in (Code.UNAVAILABLE, Code.INDETERMINATE):
            return worst
        told = [f"{endpoint}: {error.message}" for endpoint, error in self._failures.items()]
        if len(told) > _TOLD_MAX:
            told[_TOLD_MAX:] = [f"{len(told) - _TOLD_MAX} more"]
        why = "; ".join(told) or "no time to ask one"
        return unavailable(f"no node could answer; check the addresses and the nodes ({why})")


def _expired(message: str) -> PetsemError:
    return PetsemError(Code.UNAUTHENTICATED, message, Detail(reason=Reason.EXPIRED.value))
