"""The Litestar application: every route of the policy, and nothing else.

Guarantees: it is not built if a route has no entry in the policy or an entry has no route, so the
policy is the whole of what is served (a HEAD, of the probes alone, counts as their GET). What
Litestar answers by itself (an unknown path, a method that a path does not take) has the shape of
every other error. It opens no connection and starts no task; uvicorn serves it, behind
`http_protocol`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import msgspec
from litestar import Litestar, Request
from litestar.enums import ScopeType
from litestar.exceptions import HTTPException, MethodNotAllowedException
from litestar.handlers import HTTPRouteHandler
from litestar.response import Response
from litestar.types import ASGIApp, ExceptionHandlersMap, Receive, Scope, Send

from petsem.errors import invalid, not_found
from petsem.server import policy
from petsem.server.api import (
    cluster,
    exchange,
    login,
    probes,
    revoking,
    secrets,
    sso,
    tenants,
    tokens,
    verification,
)
from petsem.server.api.diff_rate import DiffRate
from petsem.server.api.errors import error_reply
from petsem.server.api.metrics import NO_ROUTE, Metrics
from petsem.server.api.often_asked import OftenAsked
from petsem.server.api.openapi import document
from petsem.server.api.reply import Reply
from petsem.server.api.route import Route, endpoint, internal_reply, litestar_handler
from petsem.server.node import Node
from petsem.server.passing_on import PassingOn

_NO_SUCH_ROUTE: Final = not_found("there is no such route here; see /schema")
_NO_SUCH_METHOD: Final = invalid("this path does not take that method; see the Allow header")
_NOT_UNDERSTOOD: Final = invalid("the request is not understood; see /schema")


class App:
    """The ASGI application of all routes."""

    def __init__(self, litestar: Litestar, often: OftenAsked) -> None:
        self.litestar = litestar
        self._often = often

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        straight = self._often.find(scope) if scope["type"] == ScopeType.HTTP else None
        await (straight or self.litestar)(scope, receive, send)


def create_app(node: Node) -> App:
    """The application that serves `node` over HTTP."""
    metrics = Metrics(node)
    http = node.config.http
    routes = (
        *tenants.ROUTES,
        *secrets.routes(DiffRate()),
        *tokens.ROUTES,
        *exchange.ROUTES,
        *revoking.ROUTES,
        *login.ROUTES,
        *sso.ROUTES,
        *verification.ROUTES,
        *cluster.ROUTES,
        *probes.routes(metrics, open_metrics=http.open_metrics),
        probes.schema_route(lambda: described, open_schema=http.open_schema),
    )
    refuse_gaps(routes)
    passing = PassingOn(node)
    described = msgspec.json.encode(document(routes))
    served = [(route, endpoint(route, node, metrics, passing)) for route in routes]
    litestar = Litestar(
        [*_options(routes), *(litestar_handler(route, serve) for route, serve in served)],
        exception_handlers=_exception_handlers(node, metrics),
        openapi_config=None,
        logging_config=None,
        debug=False,
        pdb_on_exception=False,
    )
    return App(litestar, OftenAsked(each for each in served if each[0].often))


def refuse_gaps(routes: Iterable[Route]) -> None:
    """Refuse to serve what the policy does not know, and to miss what it does."""
    ours = [(route.method, route.path) for route in routes]
    if len(set(ours)) != len(ours):
        raise RuntimeError("a route is there twice")
    for method, path in set(ours) ^ policy.HTTP.keys():
        what = "has no entry in the policy" if (method, path) in ours else "has no route"
        raise RuntimeError(f"{method} {path} {what}")


def _options(routes: Iterable[Route]) -> list[HTTPRouteHandler]:
    """Handlers that refuse OPTIONS: without them Litestar answers it on every path by itself, as
    soon as it meets the path, so they come first."""
    methods: dict[str, list[str]] = {}
    for route in routes:
        methods.setdefault(route.path, []).append(route.method)
    return [_refusing_options(path, ", ".join(allowed)) for path, allowed in methods.items()]


def _refusing_options(path: str, allowed: str) -> HTTPRouteHandler:
    async def handle() -> ASGIApp:
        raise MethodNotAllowedException(headers={"allow": allowed})

    return HTTPRouteHandler(
        path.replace("}", ":str}"),
        http_method="OPTIONS",
        name=f"OPTIONS {path}",
        include_in_schema=False,
    )(handle)


def _exception_handlers(node: Node, metrics: Metrics) -> ExceptionHandlersMap:
    """Answers to what goes wrong before a handler of ours has the request."""
    meter = metrics.meter(NO_ROUTE)

    def refused(_request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
        return answer(_refusal(error, node.clock.unix_ms()))

    def failed(_request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
        return answer(internal_reply(error, NO_ROUTE, node.clock.unix_ms()))

    def answer(reply: Reply) -> Response[bytes]:
        meter.count(reply.status, None)
        headers = {name.decode(): value.decode() for name, value in reply.headers}
        return Response(reply.body, status_code=reply.status, headers=headers)

    return {HTTPException: refused, Exception: failed}


def _refusal(error: HTTPException, now_ms: int) -> Reply:
    if error.status_code == 404:
        return error_reply(_NO_SUCH_ROUTE, now_ms)
    if error.status_code != 405:
        return error_reply(_NOT_UNDERSTOOD, now_ms)
    reply = error_reply(_NO_SUCH_METHOD, now_ms)
    reply.status = 405
    allowed = (error.headers or {}).get("allow", "").split(", ")
    methods = ", ".join(method for method in allowed if method != "OPTIONS")
    reply.headers.append((b"allow", methods.encode()))
    return reply
