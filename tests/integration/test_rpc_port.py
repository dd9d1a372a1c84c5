"""The gRPC port itself: where it listens, to whom, and what it speaks."""

from __future__ import annotations

import asyncio
import dataclasses
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import grpc.aio
import pytest

from petsem.errors import Code, PetsemError
from petsem.server.address import Address
from petsem.server.config import TlsFiles
from petsem.server.rpc.server import start_grpc
from tests.unit.server.certificates import make_authority, make_leaf
from tests.unit.server.rpc.world import (
    FETCH,
    VALUES,
    Client,
    Failed,
    World,
    asked,
    bearer_metadata,
    connected,
    served,
    values,
    world_in,
)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """A node with the org acme, its app web, and one version of two secrets."""
    async with world_in(tmp_path) as found:
        yield found


def _configure(world: World, tls: TlsFiles | None = None, port: int = 0) -> None:
    grpc_config = dataclasses.replace(
        world.node.config.grpc, bind=Address("127.0.0.1", port), tls=tls
    )
    world.node.config = dataclasses.replace(world.node.config, grpc=grpc_config)


async def test_the_address_is_the_one_that_was_bound(world: World) -> None:
    """With the port that the system chose."""
    async with served(world) as server, connected(server) as client:
        assert server.address == f"127.0.0.1:{server.port}"
        assert values(await client.fetch(await world.token())) == VALUES


async def test_a_port_in_use_is_refused(world: World) -> None:
    """Never shared: half of the calls would go to the other process."""
    with socket.create_server(("127.0.0.1", 0), reuse_port=True) as other:
        _configure(world, port=other.getsockname()[1])
        with pytest.raises(PetsemError) as refused:
            await start_grpc(world.node)
    assert refused.value.code is Code.UNAVAILABLE


async def test_two_servers_do_not_share_a_port(world: World) -> None:
    """Not even with each other."""
    async with served(world) as server:
        _configure(world, port=server.port)
        with pytest.raises(PetsemError):
            await start_grpc(world.node)


def _shown(port: int) -> bytes:
    """The certificate that a new connection is shown."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection(("127.0.0.1", port), 30) as plain,
        context.wrap_socket(plain) as connection,
    ):
        found = connection.getpeercert(binary_form=True)
    assert found is not None
    return found


async def test_a_new_certificate_is_shown_to_who_connects_next(
    world: World, tmp_path: Path
) -> None:
    """A good one from the next connection on; one that does not fit is never shown."""
    ca, cert, key = tmp_path / "ca.pem", tmp_path / "cert.pem", tmp_path / "key.pem"
    authority = make_authority(ca)
    make_leaf(authority, cert, key)
    _configure(world, TlsFiles(cert, key, client_ca=None))
    server = await start_grpc(world.node)
    assert server.tls is not None
    try:
        token = bearer_metadata(await world.token())
        credentials = grpc.ssl_channel_credentials(ca.read_bytes())
        async with grpc.aio.secure_channel(server.address, credentials) as channel:
            client = Client(channel)
            await client.raw(FETCH, asked().SerializeToString(), metadata=token)
            for harm in (False, True):
                make_leaf(authority, cert, tmp_path / "other.pem" if harm else key)
                if not harm:
                    good = ssl.PEM_cert_to_DER_cert(cert.read_text())
                server.tls.look()
                server.tls.look()
                assert await asyncio.to_thread(_shown, server.port) == good
            # The connection that was open goes on.
            await client.raw(FETCH, asked().SerializeToString(), metadata=token)
    finally:
        await server.stop(0)


async def test_tls_and_client_certificates(world: World, tmp_path: Path) -> None:
    """With `client_ca`, a client without a certificate of it gets no further than the handshake."""
    ca, cert, key = tmp_path / "ca.pem", tmp_path / "cert.pem", tmp_path / "key.pem"
    authority = make_authority(ca)
    make_leaf(authority, cert, key)
    _configure(world, TlsFiles(cert, key, client_ca=ca))
    server = await start_grpc(world.node)
    with_certificate = grpc.ssl_channel_credentials(
        ca.read_bytes(), key.read_bytes(), cert.read_bytes()
    )
    without = grpc.ssl_channel_credentials(ca.read_bytes())
    token = bearer_metadata(await world.token("ip in 127.0.0.1"))
    try:
        async with grpc.aio.secure_channel(server.address, with_certificate) as channel:
            assert await Client(channel).raw(FETCH, asked().SerializeToString(), metadata=token)
        async with grpc.aio.secure_channel(server.address, without) as channel:
            with pytest.raises(Failed) as failed:
                await Client(channel).raw(FETCH, b"", metadata=token)
            assert failed.value.status is grpc.StatusCode.UNAVAILABLE
        async with connected(server) as client:
            with pytest.raises(Failed) as failed:
                await client.raw(FETCH, b"", metadata=token)
            assert failed.value.status is grpc.StatusCode.UNAVAILABLE
    finally:
        await server.stop(0)
