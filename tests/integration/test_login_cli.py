"""Signing in with the command line, at a real node and a provider that speaks real OIDC."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.support.daemon import PETSEM, ROOT, Ran, clean_environ, run
from tests.support.fleet import Fleet, fleet
from tests.support.login_browser import sign_in
from tests.support.oidc import MockProvider
from tests.support.patience import PATIENCE_S

pytestmark = pytest.mark.xdist_group("login_cli")
"""In one process, so that what is made once for this file is."""

ADA: Final = "ada@acme.example"
EVE: Final = "eve@elsewhere.example"
PEOPLE: Final = {"ada": ADA, "eve": EVE}


@pytest.fixture(scope="module")
def provider() -> Iterator[str]:
    """A provider on loopback, and its issuer."""
    people = {name: {"email": each, "email_verified": True} for name, each in PEOPLE.items()}
    with MockProvider(**people) as served:
        yield served.issuer


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, provider: str) -> Iterator[Fleet]:
    """A leader and a replica, with an org whose people sign in."""
    root = tmp_path_factory.mktemp("login")
    with fleet(root, 1) as made:
        sso = {
            "issuer": provider,
            "client_id": "petsem",
            "client_secret": "of the provider's choosing",
            "domains": ["acme.example"],
        }
        with made.leader.doors() as doors:
            set_up = doors.cli("org", "settings", "acme", "sso=-", stdin=json.dumps(sso).encode())
        assert set_up.code == 0, set_up
        yield made


class Person:
    """Somebody with a home of his own, and no token."""

    def __init__(self, cluster: Fleet, home: Path) -> None:
        ports = [node.ports.http for node in cluster.nodes]
        self.environ = {
            "PETSEM_ADDR": ",".join(f"http://127.0.0.1:{port}" for port in ports),
            "XDG_STATE_HOME": str(home),
        }
        self.file = home / "petsem" / "logins" / "acme.json"

    def petsem(self, *arguments: str, stdin: bytes = b"") -> Ran:
        """One command."""
        return run(*arguments, stdin=stdin, environ=self.environ)

    def sign_in(self) -> Ran:
        """`petsem login acme` as ada, with the page and the code in a browser elsewhere."""
        with self.signing_in() as (child, page, code):
            assert sign_in(page, "ada", code).status_code == 200
            out, err = child.communicate(timeout=PATIENCE_S)
        return Ran(child.returncode, out, err.decode())

    @contextlib.contextmanager
    def signing_in(self) -> Iterator[tuple[subprocess.Popen[bytes], str, str]]:
        """The command while it waits for somebody, the page and the code that it shows."""
        with subprocess.Popen(
            [*PETSEM, "login", "acme"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=clean_environ(**self.environ),
            cwd=ROOT,
        ) as child:
            try:
                assert child.stderr is not None
                said = [child.stderr.readline().decode().strip() for _ in range(3)]
                code = re.search(r"[A-Z]{4}-[A-Z]{4}", said[2])
                assert code is not None, said
                yield child, said[1], code[0]
            finally:
                child.kill()


@pytest.fixture
def person(cluster: Fleet, tmp_path: Path) -> Person:
    return Person(cluster, tmp_path)


def test_a_day_with_a_code(person: Person, cluster: Fleet) -> None:
    """Sign in with a code, write and list without any token set, see who did it, sign out."""
    signed_in = person.sign_in()
    assert signed_in.code == 0, signed_in.err
    assert f"signed in to acme as {ADA}" in signed_in.out.decode()
    assert person.file.stat().st_mode & 0o777 == 0o600
    written = person.petsem("secrets", "set", "BY_ADA", "-a", "acme/web", stdin=b"x")
    assert written.code == 0, written.err
    listed = person.petsem("secrets", "list", "-a", "acme/web", "-o", "json")
    by = {each["name"]: each["updated_by"] for each in json.loads(listed.out)["secrets"]}
    assert by["BY_ADA"]["subject"] == f"person:{ADA}"
    denied = person.petsem("secrets", "get", "BY_ADA", "-a", "acme/web", "--reveal")
    assert denied.code == 3, denied
    copied = person.file.read_text()
    gone = person.petsem("logout")
    ended = "its token is revoked, and with it any service token and boot grant that came of it\n"
    assert (gone.code, gone.err) == (0, ended)
    assert not person.file.exists()
    assert person.petsem("secrets", "list", "-a", "acme/web").code == 3
    # Who had copied the file before has nothing, either.
    person.file.write_text(copied)
    person.file.chmod(0o600)
    stolen = person.petsem("secrets", "list", "-a", "acme/web")
    assert (stolen.code, "was revoked" in stolen.err) == (3, True), stolen


def test_signing_in_again_ends_the_sign_in_before(person: Person) -> None:
    """A copy of the file from before opens nothing, and the new sign-in is good."""
    assert person.sign_in().code == 0
    copied = person.file.read_text()
    again = person.sign_in()
    assert (again.code, "before this one is revoked" in again.err) == (0, True), again
    assert person.petsem("secrets", "list", "-a", "acme/web").code == 0
    person.file.write_text(copied)
    refused = person.petsem("secrets", "list", "-a", "acme/web")
    assert (refused.code, "was revoked" in refused.err) == (3, True), refused


def test_the_permission_token_alone_opens_nothing(person: Person) -> None:
    """What a thief of the token alone has: a sentence that says to sign in."""
    assert person.sign_in().code == 0
    stolen = json.loads(person.file.read_text())["token"]
    environ = {**person.environ, "PETSEM_TOKEN": stolen}
    refused = run("secrets", "list", "-a", "acme/web", environ=environ)
    assert refused.code == 3
    assert "petsem token discharge" in refused.err


def test_somebody_whom_the_org_does_not_let_in(person: Person) -> None:
    """He is told so in the browser, and so is the terminal, which ends."""
    with person.signing_in() as (child, page, code):
        assert sign_in(page, "eve", code).status_code == 403
        out, err = child.communicate(timeout=PATIENCE_S)
    assert (child.returncode, out) == (3, b"")
    assert err.decode().startswith("petsem: the e-mail address of who signed in is of a domain")
    assert not person.file.exists()


def test_somebody_who_refuses(person: Person) -> None:
    """The page's other button, without the code: the terminal says so and ends."""
    with person.signing_in() as (child, page, _):
        assert "You have refused" in sign_in(page, "ada", "", refuse=True).text
        out, err = child.communicate(timeout=PATIENCE_S)
    assert (child.returncode, out) == (3, b"")
    assert err.decode().startswith("petsem: the sign-in was refused on its page; ")
    assert not person.file.exists()


def test_nobody_signs_in(person: Person) -> None:
    """The terminal waits, until it is interrupted."""
    with person.signing_in() as (child, _, _):
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=PATIENCE_S)
    assert (child.returncode, out, err.strip()) == (130, b"", b"petsem: interrupted")
    assert not person.file.exists()


def test_a_wrong_code(person: Person) -> None:
    """Whoever opens the page without the terminal before him gets no further."""
    with person.signing_in() as (_, page, code):
        wrong = "BBBB-BBBB" if code != "BBBB-BBBB" else "CCCC-CCCC"
        assert sign_in(page, "ada", wrong).status_code == 403
    assert not person.file.exists()


def test_silent_renewal(person: Person) -> None:
    """A discharge that is near its end is renewed with the session, and no person."""
    assert person.sign_in().code == 0
    kept = json.loads(person.file.read_text())
    assert kept["session"]
    # As if it had been there for nearly all of its life.
    now_ms = time.time_ns() // 1_000_000
    since_ms = now_ms - 100 * (kept["discharge_until_ms"] - now_ms)
    person.file.write_text(json.dumps({**kept, "discharge_since_ms": since_ms}))
    listed = person.petsem("secrets", "list", "-a", "acme/web")
    assert listed.code == 0, listed.err
    renewed = json.loads(person.file.read_text())
    assert renewed["discharge_since_ms"] >= now_ms
    assert renewed["session"] != kept["session"]
    again = person.petsem("token", "discharge", "-o", "json")
    assert again.code == 0, again.err
    assert json.loads(again.out)["token"].count(",") == 1


def test_a_discharge_that_a_node_refuses_is_renewed(
    person: Person, cluster: Fleet, tmp_path: Path
) -> None:
    """One that belongs to another token, say: the node's word brings one renewal."""
    assert person.sign_in().code == 0
    kept = json.loads(person.file.read_text())
    other = Person(cluster, tmp_path / "other")
    assert other.sign_in().code == 0
    wrong = json.loads(other.file.read_text())["discharge"]
    person.file.write_text(json.dumps({**kept, "discharge": wrong}))
    listed = person.petsem("secrets", "list", "-a", "acme/web")
    assert listed.code == 0, listed.err
    assert json.loads(person.file.read_text())["discharge"] != wrong


def test_with_a_browser_on_this_machine(person: Person) -> None:
    """On a terminal with a screen, the browser is opened, and comes back to a port of ours."""
    browser = f"{sys.executable} -m tests.support.login_browser ada %s &"
    environ = clean_environ(**person.environ, DISPLAY=":0", BROWSER=browser)
    for name in ("SSH_CONNECTION", "SSH_TTY"):
        environ.pop(name, None)
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [*PETSEM, "login", "acme"],
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=subprocess.PIPE,
        env=environ,
        cwd=ROOT,
    ) as child:
        os.close(theirs)
        try:
            assert child.stderr is not None
            err = child.stderr.read().decode()
            assert child.wait(PATIENCE_S) == 0, err
            assert select.select([ours], [], [], PATIENCE_S)[0]
            assert f"signed in to acme as {ADA}" in os.read(ours, 4096).decode()
        finally:
            child.kill()
            os.close(ours)
    assert "with the browser that has opened" in err
    assert "asks for a code" not in err
    assert person.petsem("secrets", "list", "-a", "acme/web").code == 0
