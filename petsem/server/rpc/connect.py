"""The Connect door: the unary methods as plain HTTP, in raw ASGI.

    POST /petsem.v1.SERVICE/METHOD, application/proto or application/json → the reply, or an error

Guarantees: the same methods, errors and bounds as over gRPC, and the same strictness with JSON as
the REST routes have. It does not stream, compress, or answer GET. Source: the Connect protocol,
connectrpc.com/docs/protocol.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from typing import Any, Final, NoReturn

from google.protobuf.message import Message

from petsem import limits
from petsem.errors import Code, PetsemError, invalid
from petsem.server.api.reply import SECURITY_HEADERS
from petsem.server.forward import request_of
from petsem.server.node import Node
from petsem.server.principal import Request
from petsem.server.rpc.caller import bearer
from petsem.server.rpc.canonical import encode_json, parse_json
from petsem.server.rpc.errors import TOO_LARGE, Header, connect_body, connect_error, unexpected
from petsem.server.rpc.messages import parse
from petsem.server.rpc.methods import Methods, Unary

Scope = Mapping[str, Any]
Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]

_PROTO: Final = b"application/proto"
_JSON: Final = b"application/json"
_ACCEPTED: Final = b"application/proto, application/json"
_TIMEOUT_MAX_DIGITS: Final = 10
_READ: Final = frozenset(
    {
        *(b"authorization", b"content-type", b"content-encoding"),
        *(b"connect-protocol-version", b"connect-timeout-ms"),
    }
)


def connect_app(node: Node) -> AsgiApp:
    """The door as an ASGI application, for every path that begins with `/petsem.v1.`."""
    return _Connect(node)


class _HttpRefusal(Exception):  # noqa: N818 - an answer
    """What HTTP has a status for and Petsem no code."""

    def __init__(self, status: int, code: str, message: str, *headers: Header) -> None:
        super().__init__(message)
        self.status = status
        self.body = connect_body(code, message, [])
        self.headers = headers


class _Gone(Exception):  # noqa: N818 - nobody is to blame
    """The client hung up before its request was whole."""


class _Connect:
    def __init__(self, node: Node) -> None:
        methods = Methods(node)
        self._unary = {method.path: method for method in methods.unary}
        self._streams = frozenset(method.path for method in methods.streams)
        self._clock = node.clock
        self._proxies = node.config.http.trusted_proxies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        media_type, headers = _JSON, list[Header]()
        try:
            media_type, body = await self._answer(scope, receive)
            status = 200
        except PetsemError as e:
            status, body, headers = connect_error(e, self._clock.unix_ms())
        except _HttpRefusal as refusal:
            status, body, headers = refusal.status, refusal.body, list(refusal.headers)
        except _Gone:
            return
        except Exception as e:
            error = unexpected(scope["path"], e)
            status, body, headers = connect_error(error, self._clock.unix_ms())
        sent = [
            (b"content-type", media_type),
            (b"content-length", b"%d" % len(body)),
            *SECURITY_HEADERS,
            *headers,
        ]
        await send({"type": "http.response.start", "status": status, "headers": sent})
        await send({"type": "http.response.body", "body": body})

    async def _answer(self, scope: Scope, receive: Receive) -> tuple[bytes, bytes]:
        """The reply's media type and body."""
        method = self._unary.get(scope["path"])
        if method is None or scope["method"] != "POST":
            self._refuse(scope, method)
        headers = dict(scope["headers"])
        if len(headers) != len(scope["headers"]):
            _refuse_ambiguity(scope["headers"])
        media_type = _media_type(headers.get(b"content-type", b""))
        if headers.get(b"content-encoding", b"identity") != b"identity":
            raise _HttpRefusal(
                501,
                "unimplemented",
                "compressed requests are not accepted; send the body as it is",
                (b"accept-encoding", b"identity"),
            )
        if headers.get(b"connect-protocol-version", b"1") != b"1":
            raise invalid("the Connect protocol is spoken here in version 1 only")
        body = await _read(receive)
        sent = headers.get(b"authorization")
        token = None if sent is None else bearer(sent.decode("latin-1"))
        request = request_of(scope, token, self._proxies)
        message = (parse if media_type is _PROTO else parse_json)(method.request, body)
        timeout = headers.get(b"connect-timeout-ms")
        if timeout is None:
            reply = await method.answer(request, message)
        else:
            reply = await _within(_seconds(timeout), method, request, message)
        return media_type, reply if media_type is _PROTO else encode_json(method.reply, reply)

    def _refuse(self, scope: Scope, method: Unary | None) -> NoReturn:
        if scope["path"] in self._streams:
            raise _HttpRefusal(501, "unimplemented", "streams are offered over gRPC only")
        if method is None:
            raise _HttpRefusal(404, "unimplemented", "there is no such method")
        raise _HttpRefusal(
            405, "unimplemented", "methods are called with POST", (b"allow", b"POST")
        )


def _refuse_ambiguity(headers: Iterable[Header]) -> None:
    """A header that is read here must not be there twice."""
    names = [name for name, _ in headers if name in _READ]
    for name in set(names):
        if names.count(name) > 1:
            raise invalid(f"there is more than one {name.decode().title()} header; send one")


def _media_type(content_type: bytes) -> bytes:
    """One of the two that are spoken, whatever its parameters; JSON is in UTF-8 only."""
    if content_type == _PROTO:
        return _PROTO
    main, *parameters = (part.strip().lower() for part in content_type.split(b";"))
    if main == _PROTO:
        return _PROTO
    charsets = [p[8:].strip(b'"') for p in parameters if p.startswith(b"charset=")]
    if main == _JSON and set(charsets) <= {b"utf-8"}:
        return _JSON
    raise _HttpRefusal(
        415,
        "invalid_argument",
        "the content type must be application/proto, or application/json in UTF-8",
        (b"accept-post", _ACCEPTED),
    )


async def _read(receive: Receive) -> bytes:
    """The whole body, within its bound."""
    parts: list[bytes] = []
    size = 0
    while True:
        event = await receive()
        if event["type"] != "http.request":
            raise _Gone
        part = event.get("body", b"")
        size += len(part)
        if size > limits.HTTP_BODY_MAX_BYTES:
            raise invalid(
                f"the request's body is larger than {limits.HTTP_BODY_MAX_BYTES:,} bytes",
                reason=TOO_LARGE,
            )
        parts.append(part)
        if not event.get("more_body", False):
            return b"".join(parts) if len(parts) > 1 else part


def _seconds(timeout: bytes) -> float:
    if timeout.isdigit() and len(timeout) <= _TIMEOUT_MAX_DIGITS:
        return int(timeout) / 1000
    raise invalid("Connect-Timeout-Ms is a whole number of milliseconds, of 10 digits or less")


async def _within(seconds: float, method: Unary, request: Request, message: Message) -> bytes:
    """The answer, if it comes in the time that the caller gave."""
    try:
        async with asyncio.timeout(seconds):
            return await method.answer(request, message)
    except TimeoutError:
        raise PetsemError(
            Code.INDETERMINATE, "the answer was not ready within the time that the caller gave"
        ) from None
