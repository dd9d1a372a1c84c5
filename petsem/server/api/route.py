"""What a route is: its place, its handler, and all that its documentation says.

Guarantees: a route without an entry in the policy cannot be built, and its handler gets the rule
from there. Whatever a handler raises becomes an answer of the one error shape; an exception that
nobody expected is logged by type and place alone, because its message might quote the request.
"""

from __future__ import annotations

import traceback
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Final, cast

import msgspec
import structlog
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp, HTTPScope, Receive, Scope, Send

from petsem.errors import Code, PetsemError
from petsem.server import policy
from petsem.server.api.ask import Ask
from petsem.server.api.errors import INTERNAL, error_reply
from petsem.server.api.metrics import Metrics
from petsem.server.api.queries import NoQuery
from petsem.server.api.reply import JSON, Reply, json_reply
from petsem.server.database import read_position
from petsem.server.forward import FORWARDED, NO_LEADER_HEADER, POSITION_HEADER, NoLeader
from petsem.server.node import Node
from petsem.server.passing_on import PassingOn
from petsem.server.policy import Rule
from petsem.wire import petsem_pb2 as pb

log = structlog.get_logger(__name__)

Handler = Callable[[Ask], Awaitable[msgspec.Struct | Reply]]
Examples = tuple[tuple[str, Any], ...]
"""(what it shows, a value of the wire type)."""

_KEPT: Final = frozenset({"retry-after", "www-authenticate", "allow"})
WRITE_ERRORS: Final = (Code.CONFLICT, Code.LIMIT, Code.INDETERMINATE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One method of one path.

    `names` are those that the policy is decided on, for the documentation. `fails` are the codes
    that this route can answer beside those that every route, or every write, can. On a replica a
    route that `writes`, or needs what the `leader` holds in memory, is passed on to the leader; one
    that is about the node's `own` state never goes to another, nor does one with `removed` from a
    node that is a member no more. Where people see the answers, `refuse` makes pages of refusals,
    `media` says what a good one is, `body_media` how a form comes, and `kept` which headers of a
    leader's answer are theirs. With `head` it answers HEAD too, as it answers GET but for the body.
    What is asked `often` is found without Litestar where its path is spelt plainly (`often_asked`).
    """

    method: str
    path: str
    handle: Handler
    tag: str
    summary: str
    about: str
    names: str = ""
    query: type[msgspec.Struct] = NoQuery
    body: type[msgspec.Struct] | None = None
    body_media: str = "application/json"
    body_optional: bool = False
    body_examples: Examples = ()
    status: int = 200
    reply: type[msgspec.Struct] | None
    examples: Examples
    fails: tuple[Code, ...] = ()
    writes: bool = False
    own: bool = False
    removed: bool = False
    opened: bool | None = None
    head: bool = False
    often: bool = False
    leader: bool = False
    refuse: Callable[[PetsemError, int], Reply] = error_reply
    media: str = "text/plain"
    kept: frozenset[str] = frozenset()

    @property
    def rule(self) -> Rule | None:
        """The policy's rule for this route; KeyError if it has none."""
        return policy.HTTP[self.method, self.path]

    @property
    def needs_token(self) -> bool:
        """Whether it can be asked without a token."""
        return self.rule is not None if self.opened is None else not self.opened

    @property
    def label(self) -> str:
        """The route as logs and metrics name it: never with a name that a client sent."""
        return f"{self.method} {self.path}"


def endpoint(route: Route, node: Node, metrics: Metrics, passing: PassingOn) -> ASGIApp:
    """The ASGI application that answers the route, once its `path_params` are in the scope."""
    rule = route.rule
    meter = metrics.meter(route.label)

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        started_s = perf_counter()
        reply = await _answer(route, node, passing, rule, cast("HTTPScope", scope), receive)
        meter.count(reply.status, perf_counter() - started_s)
        await reply(scope, receive, send)

    return serve


def litestar_handler(route: Route, serve: ASGIApp) -> HTTPRouteHandler:
    """The route as Litestar wants it.

    To Litestar the answer is an ASGI application, which it calls with the request. Its own parsing
    of parameters and building of responses cost as much again as its routing, and refuse less:
    they quote input, and keep the last of two equal keys. (Its ASGI handlers, which would do even
    less, cannot have parameters in their path: 2.25.0 raises KeyError.)
    """

    async def handle() -> ASGIApp:
        return serve

    methods: Any = [route.method, "HEAD"] if route.head else route.method
    return HTTPRouteHandler(
        route.path.replace("}", ":str}"),
        http_method=methods,
        name=route.label,
        status_code=route.status,
        include_in_schema=False,
    )(handle)


async def _answer(
    route: Route,
    node: Node,
    passing: PassingOn,
    rule: Rule | None,
    scope: HTTPScope,
    receive: Receive,
) -> Reply:
    try:
        ask = Ask(node, passing, rule, scope, receive)
        if scope["query_string"] and route.query is NoQuery:
            ask.query(NoQuery)
        if route.own or (route.removed and node.view.removed is not None):
            answer = await route.handle(ask)
        elif route.writes or route.leader:
            if passing.writes_elsewhere():
                if rule is not None:
                    ask.require_token()
                response = await passing.write(scope, await ask.raw(), ask.request)
                return _passed(response, scope, route.kept)
            answer = await route.handle(ask)
        else:
            answer = await _read(route, passing, ask, scope)
    except PetsemError as e:
        refused = route.refuse(e, node.clock.unix_ms())
        if isinstance(e, NoLeader) and FORWARDED in scope:
            refused.headers.append((NO_LEADER_HEADER, b"1"))
        return refused
    except Exception as e:
        return internal_reply(e, route.label, node.clock.unix_ms())
    reply = answer if isinstance(answer, Reply) else json_reply(route.status, answer)
    if route.writes and FORWARDED in scope:
        # Past the write, perhaps: then the node that was asked waits for a little more.
        with node.pool.reading() as db:
            reply.headers.append((POSITION_HEADER, str(read_position(db)).encode()))
    return reply


async def _read(
    route: Route, passing: PassingOn, ask: Ask, scope: HTTPScope
) -> msgspec.Struct | Reply:
    """The answer of this node, or where it has none to give, of the one upstream."""
    error: PetsemError | None = None
    if not passing.reads_elsewhere():
        try:
            return await route.handle(ask)
        except PetsemError as e:
            if not passing.may_help(e, ask.request):
                raise
            error = e
    ask.require_token()
    return _passed(await passing.read(scope, await ask.raw(), ask.request, error), scope)


def _passed(
    response: pb.ForwardResponse, scope: HTTPScope, also: frozenset[str] = frozenset()
) -> Reply:
    """The answer of another node, for the client. How far this node has to wait is for nodes."""
    kept = _KEPT | also
    if FORWARDED in scope:
        kept |= {POSITION_HEADER.decode()}
    headers = {header.name: header.value.encode("latin-1") for header in response.headers}
    media_type = headers.get("content-type", JSON)
    more = [(name.encode(), value) for name, value in headers.items() if name in kept]
    return Reply(response.status, response.body, media_type=media_type, headers=more)


def internal_reply(error: Exception, label: str, now_ms: int) -> Reply:
    """The answer to what nobody expected, which is logged."""
    where = "".join(traceback.format_tb(error.__traceback__))
    log.error("request_failed", route=label, error=type(error).__name__, where=where)
    return error_reply(INTERNAL, now_ms)
