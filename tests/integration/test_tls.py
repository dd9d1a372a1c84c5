"""TLS and mTLS on the real ports with every client that we have; no plain text off loopback."""

from __future__ import annotations

import json
import shutil
import socket
import ssl
import subprocess
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from petsem.errors import Code, PetsemError
from petsem_client import SyncSecretReader
from tests.support import cluster
from tests.support.daemon import SERVE, Daemon, Ran, configure, run, until
from tests.support.doors import Doors
from tests.unit.server.certificates import Authority, make_authority, make_leaf

pytestmark = pytest.mark.xdist_group("tls")
"""In one process, so that what is made once for this file is."""

Shown = dict[str, Path]
SECRETS: Final = "/v1/orgs/acme/apps/web/secrets"


@dataclass(frozen=True)
class Files:
    """Certificates: the cluster's operator has one authority, and somebody else another."""

    ca: Path
    stranger: Path
    cert: Path
    key: Path
    foreign_cert: Path
    foreign_key: Path
    signing: ec.EllipticCurvePrivateKey


@dataclass(frozen=True)
class Site:
    """A node that speaks TLS; with `mutual` it wants certificates of its clients too."""

    daemon: Daemon
    files: Files
    operator: str
    reader: str
    mutual: bool

    @property
    def own(self) -> Shown:
        """What a client shows."""
        return {"cert": self.files.cert, "key": self.files.key} if self.mutual else {}

    def cli(self, *arguments: str, **environ: str) -> Ran:
        given = {
            "PETSEM_ADDR": f"https://127.0.0.1:{self.daemon.http}",
            "PETSEM_GRPC": f"127.0.0.1:{self.daemon.grpc}",
            "PETSEM_TOKEN": self.operator,
            "PETSEM_APP": "acme/web",
            "PETSEM_CA": str(self.files.ca),
        }
        own = {f"PETSEM_{name.upper()}": str(path) for name, path in self.own.items()}
        return run(*arguments, environ={**given, **own, **environ})

    def get(self, shown: Shown, *, path: str = SECRETS, ca: Path | None = None) -> httpx.Response:
        context = ssl.create_default_context(cafile=ca or self.files.ca)
        if shown:
            context.load_cert_chain(shown["cert"], shown["key"])
        headers = {"authorization": f"Bearer {self.operator}"}
        url = f"https://127.0.0.1:{self.daemon.http}{path}"
        return httpx.get(url, headers=headers, verify=context, trust_env=False, timeout=10)

    def shown(self) -> set[bytes]:
        """The certificates that the node's two ports show."""
        context = ssl.create_default_context(cafile=self.files.ca)
        context.set_alpn_protocols(["h2", "http/1.1"])
        found = set()
        for port in (self.daemon.http, self.daemon.grpc):
            with (
                socket.create_connection(("127.0.0.1", port), 10) as plain,
                context.wrap_socket(plain, server_hostname="127.0.0.1") as connection,
            ):
                found.add(connection.getpeercert(binary_form=True) or b"")
        return found

    def logged(self, event: str, door: str) -> dict[str, Any]:
        """What the node logs of this port, once it does."""

        def found() -> dict[str, Any] | None:
            wanted = {"event": event, "door": door}
            return next((e for e in self.daemon.events() if wanted.items() <= e.items()), None)

        return until(found, f"{event} of {door}")

    def fetch(self, **security: Any) -> bytes:
        address = f"127.0.0.1:{self.daemon.grpc}"
        with SyncSecretReader([address], token=self.reader, timeout_s=1.5, **security) as reader:
            return reader.fetch("acme/web")["A"]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    root = tmp_path_factory.mktemp("certificates")
    ours = make_authority(root / "ca.pem")
    made = Files(
        ca=root / "ca.pem",
        stranger=root / "stranger.pem",
        cert=root / "cert.pem",
        key=root / "key.pem",
        foreign_cert=root / "fc.pem",
        foreign_key=root / "fk.pem",
        signing=ours.key,
    )
    make_leaf(ours, made.cert, made.key)
    make_leaf(make_authority(made.stranger, "a stranger"), made.foreign_cert, made.foreign_key)
    return made


@pytest.fixture(scope="module", params=[False, True], ids=["tls", "mtls"])
def site(
    request: pytest.FixtureRequest, files: Files, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    made = cluster.make(tmp_path_factory.mktemp("tls"))
    with Daemon(made.directory) as daemon, Doors(daemon, made.operator) as doors:
        doors.furnish("acme", "web")
        doors.set("acme/web", A="value of A")
        reader = doors.mint("acme", "action = secrets:read")
    shutil.copy(files.cert, made.directory / "tls" / "server.pem")
    shutil.copy(files.key, made.directory / "tls" / "server.key")
    chosen = {"cert": "tls/server.pem", "key": "tls/server.key"}
    if request.param:
        chosen["client_ca"] = str(files.ca)
    for door in ("http", "grpc"):
        configure(made.directory, door, **chosen)
    with Daemon(made.directory) as daemon:
        yield Site(daemon, files, made.operator, reader, request.param)


def test_who_has_the_authority(site: Site) -> None:
    """Every client of ours gets in with the right files."""
    answer = site.get(site.own)
    assert (answer.status_code, answer.http_version) == (200, "HTTP/1.1")
    assert site.fetch(ca=site.files.ca, **site.own) == b"value of A"
    ran = site.cli("secrets", "get", "A")
    assert (ran.code, ran.out) == (0, b"value of A")
    ran = site.cli("boot", "env", "--format", "json")
    assert (ran.code, json.loads(ran.out)) == (0, {"A": "value of A"})


def test_who_trusts_somebody_else(site: Site) -> None:
    """A client that does not know the node's authority sends it nothing, and says why."""
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        site.get(site.own, ca=site.files.stranger)
    with pytest.raises(PetsemError) as caught:
        site.fetch(ca=site.files.stranger, **site.own)
    assert caught.value.code is Code.UNAVAILABLE
    commands: list[tuple[str, ...]] = [("secrets", "get", "A")]
    if not site.mutual:
        # It goes on trying for ten seconds: once is enough.
        commands.append(("boot", "env"))
    for command in commands:
        ran = site.cli(*command, PETSEM_CA=str(site.files.stranger))
        assert (ran.code, ran.out) == (6, b""), ran
        assert ran.err.count("\n") == 1, ran.err


def test_whose_certificate_is_not_ours(site: Site) -> None:
    """Where clients need a certificate, none and a foreign one get no further than the handshake;
    where they need none, a foreign one does no harm."""
    foreign: Shown = {"cert": site.files.foreign_cert, "key": site.files.foreign_key}
    if not site.mutual:
        assert site.get(foreign).status_code == 200
        assert site.fetch(ca=site.files.ca, **foreign) == b"value of A"
        return
    nothing: Shown = {}
    for shown in (nothing, foreign):
        with pytest.raises(httpx.TransportError):
            site.get(shown)
        with pytest.raises(PetsemError) as caught:
            site.fetch(ca=site.files.ca, **shown)
        assert caught.value.code is Code.UNAVAILABLE
    # The probes too: nothing is said to whoever cannot show one.
    with pytest.raises(httpx.TransportError):
        site.get({}, path="/healthz")


def test_a_certificate_that_is_renewed(site: Site) -> None:
    """The running node shows it at both ports, and a pair that does not fit is logged instead."""
    cert, key = (site.daemon.directory / "tls" / f"server.{end}" for end in ("pem", "key"))
    ours = Authority(x509.load_pem_x509_certificate(site.files.ca.read_bytes()), site.files.signing)
    before = site.shown()
    make_leaf(ours, cert, key)
    for door in ("http", "grpc"):
        site.logged("certificate_reloaded", door)
    renewed = ssl.PEM_cert_to_DER_cert(cert.read_text())
    assert site.shown() == {renewed}
    assert before.isdisjoint(site.shown())
    assert site.get(site.own).status_code == 200
    assert site.fetch(ca=site.files.ca, **site.own) == b"value of A"
    cert.write_bytes(site.files.foreign_cert.read_bytes())
    for door in ("http", "grpc"):
        said = site.logged("certificate_not_reloaded", door)
        assert said["message"] == f"{key} is not the private key of {cert}"
    assert site.shown() == {renewed}


def test_plain_text(site: Site) -> None:
    """It is not answered on a port that speaks TLS."""
    for port in (site.daemon.http, site.daemon.grpc):
        with socket.create_connection(("127.0.0.1", port), 10) as plain:
            plain.settimeout(15)
            plain.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            heard = b""
            try:
                while part := plain.recv(4096):
                    heard += part
            except ConnectionError:
                pass
            assert b"HTTP/1" not in heard
    with pytest.raises(PetsemError):
        site.fetch()


def test_old_versions(site: Site) -> None:
    """TLS before 1.2 is not spoken."""
    context = ssl.create_default_context(cafile=site.files.ca)
    context.check_hostname = False
    if site.mutual:
        context.load_cert_chain(site.files.cert, site.files.key)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    for port in (site.daemon.http, site.daemon.grpc):
        with (
            socket.create_connection(("127.0.0.1", port), 10) as plain,
            pytest.raises((ssl.SSLError, ConnectionError)),
        ):
            context.wrap_socket(plain)


def test_a_handshake_that_never_comes(site: Site) -> None:
    """Whoever connects and says nothing holds up nobody else."""
    silent = [socket.create_connection(("127.0.0.1", site.daemon.http)) for _ in range(20)]
    try:
        assert site.get(site.own).status_code == 200
    finally:
        for each in silent:
            each.close()


@pytest.mark.parametrize("door", ["http", "grpc"])
def test_plain_text_off_loopback(tmp_path: Path, door: str) -> None:
    """It is refused before a port is opened, with what to do instead."""
    made = cluster.make(tmp_path)
    configure(made.directory, door, bind="0.0.0.0:0")
    refused = Daemon(made.directory).refuse()
    assert refused.code == 2
    assert f"[{door}] bind = 0.0.0.0:0" in refused.err
    assert "--insecure" in refused.err
    assert "serving" not in refused.err


def _may_unshare() -> bool:
    tried = subprocess.run(["unshare", "--net", "true"], capture_output=True, check=False)
    return tried.returncode == 0


def test_plain_text_off_loopback_when_that_is_wanted(tmp_path: Path) -> None:
    """`--insecure` does it and says so, for each port. In a network of its own, where nobody is."""
    if shutil.which("unshare") is None or not _may_unshare():
        pytest.skip("this user may not make a network namespace")
    made = cluster.make(tmp_path)
    for door in ("http", "grpc"):
        configure(made.directory, door, bind="0.0.0.0:0")
    alone = ("unshare", "--net", *SERVE)
    with Daemon(made.directory, command=alone, options=("--insecure",)) as daemon:
        warned = [each["message"] for each in daemon.events() if each["event"] == "insecure"]
    assert len(warned) == 2
    assert all("plain text" in message for message in warned)
