"""The schema and its migrations: forward only, numbered, one transaction each.

Guarantees: a database is at exactly one version, and one newer than this program is refused
before anything is read from it. A replica may get one from a newer leader: `min_reader` in it says
from which version on a program may answer from it. It does not downgrade, and it never edits a
migration that shipped.

Times are Unix milliseconds. `org` and `app` columns are local row numbers that never leave the
database; what is bound into envelopes are `orgs.uid` and `apps.incarnation`, 16 random bytes each.
"""

from __future__ import annotations

from typing import Final

import apsw

from petsem.errors import Code, PetsemError
from petsem.server import sql

_V1: Final = """
CREATE TABLE schema (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    version INTEGER NOT NULL,
    min_reader INTEGER NOT NULL
) STRICT;

CREATE TABLE position (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    epoch INTEGER NOT NULL,
    txid INTEGER NOT NULL
) STRICT;

CREATE TABLE epochs (
    epoch INTEGER PRIMARY KEY,
    first_txid INTEGER NOT NULL,
    leader TEXT NOT NULL,
    at INTEGER NOT NULL
) STRICT;

CREATE TABLE cluster (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    cluster_id BLOB NOT NULL CHECK (length(cluster_id) = 16),
    created_at INTEGER NOT NULL,
    ca_cert BLOB NOT NULL,
    ca_key BLOB NOT NULL
) STRICT;

CREATE TABLE nodes (
    id TEXT PRIMARY KEY,
    region TEXT NOT NULL,
    voter INTEGER NOT NULL CHECK (voter IN (0, 1)),
    http TEXT NOT NULL,
    grpc TEXT NOT NULL,
    peer TEXT NOT NULL,
    joined_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE keks (
    purpose TEXT NOT NULL CHECK (purpose IN ('secrets', 'tokens', 'cluster')),
    id BLOB NOT NULL CHECK (length(id) = 32),
    state TEXT NOT NULL CHECK (state IN ('waiting', 'primary', 'retired')),
    PRIMARY KEY (purpose, id)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX keks_primary ON keks (purpose) WHERE state = 'primary';

CREATE TABLE orgs (
    id INTEGER PRIMARY KEY,
    uid BLOB NOT NULL UNIQUE CHECK (length(uid) = 16),
    name TEXT NOT NULL UNIQUE,
    created_at INTEGER NOT NULL,
    deleted_at INTEGER,
    purge_at INTEGER
) STRICT;

CREATE TABLE org_settings (
    org INTEGER NOT NULL REFERENCES orgs (id) ON DELETE CASCADE,
    key TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (org, key)
) STRICT, WITHOUT ROWID;

CREATE TABLE apps (
    id INTEGER PRIMARY KEY,
    incarnation BLOB NOT NULL UNIQUE CHECK (length(incarnation) = 16),
    org INTEGER NOT NULL REFERENCES orgs (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    version INTEGER NOT NULL DEFAULT 0,
    secrets INTEGER NOT NULL DEFAULT 0,
    size INTEGER NOT NULL DEFAULT 0,
    created_at INTEGER NOT NULL,
    deleted_at INTEGER,
    purge_at INTEGER,
    UNIQUE (org, name)
) STRICT;

-- org and app are null where a key belongs to the cluster, or to an org as a whole.
CREATE TABLE data_keys (
    id BLOB PRIMARY KEY CHECK (length(id) = 32),
    purpose TEXT NOT NULL CHECK (purpose IN ('secrets', 'tokens', 'cluster')),
    org INTEGER REFERENCES orgs (id) ON DELETE CASCADE,
    app INTEGER REFERENCES apps (id) ON DELETE CASCADE,
    kek BLOB NOT NULL CHECK (length(kek) = 32),
    wrapped BLOB NOT NULL,
    is_primary INTEGER NOT NULL CHECK (is_primary IN (0, 1)),
    created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX data_keys_primary
    ON data_keys (purpose, coalesce(org, 0), coalesce(app, 0)) WHERE is_primary = 1;
CREATE INDEX data_keys_kek ON data_keys (purpose, kek);
CREATE INDEX data_keys_org ON data_keys (org);
CREATE INDEX data_keys_app ON data_keys (app);

CREATE TABLE versions (
    app INTEGER NOT NULL REFERENCES apps (id) ON DELETE CASCADE,
    version INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    subject TEXT NOT NULL,
    token BLOB NOT NULL,
    change TEXT NOT NULL CHECK (change IN ('set', 'rollback', 'destroy')),
    rolled_back_to INTEGER,
    PRIMARY KEY (app, version)
) STRICT, WITHOUT ROWID;

-- A value is current in the versions since <= v < until; until is null for the current one.
-- envelope and digest are null once destroyed. sealed_at is the version bound into the envelope,
-- which a rollback copies and does not change.
CREATE TABLE secrets (
    app INTEGER NOT NULL REFERENCES apps (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    since INTEGER NOT NULL,
    until INTEGER,
    sealed_at INTEGER NOT NULL,
    digest BLOB,
    envelope BLOB,
    size INTEGER NOT NULL,
    UNIQUE (app, name, since)
) STRICT;
CREATE UNIQUE INDEX secrets_current ON secrets (app, name) WHERE until IS NULL;

-- A cache: the sealed response of the current version. Losing it loses nothing.
CREATE TABLE bundles (
    app INTEGER PRIMARY KEY REFERENCES apps (id) ON DELETE CASCADE,
    version INTEGER NOT NULL,
    envelope BLOB NOT NULL
) STRICT;

CREATE TABLE root_keys (
    id BLOB PRIMARY KEY CHECK (length(id) = 16),
    org INTEGER REFERENCES orgs (id) ON DELETE CASCADE,
    envelope BLOB NOT NULL,
    is_primary INTEGER NOT NULL CHECK (is_primary IN (0, 1)),
    created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX root_keys_primary ON root_keys (coalesce(org, 0)) WHERE is_primary = 1;
CREATE INDEX root_keys_org ON root_keys (org);

CREATE TABLE tokens (
    nonce BLOB PRIMARY KEY CHECK (length(nonce) = 16),
    org INTEGER REFERENCES orgs (id) ON DELETE CASCADE,
    root_key BLOB NOT NULL,
    kind INTEGER NOT NULL,
    subject TEXT NOT NULL,
    parent BLOB,
    depth INTEGER NOT NULL,
    caveats TEXT NOT NULL,
    label TEXT,
    created_at INTEGER NOT NULL,
    created_by TEXT NOT NULL,
    expires_at INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    txid INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX tokens_org ON tokens (org, created_at);
CREATE INDEX tokens_parent ON tokens (parent) WHERE parent IS NOT NULL;
CREATE INDEX tokens_expiry ON tokens (expires_at);

CREATE TABLE revocations (
    nonce BLOB PRIMARY KEY CHECK (length(nonce) = 16),
    org INTEGER REFERENCES orgs (id) ON DELETE CASCADE,
    at INTEGER NOT NULL,
    subject TEXT NOT NULL,
    token BLOB NOT NULL,
    epoch INTEGER NOT NULL,
    txid INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX revocations_feed ON revocations (epoch, txid);
CREATE INDEX revocations_org ON revocations (org, epoch, txid);

CREATE TABLE idempotency (
    nonce BLOB NOT NULL,
    method TEXT NOT NULL,
    path TEXT NOT NULL,
    key TEXT NOT NULL,
    org INTEGER REFERENCES orgs (id) ON DELETE CASCADE,
    body_mac BLOB NOT NULL,
    data_key BLOB NOT NULL,
    outcome BLOB NOT NULL,
    epoch INTEGER NOT NULL,
    txid INTEGER NOT NULL,
    at INTEGER NOT NULL,
    PRIMARY KEY (nonce, method, path, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX idempotency_at ON idempotency (at);
CREATE INDEX idempotency_org ON idempotency (org);

INSERT INTO schema (id, version, min_reader) VALUES (1, 0, 1);
"""

_V2: Final = """
-- A join token that was made. The three last columns are null until it is used.
CREATE TABLE invitations (
    id BLOB PRIMARY KEY CHECK (length(id) = 16),
    region TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    created_by TEXT NOT NULL,
    expires_at INTEGER NOT NULL,
    used_at INTEGER,
    used_by TEXT,
    used_key BLOB CHECK (length(used_key) = 32)
) STRICT, WITHOUT ROWID;
CREATE INDEX invitations_expiry ON invitations (expires_at);
"""

_V3: Final = """
-- What a sealed key of root_keys is for: it signs tokens, or it is what an authenticator of the org
-- (for people, or for boots) shares with the rest of the node, or the secret of the org's client at
-- its OIDC provider. Only those that sign can be primary.
ALTER TABLE root_keys ADD COLUMN use TEXT NOT NULL DEFAULT 'tokens'
    CHECK (use IN ('tokens', 'sso', 'boot', 'client') AND (use = 'tokens' OR is_primary = 0));
CREATE UNIQUE INDEX root_keys_use ON root_keys (coalesce(org, 0), use) WHERE use <> 'tokens';

-- The ticket of the third-party caveat that the token was minted with; null if there is none.
ALTER TABLE tokens ADD COLUMN ticket BLOB;
CREATE INDEX tokens_subject ON tokens (org, subject);

-- When a token was last verified by any node, to within some minutes.
CREATE TABLE tokens_seen (
    nonce BLOB PRIMARY KEY CHECK (length(nonce) = 16)
        REFERENCES tokens (nonce) ON DELETE CASCADE,
    at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Who asked for a machine to boot, in orgs where a host's token alone reads nothing. A grant counts
-- in the round of its app that it was made in; revoking by app begins the next one.
ALTER TABLE apps ADD COLUMN boot_round INTEGER NOT NULL DEFAULT 0;
CREATE TABLE boot_grants (
    id BLOB PRIMARY KEY CHECK (length(id) = 16),
    app INTEGER NOT NULL REFERENCES apps (id) ON DELETE CASCADE,
    boot_round INTEGER NOT NULL,
    machine TEXT NOT NULL,
    subject TEXT NOT NULL,
    token BLOB NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX boot_grants_app ON boot_grants (app);
CREATE INDEX boot_grants_expiry ON boot_grants (expires_at);
"""

MIGRATIONS: Final[tuple[tuple[str, int], ...]] = ((_V1, 1), (_V2, 1), (_V3, 3))
"""(SQL, oldest schema version whose readers understand the result), the first making version 1."""

SCHEMA_VERSION: Final = len(MIGRATIONS)


def version_of(db: apsw.Connection) -> int:
    """The schema version of an open database; 0 when it is empty."""
    if sql.one(db, "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'schema'") is None:
        return 0
    return int(sql.rows(db, "SELECT version FROM schema")[0][0])


def refuse_newer(db: apsw.Connection) -> None:
    """Refuse a database that a newer program has migrated beyond what this one can write."""
    version = version_of(db)
    if version > SCHEMA_VERSION:
        raise PetsemError(
            Code.CONFLICT,
            f"the database has schema version {version} and this program knows {SCHEMA_VERSION}; "
            "run the newer version of petsem",
        )


def too_new_to_read(db: apsw.Connection) -> str | None:
    """Why this program must not answer from a database that it replicates; None if it may."""
    needed = int(sql.rows(db, "SELECT min_reader FROM schema")[0][0])
    if needed <= SCHEMA_VERSION:
        return None
    return (
        f"the data is for programs that know schema version {needed} and this one knows "
        f"{SCHEMA_VERSION}; run the newer version of petsem on this node, or ask another one"
    )


def migrate(db: apsw.Connection) -> int:
    """Bring `db` to SCHEMA_VERSION, inside the caller's transaction; how many steps it took."""
    had = version_of(db)
    for number, (script, min_reader) in enumerate(MIGRATIONS[had:], start=had + 1):
        db.execute(script).fetchall()
        sql.run(db, "UPDATE schema SET version = ?, min_reader = ?", (number, min_reader))
    return SCHEMA_VERSION - had
