"""One request, as its handler sees it.

Guarantees: the action that a handler authorises is the policy's for its route, which it cannot
choose; a body is read only when asked for, so that a handler which authenticates first does not
read, let alone parse, what a stranger sends. It does not know what a route does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import apsw
import msgspec
from litestar.types import HTTPScope, Receive

from petsem import limits
from petsem.errors import Code, PetsemError, invalid, unavailable
from petsem.model import check_app, check_org
from petsem.server.api.bodies import decode_json
from petsem.server.api.errors import TOO_LARGE
from petsem.server.api.headers import RequestHeaders, read_headers
from petsem.server.api.queries import decode_query
from petsem.server.forward import request_of
from petsem.server.node import Node
from petsem.server.own_end import ending_itself
from petsem.server.passing_on import PassingOn
from petsem.server.policy import Rule
from petsem.server.principal import NO_NAMES, Names, Principal, Request, Verified
from petsem.server.service.writes import Call
from petsem.tokens.reasons import TokenRefused

T = TypeVar("T")
Query = TypeVar("Query", bound=msgspec.Struct)


class Ask:
    """A request under one rule of the policy, on one node."""

    __slots__ = ("_headers", "_passing", "_raw", "_receive", "_request", "_rule", "_scope", "node")

    def __init__(
        self,
        node: Node,
        passing: PassingOn,
        rule: Rule | None,
        scope: HTTPScope,
        receive: Receive,
    ) -> None:
        self.node = node
        self._passing = passing
        self._rule = rule
        self._scope = scope
        self._receive = receive
        self._raw: bytes | None = None
        self._request: Request | None = None
        self._headers: RequestHeaders = read_headers(scope["headers"])

    @property
    def request(self) -> Request:
        """The token and where it comes from. Routes that need neither never look."""
        if self._request is None:
            proxies = self.node.config.http.trusted_proxies
            self._request = request_of(self._scope, self._headers.token, proxies)
        return self._request

    # Names in the path

    @property
    def org(self) -> str:
        """The org in the path."""
        return check_org(self.parameter("org"))

    @property
    def app(self) -> str:
        """The app in the path."""
        return check_app(self.parameter("app"))

    def parameter(self, name: str) -> str:
        """Any other parameter of the path, as it was sent."""
        value: str = self._scope["path_params"][name]
        return value

    # Authority

    def require_token(self) -> None:
        """Refuse whoever sent no token at all, before anything else of the request is judged."""
        if not self.request.token:
            raise PetsemError(
                Code.UNAUTHENTICATED, "this needs a token; send it as 'Authorization: Bearer …'"
            )

    def authorize(self, names: Names = NO_NAMES) -> Principal:
        """The principal, if the token allows what the path says."""
        with self.node.pool.reading() as db:
            return self.authorize_in(db, names)

    def authorize_in(self, db: apsw.Connection, names: Names) -> Principal:
        """The same, inside the caller's read of the database."""
        assert self._rule is not None
        return self.node.auth.authorize(db, self.request, self._rule, names)

    def verify(self) -> Verified:
        """The token, verified but not cleared: for routes whose names are in the body."""
        known = self.node.auth.recall(self.request)
        if known is not None:
            return known
        with self.node.pool.reading() as db:
            return self.node.auth.identify(db, self.request)

    def clear(self, token: Verified, names: Names = NO_NAMES) -> Principal:
        """The principal, if a verified token allows what the body says."""
        assert self._rule is not None
        return self.clear_for(self._rule, token, names)

    def clear_for(self, rule: Rule, token: Verified, names: Names) -> Principal:
        """The same for a second action, which a route needs in addition to its own."""
        asked = self.request
        ip, region, host_key = asked.ip, asked.region, asked.host_key
        try:
            allowed = self.node.auth.clear(token, rule, names, ip, region, host_key)
        except TokenRefused as refused:
            raise refused.as_error() from None
        return Principal(token, allowed, ip, region, host_key)

    def clear_to_end(self, token: Verified, org: str, token_id: str) -> Principal:
        """The principal, if a verified token may end the token of that id: any of its org with the
        action, itself also without."""
        with self.node.pool.reading() as db:
            itself = ending_itself(self.node.auth, db, self.request, token, org, token_id)
        return itself or self.clear(token, Names(org))

    # What was sent

    def query(self, kind: type[Query]) -> Query:
        """The query string."""
        return decode_query(self._scope["query_string"], kind)

    async def body(
        self,
        kind: type[T],
        *,
        otherwise: T | None = None,
        most_bytes: int = limits.HTTP_BODY_MAX_BYTES,
    ) -> T:
        """The JSON body; `otherwise` if there is none, when that is given."""
        raw = await self._read(most_bytes)
        if not raw:
            if otherwise is None:
                raise invalid("this needs a JSON body; see /schema")
            return otherwise
        self._headers.require_json()
        return decode_json(raw, kind)

    async def no_body(self) -> None:
        """See that there is none: what somebody took the trouble to send is not ignored."""
        if await self._read():
            raise invalid("this takes no body; send none")

    async def raw(self, most_bytes: int = limits.HTTP_BODY_MAX_BYTES) -> bytes:
        """The body as it was sent, for whoever passes it on or knows its form."""
        return await self._read(most_bytes)

    @property
    def raw_query(self) -> bytes:
        """The query string as it was sent, where others than we decide what is in it."""
        return self._scope["query_string"]

    def header(self, name: bytes) -> str | None:
        """A header that few routes read; None if it is absent or there twice."""
        found = [value for each, value in self._scope["headers"] if each == name]
        return found[0].decode("latin-1") if len(found) == 1 else None

    def call(self) -> Call:
        """The write, once its body was read, as an Idempotency-Key compares it."""
        assert self._raw is not None
        # A query changes what a call does, as a body does: another one is another request.
        query = self._scope["query_string"]
        body = self._raw + b"?" + query if query else self._raw
        return Call(self._scope["method"], self._scope["path"], body, self._headers.key)

    async def _read(self, most_bytes: int = limits.HTTP_BODY_MAX_BYTES) -> bytes:
        if self._raw is None:
            self._raw = await read_body(self._receive, most_bytes)
        return self._raw

    # Asking on

    async def upstream(self, body: msgspec.Struct, reply: type[T]) -> T | None:
        """What the node upstream answers to this request with another body; None if there is no
        good answer to be had."""
        if not self._passing.is_of_use(self.request):
            return None
        raw = msgspec.json.encode(body)
        try:
            response = await self._passing.read(self._scope, raw, self.request)
            # A refusal does not spell one.
            return decode_json(response.body, reply)
        except PetsemError:
            return None

    # Waiting

    async def while_connected(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`, which is cancelled when the client goes away."""
        await self._read()
        doing = asyncio.ensure_future(work)
        leaving = asyncio.ensure_future(_gone(self._receive))
        try:
            await asyncio.wait({doing, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if doing.done():
                return doing.result()
            raise unavailable("the client went away before its answer")
        finally:
            for task in (doing, leaving):
                task.cancel()
            await asyncio.gather(doing, leaving, return_exceptions=True)


async def read_body(receive: Receive, most_bytes: int) -> bytes:
    """The whole body; `http_protocol` holds every body to its bound, this one to the route's."""
    parts: list[bytes] = []
    size = 0
    while True:
        event = await receive()
        if event["type"] != "http.request":
            raise unavailable("the client went away before its request was whole")
        part = event.get("body", b"")
        size += len(part)
        if size > most_bytes:
            raise invalid(
                f"the request's body is larger than {most_bytes:,} bytes", reason=TOO_LARGE
            )
        parts.append(part)
        if not event.get("more_body", False):
            return b"".join(parts) if len(parts) > 1 else parts[0]


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
