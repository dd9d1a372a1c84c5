"""What the blocking clients have in common: they are opened by use, closed once, and shared.

Guarantees: as `aio_client`; any number of threads may share a client, whose lock covers the short
steps between network calls, never a call.
"""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self

from petsem_client.blocking_calls import BlockingCalls
from petsem_client.shared import Shared


class BlockingClient:
    """Connections, what all calls over them share, and the lock of that."""

    def __init__(self, calls: BlockingCalls, shared: Shared) -> None:
        self._calls = calls
        self._shared = shared
        self._lock = threading.Lock()

    def close(self) -> None:
        """End every call and connection; twice is fine. Calls under way fail, watches end."""
        self._calls.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({[str(each) for each in self._shared.endpoints]})"
