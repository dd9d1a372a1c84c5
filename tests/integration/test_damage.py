"""A flipped byte in anything sealed: said by name at every door, and never a partial answer."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from petsem.server.datadir import DataDir
from tests.support import cluster
from tests.support.daemon import Daemon, run
from tests.support.doors import Doors, fetch_request, values_of
from tests.support.offline import Disk

pytestmark = pytest.mark.xdist_group("damage")
"""In one process, so that what is made once for this file is."""

FETCH: Final = "/petsem.v1.Secrets/Fetch"
SECRETS: Final = "/v1/orgs/acme/apps/web/secrets"
VALUES: Final = SECRETS + "/values"
NOW: Final = {"A": b"alpha", "B": b"bravo"}
CURRENT: Final = "name = 'A' AND until IS NULL"
PLACES: Final = {"magic": 0, "key id": 20, "nonce": 50, "ciphertext": 66, "tag": -1}


@dataclass(frozen=True)
class Site:
    """A stopped node. A was set twice, the second time with the Idempotency-Key `k`."""

    directory: Path
    operator: str
    reader: str

    @property
    def disk(self) -> Disk:
        return Disk(self.directory)

    @contextmanager
    def serving(self) -> Iterator[Doors]:
        with Daemon(self.directory) as daemon, Doors(daemon, self.operator) as doors:
            yield doors

    def check(self) -> tuple[int, str]:
        """Exit code and report of `petsem check`."""
        ran = run("check", self.directory, "--all")
        return ran.code, ran.out.decode()


SECOND: Final = {"set": {"A": "alpha"}}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Site:
    made = cluster.make(tmp_path_factory.mktemp("original"))
    site = Site(made.directory, made.operator, "")
    with site.serving() as doors:
        doors.furnish("acme", "web", "api")
        doors.set("acme/web", A="old", B="bravo")
        doors.done("PATCH", SECRETS, SECOND, idempotency_key="k")
        doors.set("acme/api", A="other")
        reader = doors.mint("acme", "action = secrets:read")
    return Site(made.directory, made.operator, reader)


@pytest.fixture
def site(original: Site, tmp_path: Path) -> Site:
    """A copy of its own for each test."""
    to = Site(tmp_path / "node", original.operator, original.reader)
    shutil.copytree(original.directory, to.directory, ignore=shutil.ignore_patterns("ballast"))
    keyring = DataDir(original.directory).default_keyring
    shutil.copy(keyring, DataDir(to.directory).default_keyring)
    return to


def refused_everywhere(doors: Doors, name: str, *, cli: bool = False, **asked: Any) -> None:
    """`corrupt`, naming the secret, over gRPC, Connect, HTTP and the command line."""
    request = fetch_request("acme/web", **asked)
    over_grpc = doors.rpc(FETCH, request)
    assert over_grpc.error == ("DATA_LOSS", "corrupt", None)
    for reply in (over_grpc, doors.connect(FETCH, request)):
        assert f" {name} " in reply.sentence
        assert b"bravo" not in reply.raw
    assert doors.connect(FETCH, request).error == ("500 data_loss", "corrupt", None)
    query = "&".join(f"{key}={_text(value)}" for key, value in asked.items())
    answer = doors.ask("GET", f"{VALUES}?{query}" if query else VALUES)
    assert answer.error == (500, "corrupt", None)
    assert f" {name} " in answer.body["message"]
    assert b"bravo" not in answer.raw
    if not cli:
        return
    only = ("--only", name) if "names" in asked else ()
    for command in (("secrets", "get", name), ("boot", "env", *only)):
        ran = doors.cli(*command, app="acme/web")
        assert (ran.code, ran.out) == (8, b""), ran
        assert f" {name} " in ran.err


def _text(value: object) -> str:
    return ",".join(value) if isinstance(value, list) else str(value)


def test_a_current_value_while_the_node_runs(site: Site) -> None:
    """Whoever asks for it is told; the bundle still answers a boot, others' values are served, and
    setting it again is the remedy. Whichever part of the envelope it is."""
    with site.serving() as doors:
        for place, at in PLACES.items():
            assert values_of(doors.fetch("acme/web")) == NOW
            site.disk.flip("secrets", "envelope", CURRENT, at=at)
            refused_everywhere(doors, "A", names=["A"], cli=place == "tag")
            assert values_of(doors.fetch("acme/web")) == NOW
            assert values_of(doors.fetch("acme/web", names=["B"])) == {"B": NOW["B"]}
            assert values_of(doors.fetch("acme/api")) == {"A": b"other"}
            # A write that does not touch it goes through, and the bundle is made out of the last
            # one; when that is lost too, none can be made.
            doors.set("acme/web", B="bravo")
            assert values_of(doors.fetch("acme/web")) == NOW
            site.disk.flip("bundles", "envelope", "app = (SELECT id FROM apps WHERE name = 'web')")
            doors.set("acme/web", B="bravo")
            refused_everywhere(doors, "A")
            listed = doors.done("GET", SECRETS)["secrets"]
            assert [each["name"] for each in listed] == ["A", "B"]
            doors.set("acme/web", A="alpha")


def test_a_current_value_while_the_node_is_stopped(site: Site) -> None:
    """The same after a start, and `petsem check` names it too."""
    site.disk.flip("secrets", "envelope", CURRENT)
    code, report = site.check()
    assert code == 8
    assert "acme/web/A" in report
    site.disk.flip("bundles", "envelope", "true")
    with site.serving() as doors:
        refused_everywhere(doors, "A", cli=True)
        assert values_of(doors.fetch("acme/web", names=["B"])) == {"B": NOW["B"]}


def test_a_bundle(site: Site) -> None:
    """Nobody but the log learns of it: the rows answer, and with the next write there is a bundle
    again."""
    with site.serving() as doors:
        for at in PLACES.values():
            before = doors.fetch("acme/web").message
            site.disk.flip("bundles", "envelope", at=at)
            after = doors.fetch("acme/web").message
            assert (after.etag, after.secrets) == (before.etag, before.secrets)
            assert values_of(doors.connect(FETCH, fetch_request("acme/web"))) == NOW
            doors.set("acme/web", B="bravo")
        assert any("bundle" in e["event"] for e in doors.daemon.events() if e["level"] != "info")


def test_what_was_moved(site: Site) -> None:
    """A bundle, or a value, from another place is as good as damaged."""
    disk = site.disk
    ((web,), (api,)) = disk.rows("SELECT id FROM apps ORDER BY name DESC")
    with site.serving() as doors:
        (foreign,) = disk.rows("SELECT envelope FROM bundles WHERE app = ?", api)[0]
        disk.run("UPDATE bundles SET envelope = ? WHERE app = ?", foreign, web)
        assert values_of(doors.fetch("acme/web")) == NOW
        for source in (f"app = {api}", f"app = {web} AND name = 'B'", f"app = {web} AND since = 1"):
            (moved,) = disk.rows(f"SELECT envelope FROM secrets WHERE {source}")[0]
            disk.run(f"UPDATE secrets SET envelope = ? WHERE app = {web} AND {CURRENT}", moved)
            refused_everywhere(doors, "A", names=["A"])


def test_a_value_of_the_past(site: Site) -> None:
    """The version that holds it is refused by name; every other is served."""
    with site.serving() as doors:
        site.disk.flip("secrets", "envelope", "name = 'A' AND until IS NOT NULL")
        refused_everywhere(doors, "A", version=1)
        assert values_of(doors.fetch("acme/web")) == NOW
        assert values_of(doors.fetch("acme/web", version=1, names=["B"])) == {"B": NOW["B"]}
    code, report = site.check()
    assert code == 8
    assert "acme/web/A" in report


def test_an_app_s_data_key(site: Site) -> None:
    """Its own app is corrupt and no other; nothing can be set in it."""
    site.disk.flip("data_keys", "wrapped", "app = (SELECT id FROM apps WHERE name = 'web')")
    assert site.check()[0] == 8
    with site.serving() as doors:
        assert doors.fetch("acme/web").error == ("DATA_LOSS", "corrupt", None)
        assert doors.ask("GET", VALUES).error == (500, "corrupt", None)
        write = doors.ask("PATCH", SECRETS, {"set": {"C": "c"}})
        assert write.error == (500, "corrupt", None)
        assert values_of(doors.fetch("acme/api")) == {"A": b"other"}
        doors.set("acme/api", C="c")


@pytest.mark.parametrize(
    ("table", "column", "where"),
    [
        ("root_keys", "envelope", "org IS NOT NULL"),
        ("data_keys", "wrapped", "purpose = 'tokens'"),
    ],
)
def test_an_org_s_keys(site: Site, table: str, column: str, where: str) -> None:
    """Its tokens are neither allowed nor denied: the node says that it cannot tell."""
    site.disk.flip(table, column, where)
    with site.serving() as doors:
        reply = doors.fetch("acme/web", token=site.reader)
        assert reply.error == ("DATA_LOSS", "corrupt", None)
        assert doors.ask("GET", VALUES, token=site.reader).error == (500, "corrupt", None)
        access = {"org": "acme", "action": "secrets:read"}
        asked = {"token": site.reader, "access": access}
        verdict = doors.ask("POST", "/v1/tokens/verify", asked)
        assert verdict.error == (500, "corrupt", None)
        assert values_of(doors.fetch("acme/web")) == NOW


@pytest.mark.parametrize(
    ("table", "column", "where"),
    [
        ("root_keys", "envelope", "org IS NULL"),
        ("data_keys", "wrapped", "purpose = 'cluster'"),
    ],
)
def test_the_cluster_s_keys(site: Site, table: str, column: str, where: str) -> None:
    """Operators cannot be told from strangers; machines boot all the same."""
    site.disk.flip(table, column, where)
    with site.serving() as doors:
        assert doors.ask("GET", "/v1/status").error == (500, "corrupt", None)
        assert doors.fetch("acme/web").error == ("DATA_LOSS", "corrupt", None)
        assert values_of(doors.fetch("acme/web", token=site.reader)) == NOW
    recovered = run("operator", "recover", site.directory)
    assert recovered.code == 8
    assert recovered.err.count("\n") == 1


@pytest.mark.parametrize("column", ["outcome", "body_mac"])
def test_an_idempotency_record(site: Site, column: str) -> None:
    """What the key stood for is not known, so nothing is done under it again; a new key is free."""
    with site.serving() as doors:
        site.disk.flip("idempotency", column)
        again = doors.ask("PATCH", SECRETS, SECOND, idempotency_key="k")
        # A record with another MAC says that the key was used with another body.
        expected = (500, "corrupt", None) if column == "outcome" else (409, "conflict", None)
        assert again.error == expected
        assert doors.done("GET", SECRETS)["version"] == 2
        assert doors.ask("PATCH", SECRETS, SECOND, idempotency_key="k2").status == 200


def test_the_ca_s_key(site: Site) -> None:
    """Nothing that is served today needs it, and `petsem check` finds it."""
    site.disk.flip("cluster", "ca_key")
    assert site.check()[0] == 8
    with site.serving() as doors:
        assert values_of(doors.fetch("acme/web")) == NOW


def test_a_page_of_the_database(site: Site) -> None:
    """What SQLite itself finds damaged is `corrupt` for whoever reads it, and not `internal`."""
    (page,) = site.disk.rows("SELECT rootpage FROM sqlite_schema WHERE name = 'secrets'")[0]
    with site.disk.open() as db:
        db.wal_checkpoint(None, 3)
    path = site.directory / "petsem.db"
    whole = bytearray(path.read_bytes())
    whole[(page - 1) * 4096 : (page - 1) * 4096 + 8] = b"\xff" * 8
    path.write_bytes(whole)
    assert site.check()[0] == 8
    with site.serving() as doors:
        # The bundle is on a page of its own.
        assert values_of(doors.fetch("acme/web")) == NOW
        reply = doors.fetch("acme/web", names=["A"])
        assert reply.error == ("DATA_LOSS", "corrupt", None)
        assert "petsem check" in reply.sentence
        assert doors.ask("GET", VALUES).error == (500, "corrupt", None)
        write = doors.ask("PATCH", SECRETS, {"set": {"A": "c"}})
        assert write.error == (500, "corrupt", None)
        assert doors.ask("GET", "/v1/orgs").status == 200
