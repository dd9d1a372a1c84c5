"""The schema: made once, never newer than the program, and strict."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from petsem.errors import Code, PetsemError
from petsem.server import schema, sql
from petsem.server.database import open_writer
from petsem.server.schema import (
    SCHEMA_VERSION,
    migrate,
    refuse_newer,
    too_new_to_read,
    version_of,
)


@pytest.fixture
def db(tmp_path: Path) -> Iterator[apsw.Connection]:
    db = open_writer(tmp_path / "petsem.db", create=True)
    yield db
    db.close()


def test_an_empty_database_is_brought_to_this_version_once(db: apsw.Connection) -> None:
    """Migrating takes each step that is missing and none twice."""
    assert version_of(db) == 0
    assert migrate(db) == SCHEMA_VERSION
    assert version_of(db) == SCHEMA_VERSION
    assert migrate(db) == 0


def test_a_migration_is_all_or_nothing(db: apsw.Connection) -> None:
    """Inside a transaction that is rolled back, a migration leaves nothing behind."""
    db.execute("BEGIN IMMEDIATE")
    migrate(db)
    db.execute("ROLLBACK")
    assert version_of(db) == 0
    assert sql.rows(db, "SELECT * FROM sqlite_schema") == []


def test_steps_are_taken_in_order_with_their_oldest_reader(
    db: apsw.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database of an older version takes the steps beyond it, and says who can still read it."""
    migrate(db)
    more = (("CREATE TABLE second (x INTEGER) STRICT", 1), ("DROP TABLE second", 3))
    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, *more))
    monkeypatch.setattr(schema, "SCHEMA_VERSION", SCHEMA_VERSION + 2)
    assert migrate(db) == 2
    assert sql.rows(db, "SELECT version, min_reader FROM schema") == [(SCHEMA_VERSION + 2, 3)]


def test_a_database_of_the_first_version_takes_invitations(
    db: apsw.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was in it stays; whoever reads the first version only may not read the result, since it
    knows nothing of boots that somebody has to ask for."""
    with monkeypatch.context() as first:
        first.setattr(schema, "MIGRATIONS", schema.MIGRATIONS[:1])
        first.setattr(schema, "SCHEMA_VERSION", 1)
        migrate(db)
    node = ("ams-1", "ams", 1, "x:1", "x:2", "x:3", 0)
    sql.run(db, "INSERT INTO nodes VALUES (?, ?, ?, ?, ?, ?, ?)", node)
    assert migrate(db) == SCHEMA_VERSION - 1
    assert sql.rows(db, "SELECT * FROM nodes") == [node]
    assert sql.rows(db, "SELECT * FROM invitations") == []
    assert sql.rows(db, "SELECT min_reader FROM schema") == [(3,)]


def test_a_newer_database_is_refused_and_untouched(db: apsw.Connection) -> None:
    """What a newer program migrated is left alone, with a sentence that says what to run."""
    migrate(db)
    sql.run(db, "UPDATE schema SET version = ?", (SCHEMA_VERSION + 1,))
    with pytest.raises(PetsemError) as refused:
        refuse_newer(db)
    assert (refused.value.code, refused.value.message) == (
        Code.CONFLICT,
        f"the database has schema version {SCHEMA_VERSION + 1} and this program knows "
        f"{SCHEMA_VERSION}; run the newer version of petsem",
    )


def test_every_table_is_strict_and_every_reference_is_found_by_an_index(
    db: apsw.Connection,
) -> None:
    """No column takes a value of another type, and deleting an org or app scans no big table."""
    migrate(db)
    tables = sql.rows(db, "SELECT name, strict FROM pragma_table_list WHERE schema = 'main'")
    loose = {name for name, strict in tables if not strict} - {"sqlite_schema"}
    assert loose == set()
    for name, _ in tables:
        for row in sql.rows(db, f"SELECT \"from\" FROM pragma_foreign_key_list('{name}')"):
            plan = sql.rows(db, f"EXPLAIN QUERY PLAN SELECT 1 FROM {name} WHERE {row[0]} = 1")
            # Records of requests are forgotten after a day, and an org is purged once.
            if name != "idempotency":
                assert "SEARCH" in plan[0][3], (name, row[0])


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO orgs (uid, name, created_at) VALUES (x'00', 'short uid', 0)",
        "INSERT INTO apps (incarnation, org, name, created_at) VALUES (zeroblob(16), 9, 'a', 0)",
        "INSERT INTO keks VALUES ('other', zeroblob(32), 'primary')",
        "INSERT INTO position VALUES (2, 1, 1)",
        "INSERT INTO versions VALUES (1, 1, 0, 's', x'', 'edited', NULL)",
    ],
)
def test_rows_that_make_no_sense_are_refused(db: apsw.Connection, statement: str) -> None:
    """The database holds to its own rules, whatever the program does."""
    migrate(db)
    with pytest.raises(apsw.ConstraintError):
        db.execute(statement)


def test_one_primary_key_each(db: apsw.Connection) -> None:
    """A purpose has one primary KEK, an owner one primary data key, an org one primary root key."""
    migrate(db)
    twice = {
        "keks": "('tokens', randomblob(32), 'primary')",
        "data_keys": "(randomblob(32), 'cluster', NULL, NULL, zeroblob(32), x'', 1, 0)",
        "root_keys": "(randomblob(16), NULL, x'', 1, 0, 'tokens')",
    }
    for table, values in twice.items():
        db.execute(f"INSERT INTO {table} VALUES {values}")
        with pytest.raises(apsw.ConstraintError):
            db.execute(f"INSERT INTO {table} VALUES {values}")


@pytest.mark.parametrize(("ahead", "readable"), [(0, True), (1, False)])
def test_who_may_read_a_newer_database(db: apsw.Connection, ahead: int, readable: bool) -> None:
    """`min_reader` decides, and not the version; the sentence says what to run."""
    migrate(db)
    least = SCHEMA_VERSION + ahead
    sql.run(db, "UPDATE schema SET version = ?, min_reader = ?", (SCHEMA_VERSION + 5, least))
    found = too_new_to_read(db)
    assert (found is None) is readable
    if found is not None:
        assert f"know schema version {least} and this one knows {SCHEMA_VERSION}; run the" in found
