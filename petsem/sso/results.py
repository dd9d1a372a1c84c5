"""Sign-ins that somebody has completed, until whoever began them fetches the result.

Guarantees: a result is given out once and erased; its flow is remembered until it is over, so that
nothing of it can be used again; how many are held, in all and of one org, is bounded, and so are
the codes that may be tried for one flow. All of it is in memory: a restart ends what was under way.
"""

from __future__ import annotations

import hmac
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from petsem.clock import Clock
from petsem.errors import Code, Detail, PetsemError, conflict, limited, not_found
from petsem.sso.flow import LIFE_MS, Flow

ALL_MAX: Final = 10_000
OF_ORG_MAX: Final = 1_000
CODES_MAX: Final = 5
_SWEEP_MS: Final = 1_000


@dataclass(frozen=True, slots=True)
class Result:
    """Who signed in. `release` is what the requester's own loopback listener was told."""

    email: str
    session: str | None = field(repr=False)
    release: bytes | None = field(repr=False)


@dataclass(slots=True)
class SignIn:
    """What is known of one flow."""

    org: bytes
    until_ms: int
    codes: int = 0
    asking: bool = False
    result: Result | None = None
    failure: str | None = None
    collected: bool = False


class SignIns:
    """All that are under way, by the flow's id."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._all: dict[bytes, SignIn] = {}
        self._of_org: Counter[bytes] = Counter()
        self._swept_ms = 0

    def begin(self, org: bytes, flow: Flow) -> SignIn:
        """The provider is being asked; `conflict` if it was already."""
        sign_in = self._hold(org, flow)
        _refuse_done(sign_in)
        sign_in.asking = True
        return sign_in

    def fail(self, org: bytes, flow: Flow, why: str) -> None:
        """There will be no result, and whoever waits for it is told `why`; `conflict` if there is
        one already."""
        sign_in = self._hold(org, flow)
        _refuse_done(sign_in)
        sign_in.failure = why

    def count_code(self, org: bytes, flow: Flow) -> None:
        """One more code is tried; `limit` once there were too many."""
        sign_in = self._hold(org, flow)
        if sign_in.codes >= CODES_MAX:
            raise limited(
                "too many wrong codes; begin the sign-in again in the terminal", retry_after_s=600
            )
        sign_in.codes += 1

    def refuse_done(self, flow: Flow) -> None:
        """`conflict` if somebody has signed in for the flow already."""
        sign_in = self._all.get(flow.id)
        if sign_in is not None:
            _refuse_done(sign_in)

    def ready(self, flow: Flow) -> bool:
        """Whether the result can be fetched with the secret alone; `not_found` once it was."""
        sign_in = self._live(flow)
        if sign_in is None:
            return False
        if sign_in.failure is not None:
            return True
        return sign_in.result is not None and sign_in.result.release is None

    def collect(self, flow: Flow, release: bytes | None) -> Result | None:
        """The result, once; None as long as there is none for who asks. The secret was checked."""
        sign_in = self._live(flow)
        if sign_in is None:
            return None
        if sign_in.failure is not None:
            sign_in.collected = True
            raise PetsemError(Code.DENIED, sign_in.failure, Detail())
        result = sign_in.result
        if result is None:
            return None
        if result.release is not None:
            if release is None:
                return None
            if not hmac.compare_digest(result.release, release):
                raise PetsemError(
                    Code.DENIED, "release is not what this sign-in sent to the terminal's port"
                )
        sign_in.result = None
        sign_in.collected = True
        return result

    def _live(self, flow: Flow) -> SignIn | None:
        sign_in = self._all.get(flow.id)
        if sign_in is not None and sign_in.collected:
            raise not_found("the result of this sign-in was fetched already; begin a new one")
        return sign_in

    def _hold(self, org: bytes, flow: Flow) -> SignIn:
        found = self._all.get(flow.id)
        if found is not None:
            return found
        self._sweep()
        if len(self._all) >= ALL_MAX or self._of_org[org] >= OF_ORG_MAX:
            raise limited("too many sign-ins are under way; try again in a minute")
        self._of_org[org] += 1
        sign_in = self._all[flow.id] = SignIn(org, flow.begun_ms + LIFE_MS)
        return sign_in

    def _sweep(self) -> None:
        """Forget flows that are over. Not at each call: there may be thousands."""
        now_ms = self._clock.unix_ms()
        if abs(now_ms - self._swept_ms) < _SWEEP_MS:
            return
        self._swept_ms = now_ms
        for flow_id in [each for each, s in self._all.items() if s.until_ms <= now_ms]:
            org = self._all.pop(flow_id).org
            self._of_org[org] -= 1
            if not self._of_org[org]:
                del self._of_org[org]


def _refuse_done(sign_in: SignIn) -> None:
    if sign_in.asking:
        raise conflict("this sign-in is being completed already; go back to the terminal")
    if sign_in.failure is not None:
        raise conflict("this sign-in has failed already; go back to the terminal, and begin anew")
    if sign_in.collected or sign_in.result is not None:
        raise conflict("this sign-in is complete already; go back to the terminal")
