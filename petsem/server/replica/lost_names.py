"""What the transactions of a lost branch were about: names, versions and identifiers.

Guarantees: no value, envelope, key or token is read. Tokens and revocations are exactly those of
the lost transactions, which their rows name. Orgs, apps and versions carry a time and no
transaction, so all since shortly before the first that is lost are listed: rather too many than
one missing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import apsw

from petsem.model import Kind
from petsem.server import sql

_MARGIN_MS: Final = 5_000
"""A row's time is taken when its request begins, the transaction's when its group is committed."""

_VERSIONS: Final = """
SELECT o.name, a.name, v.version, v.change, v.subject, v.created_at, v.app
FROM versions v JOIN apps a ON a.id = v.app JOIN orgs o ON o.id = a.org
WHERE v.created_at >= ? ORDER BY v.created_at, o.name, a.name, v.version
"""
_SECRETS: Final = """
SELECT name FROM secrets WHERE app = ?1 AND (since = ?2 OR until = ?2) GROUP BY name ORDER BY name
"""
_APPS: Final = """
SELECT o.name, a.name, a.created_at, a.deleted_at FROM apps a JOIN orgs o ON o.id = a.org
WHERE a.created_at >= ?1 OR a.deleted_at >= ?1 ORDER BY o.name, a.name
"""
_ORGS: Final = """
SELECT name, created_at, deleted_at FROM orgs WHERE created_at >= ?1 OR deleted_at >= ?1
ORDER BY name
"""
_TOKENS: Final = """
SELECT t.nonce, o.name, t.kind, t.subject, t.label, t.txid
FROM tokens t LEFT JOIN orgs o ON o.id = t.org WHERE t.txid > ? ORDER BY t.txid, t.nonce
"""
_REVOCATIONS: Final = """
SELECT r.nonce, o.name, r.subject, r.txid
FROM revocations r LEFT JOIN orgs o ON o.id = r.org WHERE r.txid > ? ORDER BY r.txid, r.nonce
"""


@dataclass(frozen=True, slots=True)
class LostNames:
    """As JSON, by kind. `revoked` are the nonces of tokens that the branch had revoked."""

    body: dict[str, Any]
    revoked: list[bytes]


def read_names(db: apsw.Connection, fork_txid: int, first_ms: int | None) -> LostNames:
    """Names in what follows `fork_txid`, all of it later than `first_ms` (None: not known, so that
    everything since the fork's epoch began is listed). Inside the caller's read transaction."""
    if first_ms is None:
        begun = sql.rows(db, "SELECT max(at) FROM epochs WHERE first_txid <= ?", (fork_txid,))
        first_ms = begun[0][0] or 0
    since_ms = first_ms - _MARGIN_MS
    revocations = sql.rows(db, _REVOCATIONS, (fork_txid,))
    body = {
        "since_ms": since_ms,
        "epochs": [
            {"epoch": epoch, "first_txid": first, "leader": leader}
            for epoch, first, leader in sql.rows(
                db,
                "SELECT epoch, first_txid, leader FROM epochs WHERE first_txid > ? ORDER BY epoch",
                (fork_txid,),
            )
        ],
        "orgs": [
            {
                "org": org,
                "created": made >= since_ms,
                "deleted": gone is not None and gone >= since_ms,
            }
            for org, made, gone in sql.rows(db, _ORGS, (since_ms,))
        ],
        "apps": [
            {
                "app": f"{org}/{app}",
                "created": made >= since_ms,
                "deleted": gone is not None and gone >= since_ms,
            }
            for org, app, made, gone in sql.rows(db, _APPS, (since_ms,))
        ],
        "versions": [
            {
                "app": f"{org}/{app}",
                "version": version,
                "change": change,
                "subject": subject,
                "at_ms": at_ms,
                "secrets": [name for (name,) in sql.rows(db, _SECRETS, (row, version))],
            }
            for org, app, version, change, subject, at_ms, row in sql.rows(
                db, _VERSIONS, (since_ms,)
            )
        ],
        "tokens": [
            {
                "nonce": nonce.hex(),
                "org": org,
                "kind": Kind(kind).text,
                "subject": subject,
                "label": label,
                "txid": txid,
            }
            for nonce, org, kind, subject, label, txid in sql.rows(db, _TOKENS, (fork_txid,))
        ],
        "revocations": [
            {"nonce": nonce.hex(), "org": org, "subject": subject, "txid": txid}
            for nonce, org, subject, txid in revocations
        ],
    }
    return LostNames(body, [row[0] for row in revocations])


def only_epochs(db: apsw.Connection, fork_txid: int, end_txid: int) -> bool:
    """Whether every transaction after `fork_txid` did nothing but begin an epoch."""
    begun = sql.rows(
        db,
        "SELECT count(*) FROM epochs WHERE first_txid > ? AND first_txid <= ?",
        (fork_txid, end_txid),
    )
    return bool(begun[0][0] == end_txid - fork_txid)
