"""The database as a database: whole, of the right version, and true to itself.

Guarantees: reads only, and needs no key. Each function gives the sentences that say what does not
hold; none if all does. It does not open envelopes; `check_envelopes` does.
"""

from __future__ import annotations

import itertools
from typing import Final

import apsw

from petsem.crypto.keys import Purpose
from petsem.server import sql
from petsem.server.datadir import NodeIdentity, NodeState
from petsem.server.findings import NAMED_MAX
from petsem.server.schema import SCHEMA_VERSION, version_of

_HEADERS: Final = ("schema", "position", "epochs", "cluster", "nodes", "keks")
"""Small tables without which a node cannot start."""
_SHOWN: Final = NAMED_MAX + 1


def integrity(db: apsw.Connection) -> list[str]:
    """SQLite's own check of every page, and of every reference between rows."""
    found = [row[0] for row in sql.rows(db, f"PRAGMA integrity_check({NAMED_MAX})")]
    problems = [] if found == ["ok"] else [f"SQLite says: {text}" for text in found]
    dangling = sql.rows(db, "PRAGMA foreign_key_check")
    tables = sorted({(row[0], row[2]) for row in dangling})
    return problems + [
        f"rows of the table {table} belong to rows of {parent} that do not exist"
        for table, parent in tables
    ]


def headers(db: apsw.Connection) -> list[str]:
    """The part of `integrity` that takes no time."""
    problems = []
    for table in _HEADERS:
        found = [row[0] for row in sql.rows(db, f"PRAGMA quick_check('{table}')")]
        if found != ["ok"]:
            problems.append(f"the table {table} is damaged; SQLite says: {found[0]}")
    return problems


def schema(db: apsw.Connection) -> list[str]:
    """The schema's version, against this program's."""
    version = version_of(db)
    if version > SCHEMA_VERSION:
        return [
            f"the database has schema version {version} and this program knows {SCHEMA_VERSION}; "
            "run the newer version of petsem"
        ]
    return [] if version else ["the database is empty; restore it from a backup"]


def position(
    db: apsw.Connection, identity: NodeIdentity | None, state: NodeState | None
) -> list[str]:
    """Where the database says that it is, against its epochs and the node's own files."""
    row = sql.one(db, "SELECT epoch, txid FROM position")
    epochs = sql.rows(db, "SELECT epoch, first_txid FROM epochs ORDER BY epoch")
    if row is None or not epochs:
        return ["the database does not say at which position it is"]
    epoch, txid = row
    problems = []
    if epochs[-1][0] != epoch:
        problems.append(f"the position is in epoch {epoch}, and the last epoch is {epochs[-1][0]}")
    if epochs[-1][1] > txid:
        problems.append(f"epoch {epochs[-1][0]} begins at TXID {epochs[-1][1]}, after {txid}")
    firsts = [first for _, first in epochs]
    if any(later <= first for first, later in itertools.pairwise(firsts)):
        problems.append("the epochs do not follow each other in TXID")
    if state is not None and state.bound_epoch < epoch:
        problems.append(
            f"state.json is bound to epoch {state.bound_epoch}, and the database is in {epoch}; "
            "one of the two is from an older copy"
        )
    if identity is not None:
        problems += _identity(db, identity)
    return problems


def _identity(db: apsw.Connection, identity: NodeIdentity) -> list[str]:
    cluster = sql.one(db, "SELECT cluster_id FROM cluster")
    if cluster is None or cluster[0] != identity.cluster_id:
        return ["node.json and the database are of two clusters"]
    node = sql.one(db, "SELECT region FROM nodes WHERE id = ?", (identity.node_id,))
    if node is None:
        return [f"the cluster does not know the node {identity.node_id} of node.json"]
    if node[0] != identity.region:
        return [f"node.json says region {identity.region}, and the cluster says {node[0]}"]
    return []


_CLAIMS: Final = (
    ("tokens", "SELECT epoch, txid FROM tokens"),
    ("revocations", "SELECT epoch, txid FROM revocations"),
    ("requests", "SELECT epoch, txid FROM idempotency"),
)


def claims(db: apsw.Connection) -> list[str]:
    """Nothing stored may be of a position that the database has not reached."""
    problems = []
    for what, statement in _CLAIMS:
        count = sql.rows(
            db,
            f"SELECT count(*) FROM ({statement}) t, position p"  # noqa: S608
            " WHERE t.txid > p.txid OR t.epoch > p.epoch",
        )[0][0]
        if count:
            problems.append(f"{what} of a position that the database has not reached: {count:,}")
    return problems


_COUNTS: Final = (
    (
        "the current secrets of {0}/{1} are not as many, or not as large, as its row says",
        "WITH now AS (SELECT app, count(*) AS n, sum(length(name) + size) AS bytes FROM secrets"
        " WHERE until IS NULL GROUP BY app)"
        " SELECT o.name, a.name FROM apps a JOIN orgs o ON o.id = a.org"
        " LEFT JOIN now ON now.app = a.id"
        " WHERE a.secrets <> coalesce(n, 0) OR a.size <> coalesce(bytes, 0)",
    ),
    (
        "the versions of {0}/{1} are not all there",
        "WITH had AS (SELECT app, count(*) AS n, max(version) AS last FROM versions GROUP BY app)"
        " SELECT o.name, a.name FROM apps a JOIN orgs o ON o.id = a.org"
        " LEFT JOIN had ON had.app = a.id"
        " WHERE a.version <> coalesce(n, 0) OR a.version <> coalesce(last, 0)",
    ),
    (
        "{0}/{1}/{2} has a row of version {3} whose versions make no sense",
        "SELECT o.name, a.name, s.name, s.since FROM secrets s JOIN apps a ON a.id = s.app"
        " JOIN orgs o ON o.id = a.org WHERE s.sealed_at > s.since OR s.since > a.version"
        " OR s.until <= s.since OR s.until > a.version"
        " OR (s.digest IS NULL) <> (s.envelope IS NULL)"
        " OR (s.until IS NULL AND s.envelope IS NULL)",
    ),
    (
        "{0}/{1}/{2} has two values in version {3}",
        "WITH next AS (SELECT app, name, since, lag(until) OVER w AS ended, lag(since) OVER w AS"
        " began FROM secrets WINDOW w AS (PARTITION BY app, name ORDER BY since))"
        " SELECT o.name, a.name, next.name, next.since FROM next JOIN apps a ON a.id = next.app"
        " JOIN orgs o ON o.id = a.org"
        " WHERE began IS NOT NULL AND (ended IS NULL OR ended > next.since)",
    ),
    (
        "{0}/{1} has no primary data key",
        "SELECT o.name, a.name FROM apps a JOIN orgs o ON o.id = a.org WHERE NOT EXISTS (SELECT 1"
        " FROM data_keys d WHERE d.app = a.id AND d.purpose = 'secrets' AND d.is_primary = 1)",
    ),
    (
        "the org {0} has no primary data key",
        "SELECT name FROM orgs o WHERE NOT EXISTS (SELECT 1 FROM data_keys d WHERE d.org = o.id"
        " AND d.app IS NULL AND d.purpose = 'tokens' AND d.is_primary = 1)",
    ),
    (
        "the org {0} has no primary root key",
        "SELECT name FROM orgs WHERE id NOT IN"
        " (SELECT org FROM root_keys WHERE is_primary = 1 AND org IS NOT NULL)",
    ),
    (
        "the cluster has no primary data key or root key",
        "SELECT 1 WHERE NOT EXISTS (SELECT 1 FROM data_keys WHERE purpose = 'cluster'"
        " AND org IS NULL AND app IS NULL AND is_primary = 1)"
        " OR NOT EXISTS (SELECT 1 FROM root_keys WHERE org IS NULL AND is_primary = 1)",
    ),
    (
        "a data key of purpose {0} belongs to nobody who has such keys",
        "SELECT DISTINCT purpose FROM data_keys WHERE (purpose = 'secrets') <> (app IS NOT NULL)"
        " OR (purpose = 'cluster') <> (org IS NULL)",
    ),
    (
        "data keys are wrapped by a key that the cluster does not know",
        "SELECT DISTINCT purpose FROM data_keys d WHERE NOT EXISTS"
        " (SELECT 1 FROM keks k WHERE k.purpose = d.purpose AND k.id = d.kek)",
    ),
)
"""(what is wrong, the rows that show it)."""


def counts(db: apsw.Connection) -> list[str]:
    """Every number and every choice that is stored twice, compared."""
    problems = []
    for sentence, statement in _COUNTS:
        found = sql.rows(db, f"{statement} LIMIT {_SHOWN}")
        problems += [sentence.format(*row) for row in found]
    for purpose in Purpose:
        primary = sql.rows(
            db,
            "SELECT count(*) FROM keks WHERE purpose = ? AND state = 'primary'",
            (purpose.value,),
        )[0][0]
        if primary != 1:
            problems.append(f"there are {primary} primary keys for {purpose}, and not one")
    return problems
