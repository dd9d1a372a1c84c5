"""The HTTP door under attack: a real uvicorn on loopback, and raw sockets that misbehave."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
import uvloop

from petsem.server import http_refusals as refusals
from petsem.server.config import TlsFiles
from petsem.server.http_protocol import GuardedHttpProtocol, HttpLimits, protocol_class
from petsem.server.http_server import HttpServer
from petsem.server.live_tls import LiveTls
from petsem.server.rpc.server import OPTIONS
from tests.unit.server.certificates import make_authority, make_leaf

FAILSAFE_S = 10.0
"""No test waits this long unless the door forgot a deadline."""

GET = b"GET /%s HTTP/1.1\r\nHost: x\r\n\r\n"
HASTY = HttpLimits(
    headers_max_bytes=2_048,
    url_max_bytes=512,
    body_max_bytes=4_096,
    header_deadline_s=0.2,
    body_deadline_s=0.2,
    write_deadline_s=0.2,
)
SMALL = HttpLimits(headers_max_bytes=2_048, url_max_bytes=512, body_max_bytes=4_096)


@dataclass
class App:
    """A small ASGI application that notes what reaches it."""

    seen: list[str] = field(default_factory=list)
    headers: list[list[tuple[bytes, bytes]]] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    disconnects: int = 0
    go_on: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        path = scope["path"]
        self.seen.append(path)
        self.headers.append(scope["headers"])
        if path == "/early":
            await self._answer(send, b"early")
            return
        if path == "/started":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"begun", "more_body": True})
        if path == "/unread":
            await self.go_on.wait()
        if path == "/big":
            await self._answer(send, b"x" * (16 * 1024 * 1024))
            return
        body = b""
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.disconnects += 1
                # The application may answer all the same; nobody must see it.
                await self._answer(send, b"too late")
                return
            body += message["body"]
            if not message["more_body"]:
                break
        self.bodies.append(body)
        if path == "/slow":
            await self.go_on.wait()
        await self._answer(send, b"%d bytes" % len(body))

    async def _answer(self, send: Any, body: bytes) -> None:
        length = (b"content-length", b"%d" % len(body))
        await send({"type": "http.response.start", "status": 200, "headers": [length]})
        await send({"type": "http.response.body", "body": body})


@dataclass
class Door:
    """A listening server and ways to knock."""

    app: App
    port: int
    server: HttpServer

    @property
    def connections(self) -> int:
        return len(self.server.server_state.connections)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port, limit=64 * 1024 * 1024)

    async def say(self, *parts: bytes) -> bytes:
        """Send `parts`, each in a packet of its own, and return all that comes until the end."""
        reader, writer = await self.connect()
        async with asyncio.timeout(FAILSAFE_S):
            for part in parts:
                writer.write(part)
                with contextlib.suppress(ConnectionError):
                    await writer.drain()
                await asyncio.sleep(0)
            with contextlib.suppress(ConnectionResetError):
                return await _all(reader, writer)
        return b""


async def _all(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    try:
        return await reader.read(-1)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def _until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(FAILSAFE_S):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


@contextlib.asynccontextmanager
async def open_door(
    limits: HttpLimits = SMALL,
    *,
    keep_alive_s: int = 30,
    context: ssl.SSLContext | None = None,
    handshake_s: float = FAILSAFE_S,
) -> AsyncIterator[Door]:
    app = App()
    config = uvicorn.Config(
        app,
        http=protocol_class(limits),
        log_config=None,
        access_log=False,
        lifespan="off",
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=keep_alive_s,
        ssl_context_factory=(lambda *_: context) if context else None,
    )
    config.load()
    server = HttpServer(config)
    server.handshake_s = handshake_s
    server.lifespan = config.lifespan_class(config)
    await server.startup([socket.create_server(("127.0.0.1", 0))])
    try:
        yield Door(app, server.servers[0].sockets[0].getsockname()[1], server)
    finally:
        app.go_on.set()
        for listener in server.servers:
            listener.close()
        for connection in list(server.server_state.connections):
            connection.transport.abort()
        await _until(lambda: not server.server_state.connections and not server.server_state.tasks)


def refusal(raw: bytes) -> tuple[int, dict[str, Any]]:
    """Status and body of a response that is the only one in `raw`, and closes."""
    head, _, body = raw.partition(b"\r\n\r\n")
    lines = head.lower().split(b"\r\n")
    assert b"connection: close" in lines
    assert b"content-type: application/json" in lines
    assert b"content-length: %d" % len(body) in lines
    found = json.loads(body)
    assert set(found) == {"code", "message", "details"}
    return int(head.split(b" ")[1]), found


def post(headers: bytes, body: bytes = b"", path: bytes = b"/") -> bytes:
    return b"POST " + path + b" HTTP/1.1\r\nHost: x\r\n" + headers + b"\r\n" + body


def on_both_loops(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run `test` on asyncio's loop and on uvloop: their transports close in different ways."""

    def run(new_loop: Callable[[], asyncio.AbstractEventLoop], **fixtures: Any) -> None:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(test(**fixtures))

    run.__name__ = test.__name__
    run.__doc__ = test.__doc__
    asked = inspect.signature(test).parameters.values()
    new_loop = inspect.Parameter("new_loop", inspect.Parameter.KEYWORD_ONLY)
    run.__signature__ = inspect.Signature([*asked, new_loop])  # type: ignore[attr-defined]
    loops = [asyncio.new_event_loop, uvloop.new_event_loop]
    marked: Callable[..., None] = pytest.mark.parametrize(
        "new_loop", loops, ids=["asyncio", "uvloop"]
    )(run)
    return marked


# What is fine


@on_both_loops
async def test_ordinary_requests_share_a_connection() -> None:
    """Two requests, one after the other's answer, on one connection."""
    async with open_door() as door:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{door.port}") as client:
            first = await client.post("/", content=b"abc")
            second = await client.get("/x?y=z")
        assert (first.text, second.text) == ("3 bytes", "0 bytes")
        assert door.app.seen == ["/", "/x"]


@on_both_loops
async def test_a_request_may_come_byte_by_byte() -> None:
    """Each split of header and body across packets gives the same request."""
    request = post(b"Content-Length: 3\r\nConnection: close\r\n", b"abc")
    async with open_door() as door:
        answer = await door.say(*(bytes([byte]) for byte in request))
        assert answer.endswith(b"3 bytes")
        assert door.app.bodies == [b"abc"]


@on_both_loops
async def test_headers_and_body_of_exactly_the_limit_pass() -> None:
    """The bounds are inclusive."""
    head = b"Content-Length: 4096\r\nConnection: close\r\nA: "
    used = len("/") + len("HostxContent-Length4096ConnectioncloseA") + 4 * 4
    async with open_door() as door:
        fill = b"a" * (SMALL.headers_max_bytes - used)
        answer = await door.say(post(head + fill + b"\r\n", b"b" * 4_096))
        assert answer.endswith(b"4096 bytes")
        raw = await door.say(post(head + fill + b"a\r\n", b"b" * 4_096))
        assert refusal(raw)[0] == 431


@on_both_loops
async def test_each_request_and_each_part_of_it_is_counted_anew() -> None:
    """What came before, on the same connection, takes nothing from a bound."""
    pad = b"a" * 1_500
    stray_ends = b"\r\n" * 750
    request = post(
        b"Transfer-Encoding: chunked\r\nA: " + pad + b"\r\n",
        b"bb8;" + pad + b"\r\n" + b"b" * 0xBB8 + b"\r\n0;" + pad + b"\r\n\r\n",
    )
    async with open_door() as door:
        reader, writer = await door.connect()
        async with asyncio.timeout(FAILSAFE_S):
            for _ in range(3):
                for at in range(0, len(stray_ends + request), 50):
                    writer.write((stray_ends + request)[at : at + 50])
                    await asyncio.sleep(0)
                assert (await reader.readuntil(b"3000 bytes")).startswith(b"HTTP/1.1 200")
        writer.close()


@on_both_loops
async def test_a_chunked_body_is_taken_and_its_trailers_are_dropped() -> None:
    """A trailer never joins the headers that the request was judged by."""
    async with open_door() as door:
        body = b"3;ext=1\r\nabc\r\n0\r\nAuthorization: Bearer forged\r\n\r\n"
        answer = await door.say(post(b"Transfer-Encoding: chunked\r\nConnection: close\r\n", body))
        assert answer.endswith(b"3 bytes")
        assert b"authorization" not in dict(door.app.headers[0])


@on_both_loops
async def test_an_offer_of_h2c_is_ignored() -> None:
    """Clients that offer HTTP/2 on each request are served in HTTP/1.1, on one connection."""
    offer = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
    async with open_door() as door:
        reader, writer = await door.connect()
        async with asyncio.timeout(FAILSAFE_S):
            for _ in range(3):
                writer.write(offer)
                assert (await reader.readuntil(b"0 bytes")).startswith(b"HTTP/1.1 200")
        writer.close()
        assert len(door.app.seen) == 3


@on_both_loops
async def test_expect_100_continue_is_answered() -> None:
    """A client that asks first is told to go on, once its declared length was accepted."""
    async with open_door() as door:
        reader, writer = await door.connect()
        writer.write(post(b"Content-Length: 3\r\nExpect: 100-continue\r\n"))
        async with asyncio.timeout(FAILSAFE_S):
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            writer.write(b"abc")
            await reader.readuntil(b"3 bytes")
        writer.close()


# Too large


@on_both_loops
async def test_a_header_block_over_the_limit_is_431() -> None:
    """Many headers, or one long one, in one packet or in many."""
    many = b"".join(b"H%d: %s\r\n" % (n, b"v" * 90) for n in range(30))
    one = b"H: " + b"v" * 2_100 + b"\r\n"
    async with open_door() as door:
        for headers in (many, one):
            request = post(headers)
            for step in (len(request), 700):
                parts = [request[at : at + step] for at in range(0, len(request), step)]
                status, body = refusal(await door.say(*parts))
                assert (status, body["code"]) == (431, "invalid")
                assert body["details"] == {"reason": "TOO_LARGE"}
        assert door.app.seen == []


@on_both_loops
async def test_a_header_that_never_ends_is_431_before_it_is_kept() -> None:
    """An unfinished header is refused by its size alone, whatever the parser still holds."""
    async with open_door() as door:
        raw = await door.say(b"GET / HTTP/1.1\r\nH: ", *[b"v" * 1_000] * 6)
        assert refusal(raw)[0] == 431


@on_both_loops
async def test_a_url_over_the_limit_is_414() -> None:
    """The URL has a bound of its own."""
    async with open_door() as door:
        longest = b"a" * (SMALL.url_max_bytes - 1)
        assert refusal(await door.say(GET % (longest + b"a")))[0] == 414
        assert door.app.seen == []
        request = (GET % longest).replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
        assert (await door.say(request)).endswith(b"0 bytes")


@on_both_loops
async def test_a_declared_body_over_the_limit_is_413_before_it_is_sent() -> None:
    """The length alone is enough: nothing is read, and the application sees nothing."""
    async with open_door() as door:
        for length in (b"4097", b"18446744073709551615"):
            raw = await door.say(post(b"Content-Length: " + length + b"\r\n"))
            status, body = refusal(raw)
            assert (status, body["code"]) == (413, "invalid")
        assert door.app.seen == []


@on_both_loops
async def test_a_chunked_body_over_the_limit_is_413_when_it_gets_there() -> None:
    """Chunks are counted; the application sees the client go, and its own answer is dropped."""
    async with open_door() as door:
        chunk = b"800\r\n" + b"a" * 0x800 + b"\r\n"
        raw = await door.say(post(b"Transfer-Encoding: chunked\r\n"), chunk, chunk, chunk)
        assert refusal(raw)[0] == 413
        await _until(lambda: door.app.disconnects == 1)
        assert door.app.bodies == []


@on_both_loops
async def test_the_application_learns_of_a_refusal_at_once() -> None:
    """Before the connection is gone; what it still answers is not sent, and no deadline runs on."""
    async with open_door() as door:
        reader, writer = await door.connect()
        async with asyncio.timeout(FAILSAFE_S):
            writer.write(post(b"Transfer-Encoding: chunked\r\n", b"1\r\na\r\n"))
            await _until(lambda: door.app.seen)
            (connection,) = door.server.server_state.connections
            assert isinstance(connection, GuardedHttpProtocol)
            await _until(lambda: connection._deadline_for)
            deadline = connection._deadline
            assert deadline is not None
            writer.write(b"rubbish\r\n")
            raw = await reader.readuntil(b"}}")
            await _until(lambda: door.app.disconnects == 1)
            assert door.connections == 1
            assert deadline.cancelled()
            assert refusal(raw + await _all(reader, writer))[0] == 400


@on_both_loops
async def test_the_refusal_reaches_a_client_that_is_still_sending() -> None:
    """No reset destroys the answer while a large upload is on its way."""
    async with open_door() as door:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{door.port}") as client:
            answer = await client.post("/", content=b"a" * (3 * SMALL.body_max_bytes // 2))
        assert answer.status_code == 413


@on_both_loops
async def test_endless_chunk_extensions_are_refused() -> None:
    """A chunked body that carries no content is not an ordinary body that is slow."""
    async with open_door() as door:
        raw = await door.say(post(b"Transfer-Encoding: chunked\r\n"), b"1;", *[b"e" * 1_000] * 6)
        assert refusal(raw)[1]["message"] == refusals.FRAMING.message
        raw = await door.say(
            post(b"Transfer-Encoding: chunked\r\n"),
            b"1\r\na\r\n0\r\nTrailer: ",
            *[b"t" * 1_000] * 6,
        )
        assert refusal(raw)[1]["message"] == refusals.FRAMING.message


# Wrong

MALFORMED = {
    "two equal lengths": post(b"Content-Length: 1\r\nContent-Length: 1\r\n", b"a"),
    "two different lengths": post(b"Content-Length: 1\r\nContent-Length: 2\r\n", b"a"),
    "a list of lengths": post(b"Content-Length: 1, 1\r\n", b"a"),
    "a signed length": post(b"Content-Length: +1\r\n", b"a"),
    "a negative length": post(b"Content-Length: -1\r\n", b"a"),
    "an empty length": post(b"Content-Length: \r\n", b"a"),
    "a length over 64 bits": post(b"Content-Length: 18446744073709551617\r\n", b"a"),
    "length, then chunks": post(
        b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n"
    ),
    "chunks, then length": post(
        b"Transfer-Encoding: chunked\r\nContent-Length: 1\r\n", b"0\r\n\r\n"
    ),
    "chunked twice": post(
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n"
    ),
    "compressed chunks": post(b"Transfer-Encoding: gzip, chunked\r\n", b"0\r\n\r\n"),
    "an unknown transfer coding": post(b"Transfer-Encoding: xchunked\r\n", b"0\r\n\r\n"),
    "chunks in HTTP/1.0": (
        b"POST / HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    ),
    "a chunk size in 0x form": post(b"Transfer-Encoding: chunked\r\n", b"0x1\r\na\r\n0\r\n\r\n"),
    "a chunk size over 64 bits": post(
        b"Transfer-Encoding: chunked\r\n", b"10000000000000000\r\na\r\n"
    ),
    "chunks ended by bare LF": post(b"Transfer-Encoding: chunked\r\n", b"1\na\n0\n\n"),
    "obsolete folding": b"GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n",
    "space before the colon": b"GET / HTTP/1.1\r\nHost : x\r\n\r\n",
    "bare LF": b"GET / HTTP/1.1\nHost: x\n\n",
    "bare CR": b"GET / HTTP/1.1\r\nHost: x\rA: b\r\n\r\n",
    "NUL in a header": b"GET / HTTP/1.1\r\nHost: x\0y\r\n\r\n",
    "no Host": b"GET / HTTP/1.1\r\nA: b\r\n\r\n",
    "two Hosts": b"GET / HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n",
    "HTTP/0.9": b"GET /\r\n\r\n",
    "HTTP/2 without a handshake": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/2.0 in words": b"GET / HTTP/2.0\r\nHost: x\r\n\r\n",
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "an unknown method": b"get / HTTP/1.1\r\nHost: x\r\n\r\n",
    "bytes over ASCII in the URL": b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n",
    "CONNECT": b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n",
    "a WebSocket": (
        b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13\r\n\r\n"
    ),
    "a gzip body": post(b"Content-Encoding: gzip\r\nContent-Length: 1\r\n", b"a"),
    "a deflate body": post(b"Content-Encoding: deflate\r\nContent-Length: 1\r\n", b"a"),
}
SAID = {
    "an unknown transfer coding": refusals.TRANSFER_ENCODING,
    "compressed chunks": refusals.TRANSFER_ENCODING,
    "chunks in HTTP/1.0": refusals.TRANSFER_ENCODING,
    "no Host": refusals.HOST,
    "two Hosts": refusals.HOST,
    "HTTP/0.9": refusals.VERSION,
    "HTTP/2.0 in words": refusals.VERSION,
    "CONNECT": refusals.CONNECT,
    "a WebSocket": refusals.WEBSOCKET,
    "a gzip body": refusals.CONTENT_ENCODING,
    "a deflate body": refusals.CONTENT_ENCODING,
}
AFTER_THE_HEADER = {
    "a chunk size in 0x form",
    "a chunk size over 64 bits",
    "chunks ended by bare LF",
}


@pytest.mark.parametrize("name", MALFORMED)
@on_both_loops
async def test_what_is_not_plain_http_is_400(name: str) -> None:
    """One refusal in JSON, nothing of the request quoted, and the application is not troubled."""
    async with open_door() as door:
        status, body = refusal(await door.say(MALFORMED[name]))
        assert (status, body["code"], body["details"]) == (400, "invalid", {})
        assert body["message"] == SAID.get(name, refusals.MALFORMED).message
        assert door.app.bodies == []
        assert name in AFTER_THE_HEADER or door.app.seen == []


@on_both_loops
async def test_identity_is_no_content_encoding() -> None:
    """The one content coding that changes nothing is accepted."""
    async with open_door() as door:
        headers = b"Content-Encoding: identity\r\nContent-Length: 1\r\nConnection: close\r\n"
        assert (await door.say(post(headers, b"a"))).endswith(b"1 bytes")


# Requests that do not wait


@on_both_loops
async def test_a_second_request_before_the_answer_is_not_served() -> None:
    """The first is answered, truthfully marked as the last; the second is never started."""
    async with open_door() as door:
        raw = await door.say(GET % b"one" + GET % b"two")
        assert raw.count(b"HTTP/1.1") == 1
        assert b"connection: close" in raw
        assert raw.endswith(b"0 bytes")
        assert door.app.seen == ["/one"]


@on_both_loops
async def test_the_answer_to_a_hasty_client_is_not_cut_short() -> None:
    """The connection's first deadline ends with its first request, though another came along."""
    async with open_door() as door:
        reader, writer = await door.connect()
        writer.write(GET % b"slow" + GET % b"two")
        await _until(lambda: door.app.bodies)
        (connection,) = door.server.server_state.connections
        assert isinstance(connection, GuardedHttpProtocol)
        assert connection._deadline is None
        door.app.go_on.set()
        async with asyncio.timeout(FAILSAFE_S):
            assert (await _all(reader, writer)).endswith(b"0 bytes")


@on_both_loops
async def test_thousands_of_requests_in_one_packet_cost_one() -> None:
    """No queue grows from what a client sends ahead."""
    async with open_door() as door:
        raw = await door.say((GET % b"") * 3_000)
        assert raw.count(b"HTTP/1.1") == 1
        assert len(door.app.seen) == 1


@on_both_loops
async def test_rubbish_after_a_request_never_answers_for_it() -> None:
    """A refusal is not sent where the client would take it for the pending answer."""
    async with open_door() as door:
        reader, writer = await door.connect()
        writer.write(GET % b"slow")
        await _until(lambda: door.app.bodies)
        writer.write(b"\x00rubbish" + b"\r\n" * 4_000)
        (connection,) = door.server.server_state.connections
        assert isinstance(connection, GuardedHttpProtocol)
        await _until(lambda: connection._deaf)
        door.app.go_on.set()
        async with asyncio.timeout(FAILSAFE_S):
            raw = await _all(reader, writer)
        assert raw.startswith(b"HTTP/1.1 200")
        assert raw.count(b"HTTP/1.1") == 1


@on_both_loops
async def test_a_request_smuggled_after_an_ignored_upgrade_is_not_served() -> None:
    """What follows an h2c offer in the same packet is thrown away."""
    offer = b"GET /a HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
    async with open_door() as door:
        raw = await door.say(offer + GET % b"b")
        assert raw.count(b"HTTP/1.1") == 1
        assert door.app.seen == ["/a"]


# Slow


@on_both_loops
async def test_a_header_that_is_not_finished_is_408() -> None:
    """Bytes that trickle in do not put the deadline off."""
    async with open_door(HASTY) as door:
        reader, writer = await door.connect()
        async with asyncio.timeout(FAILSAFE_S):
            trickle = asyncio.create_task(_trickle(writer, b"GET / HTTP/1.1\r\nA: "))
            raw = await _all(reader, writer)
            await trickle
        status, body = refusal(raw)
        assert (status, body["code"]) == (408, "unavailable")


@on_both_loops
async def test_a_body_that_is_not_finished_is_408() -> None:
    """The application is waiting for the body and sees the client go."""
    async with open_door(HASTY) as door:
        reader, writer = await door.connect()
        async with asyncio.timeout(FAILSAFE_S):
            start = post(b"Content-Length: 4000\r\n", b"a")
            trickle = asyncio.create_task(_trickle(writer, start))
            raw = await _all(reader, writer)
            await trickle
        assert refusal(raw)[0] == 408
        await _until(lambda: door.app.disconnects == 1)


async def _trickle(writer: asyncio.StreamWriter, start: bytes) -> None:
    writer.write(start)
    with contextlib.suppress(ConnectionError):
        while not writer.is_closing():
            writer.write(b"v")
            await writer.drain()
            await asyncio.sleep(0.01)


@on_both_loops
async def test_a_connection_that_says_nothing_is_closed_in_silence() -> None:
    """An idle new connection gets no answer, because it asked nothing."""
    async with open_door(HASTY) as door:
        assert await door.say() == b""
        await _until(lambda: door.connections == 0)


@on_both_loops
async def test_stray_line_ends_do_not_keep_a_connection() -> None:
    """They end the keep-alive timer, so another deadline takes its place."""
    async with open_door(HASTY) as door:
        reader, writer = await door.connect()
        async with asyncio.timeout(FAILSAFE_S):
            writer.write(GET % b"")
            await reader.readuntil(b"0 bytes")
            writer.write(b"\r\n")
            assert await _all(reader, writer) == b""


@on_both_loops
async def test_an_endless_run_of_line_ends_is_refused() -> None:
    """Before a first request, bytes that are no request are counted like a header."""
    async with open_door() as door:
        raw = await door.say(*[b"\r\n" * 500] * 8)
        assert refusal(raw)[1]["message"] == refusals.MALFORMED.message


@on_both_loops
async def test_the_keep_alive_timer_closes_an_idle_connection() -> None:
    """After an answer the connection stays for the keep-alive time and no longer."""
    async with open_door(keep_alive_s=0) as door:
        raw = await door.say(GET % b"")
        assert raw.endswith(b"0 bytes")
        assert b"connection: close" not in raw


@on_both_loops
async def test_each_header_and_body_has_a_deadline_of_its_own() -> None:
    """Timed from its own beginning, on one connection, and none while the answer is due."""
    async with open_door() as door:
        reader, writer = await door.connect()
        await _until(lambda: door.connections == 1)
        (connection,) = door.server.server_state.connections
        assert isinstance(connection, GuardedHttpProtocol)
        seen: list[asyncio.TimerHandle] = []

        async def waits_until_a_new_deadline() -> None:
            await _until(lambda: connection._deadline not in [None, *seen])
            assert connection._deadline is not None
            seen.append(connection._deadline)

        await waits_until_a_new_deadline()
        for round_number in range(2):
            writer.write(b"POST /slow HTTP/1.1\r\nHost: x\r\n")
            if round_number:
                await waits_until_a_new_deadline()
                assert connection.timeout_keep_alive_task is None
            writer.write(b"Content-Length: 2\r\n\r\na")
            await waits_until_a_new_deadline()
            writer.write(b"b")
            await _until(lambda: door.app.bodies)
            assert connection._deadline is None
            door.app.bodies.clear()
            door.app.go_on.set()
            await reader.readuntil(b"2 bytes")
            assert connection._deadline is None
            assert connection.timeout_keep_alive_task is not None
        assert all(handle.cancelled() for handle in seen)
        assert len(seen) == 4
        writer.close()


LEFT_WAITING = {
    "_deadline": post(b"Content-Length: 9\r\n", b"a"),
    "_write_deadline": GET % b"big",
    "timeout_keep_alive_task": GET % b"",
}


@pytest.mark.parametrize("timer", LEFT_WAITING)
@on_both_loops
async def test_a_connection_that_is_gone_leaves_no_timer(timer: str) -> None:
    """Whatever it waited for: a body, an answer to be read, the next request."""
    async with open_door() as door:
        _, writer = await door.connect()
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(LEFT_WAITING[timer])
        await _until(lambda: door.connections == 1)
        (connection,) = door.server.server_state.connections
        await _until(lambda: door.app.seen and getattr(connection, timer))
        handle = getattr(connection, timer)
        writer.transport.abort()
        await _until(lambda: door.connections == 0)
        assert getattr(connection, timer) is None
        assert handle.cancelled()


@on_both_loops
async def test_a_client_that_does_not_read_is_cut_off() -> None:
    """A large answer waits in memory only until the write deadline, closing or not."""
    async with open_door(HASTY) as door:
        for closing in (b"", b"Connection: close\r\n"):
            reader, writer = await door.connect()
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            writer.write(b"GET /big HTTP/1.1\r\nHost: x\r\n" + closing + b"\r\n")
            await _until(lambda: door.connections == 1)
            await _until(lambda: door.connections == 0)
            writer.transport.abort()
            del reader


@on_both_loops
async def test_the_rest_of_a_last_answer_does_not_wait_for_ever() -> None:
    """Also what is too little for the loop to call its buffer full."""
    async with open_door(HASTY) as door:
        _, writer = await door.connect()
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await _until(lambda: door.connections == 1)
        (connection,) = door.server.server_state.connections
        assert isinstance(connection, GuardedHttpProtocol)
        connection.transport.set_write_buffer_limits(high=64 * 1024 * 1024)
        writer.write(b"GET /big HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        await _until(lambda: door.connections == 0)
        writer.transport.abort()


@on_both_loops
async def test_a_client_that_reads_slowly_but_reads_is_served() -> None:
    """The application waits while the buffer is full; the deadline ends when it drains."""
    async with open_door() as door:
        reader, writer = await door.connect()
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(GET % b"big")
        await _until(lambda: door.connections == 1)
        (connection,) = door.server.server_state.connections
        assert isinstance(connection, GuardedHttpProtocol)
        await _until(lambda: connection._write_deadline)
        deadline = connection._write_deadline
        assert deadline is not None
        assert connection.flow.write_paused
        writer.transport.resume_reading()  # type: ignore[attr-defined]
        async with asyncio.timeout(FAILSAFE_S):
            await reader.readuntil(b"\r\n\r\n")
            assert await reader.readexactly(16 * 1024 * 1024) == b"x" * (16 * 1024 * 1024)
        assert deadline.cancelled()
        assert connection._write_deadline is None
        assert not connection.flow.write_paused
        writer.close()


@on_both_loops
async def test_an_idle_connection_with_an_unread_answer_is_closed_too() -> None:
    """The keep-alive timer does not wait for a client that reads nothing."""
    async with open_door(keep_alive_s=0) as door:
        _, writer = await door.connect()
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await _until(lambda: door.connections == 1)
        (connection,) = door.server.server_state.connections
        assert isinstance(connection, GuardedHttpProtocol)
        connection.transport.set_write_buffer_limits(high=64 * 1024 * 1024)
        writer.write(GET % b"big")
        await _until(lambda: door.connections == 0)
        writer.transport.abort()


@on_both_loops
async def test_a_refused_upload_is_read_though_the_application_did_not_read_it() -> None:
    """So that the client, still busy sending, gets to read why it was refused."""
    # More than the sockets' own buffers take.
    size = 12 * 1024 * 1024
    limits = HttpLimits(body_deadline_s=0.2, body_max_bytes=4 * size)
    async with open_door(limits) as door:
        reader, writer = await door.connect()
        async with asyncio.timeout(FAILSAFE_S):
            writer.write(post(b"Content-Length: %d\r\n" % (2 * size), b"a" * size, b"/unread"))
            await _until(lambda: door.app.seen)
            (connection,) = door.server.server_state.connections
            assert isinstance(connection, GuardedHttpProtocol)
            await _until(lambda: connection.flow.read_paused)
            await _until(lambda: connection._deaf)
            writer.write(b"a" * size)
            await writer.drain()
            assert refusal(await _all(reader, writer))[0] == 408


# Answers that began before the body ended


@on_both_loops
async def test_a_body_that_goes_wrong_after_its_answer_gets_no_second_one() -> None:
    """The connection closes; one request has one answer."""
    async with open_door() as door:
        reader, writer = await door.connect()
        async with asyncio.timeout(FAILSAFE_S):
            writer.write(post(b"Transfer-Encoding: chunked\r\n", path=b"/early"))
            await reader.readuntil(b"early")
            writer.write(b"zz\r\n")
            assert await _all(reader, writer) == b""


@on_both_loops
async def test_a_body_that_goes_wrong_while_the_answer_runs_cuts_it_off() -> None:
    """An answer that began cannot be taken back, so the client sees it end too soon."""
    async with open_door() as door:
        reader, writer = await door.connect()
        async with asyncio.timeout(FAILSAFE_S):
            writer.write(post(b"Transfer-Encoding: chunked\r\n", path=b"/started"))
            await reader.readuntil(b"begun\r\n")
            writer.write(b"zz\r\n")
            assert await _all(reader, writer) == b""
        await _until(lambda: door.app.disconnects == 1)


@on_both_loops
async def test_a_body_not_finished_after_its_answer_is_closed() -> None:
    """The body's deadline holds also when nobody waits for the body any more."""
    async with open_door(HASTY) as door:
        raw = await door.say(post(b"Content-Length: 100\r\n", b"a", path=b"/early"))
        assert raw.endswith(b"early")
        assert raw.count(b"HTTP/1.1") == 1


# Too many


@on_both_loops
async def test_connections_over_the_cap_are_told_503() -> None:
    """The answer comes at once, with when to try again, and those inside are not disturbed."""
    async with open_door(HttpLimits(connections_max=2)) as door:
        inside = [await door.connect() for _ in range(2)]
        await _until(lambda: door.connections == 2)
        raw = await door.say()
        status, body = refusal(raw)
        assert (status, body["code"]) == (503, "unavailable")
        assert body["details"] == {"retry_after_s": 1}
        assert b"retry-after: 1\r\n" in raw
        for reader, writer in inside:
            writer.write(GET % b"")
            async with asyncio.timeout(FAILSAFE_S):
                await reader.readuntil(b"0 bytes")
            writer.close()
        await _until(lambda: door.connections == 0)
        assert b"200 OK" in await door.say(b"GET / HTTP/1.0\r\n\r\n")


@on_both_loops
async def test_far_over_the_cap_no_answer_is_spent(monkeypatch: pytest.MonkeyPatch) -> None:
    """A flood of connections is dropped, so that refusing them does not cost memory either."""
    monkeypatch.setattr("petsem.server.http_protocol._OVERFLOW_ANSWERED", 0)
    async with open_door(HttpLimits(connections_max=1)) as door:
        _, writer = await door.connect()
        await _until(lambda: door.connections == 1)
        assert await door.say() == b""
        writer.close()


@on_both_loops
async def test_after_a_refusal_the_rest_is_thrown_away_within_bounds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A refused client can neither send for ever nor stay for ever."""
    monkeypatch.setattr("petsem.server.http_protocol._LINGER_S", 0.05)
    async with open_door() as door:
        reader, writer = await door.connect()
        writer.write(post(b"Content-Length: 9999\r\n"))
        await _until(lambda: door.connections == 1)
        await _until(lambda: door.connections == 0)
        del reader
        writer.close()


@on_both_loops
async def test_a_refused_client_cannot_send_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bytes thrown away are bounded too."""
    monkeypatch.setattr("petsem.server.http_protocol._LINGER_S", 2 * FAILSAFE_S)
    async with open_door() as door:
        reader, writer = await door.connect()
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(FAILSAFE_S):
                writer.write(post(b"Content-Length: 999999999\r\n"))
                while door.connections or not reader.at_eof():
                    writer.write(b"a" * 4_096)
                    await writer.drain()
                    await reader.read(4_096)
        await _until(lambda: door.connections == 0)
        writer.close()


# TLS


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
