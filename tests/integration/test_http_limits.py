"""How much a client may send to the HTTP door, and how many may come; who sends more is told so."""

from __future__ import annotations

import asyncio
import contextlib

import httpx
import pytest

from petsem.server import http_refusals as refusals
from petsem.server.http_protocol import HttpLimits
from tests.support.http_door import (
    FAILSAFE_S,
    GET,
    SMALL,
    eventually,
    on_both_loops,
    open_door,
    post,
    refusal,
)

# Of one request


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
async def test_a_call_of_connects_is_refused_in_its_form() -> None:
    """As soon as the path is known; a later request on the same connection is judged by its own."""
    call = b"POST /petsem.v1.Secrets/Fetch HTTP/1.1\r\nHost: x\r\n"
    long = (call + b"Content-Length: 4097\r\n\r\n", 413)
    many = (call + b"H: " + b"v" * 2_100 + b"\r\n\r\n", 431)
    wrong = (call + b"H : v\r\n\r\n", 400)
    chunks = (call + b"Transfer-Encoding: chunked\r\n\r\n" + b"rubbish\r\n", 400)
    async with open_door() as door:
        for request, status in (long, many, wrong, chunks):
            said, body = refusal(await door.say(request))
            assert (said, body["code"]) == (status, "invalid_argument"), request
            assert body["details"][0]["type"] == "petsem.v1.ErrorDetail"
        reader, writer = await door.connect()
        async with asyncio.timeout(FAILSAFE_S):
            writer.write(call + b"Content-Length: 0\r\n\r\n")
            assert (await reader.readuntil(b"0 bytes")).startswith(b"HTTP/1.1 200")
            writer.write(b"get / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert refusal(await reader.read())[1]["code"] == "invalid"
        writer.close()


@on_both_loops
async def test_a_chunked_body_over_the_limit_is_413_when_it_gets_there() -> None:
    """Chunks are counted; the application sees the client go, and its own answer is dropped."""
    async with open_door() as door:
        chunk = b"800\r\n" + b"a" * 0x800 + b"\r\n"
        raw = await door.say(post(b"Transfer-Encoding: chunked\r\n"), chunk, chunk, chunk)
        assert refusal(raw)[0] == 413
        await eventually(lambda: door.app.disconnects == 1)
        assert door.app.bodies == []


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


@on_both_loops
async def test_an_endless_run_of_line_ends_is_refused() -> None:
    """Before a first request, bytes that are no request are counted like a header."""
    async with open_door() as door:
        raw = await door.say(*[b"\r\n" * 500] * 8)
        assert refusal(raw)[1]["message"] == refusals.MALFORMED.message


# After a refusal


@on_both_loops
async def test_the_refusal_reaches_a_client_that_is_still_sending() -> None:
    """No reset destroys the answer while a large upload is on its way."""
    async with open_door() as door:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{door.port}") as client:
            answer = await client.post("/", content=b"a" * (3 * SMALL.body_max_bytes // 2))
        assert answer.status_code == 413


@on_both_loops
async def test_after_a_refusal_the_rest_is_thrown_away_within_bounds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A refused client can neither send for ever nor stay for ever."""
    monkeypatch.setattr("petsem.server.http_protocol._LINGER_S", 0.05)
    async with open_door() as door:
        reader, writer = await door.connect()
        writer.write(post(b"Content-Length: 9999\r\n"))
        await eventually(lambda: door.connections == 1)
        await eventually(lambda: door.connections == 0)
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
        await eventually(lambda: door.connections == 0)
        writer.close()


# Of connections


@on_both_loops
async def test_connections_over_the_cap_are_told_503() -> None:
    """The answer comes at once, with when to try again, and those inside are not disturbed."""
    async with open_door(HttpLimits(connections_max=2)) as door:
        inside = [await door.connect() for _ in range(2)]
        await eventually(lambda: door.connections == 2)
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
        await eventually(lambda: door.connections == 0)
        assert b"200 OK" in await door.say(b"GET / HTTP/1.0\r\n\r\n")


@on_both_loops
async def test_far_over_the_cap_no_answer_is_spent(monkeypatch: pytest.MonkeyPatch) -> None:
    """A flood of connections is dropped, so that refusing them does not cost memory either."""
    monkeypatch.setattr("petsem.server.http_protocol._OVERFLOW_ANSWERED", 0)
    async with open_door(HttpLimits(connections_max=1)) as door:
        _, writer = await door.connect()
        await eventually(lambda: door.connections == 1)
        assert await door.say() == b""
        writer.close()
