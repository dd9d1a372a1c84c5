"""Exit codes: one table over the error codes, and the few that are not errors of the family.

Guarantees: every `Code` has an exit code (a test walks them); scripts may rely on the numbers.
"""

from __future__ import annotations

from typing import Final

from petsem.errors import Code

EXIT_CODES: Final = {
    Code.INTERNAL: 1,
    Code.INVALID: 2,
    Code.UNAUTHENTICATED: 3,
    Code.DENIED: 3,
    Code.NOT_FOUND: 4,
    Code.CONFLICT: 5,
    Code.STALE: 7,
    Code.LIMIT: 6,
    Code.UNAVAILABLE: 6,
    Code.INDETERMINATE: 6,
    Code.CORRUPT: 8,
}
INTERNAL: Final = 1
USAGE: Final = 2
REFUSED: Final = 3
UNMET: Final = 6
"""`--require`: the write stands, but not with the durability asked for."""
UNSEEN: Final = 6
"""`check`: nothing that could be looked at is wrong, and for the rest a key is not here."""
CORRUPT: Final = 8
EXEC_FAILED: Final = 125
EXEC_NOT_RUNNABLE: Final = 126
EXEC_NOT_FOUND: Final = 127
INTERRUPTED: Final = 130
