"""What both verifiers have in common, without the network: which answers are kept, and what they
answer.

Guarantees: an answer is given from memory only while the feed of revocations is known to be no
older than `feed_timeout_s` (and than the caller takes); beyond that everything kept is dropped.
Only what a node allowed is kept, and what it refused whatever the access for 2 s. It never allows
what a node would deny that has heard what the feed has said, also where a node allows it that has
not: signatures follow from verified ones, caveats and authority are held against each access anew,
by the node's own code.

What is not in the feed, the deletion of an org, is noticed when a token is asked about again, after
`ASK_AGAIN_S` at the latest. Not locked: whoever has several threads brings a lock.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from petsem.errors import Code, Detail, PetsemError, invalid
from petsem.limits import GRPC_MESSAGE_MAX_BYTES, TOKEN_MAX_BYTES, VERIFY_BATCH_MAX
from petsem.model import Kind, check_org
from petsem.tokens.authority import check_access, clear_access
from petsem.tokens.caveats import expiry_of
from petsem.tokens.grammar import parse_predicate
from petsem.tokens.identifier import Identifier
from petsem.tokens.reasons import Reason, TokenRefused
from petsem.tokens.text import parse_token
from petsem_client.feed import Feed, News
from petsem_client.heard_revocations import HeardRevocations
from petsem_client.known_tokens import KnownToken, known_token
from petsem_client.shared import Shared
from petsem_client.verdicts import Answer, Question, Verdict, VerdictSource
from petsem_client.verified_cache import ENTRY_BASE_BYTES, VerifiedCache

FEED_TIMEOUT_S: Final = 30.0
FEED_TIMEOUT_MAX_S: Final = 600.0
CACHE_MAX_BYTES: Final = 64 * 1024 * 1024
ASK_AGAIN_S: Final = 60.0
FEED_RETRY_S: Final = 5.0
"""After a refusal of its own token, how soon a verifier asks for the feed once more."""
_ORGS_MAX: Final = 64
_BATCH_MAX_BYTES: Final = GRPC_MESSAGE_MAX_BYTES * 3 // 4
_STALENESS_MAX_S: Final = 2**32 - 1

_WHATEVER_THE_ACCESS: Final = frozenset(
    {
        Reason.MALFORMED,
        Reason.TRUNCATED,
        Reason.BAD_SIGNATURE,
        Reason.UNKNOWN_KEY,
        Reason.WRONG_CLUSTER,
        Reason.NOT_ISSUED,
        Reason.REVOKED,
        Reason.DISCHARGE_MISSING,
        Reason.DISCHARGE_INVALID,
    }
)

_log = logging.getLogger("petsem_client")


class VerifierStats(NamedTuple):
    """Counters since the start. `hits`: answered by the same text; `child_hits`: by a token that
    this one was narrowed from; `negative_hits`: a refusal repeated, or text that is no token;
    `misses`: a node was asked. `evicted`: forgotten because revoked; `dropped`: because the feed
    was cut, or lost its place."""

    hits: int
    child_hits: int
    negative_hits: int
    misses: int
    evicted: int
    dropped: int


class Verifying:
    """The state of one verifier."""

    def __init__(
        self, shared: Shared, *, org: str | None, feed_timeout_s: float, cache_max_bytes: int
    ) -> None:
        if not (math.isfinite(feed_timeout_s) and 0 < feed_timeout_s <= FEED_TIMEOUT_MAX_S):
            raise invalid(f"feed_timeout_s is more than 0 and at most {FEED_TIMEOUT_MAX_S:.0f}")
        if cache_max_bytes < 0:
            raise invalid("cache_max_bytes is 0 or more")
        self.org = None if org is None else check_org(org)
        self.feed = Feed()
        self.feed_timeout_s = feed_timeout_s
        self._shared = shared
        self._clock = shared.clock
        self._server_clock = shared.server_clock
        self._cache = VerifiedCache(cache_max_bytes)
        self._revoked = HeardRevocations()
        self._heard_s = self._retry_s = float("-inf")
        self._clocks_apart = False
        self._hits = self._child_hits = self._negative_hits = self._misses = 0
        self._evicted = self._dropped = 0

    def stats(self) -> VerifierStats:
        """The counters now."""
        return VerifierStats(
            self._hits,
            self._child_hits,
            self._negative_hits,
            self._misses,
            self._evicted,
            self._dropped,
        )

    def __len__(self) -> int:
        return len(self._cache)

    # Answering

    def check(self, access: Mapping[str, str], max_staleness_s: int | None) -> None:
        """Refuse a question that no node could answer either."""
        check_access(access, (self.org,))
        if self.org is not None and access["org"] != self.org:
            raise invalid(f"this verifier is for the org {self.org} only; make one for that org")
        if max_staleness_s is not None and not 0 <= max_staleness_s <= _STALENESS_MAX_S:
            raise invalid("max_staleness_s is a number of seconds, 0 or more")

    def ask(
        self, text: str, access: Mapping[str, str], max_staleness_s: int | None
    ) -> Verdict | Question:
        """The verdict, if it can be given here; else what to ask a node."""
        self.check(access, max_staleness_s)
        now_s = self._clock.boot_s()
        key = self._cache.key(text) if len(text) <= TOKEN_MAX_BYTES else b""
        if self._is_live(now_s, max_staleness_s):
            verdict = self._from_memory(key, text, access, now_s)
            if verdict is not None:
                return verdict
        try:
            token = parse_token(text)
            identifier = Identifier.parse(token.root.identifier)
        except TokenRefused as refused:
            self._negative_hits += 1
            return _refusal(refused)
        self._misses += 1
        return Question(text, dict(access), max_staleness_s, key, token, identifier)

    def _from_memory(
        self, key: bytes, text: str, access: Mapping[str, str], now_s: float
    ) -> Verdict | None:
        cache = self._cache
        entry = cache.get(key)
        if entry is None:
            refused = cache.refused(key, now_s)
            if refused is not None:
                self._negative_hits += 1
                return Verdict(
                    False,
                    VerdictSource.CACHE,
                    reason=refused.reason,
                    message=refused.message,
                )
            found = cache.parent(text)
            if found is None:
                return None
            entry, caveats, added = found
        else:
            caveats, added = entry.known.caveats, None
        now_ms = self._server_clock.now_ms()
        if now_ms >= entry.known.ends_ms:
            # Whether its row or a caveat ended it, the node says.
            cache.remove(entry.key)
            return None
        if now_s - cache.confirmed_s(entry) >= ASK_AGAIN_S:
            return None
        verdict = _decide(entry, caveats, access, now_ms, added or ())
        if verdict is None:
            return None
        if added is None:
            self._hits += 1
        else:
            self._child_hits += 1
        return verdict

    def learned(self, question: Question, answer: Answer) -> Verdict:
        """The verdict that a node has given, kept if it may be; but a refusal where the feed has
        told more than the node knew. Raises `stale` where that cannot be said any more."""
        told_ms, at = answer.freshness.server_time_ms, answer.freshness.position
        self._learn_time(told_ms)
        now_s = self._clock.boot_s()
        verdict = answer.verdict
        if verdict.allowed and question.identifier.nonce in self._revoked:
            return _refusal(TokenRefused(Reason.REVOKED))
        if verdict.allowed and self._revoked.may_be_unknown_at(at):
            raise PetsemError(
                Code.STALE,
                "the node lacks revocations that were heard of here; ask another node, or later",
                Detail(have=at),
            )
        if not self._is_live(now_s, None):
            return verdict
        if not verdict.allowed:
            if verdict.reason in _WHATEVER_THE_ACCESS and self.feed.is_reached_by(at):
                self._cache.refuse(question.key, verdict.reason, verdict.message, now_s)
            return verdict
        kind = question.identifier.kind
        # An org's feed tells nothing of the cluster key's tokens.
        if not self.feed.covers(at) or (self.org is not None and kind is Kind.OPERATOR):
            return verdict
        entry = known_token(
            question.token,
            question.identifier,
            key=question.key,
            subject=verdict.subject,
            org=verdict.org,
            ends_ms=verdict.expires_at_ms,
            signatures=answer.signatures,
            size=ENTRY_BASE_BYTES + 2 * len(question.text),
        )
        if entry is not None:
            before = self._cache.get(question.key)
            if before is not None and len(before.orgs) < _ORGS_MAX:
                entry.orgs |= before.orgs
            self._cache.add(entry, now_s)
        return verdict

    # The feed

    def take(self, news: News) -> None:
        """One message of the feed; raises BrokenReply if it cannot be one."""
        now_s = self._clock.boot_s()
        before = self.feed.position
        self._heard_s = now_s
        if not self.feed.heard(news, now_s):
            self._drop()
        told_ms = news.freshness.server_time_ms
        # One that was held back on its way must not turn the time back, and tokens live longer.
        if told_ms == 0 or told_ms > self._server_clock.now_ms():
            self._learn_time(told_ms)
        if news.nonce is not None:
            self._evicted += self._cache.evict(news.nonce)
            self._revoked.hear(news.nonce, self.feed.told_through)
        if news.nonce is not None or news.position != before:
            self._cache.forget_refusals()

    def lost(self) -> None:
        """The feed has a gap, or is refused: nothing that is kept can be trusted."""
        self.feed.lost()
        self._drop()

    def refused(self, error: PetsemError) -> None:
        """The feed ended for good, as when the verifier's own token did."""
        _log.warning("no feed of revocations: %s; nodes are asked about each token", error.code)
        self._retry_s = self._clock.boot_s() + FEED_RETRY_S
        self.lost()

    def may_follow(self) -> bool:
        """Whether it is time to ask for the feed (again)."""
        return self._clock.boot_s() >= self._retry_s

    def is_silent(self) -> bool:
        """Whether the open stream has said nothing for so long that another is better."""
        return self._clock.boot_s() - self._heard_s > self.feed_timeout_s

    def opened(self) -> None:
        """A stream is asked for, to go on where the last one ended."""
        self._heard_s = self._clock.boot_s()
        self.feed.opened(self._heard_s)

    @property
    def is_live(self) -> bool:
        """Whether answers can be given from memory now."""
        return self._is_live(self._clock.boot_s(), None)

    def _is_live(self, now_s: float, max_staleness_s: int | None) -> bool:
        known_s = self.feed.known_until_s
        if known_s is None or self._clocks_apart:
            return False
        age_s = now_s - known_s
        if age_s > self.feed_timeout_s:
            self._drop()
            return False
        return max_staleness_s is None or age_s <= max_staleness_s

    def _learn_time(self, told_ms: int) -> None:
        self._server_clock.learn(told_ms)
        # Beyond that we do not follow a node's clock, so we cannot say what it would.
        self._clocks_apart = self._server_clock.is_capped(told_ms)
        if self._clocks_apart:
            self._drop()

    def _drop(self) -> None:
        count = self._cache.drop()
        if count:
            self._dropped += count
            _log.info("%d remembered tokens are dropped; nodes are asked about each", count)


class Batch(NamedTuple):
    """Questions about one org with their places among all, as many as fit into one call."""

    org: str
    questions: list[tuple[int, Question]]


def in_batches(found: Sequence[Verdict | Question]) -> list[Batch]:
    """What is left to ask, in calls."""
    batches: list[Batch] = []
    open_batches: dict[str, tuple[Batch, int]] = {}
    for at, each in enumerate(found):
        if isinstance(each, Verdict):
            continue
        org, size = each.access["org"], each.message().ByteSize()
        batch, filled = open_batches.get(org, (None, 0))
        full = filled + size > _BATCH_MAX_BYTES
        if batch is None or full or len(batch.questions) == VERIFY_BATCH_MAX:
            batch, filled = Batch(org, []), 0
            batches.append(batch)
        batch.questions.append((at, each))
        open_batches[org] = batch, filled + size
    return batches


def _decide(
    entry: KnownToken,
    caveats: tuple[bytes, ...],
    access: Mapping[str, str],
    now_ms: int,
    added: tuple[bytes, ...],
) -> Verdict | None:
    known, org = entry.known, access["org"]
    if known.org is None and org not in entry.orgs:
        return None
    try:
        clear_access(
            caveats,
            access,
            now_ms // 1000,
            kind=known.kind,
            subject=known.subject,
            org=known.org,
        )
    except TokenRefused as refused:
        return _refusal(refused)
    ends_ms = known.ends_ms
    for cid in added:
        if cid.startswith(b"time <"):
            bound_s = expiry_of(filter(None, (parse_predicate(cid),)))
            ends_ms = ends_ms if bound_s is None else min(ends_ms, bound_s * 1000)
    return Verdict(True, VerdictSource.CACHE, known.token_id, org, known.subject, ends_ms)


def _refusal(refused: TokenRefused) -> Verdict:
    return Verdict(
        False,
        VerdictSource.CACHE,
        reason=refused.reason.value,
        caveat=refused.caveat or "",
        message=refused.message,
    )
