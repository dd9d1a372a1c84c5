"""Requests that nodes pass on to each other: as messages, and run on the node that gets them.

Guarantees: a request that was passed on goes through the same doors as one from a client, token
and all; only the address, the region and the host key of the client are taken from the message,
because a node sent it. Only headers that a door reads are passed on, so no header of the client is
believed that the node which was asked would not have believed. A write whose caller went away is
finished.

It does not choose what is passed on; `passing_on` does.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol
from urllib.parse import unquote

from petsem import limits
from petsem.errors import Code, Detail, PetsemError, invalid, unavailable
from petsem.server.client_ip import IPNetwork, client_ip
from petsem.server.host_key import HOST_KEY, HostKey, given
from petsem.server.peer.dial import FORWARD
from petsem.server.peer.handlers import PeerMethod
from petsem.server.peer.membership import Member
from petsem.server.principal import Request
from petsem.wire import petsem_pb2 as pb

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
AsgiApp = Callable[[Any, Any, Any], Awaitable[None]]
RawHeader = tuple[bytes, bytes]

FORWARDED: Final = "petsem.forwarded"
"""The key in a scope under which its `Forwarded` is found."""
POSITION_HEADER: Final = b"petsem-position"
"""On answers to writes that were passed on: what the node that was asked has to reach before it
answers, so that its client reads what it wrote."""
NO_LEADER_HEADER: Final = b"petsem-no-leader"
"""On answers to requests that were passed on and came to nobody who leads: another node may be
asked, since nothing has happened."""

_PASSED: Final = frozenset(
    {
        *(b"authorization", b"content-type", b"content-encoding", b"idempotency-key"),
        *(b"connect-protocol-version", b"connect-timeout-ms"),
    }
)
_SIGN_IN: Final = frozenset({"/.well-known/petsem/3p", "/.well-known/petsem/3p/poll"})
_PAGE: Final = re.compile(r"/sso(?:/callback/[a-z0-9-]{1,63})?")
_PASSED_OF_BROWSERS: Final = _PASSED | {b"cookie", b"sec-fetch-site", b"origin", b"host"}
"""Beside what every route reads: only the pages are for browsers, and only they read these."""
_METHODS: Final = frozenset({"GET", "POST", "PATCH", "DELETE"})
_PATHS: Final = ("/v1/", "/petsem.v1.")
_PATH_MAX_CHARS: Final = 8 * 1024


class NoLeader(PetsemError):  # noqa: N818 (what is so, not what failed)
    """Nobody was asked who leads, or knows the way: nothing has happened, for certain."""

    def __init__(self, message: str) -> None:
        super().__init__(Code.UNAVAILABLE, message, Detail(retry_after_s=1))


class Upstream(Protocol):
    """The way to the leader."""

    @property
    def connected(self) -> bool:
        """Whether it is of use to ask."""
        ...

    async def forward(
        self, request: pb.ForwardRequest, timeout_s: float, *, changes: bool = True
    ) -> pb.ForwardResponse:
        """The answer. `NoLeader` if nobody could be asked; `indeterminate` if somebody was asked
        for a change and the answer was lost."""
        ...


@dataclass(frozen=True, slots=True)
class Forwarded:
    """What a node says of the client whose request it passes on."""

    region: str | None
    hops: int
    host_key: HostKey | None = None


def request_of(
    scope: Mapping[str, Any], token: str | None, proxies: Sequence[IPNetwork]
) -> Request:
    """Who asks, directly or through another node."""
    ip = client_ip(scope, proxies)
    forwarded: Forwarded | None = scope.get(FORWARDED)
    if forwarded is None:
        return Request(token, ip, host_key=scope.get(HOST_KEY))
    return Request(token, ip, forwarded.region, forwarded.hops, forwarded.host_key)


def message_of(
    scope: Mapping[str, Any], body: bytes, request: Request, region: str
) -> pb.ForwardRequest:
    """An HTTP request as a message; `region` is this node's."""
    return pb.ForwardRequest(
        method=scope["method"],
        path=scope["raw_path"].decode("ascii"),
        query=scope["query_string"].decode("ascii"),
        headers=[
            pb.Header(name=name.decode("ascii"), value=value.decode("latin-1"))
            for name, value in scope["headers"]
            if name in _passed_to(scope["path"])
        ],
        body=body,
        client_ip=request.ip or "",
        hops=request.hops,
        client_region=request.region or region,
        client_host_key=host_key_of(request),
    )


def _passed_to(path: str) -> frozenset[bytes]:
    return _PASSED_OF_BROWSERS if _PAGE.fullmatch(path) else _PASSED


def host_key_of(request: Request) -> str:
    """The client's host key as a message says it: empty where there is none."""
    return (request.host_key() if request.host_key is not None else None) or ""


def forward_method(app: AsgiApp) -> PeerMethod:
    """`Peer.Forward` over `app`, which serves every HTTP path of this node."""
    running: set[asyncio.Task[pb.ForwardResponse]] = set()

    def done(call: asyncio.Task[pb.ForwardResponse]) -> None:
        running.discard(call)
        if not call.cancelled():
            # Whoever waited has it; if he went away, nobody needs it.
            call.exception()

    async def forward(_: Member, request: pb.ForwardRequest) -> pb.ForwardResponse:
        gone = asyncio.Event()
        call = asyncio.create_task(asgi_call(app, request, gone))
        running.add(call)
        call.add_done_callback(done)
        try:
            # What was begun is finished, as for a client of this node's own that hangs up.
            return await asyncio.shield(call)
        finally:
            gone.set()

    return PeerMethod(FORWARD, pb.ForwardRequest, forward)


async def asgi_call(
    app: AsgiApp, request: pb.ForwardRequest, gone: asyncio.Event
) -> pb.ForwardResponse:
    """The answer of `app`, which is told that the client has left once `gone` is set."""
    scope = _scope(request)
    body: bytes | None = request.body
    response = pb.ForwardResponse()
    parts: list[bytes] = []

    async def receive() -> Mapping[str, Any]:
        nonlocal body
        if body is not None:
            sent, body = body, None
            return {"type": "http.request", "body": sent, "more_body": False}
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(event: MutableMapping[str, Any]) -> None:
        if event["type"] == "http.response.start":
            response.status = event["status"]
            response.headers.extend(
                pb.Header(name=name.decode("latin-1"), value=value.decode("latin-1"))
                for name, value in event["headers"]
            )
        else:
            parts.append(event.get("body", b""))

    await app(scope, receive, send)
    if not response.status:
        raise unavailable("the request came to no answer on the node that it was passed on to")
    response.body = b"".join(parts)
    return response


def _scope(request: pb.ForwardRequest) -> Scope:
    path = request.path
    known = path.startswith(_PATHS) or path in _SIGN_IN or _PAGE.fullmatch(path)
    if request.method not in _METHODS or not known:
        raise invalid("this request is not one that nodes pass on")
    if len(request.path) > _PATH_MAX_CHARS or not (
        request.path.isascii() and request.query.isascii()
    ):
        raise invalid("the request's path is too long, or not as it was sent")
    if request.hops > limits.FORWARD_HOPS_MAX:
        raise unavailable("the request went through too many nodes; is there a leader at all?")
    if len(request.headers) > limits.FORWARD_HEADERS_MAX:
        raise invalid("the request has more headers than are passed on")
    headers = [(h.name.encode("latin-1"), h.value.encode("latin-1")) for h in request.headers]
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": request.method,
        "scheme": "https",
        "path": unquote(request.path),
        "raw_path": request.path.encode(),
        "query_string": request.query.encode(),
        "root_path": "",
        "headers": [h for h in headers if h[0] in _passed_to(request.path)],
        "client": (request.client_ip, 0) if request.client_ip else None,
        "server": None,
        "state": {},
        FORWARDED: Forwarded(
            request.client_region or None, request.hops, given(request.client_host_key)
        ),
    }
