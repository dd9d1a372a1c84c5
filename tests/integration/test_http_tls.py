"""TLS at the HTTP door: who gets in, which certificate he is shown, and how long he may take."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import httpx
import pytest

from petsem.server.config import TlsFiles
from petsem.server.http_server import HttpServer
from petsem.server.live_tls import LiveTls
from petsem.server.rpc.server import OPTIONS
from tests.support.http_door import FAILSAFE_S, GET, on_both_loops, open_door
from tests.unit.server.certificates import make_authority, make_leaf


@on_both_loops
async def test_refusals_travel_over_tls_and_strangers_do_not_get_in(tmp_path: Path) -> None:
    """With a client authority: our client is answered, refusals included; others end at TLS."""
    authority = make_authority(tmp_path / "ca.pem")
    make_leaf(authority, tmp_path / "node.pem", tmp_path / "node.key")
    make_leaf(authority, tmp_path / "client.pem", tmp_path / "client.key")
    files = TlsFiles(tmp_path / "node.pem", tmp_path / "node.key", tmp_path / "ca.pem")
    context = LiveTls("http", files).context
    trust = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
    stranger = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
    trust.load_cert_chain(tmp_path / "client.pem", tmp_path / "client.key")
    async with open_door(context=context) as door:
        base = f"https://127.0.0.1:{door.port}"
        async with httpx.AsyncClient(base_url=base, verify=trust) as client:
            assert (await client.get("/")).text == "0 bytes"
            large = await client.post("/", content=b"a" * 6_000)
            assert (large.status_code, large.json()["code"]) == (413, "invalid")
        async with httpx.AsyncClient(base_url=base, verify=stranger) as client:
            with pytest.raises(httpx.TransportError):
                await client.get("/")
        assert door.app.seen == ["/"]


@on_both_loops
async def test_a_new_certificate_is_shown_to_who_connects_next(tmp_path: Path) -> None:
    """On the port that is open, and whoever is connected goes on."""
    authority = make_authority(tmp_path / "ca.pem")
    files = TlsFiles(tmp_path / "node.pem", tmp_path / "node.key", None)
    make_leaf(authority, files.cert, files.key)
    before = files.cert.read_text()
    live = LiveTls("http", files)
    trust = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))

    async def connect() -> tuple[asyncio.StreamReader, asyncio.StreamWriter, bytes]:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", door.port, ssl=trust, server_hostname="127.0.0.1"
        )
        shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        return reader, writer, shown

    async with open_door(context=live.context) as door, asyncio.timeout(FAILSAFE_S):
        reader, writer, shown = await connect()
        assert shown == ssl.PEM_cert_to_DER_cert(before)
        make_leaf(authority, files.cert, files.key)
        live.look()
        live.look()
        _, other, shown = await connect()
        assert shown == ssl.PEM_cert_to_DER_cert(files.cert.read_text())
        assert files.cert.read_text() != before
        other.close()
        writer.write(GET % b"")
        assert (await reader.readuntil(b"0 bytes")).startswith(b"HTTP/1.1 200 ")
        writer.close()


@on_both_loops
async def test_a_handshake_that_does_not_come_is_ended(tmp_path: Path) -> None:
    """After our own bound and not after asyncio's minute."""
    make_leaf(make_authority(tmp_path / "ca.pem"), tmp_path / "c.pem", tmp_path / "k.pem")
    context = LiveTls("http", TlsFiles(tmp_path / "c.pem", tmp_path / "k.pem", None)).context
    async with open_door(context=context, handshake_s=0.01) as door:
        assert await door.say() == b""
        # Half of a client's first words are no more than none.
        assert await door.say(b"\x16\x03\x01\x02\x00\x01") == b""


def test_the_bound_of_a_handshake() -> None:
    """Of a node, for both doors."""
    assert (HttpServer.handshake_s, dict(OPTIONS)["grpc.server_handshake_timeout_ms"]) == (
        10.0,
        10_000,
    )
