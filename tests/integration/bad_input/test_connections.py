"""Connections that send too slowly, too much, or no HTTP: ended, and nothing of it counts."""

from __future__ import annotations

import socket
import time

import pytest

from tests.integration.bad_input.node import DEADLINE_S, MARK, PATIENCE_S, Site, batch, head_of, say
from tests.support.daemon import until

pytestmark = pytest.mark.xdist_group("bad_input")
"""In one process with the others of this directory, which share a node."""


def test_what_never_ends(site: Site) -> None:
    """A header or a body that does not come whole in time is answered 408 and the connection
    ended, however the bytes dribble in; nothing of it counts."""
    before = site.stored
    body = batch()
    head = head_of(site, len(body))
    chunked = head.replace(b"Content-Length: %d" % len(body), b"Transfer-Encoding: chunked")
    drops = [head[at : at + 1] for at in range(40)]
    for parts, pause_s in (
        ((head[:-2],), 0.0),
        ((head[:60],), 0.0),
        (tuple(drops), DEADLINE_S / 10),
        ((head + body[:-1],), 0.0),
        ((head, *(body[at : at + 1] for at in range(15))), DEADLINE_S / 10),
        ((chunked + b'5\r\n{"set\r\n',), 0.0),
    ):
        started_s = time.monotonic()
        said = say(site.port, *parts, pause_s=pause_s)
        assert time.monotonic() - started_s < PATIENCE_S
        assert said.startswith(b"HTTP/1.1 408 "), said
        assert b'"code":"unavailable"' in said
    # Whoever hangs up in the middle is owed nothing.
    say(site.port, head + body[:-1], finish=True)
    assert site.stored == before
    site.unharmed()


def test_what_is_too_large(site: Site) -> None:
    """Headers, URLs and bodies over their bounds are refused before they are taken in, also when
    their length was never declared."""
    before = site.stored
    over = 2 * 1024 * 1024 + 1
    chunk = b"8000\r\n" + b" " * 0x8000 + b"\r\n"
    chunked = head_of(site, 0).replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    for status, parts in (
        (413, (head_of(site, over),)),
        (413, (head_of(site, 10**18),)),
        (413, (chunked, *[chunk] * 66)),
        (431, (head_of(site, 0, *(f"X-{n}: {MARK * 20}" for n in range(80))),)),
        (431, (b"GET /healthz HTTP/1.1\r\nX: " + b"y" * 40_000,)),
        (414, (b"GET /" + MARK.encode() * 800 + b" HTTP/1.1\r\nHost: x\r\n\r\n",)),
    ):
        said = say(site.port, *parts)
        assert said.startswith(b"HTTP/1.1 %d " % status), said[:200]
        assert MARK.encode() not in said
    assert site.stored == before
    site.unharmed()


def test_what_is_no_http(site: Site) -> None:
    """Ambiguous framing, other protocols and noise get a refusal or nothing, and a close."""
    before = site.stored
    body = batch()
    head = head_of(site, len(body))
    for parts in (
        (head.replace(b"\r\n\r\n", b"\r\nTransfer-Encoding: chunked\r\n\r\n") + body,),
        (head.replace(b"\r\n\r\n", b"\r\nContent-Length: 5\r\n\r\n") + body,),
        (head.replace(b"Content-Length: %d" % len(body), b"Content-Length: +5") + body,),
        (head.replace(b"Content-Length: %d" % len(body), b"Transfer-Encoding: gzip, x") + body,),
        (head.replace(b"Host: x", b"Host: x\r\nHost: y") + body,),
        (head.replace(b"Host: x\r\n", b"") + body,),
        (head.replace(b"Host: x", b"Host: x\r\n folded: y") + body,),
        (head.replace(b"HTTP/1.1", b"HTTP/9.9") + body,),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),),
        (b"CONNECT localhost:22 HTTP/1.1\r\nHost: x\r\n\r\n",),
        (b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",),
        (bytes(range(256)) * 8,),
    ):
        said = say(site.port, *parts)
        assert b" 200 " not in said.partition(b"\r\n")[0], (parts, said)
        assert MARK.encode() not in said
    assert site.stored == before
    site.unharmed()


def test_more_connections_than_it_takes(site: Site) -> None:
    """Those over the bound are told so; those that stand are served, and room comes back."""
    lines = [socket.create_connection(("127.0.0.1", site.port), PATIENCE_S) for _ in range(90)]
    try:
        said = say(site.port, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert said.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after" in said.lower()
    finally:
        for line in lines:
            line.close()
    until(lambda: site.doors.ask("GET", "/readyz").status == 200, "room for connections")
    site.unharmed()
