"""How often one token may ask for a diff.

`diff` tells a reader whether a guessed value is right, and costs a digest for each name; nobody
needs it often. A token bucket for each token's nonce, so that attenuating a token gives no new
one. Guarantees: bounded memory; the bucket forgotten first is the one unused for longest, which
is full again unless thousands of tokens ask at once. It is of this process and forgets on restart.

Twenty lines rather than a library: those for Python bring stores, locks, clocks of their own or
background threads, and none takes the time as an argument.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Final

from petsem.errors import limited

BURST: Final = 20
PER_S: Final = 1.0
TOKENS_MAX: Final = 4_096


class DiffRate:
    """A bucket of BURST for each token, refilled by PER_S each second."""

    def __init__(self) -> None:
        self._buckets: OrderedDict[bytes, tuple[float, float]] = OrderedDict()

    def take(self, nonce: bytes, now_s: float) -> None:
        """Count one diff; `limit`, with the seconds to wait, when the bucket is empty."""
        left, filled_s = self._buckets.get(nonce, (float(BURST), now_s))
        left = min(float(BURST), left + (now_s - filled_s) * PER_S)
        if left < 1:
            wait_s = math.ceil((1 - left) / PER_S)
            raise limited(
                "this token asks for diffs too often; wait a little", retry_after_s=wait_s
            )
        self._buckets[nonce] = (left - 1, now_s)
        self._buckets.move_to_end(nonce)
        if len(self._buckets) > TOKENS_MAX:
            self._buckets.popitem(last=False)
