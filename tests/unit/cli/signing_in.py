"""A node that signs people in, made up: tickets, pages, polls, discharges and tokens.

It holds the command line to its side of the contract: a secret that does not fit its commitment,
or a release that the browser did not bring, collects nothing.
"""

from __future__ import annotations

import base64
import hashlib
import json
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
from click.testing import Result

from petsem.clock import ManualClock, rfc3339
from petsem.model import Kind
from petsem.tokens.identifier import Identifier
from petsem.tokens.macaroon import Macaroon
from petsem.tokens.mint import ThirdParty, mint
from petsem.tokens.text import encode_part
from petsem.tokens.ticket import discharge
from tests.unit.cli.support import ADDRESS, APP, FRESHNESS, NOW_MS, answer, run
from tests.unit.tokens.build import SECRET

USER = "ada@acme.example"
TICKET = b"a sealed ticket"
CAVEAT_KEY = b"k" * 32
RELEASE = "brought-by-the-browser"
CODE = "ABCD-2345"
TOKEN_ID = "2a" * 16
LIST = f"GET {APP}/secrets"
LISTED = {"version": 3, "secrets": [], "filtered": False, "freshness": FRESHNESS}
HOUR_MS = 3_600_000
REVOKED = {
    "id": TOKEN_ID,
    "revoked_at": "2027-01-15T08:00:00Z",
    "position": "00000001-0000000000000009",
    "durability": {"asked": "local", "met": True, "replicated_to": []},
}
END = f"DELETE /v1/orgs/acme/tokens/{TOKEN_ID}"


def spelt(data: bytes) -> str:
    """Unpadded base64url."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def person_token(
    until_ms: int,
    ticket: bytes = TICKET,
    kind: Kind = Kind.PERSON,
    token_id: str = TOKEN_ID,
) -> Macaroon:
    """A permission token that asks for the discharge of `ticket`."""
    identifier = Identifier(
        cluster_id=bytes(16),
        kind=kind,
        root_key_id=bytes(16),
        nonce=bytes.fromhex(token_id),
        epoch=1,
        txid=9,
    )
    caveats = ["org = acme", "action in secrets:list, secrets:write", f"time < {rfc3339(until_ms)}"]
    return mint(SECRET, identifier, caveats, [ThirdParty("petsem", CAVEAT_KEY, ticket)])


def discharged(until_ms: int, ticket: bytes = TICKET, user: str = USER) -> str:
    """A discharge of `ticket`, not bound."""
    caveats = [f"user = {user}", f"time < {rfc3339(until_ms)}"]
    return encode_part(discharge(ticket, CAVEAT_KEY, caveats))


@dataclass
class Authority:
    """The node. `way` is how it answers for a person: `page`, `poll`, `at once`."""

    clock: ManualClock = field(default_factory=lambda: ManualClock(NOW_MS))
    way: str = "page"
    polls_until_ready: int = 3
    session: str | None = "session-1"
    discharge_life_ms: int = HOUR_MS
    base: str = ADDRESS
    user: str = USER
    token_id: str = TOKEN_ID
    said: dict[str, Any] = field(default_factory=dict)
    """By path, what is answered instead: a body, a response, or a function of the request."""
    requests: list[httpx.Request] = field(default_factory=list)
    opened: list[str] = field(default_factory=list)
    asked: dict[str, Any] = field(default_factory=dict)
    sessions_used: list[str] = field(default_factory=list)
    polls: int = 0
    slow: bool = False
    """A renewal takes longer than a call."""

    def handle(self, request: httpx.Request) -> httpx.Response:
        """Answer one request."""
        self.requests.append(request)
        path = request.url.path
        key = f"{request.method} {path}"
        if isinstance(said := self.said.get(key), list) and said:
            said = said.pop(0)
        if said is not None and said != []:
            return said(request) if callable(said) else answer(said)
        routes: Mapping[str, Callable[[dict[str, Any]], httpx.Response]] = {
            "POST /v1/login": lambda _: answer({"ticket": spelt(TICKET)}),
            "POST /.well-known/petsem/3p": self._third_party,
            "POST /.well-known/petsem/3p/poll": self._poll,
            "POST /v1/login/token": self._token,
            LIST: lambda _: answer(LISTED),
        }
        if key not in routes:
            return answer({"code": "not_found", "message": "no such route", "details": {}}, 404)
        return routes[key](json.loads(request.content or b"{}"))

    def bodies(self, path: str) -> list[Any]:
        """The bodies that came to a path."""
        found = [json.loads(each.content) for each in self.requests if each.url.path == path]
        return [{k: v for k, v in each.items() if v is not None} for each in found]

    def paths(self) -> list[str]:
        """The paths that were asked for, in order."""
        return [each.url.path for each in self.requests]

    def _third_party(self, body: dict[str, Any]) -> httpx.Response:
        assert set(body) <= {"ticket", "commitment", "redirect_port", "session"}, body
        body = {key: value for key, value in body.items() if value is not None}
        self.asked = body
        assert len(base64.urlsafe_b64decode(body["commitment"] + "=")) == 32
        if "session" in body:
            self.sessions_used.append(body["session"])
            self.session = f"session-{len(self.sessions_used) + 1}"
        if self.way == "at once" or ("session" in body and not self.slow):
            return answer(self.done())
        flow = {"poll_url": f"{self.base}/.well-known/petsem/3p/poll", "flow": "flow-1"}
        if self.way == "poll" or "session" in body:
            return answer(flow)
        code = None if "redirect_port" in body else CODE
        page = {"user_url": f"{self.base}/sso?flow=1", "code": code}
        return answer({"user_interactive": {**flow, **page}})

    def _poll(self, body: dict[str, Any]) -> httpx.Response:
        body = {key: value for key, value in body.items() if value is not None}
        assert body["flow"] == "flow-1"
        self.polls += 1
        # With a browser to come back, the secret alone collects nothing.
        ready = self.polls >= self.polls_until_ready
        brought = body.get("release") is not None or "redirect_port" not in self.asked
        if "secret" not in body or not (ready and brought):
            return answer({"state": "ready" if ready and brought else "pending"})
        secret = base64.urlsafe_b64decode(body["secret"] + "=")
        assert len(secret) == 32
        assert spelt(hashlib.sha256(secret).digest()) == self.asked["commitment"]
        assert body.get("release") == (RELEASE if "redirect_port" in self.asked else None)
        return answer(self.done())

    def done(self) -> dict[str, Any]:
        """The discharge."""
        until_ms = self.clock.unix_ms() + self.discharge_life_ms
        return {
            "discharge": discharged(until_ms, unspelt(self.asked["ticket"]), self.user),
            "session": self.session,
            "user": self.user,
            "expires_at": rfc3339(until_ms),
        }

    def _token(self, body: dict[str, Any]) -> httpx.Response:
        assert body["ticket"] == spelt(TICKET)
        until_ms = self.clock.unix_ms() + 12 * HOUR_MS
        return answer(
            {
                "token": encode_part(person_token(until_ms, token_id=self.token_id)),
                "id": self.token_id,
                "expires_at": rfc3339(until_ms),
                "position": "00000001-0000000000000009",
            },
            201,
        )

    def open(self, url: str) -> bool:
        """As a browser: the person signs in, and it goes where the node sends it."""
        self.opened.append(url)
        assert urlsplit(url).path == "/sso"
        go_to(self.asked["redirect_port"], f"/done?ticket={RELEASE}").close()
        return True


def unspelt(text: str) -> bytes:
    """What unpadded base64url spells."""
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def go_to(port: int, target: str, host: str | None = None, *more: str) -> socket.socket:
    """A browser's request to a port on this machine; the answer is left to be read."""
    connection = socket.create_connection(("127.0.0.1", port))
    fields = [f"Host: {host or f'127.0.0.1:{port}'}", *more]
    head = [f"GET {target} HTTP/1.1", *fields]
    connection.sendall("".join(f"{each}\r\n" for each in head).encode() + b"\r\n")
    return connection


def petsem(
    state: Path,
    authority: Authority,
    *args: str,
    env: Mapping[str, str | None] | None = None,
    stdin: str | None = None,
) -> Result:
    """Run `petsem ARGS` as somebody with no token but what `state` keeps."""
    environ = {
        "PETSEM_TOKEN": None,
        "PETSEM_APP": None,
        "XDG_STATE_HOME": str(state),
        **(env or {}),
    }
    return run(
        *args,
        env=environ,
        stdin=stdin,
        transport=httpx.MockTransport(authority.handle),
        clock=authority.clock,
    )


def kept(state: Path, org: str = "acme") -> dict[str, Any]:
    """The sign-in as it is kept."""
    found: dict[str, Any] = json.loads((state / "petsem" / "logins" / f"{org}.json").read_text())
    return found


def signed_in(state: Path, authority: Authority) -> None:
    """Sign in to acme, and forget how that went."""
    way, authority.way = authority.way, "at once"
    result = petsem(state, authority, "login", "acme")
    assert result.exit_code == 0, result.stderr
    authority.way = way
    authority.requests.clear()
