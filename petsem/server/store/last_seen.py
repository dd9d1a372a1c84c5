"""When issued tokens were last verified.

Guarantees: a time only moves forward, and what is not an issued token leaves no row. Whoever asks
`moved` first writes each at most every ten minutes.
"""

from __future__ import annotations

from collections.abc import Mapping

import apsw

from petsem.server import sql
from petsem.server.seen_notes import NOTE_EVERY_MS


def moved(db: apsw.Connection, seen: Mapping[bytes, int]) -> dict[bytes, int]:
    """Those of `seen` (nonce → Unix milliseconds) whose row is missing or a step behind."""
    statement = (
        "SELECT 1 FROM tokens t LEFT JOIN tokens_seen s USING (nonce)"
        " WHERE t.nonce = ? AND (s.at IS NULL OR s.at <= ?)"
    )
    return {
        nonce: at
        for nonce, at in seen.items()
        if sql.one(db, statement, (nonce, at - NOTE_EVERY_MS)) is not None
    }


def write(db: apsw.Connection, seen: Mapping[bytes, int]) -> int:
    """Move the times of `seen` forward; how many moved."""
    statement = (
        "INSERT INTO tokens_seen (nonce, at) SELECT nonce, ?2 FROM tokens WHERE nonce = ?1"
        " ON CONFLICT (nonce) DO UPDATE SET at = excluded.at WHERE excluded.at > tokens_seen.at"
    )
    return sum(sql.run(db, statement, (nonce, at)) for nonce, at in seen.items())
