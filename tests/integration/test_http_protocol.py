"""HTTP as the door speaks it: what it takes, what it refuses, and one answer for one request."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from petsem.server import http_refusals as refusals
from petsem.server.http_protocol import GuardedHttpProtocol
from tests.support.http_door import (
    FAILSAFE_S,
    GET,
    HASTY,
    eventually,
    on_both_loops,
    open_door,
    post,
    read_to_end,
    refusal,
)

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


@on_both_loops
async def test_identity_is_no_content_encoding() -> None:
    """The one content coding that changes nothing is accepted."""
    async with open_door() as door:
        headers = b"Content-Encoding: identity\r\nContent-Length: 1\r\nConnection: close\r\n"
        assert (await door.say(post(headers, b"a"))).endswith(b"1 bytes")


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
async def test_the_application_learns_of_a_refusal_at_once() -> None:
    """Before the connection is gone; what it still answers is not sent, and no deadline runs on."""
    async with open_door() as door:
        reader, writer = await door.connect()
        async with asyncio.timeout(FAILSAFE_S):
            writer.write(post(b"Transfer-Encoding: chunked\r\n", b"1\r\na\r\n"))
            await eventually(lambda: door.app.seen)
            (connection,) = door.server.server_state.connections
            assert isinstance(connection, GuardedHttpProtocol)
            await eventually(lambda: connection._deadline_for)
            deadline = connection._deadline
            assert deadline is not None
            writer.write(b"rubbish\r\n")
            raw = await reader.readuntil(b"}}")
            await eventually(lambda: door.app.disconnects == 1)
            assert door.connections == 1
            assert deadline.cancelled()
            assert refusal(raw + await read_to_end(reader, writer))[0] == 400


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
        await eventually(lambda: door.app.bodies)
        (connection,) = door.server.server_state.connections
        assert isinstance(connection, GuardedHttpProtocol)
        assert connection._deadline is None
        door.app.go_on.set()
        async with asyncio.timeout(FAILSAFE_S):
            assert (await read_to_end(reader, writer)).endswith(b"0 bytes")


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
        await eventually(lambda: door.app.bodies)
        writer.write(b"\x00rubbish" + b"\r\n" * 4_000)
        (connection,) = door.server.server_state.connections
        assert isinstance(connection, GuardedHttpProtocol)
        await eventually(lambda: connection._deaf)
        door.app.go_on.set()
        async with asyncio.timeout(FAILSAFE_S):
            raw = await read_to_end(reader, writer)
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
            assert await read_to_end(reader, writer) == b""


@on_both_loops
async def test_a_body_that_goes_wrong_while_the_answer_runs_cuts_it_off() -> None:
    """An answer that began cannot be taken back, so the client sees it end too soon."""
    async with open_door() as door:
        reader, writer = await door.connect()
        async with asyncio.timeout(FAILSAFE_S):
            writer.write(post(b"Transfer-Encoding: chunked\r\n", path=b"/started"))
            await reader.readuntil(b"begun\r\n")
            writer.write(b"zz\r\n")
            assert await read_to_end(reader, writer) == b""
        await eventually(lambda: door.app.disconnects == 1)


@on_both_loops
async def test_a_body_not_finished_after_its_answer_is_closed() -> None:
    """The body's deadline holds also when nobody waits for the body any more."""
    async with open_door(HASTY) as door:
        raw = await door.say(post(b"Content-Length: 100\r\n", b"a", path=b"/early"))
        assert raw.endswith(b"early")
        assert raw.count(b"HTTP/1.1") == 1
