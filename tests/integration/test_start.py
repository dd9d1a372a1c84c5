"""Starting a node where something is wrong: one sentence and an exit code, or what it can do."""

from __future__ import annotations

import json
import shlex
import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from signal import SIGHUP
from typing import Final

import pytest

from petsem.crypto.keyring import Keyring
from petsem.crypto.keys import Purpose
from petsem.server.datadir import DataDir
from petsem.server.schema import SCHEMA_VERSION
from tests.support import cluster
from tests.support.daemon import Daemon, Ran, configure, run, until
from tests.support.doors import Doors, values_of
from tests.support.offline import Disk

pytestmark = pytest.mark.xdist_group("start")
"""In one process, so that what is made once for this file is."""

INVALID: Final = 2
CONFLICT: Final = 5
UNAVAILABLE: Final = 6
CORRUPT: Final = 8


@dataclass(frozen=True)
class Site:
    """A stopped node with acme/web in it."""

    directory: Path
    operator: str
    reader: str

    @property
    def keyring(self) -> Path:
        return DataDir(self.directory).default_keyring


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Site:
    made = cluster.make(tmp_path_factory.mktemp("original"))
    with Daemon(made.directory) as daemon, Doors(daemon, made.operator) as doors:
        doors.furnish("acme", "web")
        doors.set("acme/web", A="value of A")
        reader = doors.mint("acme", "action = secrets:read")
    return Site(made.directory, made.operator, reader)


@pytest.fixture
def site(original: Site, tmp_path: Path) -> Site:
    """A copy of its own for each test."""
    to = Site(tmp_path / "node", original.operator, original.reader)
    shutil.copytree(original.directory, to.directory, ignore=shutil.ignore_patterns("ballast"))
    shutil.copy(original.keyring, to.keyring)
    return to


@pytest.fixture
def busy_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        yield taken.getsockname()[1]


def sentence(ran: Ran) -> str:
    """The one sentence that a start which failed leaves, beside what is in the log."""
    said = [line for line in ran.err.splitlines() if not line.startswith("{")]
    assert len(said) == 1, ran.err
    assert said[0].startswith("petsem: ")
    assert "internal error" not in said[0]
    return said[0]


def serves(site: Site) -> None:
    """The node starts and has what was set."""
    with Daemon(site.directory) as daemon, Doors(daemon, site.operator) as doors:
        assert values_of(doors.fetch("acme/web")) == {"A": b"value of A"}


def test_a_directory_in_use(site: Site) -> None:
    """A second node is refused and names the first, which goes on; readers are let in."""
    with Daemon(site.directory) as first, Doors(first, site.operator) as doors:
        second = Daemon(site.directory)
        second.log = second.log.with_name("second.log")
        refused = second.refuse()
        assert refused.code == CONFLICT
        assert f"in use by process {first.pid}" in sentence(refused)
        recovered = run("operator", "recover", site.directory)
        assert recovered.code == CONFLICT
        assert f"process {first.pid}" in recovered.err
        doors.set("acme/web", B="still here")
        assert run("check", site.directory).code == 0
    serves_again = Daemon(site.directory)
    with serves_again, Doors(serves_again, site.operator) as doors:
        assert values_of(doors.fetch("acme/web"))["B"] == b"still here"


def test_a_lock_file_that_a_crash_left(site: Site) -> None:
    """The lock is the kernel's: what is in the file of a node that was killed means nothing."""
    daemon = Daemon(site.directory).start()
    daemon.kill()
    assert (site.directory / "lock").read_text().strip().isdigit()
    serves(site)


def test_a_newer_database(site: Site) -> None:
    """It is refused before anything is changed in it, by every command."""
    disk = Disk(site.directory)
    disk.run("UPDATE schema SET version = 99")
    before = disk.rows("SELECT * FROM position"), disk.rows("SELECT * FROM epochs")
    refused = Daemon(site.directory).refuse()
    assert refused.code == CONFLICT
    assert "schema version 99" in sentence(refused)
    assert "newer version of petsem" in sentence(refused)
    assert run("operator", "recover", site.directory).code == CONFLICT
    assert run("check", site.directory).code == CORRUPT
    assert (disk.rows("SELECT * FROM position"), disk.rows("SELECT * FROM epochs")) == before
    disk.run("UPDATE schema SET version = ?", SCHEMA_VERSION)
    serves(site)


def test_loose_modes(site: Site) -> None:
    """What others can read is refused with the command that mends it, and once each was run the
    node starts: the directory, the keyring, a keyring of an awkward name, a TLS key."""
    odd = site.directory.with_name("the operator's key ring.json")
    shutil.copy(site.keyring, odd)
    key = site.directory / "tls" / "node.key"
    certificate = {"cert": "tls/node.crt", "key": "tls/node.key"}
    for path, mode, section, keys in (
        (site.directory, 0o750, "", {}),
        (site.keyring, 0o604, "", {}),
        (odd, 0o640, "keyring", {"file": str(odd)}),
        (key, 0o644, "grpc", certificate),
    ):
        path.chmod(mode)
        if section:
            configure(site.directory, section, **keys)
        refused = Daemon(site.directory).refuse()
        assert refused.code == INVALID
        command = sentence(refused).partition("run: ")[2]
        assert shlex.split(command)[0] == "chmod"
        subprocess.run(shlex.split(command), check=True)
        assert path.stat().st_mode & 0o077 == 0
    with Daemon(site.directory):
        pass


def test_a_loose_token_file(site: Site, tmp_path: Path) -> None:
    """The command line treats its token's file in the same way."""
    token = tmp_path / "operator token"
    token.write_text(site.operator)
    token.chmod(0o640)
    named = {"PETSEM_TOKEN_FILE": str(token), "PETSEM_ADDR": "http://127.0.0.1:1"}
    refused = run("org", "list", environ=named)
    assert refused.code == INVALID
    subprocess.run(shlex.split(refused.err.strip().partition("run: ")[2]), check=True)
    assert token.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("purpose", list(Purpose))
def test_a_keyring_that_lacks_a_key(site: Site, purpose: Purpose) -> None:
    """The node starts, names the missing id in log, readyz and status, and does what it can."""
    whole = Keyring.parse(site.keyring.read_bytes())
    missing = whole.ids(purpose)[0].hex()
    poor = Keyring()
    held = whole.keys()
    for each, key in held:
        if each is not purpose:
            poor = poor.with_key(each, key)
    site.keyring.write_bytes(poor.encode())
    with Daemon(site.directory) as daemon, Doors(daemon, site.operator) as doors:
        assert missing in daemon.said()
        ready = doors.ask("GET", "/readyz", token=None)
        by_host = doors.fetch("acme/web", token=site.reader)
        by_operator = doors.fetch("acme/web")
        status = doors.ask("GET", "/v1/status")
        if purpose is Purpose.TOKENS:
            assert ready.error == (503, "unavailable", None)
            assert any(missing in reason for reason in ready.body["details"]["reasons"])
            assert by_host.error == ("UNAVAILABLE", "unavailable", None)
            assert missing in by_host.sentence
        else:
            assert ready.status == 200
        if purpose is Purpose.CLUSTER:
            assert status.error == (503, "unavailable", None)
            assert missing in status.body["message"]
            assert values_of(by_host) == {"A": b"value of A"}
        else:
            assert any(missing in each for each in status.body["nodes"][0]["warnings"])
            assert doors.ask("GET", "/v1/orgs/acme/apps/web/secrets").status == 200
        if purpose is Purpose.SECRETS:
            assert by_operator.error == ("UNAVAILABLE", "unavailable", None)
            assert missing in by_operator.sentence
            # What needs no value's key goes on.
            assert doors.mint("acme", "action = secrets:read")
        # The key comes back, and with it everything, without a restart.
        site.keyring.write_bytes(whole.encode())
        daemon.signal(SIGHUP)
        until(
            lambda: doors.fetch("acme/web", token=site.reader).error is None,
            "fetch after the key came back",
        )
        # A host's token needs another key than an operator's.
        until(
            lambda: doors.ask("GET", "/v1/status").error is None, "status after the key came back"
        )
        assert doors.ask("GET", "/readyz", token=None).status == 200
        assert doors.done("GET", "/v1/status")["nodes"][0]["warnings"] == []


def test_no_keyring_at_all(site: Site) -> None:
    """Without a keyring the node is alive and not ready, and names every key that it lacks."""
    whole = Keyring.parse(site.keyring.read_bytes())
    ids = [key.hex() for purpose in Purpose for key in whole.ids(purpose)]
    site.keyring.unlink()
    with Daemon(site.directory) as daemon, Doors(daemon, site.operator) as doors:
        assert doors.ask("GET", "/healthz", token=None).status == 200
        assert doors.ask("GET", "/readyz", token=None).status == 503
        said = daemon.said()
        assert [key for key in ids if key not in said] == []


def test_a_damaged_keyring(site: Site) -> None:
    """It is refused without a word of what is in it."""
    text = site.keyring.read_text()
    key = json.loads(text)["keys"][0]["key"]
    for damaged in (text[:-20], text.replace(key, key[::-1])):
        site.keyring.write_text(damaged)
        refused = Daemon(site.directory).refuse()
        assert refused.code == INVALID
        assert str(site.keyring) in sentence(refused)
        assert key[:12] not in refused.err
        assert key[::-1][:12] not in refused.err


@pytest.mark.parametrize("name", ["node.json", "state.json"])
def test_a_damaged_file_of_the_node(site: Site, name: str) -> None:
    """Who the node is and what it must not forget are never guessed."""
    path = site.directory / name
    text = path.read_text()
    again = text.replace("{", '{"region": "ams", "role": "leader",', 1)
    for damaged in (text[: len(text) // 2], again):
        path.write_text(damaged)
        refused = Daemon(site.directory).refuse()
        assert refused.code == CORRUPT, damaged
        assert str(path) in sentence(refused)
    assert run("check", site.directory).code == CORRUPT
    path.unlink()
    refused = Daemon(site.directory).refuse()
    assert refused.code == INVALID
    assert str(site.directory) in sentence(refused)


def test_a_database_that_is_none(site: Site) -> None:
    """Missing, empty, cut short or of another cluster: said as it is, and left as it is."""
    path = site.directory / "petsem.db"
    whole = path.read_bytes()
    for bytes_there, code in (
        (b"", CORRUPT),
        (whole[: len(whole) // 2], CORRUPT),
        (None, UNAVAILABLE),
    ):
        for leftover in site.directory.glob("petsem.db-*"):
            leftover.unlink()
        path.unlink(missing_ok=True)
        if bytes_there is not None:
            path.write_bytes(bytes_there)
            path.chmod(0o600)
        refused = Daemon(site.directory).refuse()
        assert refused.code == code, sentence(refused)
        assert not bytes_there or path.read_bytes() == bytes_there
    assert not path.exists()


def test_another_cluster_s_database(site: Site, tmp_path: Path) -> None:
    """A database and a node that do not belong together are not brought together."""
    (tmp_path / "other").mkdir()
    other = cluster.make(tmp_path / "other")
    shutil.copy(other.directory / "node.json", site.directory / "node.json")
    refused = Daemon(site.directory).refuse()
    assert refused.code == CORRUPT
    assert "of two clusters" in sentence(refused)


@pytest.mark.parametrize("door", ["http", "grpc"])
def test_a_port_in_use(site: Site, busy_port: int, door: str) -> None:
    """One sentence that names the address."""
    configure(site.directory, door, bind=f"127.0.0.1:{busy_port}")
    refused = Daemon(site.directory).refuse()
    assert refused.code == UNAVAILABLE
    assert f"127.0.0.1:{busy_port}" in sentence(refused)


def test_two_nodes_on_one_grpc_port(site: Site) -> None:
    """The kernel would let two processes share it and hand each every other connection."""
    with Daemon(site.directory) as first:
        other = Site(site.directory.with_name("other"), site.operator, site.reader)
        skip = shutil.ignore_patterns("ballast", "lock")
        shutil.copytree(site.directory, other.directory, ignore=skip)
        shutil.copy(site.keyring, other.keyring)
        configure(other.directory, "grpc", bind=f"127.0.0.1:{first.grpc}")
        refused = Daemon(other.directory).refuse()
        assert refused.code == UNAVAILABLE
        assert f"127.0.0.1:{first.grpc}" in sentence(refused)


def test_an_address_that_is_not_here(site: Site) -> None:
    """An address of no interface of this machine is said to be so."""
    configure(site.directory, "http", bind="192.0.2.1:7400")
    refused = Daemon(site.directory, options=("--insecure",)).refuse()
    assert refused.code == UNAVAILABLE
    assert "192.0.2.1:7400" in sentence(refused)


def test_a_configuration_that_is_wrong(site: Site) -> None:
    """The key is named, with what it may be; what was written is not quoted."""
    path = site.directory / "petsem.toml"
    text = path.read_text()
    for wrong, names in (
        (text.replace("[limits]", '[limits]\nwrite_queues = "canary"'), "write_queue"),
        (text.replace("[limits]", '[limits]\ndrain_s = "canary"'), "[limits] drain_s"),
    ):
        path.write_text(wrong)
        refused = Daemon(site.directory).refuse()
        assert refused.code == INVALID
        assert names in sentence(refused)
        assert "canary" not in refused.err


def test_a_directory_that_is_none(tmp_path: Path) -> None:
    """The command that makes one is shown."""
    refused = Daemon(tmp_path / "no where").refuse()
    assert refused.code == INVALID
    assert f"petsem init '{tmp_path / 'no where'}'" in sentence(refused)


def test_init_where_something_is(site: Site) -> None:
    """`init` takes no place that is taken, and leaves it as it was."""
    before = {path: path.read_bytes() for path in site.directory.rglob("*") if path.is_file()}
    new = site.directory.with_name("new")
    for arguments in ([site.directory], [new, "--keyring", site.keyring]):
        refused = run("init", *arguments, "--region", "ams")
        assert refused.code == CONFLICT
        assert refused.err.count("\n") == 1
    assert {path: path.read_bytes() for path in before} == before
    assert not new.exists()


def test_core_dumps_are_off(site: Site) -> None:
    """The running node may not leave its memory on the disk."""
    with Daemon(site.directory) as daemon:
        limits = Path(f"/proc/{daemon.pid}/limits").read_text()
        (row,) = [line for line in limits.splitlines() if line.startswith("Max core file size")]
        assert row.split()[4:6] == ["0", "0"]
        modes = {
            oct(path.stat().st_mode & 0o077)
            for path in (site.directory, *site.directory.rglob("*"))
        }
        assert modes == {"0o0"}
        assert (site.directory / "petsem.db-wal").stat().st_mode & 0o777 == 0o600
