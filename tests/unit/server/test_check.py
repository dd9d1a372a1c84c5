"""`petsem check`: what holds is said to hold, and what does not is named, never shown."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import apsw
import pytest

from petsem.crypto.keys import Purpose
from petsem.errors import Code, PetsemError
from petsem.server import check_files
from petsem.server.check import check, quick_check
from petsem.server.database import open_reader
from petsem.server.findings import Finding, Findings, Report, Result
from tests.unit.server.cluster import Cluster, call, flip

CANARY = "canary-5e1f"


@pytest.fixture
async def furnished(cluster: Cluster) -> Cluster:
    """A node that has stopped, with something of everything in it."""
    async with cluster.running() as node:
        await cluster.org("acme", "web", "api")
        await cluster.org("beta", "api")
        await cluster.set("acme", "web", A=CANARY, B="2", C=CANARY)
        await cluster.set("acme", "web", key="k", A="3")
        await cluster.set("acme", "web", A="4")
        await cluster.set("beta", "api", A=CANARY)
        await node.orgs.create_app(cluster.operator, call("m"), "beta", "more")
    return cluster


def look(cluster: Cluster, **how: Any) -> Report:
    report = check(cluster.directory, {}, clock=cluster.clock, **how)
    assert all(CANARY not in finding.message for finding in report.findings)
    return report


def results(report: Report) -> dict[str, Result]:
    return {finding.name: finding.result for finding in report.findings}


# What holds


def test_all_holds(furnished: Cluster) -> None:
    """Every part says so, and how much of it was looked at."""
    report = look(furnished, everything=True)
    assert report.ok
    assert report.problems == ()
    assert set(results(report).values()) == {Result.OK}
    opened = {f.name: f.message for f in report.findings if "opened" in f.message}
    assert opened == {
        "data keys": "7 opened",
        "values": "6 opened",
        "boot bundles": "4 opened",
        "root keys": "3 opened",
        "requests": "2 opened",
        "CA key": "1 opened",
    }


def test_a_new_cluster_holds(cluster: Cluster) -> None:
    """From its first transaction on, before it ever ran; only the ballast is not there yet."""
    report = look(cluster)
    assert report.ok
    assert [f.name for f in report.findings if f.result is not Result.OK] == ["ballast"]


def test_a_sample_is_told_from_everything(furnished: Cluster) -> None:
    """A sample says of how many it is one, and stays within its size."""
    report = look(furnished, sample=2)
    messages = {f.name: f.message for f in report.findings}
    assert report.ok
    assert messages["values"] == "2 opened, a sample of 6"
    assert messages["boot bundles"] == "2 opened, a sample of 4"
    assert messages["requests"] == "2 opened"


def test_nothing_is_changed(furnished: Cluster) -> None:
    """Not a byte of the database or its log, although a crash left frames in it."""

    def contents() -> dict[str, str]:
        return {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in furnished.directory.rglob("*")
            if path.is_file() and path.name != "lock"
        }

    assert (furnished.directory / "petsem.db-wal").stat().st_size > 0
    before = contents()
    look(furnished)
    assert contents() == before


async def test_a_running_node_goes_on(furnished: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite copies its database as one transaction saw it, the last one included; nothing else
    opens it."""
    monkeypatch.delattr(check_files.shutil, "copyfile")
    async with furnished.running() as node:
        version = await furnished.set("acme", "api", NEW="1")
        report = look(furnished)
        messages = {f.name: f.message for f in report.findings}
        assert report.ok
        assert messages["database"] == "looked at a copy, because the node is running"
        assert messages["values"] == "7 opened"
        assert await furnished.set("acme", "api", NEW="2") == version + 1
        await node.writer.scrub()


def test_the_copy_is_removed(furnished: Cluster, tmp_path: Path) -> None:
    """It lies in TMPDIR for the length of the check and no longer."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    check(furnished.directory, {"TMPDIR": str(scratch)}, clock=furnished.clock)
    assert list(scratch.iterdir()) == []


# What is sealed


@pytest.mark.parametrize(
    ("table", "column", "where", "part", "named"),
    [
        ("secrets", "envelope", "app = 1 AND name = 'A' AND since = 2", "values",
         "the value of acme/web/A (version 2) is damaged"),
        ("bundles", "envelope", "app = 1", "boot bundles",
         "the boot bundle of acme/web is damaged"),
        ("data_keys", "wrapped", "app = 3", "data keys", "the data key of beta/api ("),
        ("data_keys", "wrapped", "org = 2 AND app IS NULL", "data keys", "the data key of beta ("),
        ("data_keys", "wrapped", "purpose = 'cluster'", "data keys",
         "the data key of the cluster ("),
        ("root_keys", "envelope", "org = 2", "root keys", " of beta is damaged"),
        ("root_keys", "envelope", "org IS NULL", "root keys", " of the cluster is damaged"),
        ("idempotency", "outcome", "key = 'k'", "requests",
         "the record of a POST to /test by token "),
        ("cluster", "ca_key", "1", "CA key", "the private key of the cluster's CA is damaged"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("at", [0, 7, 20, 50, -1], ids="at {}".format)
def test_a_flipped_bit_is_named(
    furnished: Cluster, table: str, column: str, where: str, part: str, named: str, at: int
) -> None:
    """Wherever it is, in the header, key id, nonce, ciphertext or tag."""
    with furnished.stopped() as db:
        flip(db, table, column, where, at=at)
    report = look(furnished, everything=True)
    assert not report.ok
    assert any(f.name == part and named in f.message for f in report.findings if not f.ok), report


@pytest.mark.parametrize(
    "change", ["digest = zeroblob(16)", "size = size + 1", "digest = substr(digest, 1, 15)"]
)
def test_a_digest_or_size_that_is_not_the_value_s_is_named(furnished: Cluster, change: str) -> None:
    """They stand beside the envelope, which does not bind them."""
    with furnished.stopped() as db:
        db.execute(f"UPDATE secrets SET {change} WHERE app = 3")
    wrong = "the size or digest of beta/api/A (version 1) is not that of its value"
    assert wrong in look(furnished).problems


def test_values_that_changed_places_are_named(furnished: Cluster) -> None:
    """Two envelopes of one app and one version, exchanged with digest and size."""
    with furnished.stopped() as db:
        columns = ("envelope", "digest", "size")
        a, b = db.execute(
            "SELECT envelope, digest, size FROM secrets"
            " WHERE app = 1 AND since = 1 AND name IN ('A', 'C') ORDER BY name"
        ).fetchall()
        for name, values in (("A", b), ("C", a)):
            setting = ", ".join(f"{column} = ?" for column in columns)
            db.execute(
                f"UPDATE secrets SET {setting} WHERE app = 1 AND since = 1 AND name = ?",
                (*values, name),
            )
    assert {p for p in look(furnished, everything=True).problems if "value" in p} == {
        "the value of acme/web/A (version 1) is damaged",
        "the value of acme/web/C (version 1) is damaged",
    }


def test_a_bundle_that_tells_another_story_is_named(furnished: Cluster) -> None:
    """A value was taken away behind the bundle's back: it opens, and is not what the rows say."""
    with furnished.stopped() as db:
        db.execute("UPDATE secrets SET until = 3 WHERE app = 1 AND name = 'B'")
        db.execute("UPDATE apps SET secrets = 2, size = size - 2 WHERE id = 1")
    told, beside = look(furnished).problems
    assert told == (
        "the boot bundle of acme/web is not what its secrets are; set any secret of it again"
    )
    # Whoever changes the database past the node changes what its log says, too.
    assert "do not have the checksum that the log promises" in beside


def test_many_problems_are_counted(furnished: Cluster) -> None:
    """The first ones are named, the rest is a number."""
    findings = Findings()
    findings.judge("values", [f"problem {n}" for n in range(25)], "fine")
    report = findings.report()
    assert len(report.findings) == 21
    assert report.findings[-1] == Finding(
        "values", Result.PROBLEM, "and 5 more problems of this sort"
    )


def test_a_ca_key_of_another_cluster_is_named(furnished: Cluster, tmp_path: Path) -> None:
    """It opens, and does not fit the certificate."""
    other = Cluster(tmp_path / "other", furnished.clock)
    with other.stopped() as db:
        cert = db.execute("SELECT ca_cert FROM cluster").fetchall()[0][0]
    with furnished.stopped() as db:
        db.execute("UPDATE cluster SET ca_cert = ?", (cert,))
    assert "certificate and key do not match" in look(furnished).problems[0]


# Keys that are not here


@pytest.mark.parametrize(
    ("purpose", "skipped"),
    [
        (Purpose.SECRETS, {"keyring", "data keys", "values", "boot bundles"}),
        (Purpose.TOKENS, {"keyring", "data keys", "root keys", "requests"}),
        (Purpose.CLUSTER, {"keyring", "data keys", "root keys", "CA key"}),
    ],
)
def test_without_a_key_the_rest_is_checked(
    furnished: Cluster, purpose: Purpose, skipped: set[str]
) -> None:
    """A node may hold one purpose and not another: said, with the id, and no problem."""
    missing = furnished.kek(purpose)
    assert not look(furnished).lacks_keys
    furnished.remove_kek(missing)
    report = look(furnished)
    assert (report.ok, report.lacks_keys) == (True, True)
    assert {f.name for f in report.findings if f.result is Result.NO_KEY} == skipped
    assert any(missing in f.message for f in report.findings if f.name == "keyring")


def test_without_any_keyring_the_database_is_checked(furnished: Cluster) -> None:
    """As for a backup that stores what it cannot read."""
    furnished.datadir.default_keyring.unlink()
    report = look(furnished)
    assert (report.ok, report.lacks_keys) == (True, True)
    assert results(report)["integrity"] is Result.OK


def test_a_keyring_that_cannot_be_read_is_a_problem(furnished: Cluster) -> None:
    """It is not taken for none."""
    furnished.datadir.default_keyring.write_text("{}")
    report = look(furnished)
    assert not report.ok
    assert results(report)["keyring file"] is Result.PROBLEM


# Files


@pytest.mark.parametrize("name", ["petsem.db", "node.json", "tls/node.key", "tls", "."])
def test_a_file_that_others_can_read_is_named(furnished: Cluster, name: str) -> None:
    """With the command that mends it."""
    path = furnished.directory / name
    path.chmod(0o755 if path.is_dir() else 0o644)
    right = "700" if path.is_dir() else "600"
    assert any(f"run: chmod {right} {path}" in problem for problem in look(furnished).problems)


def test_a_keyring_inside_the_directory_is_a_warning(furnished: Cluster) -> None:
    """It holds, and yet is no good."""
    inside = furnished.directory / "keys.json"
    furnished.datadir.default_keyring.rename(inside)
    config = furnished.datadir.config_file
    config.write_text(config.read_text().replace("[keyring]", '[keyring]\nfile = "keys.json"'))
    report = look(furnished)
    assert report.ok
    assert any(
        f.result is Result.WARNING and "lies inside the data directory" in f.message
        for f in report.findings
    )


@pytest.mark.parametrize("name", ["node.json", "state.json", "petsem.toml"])
def test_a_file_that_makes_no_sense_is_named(furnished: Cluster, name: str) -> None:
    """The check goes on with what can be read."""
    (furnished.directory / name).write_text("?")
    report = look(furnished)
    assert results(report)[name] is Result.PROBLEM
    assert results(report)["integrity"] is Result.OK


def test_the_directory_of_another_node_is_told(furnished: Cluster, tmp_path: Path) -> None:
    """A database and a node.json that were not made together."""
    other = Cluster(tmp_path / "other", furnished.clock)
    furnished.datadir.node_file.write_bytes(other.datadir.node_file.read_bytes())
    problems = look(furnished).problems
    assert "node.json and the database are of two clusters" in problems
    assert "tls/node.crt is not the certificate of the node that node.json names" in problems


def test_what_is_no_data_directory_is_refused(tmp_path: Path) -> None:
    """With the command that makes one; nothing is made."""
    with pytest.raises(PetsemError, match="is not a Petsem data directory") as refused:
        check(tmp_path, {})
    assert refused.value.code is Code.INVALID
    assert list(tmp_path.iterdir()) == []


def test_no_room_for_the_copy(furnished: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """That is no finding: nothing could be looked at."""
    monkeypatch.setattr(check_files, "free_bytes", lambda _: 1000)
    with pytest.raises(PetsemError, match="set TMPDIR") as refused:
        look(furnished)
    assert refused.value.code is Code.UNAVAILABLE


def test_no_place_for_the_copy(furnished: Cluster, tmp_path: Path) -> None:
    """A TMPDIR that is not there is an error of the caller's."""
    with pytest.raises(PetsemError) as refused:
        check(furnished.directory, {"TMPDIR": str(tmp_path / "nowhere")})
    assert refused.value.code is Code.INVALID


# The database


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        ("UPDATE position SET txid = 1", "after 1"),
        ("UPDATE position SET epoch = 9", "the position is in epoch 9, and the last epoch is 2"),
        ("UPDATE epochs SET first_txid = 1", "the epochs do not follow each other in TXID"),
        ("DELETE FROM epochs", "does not say at which position"),
        ("DELETE FROM position", "does not say at which position"),
        ("UPDATE tokens SET txid = 999", "tokens of a position"),
        ("UPDATE idempotency SET epoch = 7", "has not reached: 2"),
        ("UPDATE apps SET secrets = 9 WHERE id = 1", "the current secrets of acme/web are not as"),
        ("UPDATE apps SET size = 9 WHERE id = 3", "the current secrets of beta/api are not as"),
        ("DELETE FROM versions WHERE app = 1 AND version = 2", "versions of acme/web are not all"),
        ("UPDATE secrets SET until = 9 WHERE app = 3", "beta/api/A has a row of version 1 whose"),
        ("UPDATE secrets SET sealed_at = 9 WHERE app = 3", "beta/api/A has a row of version 1"),
        ("UPDATE secrets SET digest = NULL WHERE app = 3", "beta/api/A has a row of version 1"),
        ("UPDATE secrets SET until = 3 WHERE app = 1 AND since = 1 AND name = 'A'",
         "acme/web/A has two values in version 2"),
        ("UPDATE data_keys SET is_primary = 0 WHERE app = 3", "beta/api has no primary data key"),
        ("UPDATE data_keys SET is_primary = 0 WHERE org = 2 AND app IS NULL",
         "the org beta has no primary data key"),
        ("DELETE FROM root_keys WHERE org = 1", "the org acme has no primary root key"),
        ("DELETE FROM root_keys WHERE org IS NULL", "the cluster has no primary data key or root"),
        ("UPDATE data_keys SET purpose = 'tokens' WHERE app = 3", "a data key of purpose tokens"),
        ("DELETE FROM keks WHERE purpose = 'tokens'", "a key that the cluster does not know"),
        ("UPDATE keks SET state = 'waiting' WHERE purpose = 'tokens'",
         "there are 0 primary keys for tokens, and not one"),
        ("DELETE FROM nodes", "the cluster does not know the node"),
        ("UPDATE nodes SET region = 'fra'", "and the cluster says fra"),
        ("DELETE FROM cluster", "node.json and the database are of two clusters"),
        ("PRAGMA foreign_keys = off; DELETE FROM apps WHERE id = 1",
         "rows of the table bundles belong to rows of apps that do not exist"),
        ("UPDATE schema SET version = 99", "the database has schema version 99"),
    ],
)  # fmt: skip
def test_what_does_not_fit_together_is_named(
    furnished: Cluster, statement: str, problem: str
) -> None:
    """Whatever is stored twice, or must be there once."""
    with furnished.stopped() as db:
        db.execute(statement).fetchall()
    problems = look(furnished).problems
    assert any(problem in found for found in problems), problems


def test_a_state_from_an_older_copy_is_named(furnished: Cluster) -> None:
    """A node that has bound itself to less than its database was restored in part."""
    state = furnished.datadir.read_state()
    furnished.datadir.write_state(dataclasses.replace(state, bound_epoch=1))
    assert any("state.json is bound to epoch 1" in problem for problem in look(furnished).problems)


def test_a_damaged_page_is_a_problem_and_no_crash(furnished: Cluster) -> None:
    """Each part says how far it came."""
    with furnished.stopped() as db:
        db.wal_checkpoint()
        (root,) = db.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'secrets'").fetchone()
    (furnished.directory / "petsem.db-wal").unlink()
    with furnished.datadir.database.open("r+b") as file:
        file.seek((root - 1) * 4096)
        file.write(b"\xff" * 4096)
    report = look(furnished)
    assert results(report)["integrity"] is Result.PROBLEM
    assert results(report)["root keys"] is Result.OK


@pytest.mark.parametrize("running", [True, False])
async def test_a_damaged_page_1_is_a_problem(furnished: Cluster, running: bool) -> None:
    """The report says what is wrong and what to do, which is not another check; and the rest is
    looked at."""
    with furnished.stopped() as db:
        db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    with furnished.datadir.database.open("r+b") as file:
        file.write(b"\xff" * 100)
    with furnished.datadir.lock() if running else contextlib.nullcontext():
        report = look(furnished)
    assert not report.ok
    (problem,) = {message for message in report.problems if "damaged" in message}
    assert "a replica takes a snapshot from another node" in problem
    assert "petsem check" not in problem
    assert results(report)["log"] is Result.OK


def test_what_is_no_database_is_a_problem(furnished: Cluster) -> None:
    """It is said, and the files are checked all the same."""
    for path in furnished.directory.glob("petsem.db-*"):
        path.unlink()
    furnished.datadir.database.write_bytes(b"not a database at all" * 500)
    report = look(furnished)
    assert not report.ok
    assert results(report)["node.json"] is Result.OK


def test_an_empty_database_is_a_problem(furnished: Cluster) -> None:
    """As after a restore that never ended."""
    for path in furnished.directory.glob("petsem.db-*"):
        path.unlink()
    furnished.datadir.database.write_bytes(b"")
    assert look(furnished).problems == ("the database is empty; restore it from a backup",)


# At a start


def start_check(cluster: Cluster) -> Report:
    db = open_reader(cluster.datadir.database)
    try:
        return quick_check(db, cluster.datadir.read_identity(), cluster.datadir.read_state())
    finally:
        db.close()


def test_a_start_finds_nothing_wrong(furnished: Cluster) -> None:
    """Three parts, which cost the same however much is stored."""
    assert results(start_check(furnished)) == {
        "schema": Result.OK,
        "header tables": Result.OK,
        "position": Result.OK,
    }


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        ("UPDATE position SET txid = 1", "after 1"),
        ("UPDATE schema SET version = 99", "run the newer version of petsem"),
        ("DELETE FROM nodes", "the cluster does not know the node"),
    ],
)
def test_a_start_finds_what_would_stop_it(furnished: Cluster, statement: str, problem: str) -> None:
    """The first thing that does not hold, in one sentence."""
    with furnished.stopped() as db:
        db.execute(statement).fetchall()
    (found,) = start_check(furnished).problems
    assert problem in found


def test_a_start_reads_its_header_tables(furnished: Cluster) -> None:
    """A page of a table without which it cannot start is looked at."""
    with furnished.stopped() as db:
        db.wal_checkpoint()
        (root,) = db.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'epochs'").fetchone()
    (furnished.directory / "petsem.db-wal").unlink()
    with furnished.datadir.database.open("r+b") as file:
        file.seek((root - 1) * 4096)
        file.write(b"\xff" * 4096)
    assert len(start_check(furnished).problems) == 1
