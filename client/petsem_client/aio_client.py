"""What the asyncio clients have in common: they are opened by use, and closed once.

Guarantees: opens no connection before the first call and none that it does not close. It asks
nothing of anybody; its subclasses do.
"""

from __future__ import annotations

from types import TracebackType
from typing import Self

from petsem_client.aio_calls import AioCalls
from petsem_client.shared import Shared


class AioClient:
    """Connections, and what all calls over them share."""

    def __init__(self, calls: AioCalls, shared: Shared) -> None:
        self._calls = calls
        self._shared = shared

    async def close(self) -> None:
        """End every call and connection; twice is fine. Calls under way fail, watches end."""
        await self._calls.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({[str(each) for each in self._shared.endpoints]})"
