"""The OpenAPI document, made from the same table as the routes.

Guarantees: every route of ours is in it, with its parameters, bodies, answers, errors, examples and
the action that it needs; schemas come from the wire types, and every example is an encoded value
of one. It is JSON only: a page that shows it would have to load code from elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

from petsem import __version__, limits
from petsem.errors import Code, Detail, PetsemError, conflict
from petsem.model import Position
from petsem.server.api.errors import STATUS, TOO_LARGE, TOO_LARGE_STATUS, error_reply
from petsem.server.api.route import WRITE_ERRORS, Examples, Route
from petsem.wire.http import ErrorBody

_Json = dict[str, Any]

_INFO: Final = {
    "title": "Petsem",
    "summary": "A replicated secret store and token authority.",
    "description": (
        "Bodies are JSON in UTF-8. A key that stands twice in an object, a field or query "
        "parameter that is not known, and anything after the end are refused, and what was sent "
        "is never quoted in an answer.\n\n"
        "Every error has the same body. `code` is stable, `message` is one sentence for people, "
        "and `details` holds what a program may need.\n\n"
        "A write may carry an `Idempotency-Key`: sent again within 24 hours with the same token, "
        "path and body it is answered again and not done again. Another body under the same key "
        "is a `conflict`.\n\n"
        "The services `petsem.v1.Secrets` and `petsem.v1.Tokens` are on this port too, over the "
        "Connect protocol; their `.proto` file describes them."
    ),
    "version": __version__,
    "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
}

_TAGS: Final = {
    "orgs": "Orgs and their settings.",
    "apps": "Apps of an org.",
    "secrets": "Secrets of an app and their history.",
    "tokens": "Tokens and the keys that sign them.",
    "signing in": "For people, at their org's own provider.",
    "verification": "For API servers that check the tokens of others.",
    "nodes": "The cluster.",
    "keyring": "Keys that wrap data keys.",
    "operation": "Probes, metrics and this document.",
}

_TENANT: Final = "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_PATH_PARAMETERS: Final = {
    "org": ("an org's name", f"^{_TENANT}$", "acme"),
    "app": ("an app's name", f"^{_TENANT}$", "web"),
    "node": ("a node's id", f"^{_TENANT}$", "fra-5d6c7b8a"),
    "token_id": ("a token's nonce", "^[0-9a-f]{32}$", "5c0f1d7e9a2b4c6d8e0f1a2b3c4d5e6f"),
    "key_id": (
        "a KEK's id",
        "^[0-9a-f]{64}$",
        "f3a1c9d2e4b58607182930415263748596a7b8c9dadbecfd0e1f203142536475",
    ),
}
_IN_PATH = re.compile(r"\{(\w+)\}")

_IDEMPOTENCY_KEY: Final = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "makes the write happen once, however often it is sent",
    "schema": {"type": "string", "minLength": 1, "maxLength": limits.IDEMPOTENCY_KEY_MAX_CHARS},
    "example": "4f6c0f8e1d2b3a49",
}

_HAVE: Final = Position(3, 0xBE1)
_NEED: Final = Position(3, 0xBE4)
_ERRORS: Final = {
    Code.INVALID: PetsemError(Code.INVALID, "the body lacks the field org"),
    Code.UNAUTHENTICATED: PetsemError(
        Code.UNAUTHENTICATED,
        "the token has expired; ask for a new one",
        Detail(reason="EXPIRED", caveat="time < 2026-11-20T09:00:00Z"),
    ),
    Code.DENIED: PetsemError(
        Code.DENIED,
        "the token's caveat 'app = api' does not allow this",
        Detail(reason="CAVEAT", caveat="app = api"),
    ),
    Code.NOT_FOUND: PetsemError(Code.NOT_FOUND, "there is no app acme/web"),
    Code.CONFLICT: conflict(
        "the app is at version 7, not 6; read it again, then decide",
        have_version=7,
        need_version=6,
    ),
    Code.STALE: PetsemError(
        Code.STALE,
        f"this node is at {_HAVE} and has not reached {_NEED}; ask another node, or later",
        Detail(have=_HAVE, need=_NEED),
    ),
    Code.LIMIT: PetsemError(
        Code.LIMIT,
        "too many writes are waiting on this node; try again shortly",
        Detail(retry_after_s=1),
    ),
    Code.UNAVAILABLE: PetsemError(
        Code.UNAVAILABLE,
        "the node's disk is full, so it takes no writes; free space on it",
        Detail(retry_after_s=5),
    ),
    Code.INDETERMINATE: PetsemError(
        Code.INDETERMINATE,
        "it is not known whether the write was stored; send it again with the same Idempotency-Key",
    ),
    Code.CORRUPT: PetsemError(
        Code.CORRUPT,
        "the stored value of DATABASE_URL is damaged; set it again or restore it",
    ),
    Code.INTERNAL: PetsemError(Code.INTERNAL, "internal error; see the node's log"),
}
"""An example of each code."""

_MEANING: Final = {
    400: "The request can never work as it stands.",
    401: "No token, or one that counts for nothing here; the node's time is in the answer.",
    403: "The token does not allow this.",
    404: "What was named is not there.",
    409: "The state is not what the request assumed.",
    412: "This node has not yet what was asked for.",
    413: "The body, a value or an app would be too large.",
    429: "Too much at once.",
    500: "Stored data is damaged, or the node failed.",
    503: "The node cannot do it now.",
    504: "It is not known whether the write was done.",
}
_EXAMPLE_TIME_MS: Final = 1_795_167_000_000
_RETRY_AFTER: Final = {
    "Retry-After": {"description": "seconds to wait", "schema": {"type": "integer"}}
}
_LATER: Final = (429, 503)
_CHALLENGE: Final = {
    "WWW-Authenticate": {"description": "always of the scheme Bearer", "schema": {"type": "string"}}
}


def document(routes: Sequence[Route]) -> _Json:
    """The whole document, ready to be encoded."""
    kinds = {kind for route in routes for kind in (route.body, route.reply) if kind is not None}
    ordered = sorted(kinds, key=lambda kind: kind.__name__)
    _, schemas = msgspec.json.schema_components(
        [*ordered, ErrorBody], ref_template="#/components/schemas/{name}"
    )
    paths: dict[str, _Json] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": _INFO,
        "servers": [{"url": "/"}],
        "tags": [{"name": name, "description": about} for name, about in _TAGS.items()],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "responses": {f"Error{status}": _error(status) for status in sorted(_MEANING)},
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "bearerFormat": "Petsem macaroon",
                    "description": "A token; narrow it to the call before it is sent.",
                }
            },
        },
    }


def _operation(route: Route) -> _Json:
    parameters = [*_path_parameters(route.path), *_query_parameters(route.query)]
    if route.writes:
        parameters.append(_IDEMPOTENCY_KEY)
    operation: _Json = {
        "operationId": re.sub(r"\W+", "_", route.label).strip("_").lower(),
        "tags": [route.tag],
        "summary": route.summary,
        "description": f"{route.about}\n\n{_authority(route)}",
        "security": [{"bearer": []}] if route.needs_token else [],
        "parameters": parameters,
        "responses": {
            str(route.status): {"description": route.summary, "content": _reply_content(route)},
            **{str(status): _failure(route, status) for status in _failures(route)},
        },
    }
    if route.body is not None:
        operation["requestBody"] = {
            "required": not route.body_optional,
            "content": _content(route.body, route.body_examples, route.body_media),
        }
    return operation


def _authority(route: Route) -> str:
    rule = route.rule
    if not route.needs_token:
        return "Needs no token."
    if rule is None:
        return "Needs any valid token."
    on = f" for {route.names}" if route.names else ""
    only = " Only tokens of the cluster key hold it." if rule.cluster_only else ""
    return f"Needs the action `{rule.action}`{on}.{only}"


def _failures(route: Route) -> list[int]:
    """The statuses of every error that the route can answer."""
    codes = {Code.INTERNAL, *route.fails}
    if route.needs_token:
        codes |= {Code.INVALID, Code.UNAUTHENTICATED, Code.DENIED, Code.UNAVAILABLE}
    if route.body is not None:
        codes.add(Code.INVALID)
    if route.writes:
        codes.update(WRITE_ERRORS)
    statuses = {STATUS[code] for code in codes}
    if route.body is not None:
        statuses.add(TOO_LARGE_STATUS)
    return sorted(statuses)


def _failure(route: Route, status: int) -> _Json:
    # What nobody expected is no page: whatever makes the pages may be what failed.
    if route.refuse is error_reply or status == STATUS[Code.INTERNAL]:
        return {"$ref": f"#/components/responses/Error{status}"}
    page = {"schema": {"type": "string"}, "example": '<!doctype html><html lang="en">…'}
    refusal: _Json = {"description": _MEANING[status], "content": {route.media: page}}
    if status in _LATER:
        refusal["headers"] = _RETRY_AFTER
    return refusal


def _reply_content(route: Route) -> _Json:
    if route.reply is None:
        ((_, text),) = route.examples
        return {route.media: {"schema": {"type": "string"}, "example": text}}
    return _content(route.reply, route.examples)


def _content(
    kind: type[msgspec.Struct], examples: Examples, media: str = "application/json"
) -> _Json:
    return {
        media: {
            "schema": {"$ref": f"#/components/schemas/{kind.__name__}"},
            "examples": {
                name.replace(" ", "-"): {"summary": name, "value": msgspec.to_builtins(value)}
                for name, value in examples
            },
        }
    }


def _path_parameters(path: str) -> Iterable[_Json]:
    for name in _IN_PATH.findall(path):
        about, pattern, example = _PATH_PARAMETERS[name]
        yield {
            "name": name,
            "in": "path",
            "required": True,
            "description": about,
            "schema": {"type": "string", "pattern": pattern},
            "example": example,
        }


def _query_parameters(kind: type[msgspec.Struct]) -> Iterable[_Json]:
    properties: dict[str, _Json] = msgspec.json.schema(kind)["$defs"][kind.__name__]["properties"]
    for name, found in properties.items():
        # An optional one is described as "or null", which a query string cannot say.
        schema = found["anyOf"][0] if "anyOf" in found else dict(found)
        yield {
            "name": name,
            "in": "query",
            "required": False,
            "description": schema.pop("description"),
            "schema": schema,
        }


def _error(status: int) -> _Json:
    codes = [code for code in Code if STATUS[code] == status]
    shown = {code.value: _ERRORS[code] for code in codes}
    if status == TOO_LARGE_STATUS:
        shown = {
            "invalid": PetsemError(
                Code.INVALID,
                f"the request's body is larger than {limits.HTTP_BODY_MAX_BYTES:,} bytes",
                Detail(reason=TOO_LARGE),
            )
        }
    response: _Json = {
        "description": _MEANING[status],
        "content": {
            "application/json": {
                "schema": {"$ref": "#/components/schemas/ErrorBody"},
                "examples": {
                    code: {"value": msgspec.json.decode(error_reply(e, _EXAMPLE_TIME_MS).body)}
                    for code, e in shown.items()
                },
            }
        },
    }
    if status in _LATER:
        response["headers"] = _RETRY_AFTER
    if status == 401:
        response["headers"] = _CHALLENGE
    return response
