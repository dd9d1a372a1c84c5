"""Rows of root keys, issued tokens and revocations.

A token's row is what makes it count: who it is, until when, with which caveats, and on whose
authority it was minted.
Rows stay while a token that they are an ancestor of may still be shown, so that revoking an
ancestor keeps its effect.
"""

from __future__ import annotations

from functools import lru_cache

import apsw
import msgspec

from petsem import limits
from petsem.server import sql


class IssuedRow(msgspec.Struct, frozen=True):
    """What the database knows of a presented token: its root key and, if issued, its row.

    Every field after `org_deleted` is None when there is no such issued row.
    """

    envelope: bytes
    org: int | None
    org_uid: bytes | None
    org_name: str | None
    org_deleted: int | None
    kind: int | None
    subject: str | None
    caveats: str | None
    expires_at: int | None
    depth: int | None
    revoked_at: int | None
    parent_revoked_at: int | None
    grandparent: bytes | None
    ticket: bytes | None


class TokenRow(msgspec.Struct, frozen=True):
    """An issued token; `caveats` is the JSON list of those it was minted with."""

    nonce: bytes
    org: int | None
    root_key: bytes
    kind: int
    subject: str
    parent: bytes | None
    depth: int
    caveats: str
    label: str | None
    created_at: int
    created_by: str
    expires_at: int
    epoch: int
    txid: int
    ticket: bytes | None = None


class RevocationRow(msgspec.Struct, frozen=True):
    """A revocation with its place in the feed."""

    nonce: bytes
    org_name: str | None
    at: int
    epoch: int
    txid: int


_NEVER = 2**62
_CLOCKS_APART_MS = 3_600_000
"""How far the clock of whoever keeps answers about tokens may be behind."""
ISSUED_COLUMNS = (
    "r.envelope, r.org, ro.uid, ro.name, ro.deleted_at, t.kind, t.subject, t.caveats,"
    " t.expires_at, t.depth, v.at, pv.at, tp.parent, t.ticket"
)
"""The columns of an `IssuedRow`, for statements that join `ISSUED_JOINS`."""
ISSUED_JOINS = (
    " LEFT JOIN orgs ro ON ro.id = r.org"
    " LEFT JOIN tokens t ON t.nonce = ?2 AND t.root_key = r.id"
    " LEFT JOIN revocations v ON v.nonce = ?2"
    " LEFT JOIN tokens tp ON tp.nonce = t.parent"
    " LEFT JOIN revocations pv ON pv.nonce = t.parent"
)
"""What hangs on the root key `r` and the nonce `?2` of a presented token."""
_TOKEN = (
    "nonce, org, root_key, kind, subject, parent, depth, caveats, label, created_at, created_by,"
    " expires_at, epoch, txid, ticket"
)


def look_up(db: apsw.Connection, root_key: bytes, nonce: bytes) -> IssuedRow | None:
    """All that a verification needs in one statement; None if there is no such root key."""
    found = sql.one(
        db,
        f"SELECT {ISSUED_COLUMNS} FROM root_keys r{ISSUED_JOINS} WHERE r.id = ?1"
        " AND r.use = 'tokens'",
        (root_key, nonce),
    )
    return None if found is None else IssuedRow(*found)


def is_revoked(db: apsw.Connection, row: IssuedRow) -> bool:
    """Whether a token, or any on whose authority it was minted, is revoked."""
    if row.revoked_at is not None or row.parent_revoked_at is not None:
        return True
    return row.grandparent is not None and revoked_ancestor(db, row.grandparent) is not None


def revoked_ancestor(db: apsw.Connection, parent: bytes) -> int | None:
    """When `parent`, or a token on whose authority it was minted, was first revoked."""
    found = sql.rows(
        db,
        "WITH RECURSIVE chain (nonce, step) AS (SELECT ?1, 0 UNION ALL"
        " SELECT t.parent, step + 1 FROM chain c JOIN tokens t ON t.nonce = c.nonce"
        " WHERE t.parent IS NOT NULL AND step < ?2)"
        " SELECT min(at) FROM chain JOIN revocations USING (nonce)",
        (parent, limits.TOKEN_CHAIN_MAX),
    )
    at: int | None = found[0][0]
    return at


@lru_cache(maxsize=4_096)
def minted_with(caveats: str) -> tuple[bytes, ...]:
    """The caveats of an issued row as they are in its token."""
    return tuple(c.encode("ascii") for c in msgspec.json.decode(caveats, type=list[str]))


def primary_root_key(db: apsw.Connection, org: int | None) -> tuple[bytes, bytes]:
    """(id, envelope) of the key that new tokens of an org, or of the cluster, are signed with."""
    found = sql.rows(
        db,
        "SELECT id, envelope FROM root_keys WHERE coalesce(org, 0) = ? AND is_primary = 1",
        (org or 0,),
    )
    return found[0][0], found[0][1]


def root_key_envelope(db: apsw.Connection, key_id: bytes) -> bytes | None:
    """The sealed root key of that id."""
    found = sql.one(db, "SELECT envelope FROM root_keys WHERE id = ?", (key_id,))
    return None if found is None else found[0]


def add_root_key(
    db: apsw.Connection, key_id: bytes, org: int | None, envelope: bytes, now_ms: int
) -> list[bytes]:
    """Make a root key the primary one; the ids of those that were, which keep verifying."""
    retired = sql.rows(
        db,
        "UPDATE root_keys SET is_primary = 0 WHERE coalesce(org, 0) = ? AND is_primary = 1"
        " RETURNING id",
        (org or 0,),
    )
    sql.run(
        db,
        "INSERT INTO root_keys (id, org, envelope, is_primary, created_at) VALUES (?, ?, ?, 1, ?)",
        (key_id, org, envelope, now_ms),
    )
    return [row[0] for row in retired]


def shared_key(db: apsw.Connection, org: int, use: str) -> tuple[bytes, bytes] | None:
    """(id, envelope) of what an org has sealed for that use: `sso`, `boot` or `client`."""
    found = sql.one(db, "SELECT id, envelope FROM root_keys WHERE org = ? AND use = ?", (org, use))
    return None if found is None else (found[0], found[1])


def org_of_shared_key(db: apsw.Connection, key_id: bytes, use: str) -> int | None:
    """The row number of the org whose key for that use has that id."""
    found = sql.one(db, "SELECT org FROM root_keys WHERE id = ? AND use = ?", (key_id, use))
    return None if found is None else found[0]


def write_shared_key(
    db: apsw.Connection, key_id: bytes, org: int, use: str, envelope: bytes | None, now_ms: int
) -> None:
    """Seal something for that use, in place of what was; None takes it away."""
    sql.run(db, "DELETE FROM root_keys WHERE org = ? AND use = ?", (org, use))
    if envelope is not None:
        sql.run(
            db,
            "INSERT INTO root_keys (id, org, envelope, is_primary, created_at, use)"
            " VALUES (?, ?, ?, 0, ?, ?)",
            (key_id, org, envelope, now_ms, use),
        )


def insert(db: apsw.Connection, row: TokenRow) -> None:
    """Issue a token."""
    sql.run(
        db,
        f"INSERT INTO tokens ({_TOKEN}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            row.nonce, row.org, row.root_key, row.kind, row.subject, row.parent, row.depth,
            row.caveats, row.label, row.created_at, row.created_by, row.expires_at, row.epoch,
            row.txid, row.ticket,
        ),
    )  # fmt: skip


def get(db: apsw.Connection, nonce: bytes) -> TokenRow | None:
    """The issued token of that nonce."""
    found = sql.one(db, f"SELECT {_TOKEN} FROM tokens WHERE nonce = ?", (nonce,))
    return None if found is None else TokenRow(*found)


def list_issued(
    db: apsw.Connection, org: int | None, after: tuple[int, bytes], limit: int
) -> list[tuple[TokenRow, int | None, int | None]]:
    """Issued tokens, each with the times when it was revoked and last seen, oldest first, beyond
    (created_at, nonce)."""
    columns = ", ".join(f"t.{c.strip()}" for c in _TOKEN.split(","))
    found = sql.rows(
        db,
        f"SELECT {columns}, v.at, s.at FROM tokens t"
        " LEFT JOIN revocations v ON v.nonce = t.nonce"
        " LEFT JOIN tokens_seen s ON s.nonce = t.nonce"
        " WHERE t.org IS ? AND (t.created_at, t.nonce) > (?, ?)"
        " ORDER BY t.created_at, t.nonce LIMIT ?",
        (org, *after, limit),
    )
    return [(TokenRow(*row[:-2]), row[-2], row[-1]) for row in found]


def revoke(
    db: apsw.Connection,
    token: TokenRow,
    now_ms: int,
    by: tuple[str, bytes],
    at: tuple[int, int],
) -> bool:
    """Record a revocation by (subject, token) at (epoch, txid); False if it was revoked before."""
    return (
        sql.run(
            db,
            "INSERT INTO revocations (nonce, org, at, subject, token, epoch, txid)"
            " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (nonce) DO NOTHING",
            (token.nonce, token.org, now_ms, *by, *at),
        )
        == 1
    )


def revocation(db: apsw.Connection, nonce: bytes) -> tuple[int, int, int] | None:
    """(at, epoch, txid) of a token's revocation."""
    found = sql.one(db, "SELECT at, epoch, txid FROM revocations WHERE nonce = ?", (nonce,))
    return None if found is None else (found[0], found[1], found[2])


def revocations_after(
    db: apsw.Connection, org: int | None, all_orgs: bool, after: tuple[int, int], limit: int
) -> tuple[list[RevocationRow], tuple[int, int] | None]:
    """A page of what was revoked past (epoch, txid), in order, of one org or of all; and where the
    page ends, None if there is no more.

    Whatever was minted on the authority of a revoked token ended with it and is listed beside it,
    also in the feed of its org if the other was the cluster's; but for what had expired long before
    by itself, which nobody's cache can still hold. A page has about `limit` revocations and never a
    part of a transaction.
    """
    scope = "?1 IS ?1" if all_orgs else "(v.org IS ?1 OR v.org IS NULL)"
    source = f"FROM revocations v WHERE {scope} AND (v.epoch, v.txid) > (?2, ?3)"
    # In one statement for both, an org's feed would be sorted anew for each page.
    scopes = [scope] if all_orgs else ["v.org IS ?1", "v.org IS NULL"]
    each = " UNION ALL ".join(
        f"SELECT * FROM (SELECT v.epoch, v.txid FROM revocations v WHERE {one}"
        " AND (v.epoch, v.txid) > (?2, ?3) ORDER BY v.epoch, v.txid LIMIT ?4)"
        for one in (scopes if org is not None else scopes[:1])
    )
    end = sql.one(
        db,
        f"SELECT epoch, txid FROM ({each}) ORDER BY epoch, txid LIMIT 1 OFFSET ?4 - 1",
        (org, *after, limit),
    )
    found = sql.rows(
        db,
        "WITH RECURSIVE ended (nonce, org, at, epoch, txid, expires_at) AS ("
        f"SELECT v.nonce, v.org, v.at, v.epoch, v.txid, {_NEVER} {source}"
        " AND (v.epoch, v.txid) <= (?4, ?5)"
        " UNION SELECT t.nonce, t.org, e.at, e.epoch, e.txid, t.expires_at"
        " FROM ended e JOIN tokens t ON t.parent = e.nonce)"
        " SELECT DISTINCT e.nonce, o.name, e.at, e.epoch, e.txid FROM ended e"
        f" LEFT JOIN orgs o ON o.id = e.org WHERE {'1' if all_orgs else 'e.org IS ?1'}"
        " AND e.expires_at > e.at - ?6 ORDER BY e.epoch, e.txid, e.nonce",
        (org, *after, *(end or (_NEVER, 0)), _CLOCKS_APART_MS),
    )
    return [RevocationRow(*row) for row in found], None if end is None else (end[0], end[1])


def purge_expired(db: apsw.Connection, before_ms: int, limit: int) -> int:
    """Forget tokens that expired before then, with their revocations, unless a token that was
    minted on their authority is still kept; how many."""
    found = sql.rows(
        db,
        "SELECT t.nonce FROM tokens t WHERE t.expires_at < ? AND NOT EXISTS"
        " (SELECT 1 FROM tokens c WHERE c.parent = t.nonce) LIMIT ?",
        (before_ms, limit),
    )
    for (nonce,) in found:
        sql.run(db, "DELETE FROM revocations WHERE nonce = ?", (nonce,))
        sql.run(db, "DELETE FROM tokens WHERE nonce = ?", (nonce,))
    return len(found)
