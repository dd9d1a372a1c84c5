"""The blocking reader.

Guarantees: the same answers as the asyncio one, since the sessions decide them; no event loop and
no thread of ours (gRPC itself runs one for each stream). Any number of threads may share a reader:
a lock covers the short steps between network calls, never a call. A process that forks makes its
reader afterwards.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence

from petsem.clock import Clock, SystemClock
from petsem.model import Position
from petsem_client.blocking_calls import BlockingCalls
from petsem_client.blocking_client import BlockingClient
from petsem_client.bundle import Bundle
from petsem_client.fetching import FetchSession
from petsem_client.replies import AppChanged
from petsem_client.requests import Watch, checked_fetch, checked_watch
from petsem_client.shared import ATTEMPT_TIMEOUT_S, TIMEOUT_S, Shared
from petsem_client.tour import Pause
from petsem_client.transport import FETCH, WATCH, Pem, Security
from petsem_client.watching import WatchSession


class SyncSecretReader(BlockingClient):
    """`SecretReader` for code without an event loop: the same arguments, calls and errors.

    Use it as a context manager, or `close` it.

    Raises PetsemError: `invalid` for arguments, `unauthenticated` for text that is no token.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        *,
        token: str,
        ca: Pem | None = None,
        cert: Pem | None = None,
        key: Pem | None = None,
        insecure: bool = False,
        timeout_s: float = TIMEOUT_S,
        attempt_timeout_s: float = ATTEMPT_TIMEOUT_S,
        clock: Clock | None = None,
    ) -> None:
        calls = BlockingCalls(Security.of(ca, cert, key, insecure=insecure), "reader")
        shared = Shared.of(
            endpoints,
            token=token,
            clock=clock or SystemClock(),
            timeout_s=timeout_s,
            attempt_timeout_s=attempt_timeout_s,
        )
        super().__init__(calls, shared)

    def fetch(
        self,
        app: str,
        *,
        machine: str | None = None,
        version: int = 0,
        min_version: int = 0,
        min_position: Position | None = None,
        names: Sequence[str] = (),
        known: Bundle | None = None,
        durable: bool = False,
        timeout_s: float | None = None,
    ) -> Bundle:
        """As `SecretReader.fetch`."""
        wanted = checked_fetch(
            app,
            machine=machine,
            version=version,
            min_version=min_version,
            min_position=min_position,
            names=names,
            known=known,
            durable=durable,
        )
        self._calls.require_open()
        with self._lock:
            session = FetchSession(self._shared, wanted, timeout_s)
        return self._calls.complete(FETCH, session, self._lock)

    def watch(
        self, app: str, *, machine: str | None = None, after_version: int = 0
    ) -> Generator[AppChanged, None, None]:
        """As `SecretReader.watch`; `close` from another thread ends it."""
        wanted = checked_watch(app, machine=machine, after_version=after_version)
        self._calls.require_open()
        return self._watch(wanted)

    def _watch(self, wanted: Watch) -> Generator[AppChanged, None, None]:
        with self._lock:
            session = WatchSession(self._shared, wanted)
            step = session.start()
        while not self._calls.closed:
            if isinstance(step, Pause):
                self._calls.pause(step)
                with self._lock:
                    step = session.resumed()
                continue
            call = self._calls.open(WATCH, step)
            if call is None:
                return
            try:
                while isinstance(came := self._calls.news(call, session, self._lock), AppChanged):
                    yield came
            finally:
                call.cancel()
            if came is None:
                return
            step = came
