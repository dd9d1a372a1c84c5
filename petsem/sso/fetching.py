"""HTTP to providers, within bounds.

Guarantees: no redirect is followed, no proxy or password taken from the environment; an answer is
at most `REPLY_MAX_BYTES`, not compressed, and whole within `TIMEOUT_S`. What goes wrong is
`unavailable`, with nothing of the answer in it. Certificates are checked against the system's
authorities. It asks whatever it is told to; `urls` says what may be asked.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from typing import Any, Final

import httpx

from petsem.sso.refusals import provider_failed

TIMEOUT_S: Final = 10.0
REPLY_MAX_BYTES: Final = 1024 * 1024
_CONNECTIONS_MAX: Final = 64


class Fetcher:
    """The one HTTP client of an authenticator."""

    def __init__(self, *, timeout_s: float = TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        self._client = httpx.AsyncClient(
            verify=ssl.create_default_context(),
            follow_redirects=False,
            trust_env=False,
            timeout=timeout_s,
            limits=httpx.Limits(max_connections=_CONNECTIONS_MAX, max_keepalive_connections=8),
            headers={"accept": "application/json", "accept-encoding": "identity"},
        )

    async def close(self) -> None:
        """Close its connections."""
        await self._client.aclose()

    async def get_json(self, url: str) -> dict[str, Any]:
        """The JSON object at `url`."""
        response = await self.ask("GET", url)
        if response.status_code != httpx.codes.OK:
            raise provider_failed()
        try:
            found = response.json()
        except (ValueError, RecursionError):
            raise provider_failed() from None
        if not isinstance(found, dict):
            raise provider_failed()
        return found

    async def ask(
        self, method: str, url: str, *, headers: Mapping[str, str] | None = None, body: str = ""
    ) -> httpx.Response:
        """A whole answer, whatever its status."""
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._whole(method, url, headers or {}, body)
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, OSError, ValueError):
            raise provider_failed() from None

    async def _whole(
        self, method: str, url: str, headers: Mapping[str, str], body: str
    ) -> httpx.Response:
        content = body.encode() if body else None
        async with self._client.stream(
            method, url, headers=dict(headers), content=content
        ) as response:
            if response.headers.get("content-encoding", "identity") != "identity":
                raise provider_failed()
            parts = bytearray()
            async for part in response.aiter_raw():
                parts += part
                if len(parts) > REPLY_MAX_BYTES:
                    raise provider_failed()
        return httpx.Response(response.status_code, content=bytes(parts), request=response.request)
