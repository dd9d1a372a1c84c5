"""The blocking verifier.

Guarantees: the same answers as the asyncio one, since `verifying` decides them; no event loop, and
one thread of ours, which follows the feed and ends with `close`. Any number of threads may share a
verifier: a lock covers the short steps between network calls, never a call. A process that forks
makes its verifier afterwards.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

from petsem.clock import Clock, SystemClock
from petsem.errors import PetsemError
from petsem_client.asking import AskSession, FeedSession
from petsem_client.blocking_calls import BlockingCalls, BlockingStream
from petsem_client.blocking_client import BlockingClient
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

_JOIN_S = 5.0


class SyncTokenVerifier(BlockingClient):
    """`TokenVerifier` for code without an event loop: the same arguments, calls and errors.

    Use it as a context manager, or `close` it.

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
        calls = BlockingCalls(Security.of(ca, cert, key, insecure=insecure), "verifier")
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
        self._following: threading.Thread | None = None
        self._stream: BlockingStream | None = None

    def verify(
        self,
        token: str,
        access: Mapping[str, str],
        *,
        max_staleness_s: int | None = None,
        timeout_s: float | None = None,
    ) -> Verdict:
        """As `TokenVerifier.verify`."""
        self._calls.require_open()
        with self._lock:
            found = self._verifying.ask(token, access, max_staleness_s)
        if isinstance(found, Verdict):
            return found
        self._follow()
        (verdict,) = self._ask(found.access["org"], [found], timeout_s, batch=False)
        return verdict

    def verify_batch(
        self,
        questions: Sequence[tuple[str, Mapping[str, str]]],
        *,
        max_staleness_s: int | None = None,
        timeout_s: float | None = None,
    ) -> list[Verdict]:
        """As `TokenVerifier.verify_batch`."""
        self._calls.require_open()
        with self._lock:
            found = [
                self._verifying.ask(text, access, max_staleness_s) for text, access in questions
            ]
        for batch in in_batches(found):
            self._follow()
            asked = [question for _, question in batch.questions]
            verdicts = self._ask(batch.org, asked, timeout_s, batch=True)
            for (at, _), verdict in zip(batch.questions, verdicts, strict=True):
                found[at] = verdict
        return [each for each in found if isinstance(each, Verdict)]

    def stats(self) -> VerifierStats:
        """Counters since the start."""
        with self._lock:
            return self._verifying.stats()

    @property
    def is_live(self) -> bool:
        """Whether the feed of revocations is there, so that tokens can be remembered."""
        with self._lock:
            return self._verifying.is_live

    def close(self) -> None:
        """End every call, the feed and all connections; twice is fine."""
        super().close()
        following = self._following
        if following is not None and following is not threading.current_thread():
            following.join(_JOIN_S)

    def _ask(
        self, org: str, questions: list[Question], timeout_s: float | None, *, batch: bool
    ) -> list[Verdict]:
        with self._lock:
            session = AskSession(self._shared, org, questions, batch=batch, timeout_s=timeout_s)
        came = self._calls.complete(VERIFY_BATCH if batch else VERIFY, session, self._lock)
        with self._lock:
            return list(map(self._verifying.learned, questions, came.answers))

    def _follow(self) -> None:
        """See to it that the feed is followed, and give a silent one up."""
        with self._lock:
            stream, thread = self._stream, self._following
            if self._verifying.is_silent() and stream is not None:
                stream.cancel()
            if (thread is not None and thread.is_alive()) or not self._verifying.may_follow():
                return
            # A daemon, so that a program which forgets to close can end.
            self._following = threading.Thread(
                target=self._feed, name="petsem-revocations", daemon=True
            )
            self._following.start()

    def _feed(self) -> None:
        try:
            with self._lock:
                session = FeedSession(self._shared, self._verifying.org, self._verifying)
                step = session.start()
            while not self._calls.closed:
                if isinstance(step, Pause):
                    self._calls.pause(step)
                    with self._lock:
                        step = session.resumed()
                    continue
                stream = self._calls.open(WATCH_REVOCATIONS, step)
                if stream is None:
                    return
                self._stream = stream
                try:
                    came = self._calls.news(stream, session, self._lock)
                finally:
                    self._stream = None
                    stream.cancel()
                if came is None:
                    return
                step = came
        except PetsemError as error:
            with self._lock:
                self._verifying.refused(error)
