"""How long a client may keep the HTTP door waiting: to send, to read, and to say nothing."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from petsem.server.http_protocol import GuardedHttpProtocol, HttpLimits
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

# For a request


@on_both_loops
async def test_a_header_that_is_not_finished_is_408() -> None:
    """Bytes that trickle in do not put the deadline off."""
    async with open_door(HASTY) as door:
        reader, writer = await door.connect()
        async with asyncio.timeout(FAILSAFE_S):
            trickle = asyncio.create_task(_trickle(writer, b"GET / HTTP/1.1\r\nA: "))
            raw = await read_to_end(reader, writer)
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
            raw = await read_to_end(reader, writer)
            await trickle
        assert refusal(raw)[0] == 408
        await eventually(lambda: door.app.disconnects == 1)


async def _trickle(writer: asyncio.StreamWriter, start: bytes) -> None:
    writer.write(start)
    with contextlib.suppress(ConnectionError):
        while not writer.is_closing():
            writer.write(b"v")
            await writer.drain()
            await asyncio.sleep(0.01)


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
            await eventually(lambda: door.app.seen)
            (connection,) = door.server.server_state.connections
            assert isinstance(connection, GuardedHttpProtocol)
            await eventually(lambda: connection.flow.read_paused)
            await eventually(lambda: connection._deaf)
            writer.write(b"a" * size)
            await writer.drain()
            assert refusal(await read_to_end(reader, writer))[0] == 408


@on_both_loops
async def test_each_header_and_body_has_a_deadline_of_its_own() -> None:
    """Timed from its own beginning, on one connection, and none while the answer is due."""
    async with open_door() as door:
        reader, writer = await door.connect()
        await eventually(lambda: door.connections == 1)
        (connection,) = door.server.server_state.connections
        assert isinstance(connection, GuardedHttpProtocol)
        seen: list[asyncio.TimerHandle] = []

        async def waits_until_a_new_deadline() -> None:
            await eventually(lambda: connection._deadline not in [None, *seen])
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
            await eventually(lambda: door.app.bodies)
            assert connection._deadline is None
            door.app.bodies.clear()
            door.app.go_on.set()
            await reader.readuntil(b"2 bytes")
            assert connection._deadline is None
            assert connection.timeout_keep_alive_task is not None
        assert all(handle.cancelled() for handle in seen)
        assert len(seen) == 4
        writer.close()


# For a client that says nothing


@on_both_loops
async def test_a_connection_that_says_nothing_is_closed_in_silence() -> None:
    """An idle new connection gets no answer, because it asked nothing."""
    async with open_door(HASTY) as door:
        assert await door.say() == b""
        await eventually(lambda: door.connections == 0)


@on_both_loops
async def test_stray_line_ends_do_not_keep_a_connection() -> None:
    """They end the keep-alive timer, so another deadline takes its place."""
    async with open_door(HASTY) as door:
        reader, writer = await door.connect()
        async with asyncio.timeout(FAILSAFE_S):
            writer.write(GET % b"")
            await reader.readuntil(b"0 bytes")
            writer.write(b"\r\n")
            assert await read_to_end(reader, writer) == b""


@on_both_loops
async def test_the_keep_alive_timer_closes_an_idle_connection() -> None:
    """After an answer the connection stays for the keep-alive time and no longer."""
    async with open_door(keep_alive_s=0) as door:
        raw = await door.say(GET % b"")
        assert raw.endswith(b"0 bytes")
        assert b"connection: close" not in raw


# For a client that reads


@on_both_loops
async def test_a_client_that_does_not_read_is_cut_off() -> None:
    """A large answer waits in memory only until the write deadline, closing or not."""
    async with open_door(HASTY) as door:
        for closing in (b"", b"Connection: close\r\n"):
            reader, writer = await door.connect()
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            writer.write(b"GET /big HTTP/1.1\r\nHost: x\r\n" + closing + b"\r\n")
            await eventually(lambda: door.connections == 1)
            await eventually(lambda: door.connections == 0)
            writer.transport.abort()
            del reader


@on_both_loops
async def test_the_rest_of_a_last_answer_does_not_wait_for_ever() -> None:
    """Also what is too little for the loop to call its buffer full."""
    async with open_door(HASTY) as door:
        _, writer = await door.connect()
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await eventually(lambda: door.connections == 1)
        (connection,) = door.server.server_state.connections
        assert isinstance(connection, GuardedHttpProtocol)
        connection.transport.set_write_buffer_limits(high=64 * 1024 * 1024)
        writer.write(b"GET /big HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        await eventually(lambda: door.connections == 0)
        writer.transport.abort()


@on_both_loops
async def test_a_client_that_reads_slowly_but_reads_is_served() -> None:
    """The application waits while the buffer is full; the deadline ends when it drains."""
    async with open_door() as door:
        reader, writer = await door.connect()
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(GET % b"big")
        await eventually(lambda: door.connections == 1)
        (connection,) = door.server.server_state.connections
        assert isinstance(connection, GuardedHttpProtocol)
        await eventually(lambda: connection._write_deadline)
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
        await eventually(lambda: door.connections == 1)
        (connection,) = door.server.server_state.connections
        assert isinstance(connection, GuardedHttpProtocol)
        connection.transport.set_write_buffer_limits(high=64 * 1024 * 1024)
        writer.write(GET % b"big")
        await eventually(lambda: door.connections == 0)
        writer.transport.abort()


# When it is gone

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
        await eventually(lambda: door.connections == 1)
        (connection,) = door.server.server_state.connections
        await eventually(lambda: door.app.seen and getattr(connection, timer))
        handle = getattr(connection, timer)
        writer.transport.abort()
        await eventually(lambda: door.connections == 0)
        assert getattr(connection, timer) is None
        assert handle.cancelled()
