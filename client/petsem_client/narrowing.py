"""Narrowing: what is sent is never the token itself, only a copy for one use and a short time.

Guarantees: a reader's narrowed token allows `secrets:read` in one app, for one machine if that is
known; a verifier's allows `tokens:verify`, in one org unless it asks about all. It ends within its
life by the server's clock as far as this machine can know it, never after its parent. The token,
whole or narrowed, is in no `repr` and no error. Copies are kept in memory only, at most `KEPT_MAX`,
each for half its life.

Does not verify the token (only a node can) and does not believe a server's clock without bound: a
lying one moves ours by `OFFSET_MAX_MS` at most, so a copy made under it ends about 2 h later than
it should at worst.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from petsem.clock import Clock
from petsem.secretbytes import SecretBytes
from petsem.tokens.caveats import expiry_of, one_of, parse_predicate, time_before
from petsem.tokens.macaroon import attenuate, bind_discharge
from petsem.tokens.reasons import TokenRefused
from petsem.tokens.text import UnverifiedToken, encode_token, parse_token

FETCH_LIFE_S: Final = 60
WATCH_LIFE_S: Final = 3_600
OFFSET_MAX_MS: Final = 2 * 3_600 * 1_000
KEPT_MAX: Final = 1_024
_JUMP_MS: Final = 5_000
"""A correction of the clock by more than this voids the copies made before it."""


class ServerClock:
    """The nodes' time, learnt from their replies; this machine's own until the first one.

    Between replies it runs on boot time, so that setting the wall clock does not move it.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._at_ms = clock.unix_ms()
        self._at_boot_s = clock.boot_s()
        self.jumps = 0
        """How often a reply has moved this clock by more than a few seconds."""

    def now_ms(self) -> int:
        """The servers' time now, Unix milliseconds, as far as known."""
        return self._at_ms + round((self._clock.boot_s() - self._at_boot_s) * 1000)

    def learn(self, server_time_ms: int | None) -> None:
        """Take over the time of a reply that just came in; None or 0: it carried none."""
        if not server_time_ms:
            return
        before_ms = self.now_ms()
        wall_ms = self._clock.unix_ms()
        offset_ms = max(-OFFSET_MAX_MS, min(OFFSET_MAX_MS, server_time_ms - wall_ms))
        self._at_ms = wall_ms + offset_ms
        self._at_boot_s = self._clock.boot_s()
        if abs(self._at_ms - before_ms) > _JUMP_MS:
            self.jumps += 1

    def is_capped(self, server_time_ms: int) -> bool:
        """Whether that server's time is further from the wall clock than we follow it."""
        return abs(server_time_ms - self._clock.unix_ms()) > OFFSET_MAX_MS


@dataclass(frozen=True, slots=True)
class Scope:
    """What a narrowed token is good for; what is None is not limited."""

    org: str | None
    app: str | None
    machine: str | None
    life_s: int = FETCH_LIFE_S
    action: str = "secrets:read"


@dataclass(frozen=True, slots=True)
class Narrowed:
    """A token narrowed to one scope. Times are boot time, `ends` by the server's clock."""

    text: SecretBytes
    ends_boot_s: float
    stale_boot_s: float
    jumps: int


class Narrower:
    """Holds the token of a reader and makes the copies that travel."""

    def __init__(self, token: str, clock: Clock, server_clock: ServerClock) -> None:
        self._clock = clock
        self._server_clock = server_clock
        parsed = _parsed(token)
        self._root = parsed.root
        self._discharges = parsed.discharges
        cids = [
            caveat.cid
            for part in (parsed.root, *parsed.discharges)
            for caveat in part.caveats
            if caveat.vid is None
        ]
        self._own = frozenset(c.cid for c in parsed.root.caveats if c.vid is None)
        end_s = expiry_of(p for p in map(parse_predicate, cids) if p is not None)
        self.ends_ms = None if end_s is None else end_s * 1000
        """When the parent ends, Unix milliseconds; None if its caveats name no end."""
        self._kept: OrderedDict[Scope, Narrowed] = OrderedDict()

    def narrow(self, scope: Scope) -> Narrowed:
        """The token for `scope`: a kept copy up to half its life, then a new one."""
        kept = self._kept.get(scope)
        if (
            kept is not None
            and kept.stale_boot_s > self._clock.boot_s()
            and kept.jumps == self._server_clock.jumps
        ):
            self._kept.move_to_end(scope)
            return kept
        made = self._make(scope)
        self._kept[scope] = made
        self._kept.move_to_end(scope)
        if len(self._kept) > KEPT_MAX:
            self._kept.popitem(last=False)
        return made

    def forget(self, scope: Scope) -> None:
        """Make a new copy next time, whatever is left of this one's life."""
        self._kept.pop(scope, None)

    def _make(self, scope: Scope) -> Narrowed:
        now_ms = self._server_clock.now_ms()
        end_ms = now_ms + scope.life_s * 1000
        if self.ends_ms is not None:
            end_ms = min(end_ms, self.ends_ms)
        names = (("org", scope.org), ("app", scope.app), ("machine", scope.machine))
        wanted = [one_of(key, name) for key, name in names if name is not None]
        wanted += [one_of("action", scope.action), time_before(end_ms)]
        # What the parent says already, word for word, costs every node time and says nothing new.
        root = attenuate(self._root, [w for w in wanted if w.encode("ascii") not in self._own])
        discharges = [bind_discharge(root, discharge) for discharge in self._discharges]
        left_s = (end_ms // 1000 * 1000 - now_ms) / 1000
        boot_s = self._clock.boot_s()
        return Narrowed(
            SecretBytes(encode_token(root, discharges).encode("ascii")),
            ends_boot_s=boot_s + left_s,
            stale_boot_s=boot_s + left_s / 2,
            jumps=self._server_clock.jumps,
        )


def _parsed(token: str) -> UnverifiedToken:
    try:
        return parse_token(token)
    except TokenRefused as refused:
        raise refused.as_error() from None
