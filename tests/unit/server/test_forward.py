"""Requests between nodes: what is in the message, and what the node that gets it makes of it."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from typing import Any

import pytest

from petsem import limits
from petsem.errors import Code, PetsemError
from petsem.server.forward import (
    FORWARDED,
    Forwarded,
    asgi_call,
    forward_method,
    message_of,
    request_of,
)
from petsem.server.host_key import HOST_KEY, given
from petsem.server.peer.membership import Member
from petsem.server.principal import Request
from petsem.wire import petsem_pb2 as pb
from tests.support.patience import PATIENCE_S

SCOPE: dict[str, Any] = {
    "type": "http",
    "method": "PATCH",
    "path": "/v1/orgs/a b",
    "raw_path": b"/v1/orgs/a%20b",
    "query_string": b"now=true",
    "headers": [
        (b"authorization", b"Bearer t\xe9"),
        (b"x-forwarded-for", b"10.0.0.1"),
        (b"cookie", b"c"),
        (b"idempotency-key", b"k"),
    ],
    "client": ("192.0.2.7", 5000),
}
ASKED = pb.ForwardRequest(method="GET", path="/v1/orgs", client_ip="192.0.2.7")


async def call(request: pb.ForwardRequest) -> tuple[pb.ForwardResponse, dict[str, Any]]:
    """The answer of an application that says what it saw, and what that was."""
    seen: dict[str, Any] = {}

    async def app(scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        seen.update(scope, body=(await receive())["body"])
        headers = [(b"content-type", b"application/json"), (b"retry-after", b"3")]
        await send({"type": "http.response.start", "status": 429, "headers": headers})
        for part in (b"one", b"two"):
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body"})

    return await asgi_call(app, request, asyncio.Event()), seen


async def test_a_request_arrives_as_it_was_sent() -> None:
    """Path, query, body and the headers that a door reads; the client's address, not the node's."""
    message = message_of(SCOPE, b"body", Request("t", "192.0.2.7"), "ams")
    response, seen = await call(message)
    assert {
        name: seen[name] for name in ("method", "path", "raw_path", "query_string", "body")
    } == {
        "method": "PATCH",
        "path": "/v1/orgs/a b",
        "raw_path": b"/v1/orgs/a%20b",
        "query_string": b"now=true",
        "body": b"body",
    }
    assert seen["headers"] == [(b"authorization", b"Bearer t\xe9"), (b"idempotency-key", b"k")]
    assert request_of(seen, "t", ()) == Request("t", "192.0.2.7", "ams", 0)
    assert (response.status, response.body) == (429, b"onetwo")
    assert [(h.name, h.value) for h in response.headers] == [
        ("content-type", "application/json"), ("retry-after", "3"),
    ]  # fmt: skip


async def test_an_address_that_is_not_known_stays_unknown() -> None:
    """It denies where a caveat asks for one; the region of a client is that of its own node."""
    message = message_of(SCOPE, b"", Request("t", None, "fra", 2), "ams")
    assert (message.client_ip, message.client_region, message.hops) == ("", "fra", 2)
    _, seen = await call(message)
    assert seen["client"] is None
    assert request_of(seen, "t", ()) == Request("t", None, "fra", 2)


async def test_the_client_s_key_is_the_one_that_its_own_node_saw() -> None:
    """It goes as far as the request does; a node's own scope says nothing of it, and where there is
    none it stays unknown."""
    key = "ab" * 32
    direct = request_of({**SCOPE, HOST_KEY: given(key)}, "t", ())
    assert direct.host_key is not None
    message = message_of(SCOPE, b"", direct, "ams")
    assert message.client_host_key == key
    _, seen = await call(message)
    passed = request_of({**seen, HOST_KEY: given("cd" * 32)}, "t", ())
    assert passed.host_key is not None
    assert passed.host_key() == key
    for without in (Request("t", None), Request("t", None, host_key=lambda: None)):
        message = message_of(SCOPE, b"", without, "ams")
        assert message.client_host_key == ""
        assert request_of((await call(message))[1], "t", ()).host_key is None


async def test_headers_that_no_door_reads_are_dropped_on_arrival_too() -> None:
    """A node is not believed in what a proxy would have to say."""
    request = pb.ForwardRequest()
    request.CopyFrom(ASKED)
    request.headers.add(name="x-forwarded-for", value="10.0.0.1")
    _, seen = await call(request)
    assert seen["headers"] == []
    assert seen[FORWARDED] == Forwarded(None, 0)


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ({"method": "TRACE"}, Code.INVALID),
        ({"path": "/metrics"}, Code.INVALID),
        ({"path": "v1/orgs"}, Code.INVALID),
        ({"path": "/v1/é"}, Code.INVALID),
        ({"query": "é"}, Code.INVALID),
        ({"path": "/v1/" + "a" * 9000}, Code.INVALID),
        ({"hops": limits.FORWARD_HOPS_MAX + 1}, Code.UNAVAILABLE),
        ({"headers": [pb.Header()] * (limits.FORWARD_HEADERS_MAX + 1)}, Code.INVALID),
    ],
)
async def test_what_is_not_passed_on_is_refused(wrong: dict[str, Any], code: Code) -> None:
    """Whatever a node sends is within what a door would take."""
    request = pb.ForwardRequest()
    request.CopyFrom(ASKED)
    request.MergeFrom(pb.ForwardRequest(**wrong))
    with pytest.raises(PetsemError) as refused:
        await call(request)
    assert refused.value.code is code


async def test_a_write_is_finished_when_its_caller_goes_away() -> None:
    """The application learns that nobody listens any more, as from a client that hangs up."""
    begun, heard, finish = asyncio.Event(), asyncio.Event(), asyncio.Event()
    finished = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        begun.set()
        assert (await receive())["type"] == "http.disconnect"
        heard.set()
        await finish.wait()
        finished.set()
        raise RuntimeError("nobody hears this")

    method = forward_method(app)
    asking = asyncio.ensure_future(method.answer(Member("fra-1", "fra"), ASKED))
    async with asyncio.timeout(PATIENCE_S):
        await begun.wait()
        asking.cancel()
        await heard.wait()
        finish.set()
        await finished.wait()
    with pytest.raises(asyncio.CancelledError):
        await asking


async def test_an_application_that_says_nothing_is_no_answer() -> None:
    """Not an empty success."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        return

    with pytest.raises(PetsemError) as refused:
        await asgi_call(app, ASKED, asyncio.Event())
    assert refused.value.code is Code.UNAVAILABLE


@pytest.mark.parametrize("path", ["/sso", "/sso/callback/acme"])
async def test_what_browsers_send_goes_to_the_pages_only(path: str) -> None:
    """A cookie, and where a form was, reach the pages and nothing else of another node."""
    form = [(b"sec-fetch-site", b"same-origin"), (b"origin", b"http://a"), (b"host", b"a")]
    sent = [(b"cookie", b"c=1"), *form, (b"referer", b"r")]
    for where, arrives in ((path, sent[:4]), ("/.well-known/petsem/3p", []), ("/v1/login", [])):
        scope = {**SCOPE, "path": where, "raw_path": where.encode(), "headers": sent}
        message = message_of(scope, b"", Request(None, "192.0.2.7"), "ams")
        _, seen = await call(message)
        assert seen["headers"] == arrives
        # Nor if the node that passes it on were to send them all.
        every = [pb.Header(name=n.decode(), value=v.decode()) for n, v in sent]
        _, seen = await call(pb.ForwardRequest(method="POST", path=where, headers=every))
        assert seen["headers"] == arrives


@pytest.mark.parametrize(
    "path",
    [
        "/ssox",
        "/sso/",
        "/sso/callback",
        "/sso/callback/acme/x",
        "/.well-known/x",
        "/.well-known/petsem/3p/x",
    ],
)
async def test_paths_near_the_pages_are_not_passed_on(path: str) -> None:
    """Each of them is spelt out."""
    with pytest.raises(PetsemError):
        await call(pb.ForwardRequest(method="GET", path=path))
