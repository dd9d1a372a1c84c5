"""How long tests wait for what is there in a moment on most machines.

Nothing is waited for that long: whoever waits looks at a state, and goes on as soon as it is there.
So this is only when a test gives up, and may be as generous as a busy machine needs.
"""

from __future__ import annotations

from typing import Final

PATIENCE_S: Final = 60.0
