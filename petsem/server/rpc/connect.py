"""The Connect door: the unary methods as plain HTTP, in raw ASGI.

    POST /petsem.v1.SERVICE/METHOD, application/proto or application/json → the reply, or an error

Guarantees: the same methods, errors and bounds as gRPC. JSON is protobuf's canonical mapping, read
strictly: no field that is unknown or given twice, and no refusal quotes what was sent. It does not
stream, compress, or answer GET. Source: the Connect protocol, connectrpc.com/docs/protocol.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, Final

import structlog
from google.protobuf import json_format
from google.protobuf.message import Message

from petsem import limits
from petsem.errors import Code, PetsemError, invalid
from petsem.server.auth import Request
from petsem.server.client_ip import client_ip
from petsem.server.node import Node
from petsem.server.rpc import errors
from petsem.server.rpc.caller import bearer
from petsem.server.rpc.errors import Header
from petsem.server.rpc.messages import parse
from petsem.server.rpc.methods import Methods, Unary

log = structlog.get_logger(__name__)

Scope = Mapping[str, Any]
Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]

PROTO: Final = b"application/proto"
JSON: Final = b"application/json"
_TIMEOUT_MAX_DIGITS: Final = 10


def connect_app(node: Node) -> AsgiApp:
    """The door as an ASGI application for every path that begins with `/petsem.v1.`."""
    return _Connect(node)


class _HttpRefusal(Exception):
    """What HTTP has a status for and Petsem no code."""

    def __init__(self, status: int, code: str, message: str, *headers: Header) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.headers = headers


class _Gone(Exception):
    """The client hung up before its request was whole."""


@dataclass(slots=True)
class _Head:
    """The headers that matter, as sent."""

    content_type: bytes = b""
    content_encoding: bytes = b""
    version: bytes = b"1"
    timeout_ms: bytes | None = None
    token: str | None = None
