"""Service tokens on real nodes: stolen without the host's TLS key, they open nothing where clients
show certificates."""

from __future__ import annotations

import json
import shutil
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from petsem.server.host_key import of_certificate
from petsem.wire import petsem_pb2 as pb
from petsem.wire.errors import STATUS_KEY, decode_status
from petsem_client import SyncSecretReader
from tests.support.daemon import configure
from tests.support.fleet import Fleet, Member, fleet
from tests.unit.server.certificates import make_authority, make_leaf

pytestmark = pytest.mark.xdist_group("exchange")
"""In one process, so that what is made once for this file is."""

FETCH = "/petsem.v1.Secrets/Fetch"
VALUES = "/v1/orgs/acme/apps/web/secrets/values?machine=m1"
ASKED = {"org": "acme", "app": "web", "machine": "m1", "actions": ["secrets:read"]}


@dataclass(frozen=True)
class Shown:
    """A client's certificate."""

    cert: Path
    key: Path

    @property
    def host_key(self) -> str:
        return of_certificate(self.cert.read_bytes()) or ""


@dataclass(frozen=True)
class Site:
    """A leader without TLS, and a replica whose clients need certificates."""

    cluster: Fleet
    ca: Path
    host: Shown
    thief: Shown

    @property
    def replica(self) -> Member:
        return self.cluster.replicas[0]

    def client(self, shown: Shown) -> httpx.Client:
        context = ssl.create_default_context(cafile=self.ca)
        context.load_cert_chain(shown.cert, shown.key)
        base = f"https://127.0.0.1:{self.replica.ports.http}"
        return httpx.Client(base_url=base, verify=context, trust_env=False, timeout=30)

    def ask(self, shown: Shown, token: str, method: str, path: str, body: Any = None) -> Any:
        with self.client(shown) as client:
            headers = {"authorization": f"Bearer {token}"}
            return client.request(method, path, json=body, headers=headers)

    def exchange(self, shown: Shown, token: str, **asked: Any) -> httpx.Response:
        body = {**ASKED, **asked}
        found: httpx.Response = self.ask(shown, token, "POST", "/v1/tokens/exchange", body)
        return found

    def grpc(self, shown: Shown, token: str, method: str = "unary") -> str | None:
        """The caveat that denied, over gRPC."""
        credentials = grpc.ssl_channel_credentials(
            *(each.read_bytes() for each in (self.ca, shown.key, shown.cert))
        )
        metadata = (("authorization", f"Bearer {token}"),)
        with grpc.secure_channel(f"127.0.0.1:{self.replica.ports.grpc}", credentials) as channel:
            try:
                if method == "unary":
                    message = pb.FetchRequest(org="acme", app="web", machine="m1")
                    call: Any = channel.unary_unary(FETCH, None, None)
                    call(message.SerializeToString(), metadata=metadata, timeout=30)
                else:
                    watched = pb.WatchRequest(org="acme", app="web", machine="m1")
                    call = channel.unary_stream("/petsem.v1.Secrets/Watch", None, None)
                    stream = call(watched.SerializeToString(), metadata=metadata, timeout=30)
                    next(stream)
                    stream.cancel()
            except grpc.RpcError as error:
                metadata_of: Any = error
                detail = decode_status(dict(metadata_of.trailing_metadata())[STATUS_KEY])
                assert detail is not None
                return str(detail.caveat)
        return None

    def http(self, shown: Shown, token: str) -> str | None:
        """The same over HTTP."""
        answer = self.ask(shown, token, "GET", VALUES)
        return None if answer.status_code == 200 else answer.json()["details"]["caveat"]

    def connect(self, shown: Shown, token: str) -> int:
        body = {"org": "acme", "app": "web", "machine": "m1"}
        return int(self.ask(shown, token, "POST", FETCH, body).status_code)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    root = tmp_path_factory.mktemp("exchange")
    authority = make_authority(root / "ca.pem")
    clients = [Shown(root / f"{name}.pem", root / f"{name}.key") for name in ("host", "thief")]
    for each in clients:
        make_leaf(authority, each.cert, each.key)
    with fleet(root, 1) as cluster:
        (replica,) = cluster.replicas
        assert replica.daemon.stop() == 0
        make_leaf(authority, root / "server.pem", root / "server.key")
        (replica.directory / "tls").mkdir(exist_ok=True)
        for end in ("pem", "key"):
            shutil.copy(root / f"server.{end}", replica.directory / "tls" / f"server.{end}")
        chosen = {"cert": "tls/server.pem", "key": "tls/server.key"}
        for door in ("http", "grpc"):
            configure(replica.directory, door, **chosen, client_ca=str(root / "ca.pem"))
        replica.daemon.start()
        yield Site(cluster, root / "ca.pem", *clients)


@pytest.fixture(scope="module")
def asker(site: Site) -> str:
    with site.cluster.leader.doors() as doors:
        return doors.mint("acme", "action in tokens:exchange, secrets:read", kind="deploy")


def test_stolen_without_the_key(site: Site, asker: str) -> None:
    """Exchanged at a replica, which passes the call on with the key of the host's certificate. The
    host reads with it through each door; whoever shows another certificate reads nothing."""
    answer = site.exchange(site.host, asker)
    assert answer.status_code == 201, answer.content
    token = answer.json()["token"]
    key = f"host_key = {site.host.host_key}"
    # Twice each: the second time it is a token seen before.
    for _ in range(2):
        assert site.http(site.host, token) is None
        assert site.grpc(site.host, token) is None
        assert site.grpc(site.host, token, "stream") is None
        assert site.connect(site.host, token) == 200
        assert site.http(site.thief, token) == key
        assert site.grpc(site.thief, token) == key
        assert site.grpc(site.thief, token, "stream") == key
        assert site.connect(site.thief, token) == 403
    with site.cluster.leader.doors() as doors:
        # No certificate at all.
        reply = doors.fetch("acme/web", machine="m1", token=token)
        assert reply.detail is not None
        assert reply.detail.caveat == key


def test_whose_key(site: Site, asker: str) -> None:
    """A body cannot name another than the connection's; without one it must name one."""
    other = site.exchange(site.thief, asker, host_key=site.host.host_key)
    assert (other.status_code, other.json()["code"]) == (400, "invalid")
    with site.cluster.leader.doors() as doors:
        assert doors.ask("POST", "/v1/tokens/exchange", ASKED, token=asker).status == 400
        body = {**ASKED, "host_key": site.host.host_key}
        made = doors.done("POST", "/v1/tokens/exchange", body, token=asker)
    assert site.http(site.host, made["token"]) is None
    assert site.http(site.thief, made["token"]) is not None


def test_renewal_and_the_parent_s_end(site: Site) -> None:
    """The host renews with its own certificate, the thief cannot; once the first parent is revoked
    no successor reads or renews, through a replica either."""
    with site.cluster.leader.doors() as doors:
        actions = "action in tokens:exchange, secrets:read"
        asker = doors.mint("acme", actions, kind="deploy")
        first = site.exchange(site.host, asker).json()
        assert site.exchange(site.thief, first["token"]).status_code == 403
        second = site.exchange(site.host, first["token"]).json()
        assert second["renew_until"] == first["renew_until"]
        assert site.http(site.host, second["token"]) is None
        ran = doors.cli(
            "token", "revoke", "--org", "acme", "--token-file", "-", stdin=asker.encode()
        )
        assert ran.code == 0, ran
        at = site.cluster.position()
        body = {"token": second["token"], "access": {"org": "acme", "action": "secrets:read"}}
        verdict = doors.done("POST", "/v1/tokens/verify", body)
        assert (verdict["allowed"], verdict["reason"]) == (False, "REVOKED")
    site.cluster.leader.has(at)
    for made in (first, second):
        refused = site.exchange(site.host, made["token"])
        assert refused.json()["details"]["reason"] == "REVOKED"
    _until_refused(site, second["token"])


def _until_refused(site: Site, token: str) -> None:
    """A replica applies the revocation within moments."""
    for _ in range(200):
        answer = site.ask(site.host, token, "GET", VALUES)
        if answer.status_code == 403:
            assert answer.json()["details"]["reason"] == "REVOKED"
            return
    raise AssertionError("the replica goes on reading")


def test_by_command_line(site: Site, asker: str) -> None:
    """`token exchange` prints the token, for the key of a certificate in a file, or given."""
    with site.cluster.leader.doors() as doors:
        command = ("token", "exchange", "--machine", "m1", "--action", "secrets:read")
        by_file = doors.cli(
            *command, "--host-cert", str(site.host.cert), token=asker, app="acme/web"
        )
        assert by_file.code == 0, by_file
        token = by_file.out.decode().strip()
        assert site.http(site.host, token) is None
        by_hex = doors.cli(
            *(*command, "--host-key", site.host.host_key, "--ttl", "60s", "--once", "-o", "json"),
            token=asker,
            app="acme/web",
        )
        assert by_hex.code == 0, by_hex
        made = json.loads(by_hex.out)
        assert made["renew_until"] is None
        for wrong in (("--ttl", "2h"), ("--host-key", "ab"), ("--host-cert", str(site.host.key))):
            ran = doors.cli(*command, *wrong, token=asker, app="acme/web")
            assert (ran.code, ran.out) == (2, b""), ran
    address = f"127.0.0.1:{site.replica.ports.grpc}"
    files: dict[str, Any] = {"ca": site.ca, "cert": site.host.cert, "key": site.host.key}
    with SyncSecretReader([address], token=token, **files) as reader:
        assert dict(reader.fetch("acme/web", machine="m1")) == {"FIRST": b"1"}
