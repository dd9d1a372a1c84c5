"""The asyncio reader.

Guarantees: opens no connection before the first call and none that it does not close; cancelling a
call cancels its RPC. It belongs to the event loop of its first call. All policy is in the sessions.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence

from petsem.clock import Clock, SystemClock
from petsem.model import Position
from petsem_client.aio_calls import AioCalls
from petsem_client.aio_client import AioClient
from petsem_client.bundle import Bundle
from petsem_client.fetching import FetchSession
from petsem_client.replies import AppChanged
from petsem_client.requests import Watch, checked_fetch, checked_watch
from petsem_client.shared import ATTEMPT_TIMEOUT_S, TIMEOUT_S, Shared
from petsem_client.tour import Pause
from petsem_client.transport import FETCH, WATCH, Pem, Security
from petsem_client.watching import WatchSession


class SecretReader(AioClient):
    """Fetches and watches apps' secrets, at the first of several nodes that can answer.

    `endpoints`: gRPC addresses, `HOST:PORT` or `[IPv6]:PORT`, nearest first. `token`: never sent
    as it is, but narrowed to each app, machine and minute. `ca`, `cert`, `key`: PEM as bytes or the
    paths of files. Plaintext is for loopback only, unless `insecure=True`; elsewhere TLS is used,
    by default with the public CAs that gRPC brings. `timeout_s`: a whole fetch;
    `attempt_timeout_s`: the first try at one node of several.

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
        calls = AioCalls(Security.of(ca, cert, key, insecure=insecure), "reader")
        shared = Shared.of(
            endpoints,
            token=token,
            clock=clock or SystemClock(),
            timeout_s=timeout_s,
            attempt_timeout_s=attempt_timeout_s,
        )
        super().__init__(calls, shared)

    async def fetch(
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
        """All secrets of `app` (`ORG/APP`) that the token may read, in one consistent version.

        `version`: that one instead of the current. `min_version`, `min_position`: nothing older.
        `names`: only these. `known`: an earlier bundle of the same app, whose bytes are not sent
        again if it still holds. `durable`: only what a failover cannot lose.

        Raises PetsemError: `denied`, `unauthenticated`, `not_found` and `invalid` at once;
        `stale`, `limit`, `corrupt` and `unavailable` once no node could do better in time.
        """
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
        session = FetchSession(self._shared, wanted, timeout_s)
        return await self._calls.complete(FETCH, session)

    def watch(
        self, app: str, *, machine: str | None = None, after_version: int = 0
    ) -> AsyncGenerator[AppChanged, None]:
        """Each new version of `app` after `after_version`, as (version, freshness), as it comes.

        Connects again by itself, elsewhere if need be, and goes on until the caller stops or the
        reader is closed. Raises PetsemError for a refusal that will not pass by itself.
        """
        wanted = checked_watch(app, machine=machine, after_version=after_version)
        self._calls.require_open()
        return self._watch(wanted)

    async def _watch(self, wanted: Watch) -> AsyncGenerator[AppChanged, None]:
        session = WatchSession(self._shared, wanted)
        step = session.start()
        while not self._calls.closed:
            if isinstance(step, Pause):
                await self._calls.pause(step)
                step = session.resumed()
                continue
            call = self._calls.open(WATCH, step)
            try:
                while isinstance(came := await self._calls.news(call, session), AppChanged):
                    yield came
            finally:
                call.cancel()
            if came is None:
                return
            step = came
