"""The client against a real node: what the simulated far end assumes must hold there too."""

from __future__ import annotations

import asyncio
import base64
import sys
import time
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import dataclass

import pytest

from petsem.clock import rfc3339
from petsem.errors import Code, PetsemError
from petsem.tokens.identifier import Identifier
from petsem.tokens.text import parse_token
from petsem_client import Bundle, Role, SecretReader, SyncSecretReader
from tests.support import cluster, processes
from tests.support.patience import PATIENCE_S

SECRETS = "/v1/orgs/acme/apps/web/secrets"
SERVE = (sys.executable, "-c", "from petsem.cli.main import main; main()", "serve")
VALUES = {"URL": b"https://x/#a=b", "EMPTY": b"", "BYTES": bytes(range(256))}


@dataclass
class RealNode:
    """A node with acme/web in it, a host's token, and its gRPC address."""

    api: cluster.Api
    token: str
    address: str

    def set(self, **values: bytes) -> int:
        coded = {name: {"base64": base64.b64encode(each).decode()} for name, each in values.items()}
        version = self.api.call("PATCH", SECRETS, {"set": coded})["version"]
        assert isinstance(version, int)
        return version

    def fetch(self, text: str = "", **arguments: object) -> Bundle:
        with SyncSecretReader([self.address], token=text or self.token, timeout_s=3.0) as reader:
            return reader.fetch("acme/web", **arguments)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealNode]:
    made = cluster.make(tmp_path_factory.mktemp("real"))
    with processes.node(made.directory, *SERVE) as process:
        api = cluster.Api(process.http, made.operator)
        api.org_and_app()
        real = RealNode(api, api.host_token(), f"127.0.0.1:{process.grpc}")
        real.set(**VALUES)
        yield real
        api._http.close()


def refusal(node: RealNode, text: str = "", **arguments: object) -> PetsemError:
    with pytest.raises(PetsemError) as caught:
        node.fetch(text, **arguments)
    return caught.value


def test_every_byte_comes_back(node: RealNode) -> None:
    """What was set over HTTP is what the host fetches, narrowed to its machine."""
    bundle = node.fetch(machine="3d8d9014")
    assert {name: bundle[name] for name in VALUES} == VALUES
    assert bundle.freshness.role is Role.LEADER
    assert abs(bundle.freshness.server_time_ms / 1000 - time.time()) < 60


def test_not_modified_and_then_modified(node: RealNode) -> None:
    """The etag holds until something is set, and only then."""
    first = node.fetch()
    again = node.fetch(known=first)
    assert (again, again.etag) == (first, first.etag)
    version = node.set(MORE=b"1")
    after = node.fetch(known=first, min_version=version)
    assert (after.version, after["MORE"]) == (version, b"1")


def test_a_position_is_a_fence(node: RealNode) -> None:
    """A position that was answered holds, one to come is stale with what the node has."""
    version = node.fetch().version
    assert node.fetch(min_position=node.fetch().freshness.position).version >= version
    error = refusal(node, min_version=version + 100)
    assert error.code is Code.STALE
    assert error.detail.need_version == version + 100


def test_a_node_s_own_refusals_arrive(node: RealNode) -> None:
    """Reason and code cross the wire as the client reads them."""
    mistyped = cluster.narrowed(node.token, "app = api")
    assert refusal(node, mistyped).code is Code.DENIED
    ended = cluster.narrowed(node.token, f"time < {rfc3339(round(time.time() - 3_600) * 1000)}")
    error = refusal(node, ended)
    assert (error.code, error.detail.reason) == (Code.UNAUTHENTICATED, "EXPIRED")
    assert "the token ended at" in error.message
    with SyncSecretReader([node.address], token=node.token) as reader:
        with pytest.raises(PetsemError) as caught:
            reader.fetch("acme/absent")
        assert caught.value.code is Code.NOT_FOUND


def test_a_revoked_token(node: RealNode) -> None:
    """From its revocation on, the host is denied."""
    text = node.api.host_token()
    node.fetch(text)
    token_id = Identifier.parse(parse_token(text).root.identifier).token_id
    node.api.call("DELETE", f"/v1/orgs/acme/tokens/{token_id}", None)
    error = refusal(node, text)
    assert (error.code, error.detail.reason) == (Code.DENIED, "REVOKED")


async def test_a_change_is_told(node: RealNode) -> None:
    """A watch hears of the next version, which a fetch then brings."""
    async with SecretReader([node.address], token=node.token) as reader:
        seen = (await reader.fetch("acme/web")).version
        changes = reader.watch("acme/web", after_version=seen)
        async with aclosing(changes):
            waiting = asyncio.ensure_future(anext(changes))
            version = await asyncio.to_thread(node.set, TOLD=b"2")
            changed = await asyncio.wait_for(waiting, PATIENCE_S)
        assert changed.version == version
        assert (await reader.fetch("acme/web", min_version=version))["TOLD"] == b"2"
