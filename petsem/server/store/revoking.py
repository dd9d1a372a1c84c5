"""Many revocations at once: of a subject, of an app, or of a whole org.

Guarantees: what is written in one call is bounded, whatever the org's size. A token that was issued
after the moment that is named is never touched, so that a call which is repeated ends what it was
about and nothing that came later. Tokens of the cluster key belong to no org and are never found.
"""

from __future__ import annotations

from typing import Final

import apsw
import msgspec

from petsem.model import Kind, Position
from petsem.server import sql


class Scope(msgspec.Struct, frozen=True):
    """The issued tokens of an org: those of `subject`, those that may act for `app`, or, with
    neither, all; issued in the transaction `issued_by` or before. A person's `subject` is him in
    any case of letters."""

    org: int
    issued_by: Position
    subject: str | None = None
    app: str | None = None


class Ending(msgspec.Struct, frozen=True):
    """What is recorded of each: when, by whose (subject, token), and in which transaction."""

    at_ms: int
    by: tuple[str, bytes]
    position: Position


_Args = tuple[int | str | bytes, ...]

# Caveats are minted in one spelling, `app = A` or `app in A, B`; several allow what all of them
# allow.
_NAMES_IT: Final = (
    "(c.value = 'app = ' || ? OR (substr(c.value, 1, 7) = 'app in '"
    " AND instr(', ' || substr(c.value, 8) || ',', ', ' || ? || ',') > 0))"
)
_FOR_APP: Final = (
    f" AND EXISTS (SELECT 1 FROM json_each(t.caveats) c WHERE {_NAMES_IT})"
    " AND NOT EXISTS (SELECT 1 FROM json_each(t.caveats) c"
    f" WHERE substr(c.value, 1, 4) = 'app ' AND NOT {_NAMES_IT})"
)
_PERSON: Final = f"{Kind.PERSON.text}:"
# The index tells cases apart, but it has all persons of the org in one place.
_OF_PERSON: Final = (
    "t.org = ? AND t.subject BETWEEN 'person:' AND 'person;' AND t.subject = ? COLLATE NOCASE"
)
_NOT_ENDED: Final = " AND NOT EXISTS (SELECT 1 FROM revocations r WHERE r.nonce = t.nonce)"
_INSERT: Final = (
    "INSERT INTO revocations (nonce, org, at, subject, token, epoch, txid)"
    " SELECT t.nonce, t.org, ?, ?, ?, ?, ? FROM tokens t WHERE "
)
_ONCE: Final = " ON CONFLICT (nonce) DO NOTHING"


def end_few(db: apsw.Connection, scope: Scope, ending: Ending, most: int) -> int | None:
    """End all of `scope`; how many had not ended before. None, and nothing is done, if more than
    `most` rows would have to be looked at."""
    among, args = _among(scope)
    look = f"SELECT count(*) FROM (SELECT 1 FROM tokens t WHERE {among} LIMIT ?)"
    if sql.rows(db, look, (*args, most + 1))[0][0] > most:
        return None
    where, args = _where(scope)
    return sql.run(db, f"{_INSERT}{where}{_ONCE}", (*_values(ending), *args))


def not_ended(
    db: apsw.Connection, scope: Scope, after: tuple[int, bytes], most: int
) -> list[tuple[int, bytes]]:
    """(created_at, nonce) of the next ones of `scope` that have not ended. This may look at all of
    the org's rows."""
    # The order is that of an index, so that an org's rows are not sorted. A subject's are by nonce.
    key = "t.created_at, t.nonce" if scope.subject is None else "t.nonce"
    beyond = after if scope.subject is None else after[1:]
    where, args = _where(scope)
    return [
        (created_at, nonce)
        for created_at, nonce in sql.rows(
            db,
            f"SELECT t.created_at, t.nonce FROM tokens t WHERE {where}{_NOT_ENDED}"
            f" AND ({key}) > ({', '.join('?' * len(beyond))}) ORDER BY {key} LIMIT ?",
            (*args, *beyond, most),
        )
    ]


def renewed(db: apsw.Connection, scope: Scope, by: bytes, most: int) -> list[bytes]:
    """Nonces of service tokens that ones of `scope` were renewed to while the token `by` ended
    them, and that have not ended: a successor's parent is another than its predecessor. This may
    look at all of the org's rows."""
    since = scope.issued_by
    for_app, args = ("", ()) if scope.app is None else (_FOR_APP, (scope.app,) * 4)
    found = sql.rows(
        db,
        "SELECT t.nonce FROM tokens t WHERE t.org = ? AND (t.epoch, t.txid) > (?, ?)"
        " AND t.created_by LIKE 'service:%' AND EXISTS (SELECT 1 FROM revocations v"
        " WHERE v.nonce = unhex(substr(t.created_by, 9)) AND v.token = ?"
        f" AND (v.epoch, v.txid) >= (?, ?)){for_app}{_NOT_ENDED} LIMIT ?",
        (
            *(scope.org, since.epoch, since.txid, by, since.epoch, since.txid),
            *(*args, most),
        ),
    )
    return [nonce for (nonce,) in found]


def end_these(db: apsw.Connection, nonces: list[bytes], ending: Ending) -> int:
    """End tokens by their nonces; how many of them are issued and had not ended before."""
    statement = f"{_INSERT}t.nonce = ?{_ONCE}"
    return sum(sql.run(db, statement, (*_values(ending), nonce)) for nonce in nonces)


def ended(db: apsw.Connection, scope: Scope) -> tuple[int, Position]:
    """How many of `scope` ended in the transaction `issued_by` or since, and in which the last
    did. This may look at all of the org's rows."""
    where, args = _where(scope)
    since = scope.issued_by
    found = sql.one(
        db,
        "SELECT count(*) OVER (), v.epoch, v.txid FROM tokens t JOIN revocations v USING (nonce)"
        f" WHERE {where} AND (v.epoch, v.txid) >= (?, ?)"
        " ORDER BY v.epoch DESC, v.txid DESC LIMIT 1",
        (*args, since.epoch, since.txid),
    )
    return (0, since) if found is None else (found[0], Position(found[1], found[2]))


def _among(scope: Scope) -> tuple[str, _Args]:
    """The rows that have to be looked at, by an index."""
    if scope.subject is None:
        return "t.org = ?", (scope.org,)
    if scope.subject.startswith(_PERSON):
        return _OF_PERSON, (scope.org, scope.subject)
    return "t.org = ? AND t.subject = ?", (scope.org, scope.subject)


def _where(scope: Scope) -> tuple[str, _Args]:
    among, args = _among(scope)
    where = f"{among} AND (t.epoch, t.txid) <= (?, ?)"
    args = (*args, scope.issued_by.epoch, scope.issued_by.txid)
    if scope.app is None:
        return where, args
    return where + _FOR_APP, (*args, *(scope.app,) * 4)


def _values(ending: Ending) -> _Args:
    return (ending.at_ms, *ending.by, ending.position.epoch, ending.position.txid)
