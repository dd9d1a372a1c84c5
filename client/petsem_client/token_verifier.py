"""The asyncio verifier.

Guarantees: opens no connection before the first call and none that it does not close; cancelling a
call cancels its RPC. It belongs to the event loop of its first call. What may be answered from
memory, and what is forgotten when, is in `verifying`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence

from petsem.clock import Clock, SystemClock
from petsem.errors import PetsemError
from petsem_client.aio_calls import AioCalls, AioStream
from petsem_client.aio_client import AioClient
from petsem_client.asking import AskSession, FeedSession
from petsem_client.shared import ATTEMPT_TIMEOUT_S, TIMEOUT_S, Shared
from petsem_client.tour import Pause
from petsem_client.transport import VERIFY, VERIFY_BATCH, WATCH_REVOCATIONS, Pem, Security
from petsem_client.verdicts import Question, Verdict
from petsem_client.verifying import (
    CACHE_MAX_BYTES,
    FEED_TIMEOUT_S,
    VerifierStats,
    Verifying,
    in_batches,
)


class TokenVerifier(AioClient):
    """May this token do this? For API servers: asks nodes, and remembers what they allow.

    `endpoints`, `ca`, `cert`, `key`, `insecure`, `timeout_s`, `attempt_timeout_s`: as of
    `SecretReader`. `token`: the API server's own, which may `tokens:verify`; what is sent is a copy
    for one org and a minute. `org`: the only one that is asked about; None: all, which takes a
    token of the cluster's key. `feed_timeout_s`: how old what is remembered may be; with the feed
    of revocations silent for longer, each token is asked for. `cache_max_bytes`: of memory, about.

    Raises PetsemError: `invalid` for arguments, `unauthenticated` for text that is no token.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        *,
        token: str,
        org: str | None = None,
        ca: Pem | None = None,
        cert: Pem | None = None,
        key: Pem | None = None,
        insecure: bool = False,
        timeout_s: float = TIMEOUT_S,
        attempt_timeout_s: float = ATTEMPT_TIMEOUT_S,
        feed_timeout_s: float = FEED_TIMEOUT_S,
        cache_max_bytes: int = CACHE_MAX_BYTES,
        clock: Clock | None = None,
    ) -> None:
        calls = AioCalls(Security.of(ca, cert, key, insecure=insecure), "verifier")
        shared = Shared.of(
            endpoints,
            token=token,
            clock=clock or SystemClock(),
            timeout_s=timeout_s,
            attempt_timeout_s=attempt_timeout_s,
        )
        super().__init__(calls, shared)
        self._verifying = Verifying(
            shared, org=org, feed_timeout_s=feed_timeout_s, cache_max_bytes=cache_max_bytes
        )
        self._following: asyncio.Task[None] | None = None
        self._stream: AioStream | None = None

    async def verify(
        self,
        token: str,
        access: Mapping[str, str],
        *,
        max_staleness_s: int | None = None,
        timeout_s: float | None = None,
    ) -> Verdict:
        """Whether `token` may do what `access` says: `org`, `action`, and whatever else caveats
        name, such as `app`, `machine`, `region` and `ip`.

        `max_staleness_s`: how old the answer may be, instead of what nodes allow.

        Raises PetsemError where there is no answer: take it for neither leave nor refusal. `denied`
        and `unauthenticated` are about the verifier's own token.
        """
        found = self._verifying.ask(token, access, max_staleness_s)
        if isinstance(found, Verdict) and not self._calls.closed:
            return found
        self._calls.require_open()
        assert isinstance(found, Question)
        self._follow()
        (verdict,) = await self._ask(found.access["org"], [found], timeout_s, batch=False)
        return verdict

    async def verify_batch(
        self,
        questions: Sequence[tuple[str, Mapping[str, str]]],
        *,
        max_staleness_s: int | None = None,
        timeout_s: float | None = None,
    ) -> list[Verdict]:
        """A verdict for each (token, access), in their order; nodes are asked about the rest in as
        few calls as there are orgs, of 512 questions at most. `timeout_s` is of each call.

        Raises PetsemError as `verify`, and then for all.
        """
        self._calls.require_open()
        found = [self._verifying.ask(text, access, max_staleness_s) for text, access in questions]
        for batch in in_batches(found):
            self._follow()
            asked = [question for _, question in batch.questions]
            verdicts = await self._ask(batch.org, asked, timeout_s, batch=True)
            for (at, _), verdict in zip(batch.questions, verdicts, strict=True):
                found[at] = verdict
        return [each for each in found if isinstance(each, Verdict)]

    def stats(self) -> VerifierStats:
        """Counters since the start."""
        return self._verifying.stats()

    @property
    def is_live(self) -> bool:
        """Whether the feed of revocations is there, so that tokens can be remembered."""
        return self._verifying.is_live

    async def close(self) -> None:
        """End every call, the feed and all connections; twice is fine."""
        await super().close()
        following, self._following = self._following, None
        if following is not None:
            following.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await following

    async def _ask(
        self, org: str, questions: list[Question], timeout_s: float | None, *, batch: bool
    ) -> list[Verdict]:
        session = AskSession(self._shared, org, questions, batch=batch, timeout_s=timeout_s)
        came = await self._calls.complete(VERIFY_BATCH if batch else VERIFY, session)
        return list(map(self._verifying.learned, questions, came.answers))

    def _follow(self) -> None:
        """See to it that the feed is followed, and give a silent one up."""
        if self._verifying.is_silent() and self._stream is not None:
            self._stream.cancel()
        task = self._following
        if (task is None or task.done()) and self._verifying.may_follow():
            self._following = asyncio.create_task(self._feed(), name="petsem-revocations")

    async def _feed(self) -> None:
        session = FeedSession(self._shared, self._verifying.org, self._verifying)
        try:
            step = session.start()
            while not self._calls.closed:
                if isinstance(step, Pause):
                    await self._calls.pause(step)
                    step = session.resumed()
                    continue
                self._stream = self._calls.open(WATCH_REVOCATIONS, step)
                try:
                    came = await self._calls.news(self._stream, session)
                finally:
                    self._stream.cancel()
                    self._stream = None
                if came is None:
                    return
                step = came
        except PetsemError as error:
            if not self._calls.closed:
                self._verifying.refused(error)
