"""The command line against a node that a test makes up, without a network."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx
from click.testing import CliRunner, Result

from petsem.cli.main import cli
from petsem.cli.run import Run
from petsem.clock import ManualClock
from petsem.tokens.grammar import Predicate, parse_predicate
from petsem.tokens.macaroon import Macaroon
from petsem.tokens.text import encode_part, parse_token
from tests.unit.tokens.build import IDENTIFIER, SECRET, made

ADDRESS = "http://127.0.0.1:7400"
NOW_MS = 1_800_000_000_000
APP = "/v1/orgs/acme/apps/web"
FRESHNESS = {
    "node": "ams-1",
    "region": "ams",
    "role": "leader",
    "position": "00000001-0000000000000007",
    "server_time_ms": NOW_MS,
    "source": "disk",
}
PATCHED = {
    "version": 7,
    "position": "00000001-0000000000000007",
    "durability": {"asked": "local", "met": True, "replicated_to": []},
    "set": [],
    "unset": [],
}

Handler = Callable[[httpx.Request], httpx.Response]


def token(*caveats: str) -> str:
    """A token of the tests' root key."""
    return encode_part(made(SECRET, IDENTIFIER.encode(), [text.encode() for text in caveats]))


TOKEN = token("action in secrets:read, secrets:write", "time < 2027-06-01T00:00:00Z")


def answer(body: Any, status: int = 200, **headers: str) -> httpx.Response:
    """A JSON answer."""
    return httpx.Response(status, json=body, headers=headers)


def listed(*names: str, version: int = 3, filtered: bool = False) -> dict[str, Any]:
    """A listing of those names."""
    return {
        "version": version,
        "secrets": [
            {
                "name": name,
                "version": 1,
                "digest": "0a" * 16,
                "updated_at": "2027-01-15T08:00:00Z",
                "updated_by": {"subject": "deploy:1", "token_id": "00" * 16},
            }
            for name in names
        ],
        "filtered": filtered,
        "freshness": FRESHNESS,
    }


def problem(status: int, code: str, message: str = "it did not work", **details: Any) -> Handler:
    """A handler that answers with an error."""
    body = {"code": code, "message": message, "details": details}
    return lambda _: answer(body, status)


@dataclass
class Node:
    """Routes, `METHOD /path` → body or handler, and every request that came in."""

    routes: Mapping[str, Any] = field(default_factory=dict)
    requests: list[httpx.Request] = field(default_factory=list)

    def handle(self, request: httpx.Request) -> httpx.Response:
        request.read()
        self.requests.append(request)
        found = self.routes.get(f"{request.method} {request.url.path}")
        if found is None:
            return answer({"code": "not_found", "message": "no such route", "details": {}}, 404)
        if isinstance(found, list):
            found = found.pop(0)
        return found(request) if callable(found) else answer(found)

    @property
    def bodies(self) -> list[Any]:
        """The JSON bodies that came in."""
        return [json.loads(request.content) for request in self.requests if request.content]

    @property
    def scopes(self) -> list[list[str]]:
        """The caveats that the command line added to its token, by request."""
        base = len(parse_token(TOKEN).root.caveats)
        return [
            [each.cid.decode() for each in sent(request).caveats[base:]]
            for request in self.requests
        ]


def sent(request: httpx.Request) -> Macaroon:
    """The macaroon that came with a request."""
    scheme, _, text = request.headers["authorization"].partition(" ")
    assert scheme == "Bearer"
    return parse_token(text).root


def predicates(macaroon: Macaroon) -> list[Predicate | None]:
    """Its caveats, parsed."""
    return [parse_predicate(each.cid) for each in macaroon.caveats]


def run(
    *args: str,
    node: Node | None = None,
    stdin: str | bytes | None = None,
    env: Mapping[str, str | None] | None = None,
    transport: httpx.BaseTransport | None = None,
    clock: ManualClock | None = None,
) -> Result:
    """Run `petsem ARGS` in this process. `env` adds to, or with None takes from, the usual."""
    environ = {
        "PETSEM_ADDR": ADDRESS,
        "PETSEM_TOKEN": TOKEN,
        "PETSEM_APP": "acme/web",
        "PETSEM_GRPC": "127.0.0.1:7401",
        "PATH": "/usr/bin:/bin",
    }
    for name, value in (env or {}).items():
        environ.pop(name, None)
        if value is not None:
            environ[name] = value
    state = Run(
        environ,
        clock or ManualClock(NOW_MS),
        transport or httpx.MockTransport((node or Node()).handle),
    )
    return CliRunner().invoke(cli, args, input=stdin, obj=state, catch_exceptions=False)
