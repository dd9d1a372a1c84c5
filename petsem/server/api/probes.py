"""Routes for those who watch the node: probes, metrics, and the API's own description."""

from __future__ import annotations

from collections.abc import Callable

from petsem.errors import Code, unavailable
from petsem.server.api.ask import Ask
from petsem.server.api.errors import error_reply
from petsem.server.api.metrics import Metrics
from petsem.server.api.reply import Reply
from petsem.server.api.route import Handler, Route
from petsem.wire import http

_METRICS_EXAMPLE = (
    "# HELP petsem_http_requests_total HTTP requests answered, by route and status.\n"
    "# TYPE petsem_http_requests_total counter\n"
    'petsem_http_requests_total{route="GET /healthz",status="200"} 12.0\n'
)


async def _healthz(ask: Ask) -> http.Health:
    return http.Health(status="ok")


async def _readyz(ask: Ask) -> http.Ready | Reply:
    reasons = ask.node.status.ready()
    if not reasons:
        return http.Ready(ready=True)
    error = unavailable("this node is not ready; the reasons are in the details")
    return error_reply(error, ask.node.clock.unix_ms(), reasons=reasons)


def _metrics(metrics: Metrics, *, opened: bool) -> Handler:
    async def scrape(ask: Ask) -> Reply:
        if not opened:
            ask.authorize()
        return metrics.reply()

    return scrape


def _schema(document: Callable[[], bytes], *, opened: bool) -> Handler:
    async def schema(ask: Ask) -> Reply:
        if not opened:
            ask.verify()
        return Reply(200, document())

    return schema


def routes(metrics: Metrics, *, open_metrics: bool) -> tuple[Route, ...]:
    """The probes and the metrics."""
    return (
        Route(
            method="GET",
            path="/healthz",
            handle=_healthz,
            tag="operation",
            summary="Is the process alive?",
            own=True,
            head=True,
            about="Answers as long as the process does; a load balancer should ask `/readyz`. HEAD "
            "is answered in the same way, without the body.",
            reply=http.Health,
            examples=(("alive", http.Health(status="ok")),),
        ),
        Route(
            method="GET",
            path="/readyz",
            handle=_readyz,
            tag="operation",
            summary="Should this node be asked?",
            own=True,
            head=True,
            about="200 if it should. If not, 503, and `reasons` in the details says why not. HEAD "
            "is answered in the same way, without the body.",
            reply=http.Ready,
            examples=(("ready", http.Ready(ready=True)),),
            fails=(Code.UNAVAILABLE,),
        ),
        Route(
            method="GET",
            path="/metrics",
            handle=_metrics(metrics, opened=open_metrics),
            tag="operation",
            summary="Read the metrics",
            own=True,
            about="In Prometheus' text format. With `open_metrics` in the node's configuration it "
            "needs no token.",
            opened=open_metrics,
            reply=None,
            examples=(("a count of requests", _METRICS_EXAMPLE),),
        ),
    )


def schema_route(document: Callable[[], bytes], *, open_schema: bool) -> Route:
    """The route of the OpenAPI document, which is in it too."""
    return Route(
        method="GET",
        path="/schema",
        handle=_schema(document, opened=open_schema),
        tag="operation",
        summary="Read the API's description",
        own=True,
        about="This document, as JSON. Unless `open_schema` is false in the node's configuration "
        "it needs no token.",
        opened=open_schema,
        reply=http.OpenApi,
        examples=(("its beginning", http.OpenApi()),),
    )
