"""A started node behind its HTTP application, asked without a socket in between."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx
import msgspec

from petsem.clock import rfc3339
from petsem.server.api.app import App, create_app
from petsem.tokens.identifier import Identifier
from petsem.tokens.macaroon import attenuate
from petsem.tokens.text import encode_token, parse_token
from tests.unit.server.cluster import Cluster

APP = "/v1/orgs/acme/apps/web"
SECRETS = APP + "/secrets"
PEER = "192.0.2.7"
ORG_ACTIONS = (
    *("secrets:list", "secrets:read", "secrets:write", "secrets:delete", "apps:admin"),
    *("tokens:mint", "tokens:revoke", "tokens:list", "tokens:verify"),
)


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    content: bytes

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.content)

    @property
    def error(self) -> tuple[int, str, str | None]:
        """(status, code, reason) of an error in the one shape."""
        body = self.json
        assert body.keys() == {"code", "message", "details"}
        return self.status, body["code"], body["details"].get("reason")


class Api:
    """The application of a running cluster's node, with the operator's token at hand."""

    def __init__(self, cluster: Cluster, app: App | None = None) -> None:
        self.cluster = cluster
        self.node = cluster.node
        self.app = app or create_app(cluster.node)
        self.operator = cluster.token
        self._minted: dict[tuple[str | None, tuple[str, ...]], str] = {}

    async def ask(
        self,
        method: str,
        path: str,
        *,
        token: str | None = "operator",
        body: Any = None,
        content: bytes | None = None,
        key: str | None = None,
        headers: list[tuple[str, str]] | None = None,
        **query: object,
    ) -> Answer:
        """One request. `body` is sent as JSON, `content` as it is with JSON's media type."""
        sent: list[tuple[str, str]] = []
        if token is not None:
            sent.append(
                ("authorization", f"Bearer {self.operator if token == 'operator' else token}")
            )
        if body is not None:
            content = msgspec.json.encode(body)
        if content is not None:
            sent.append(("content-type", "application/json"))
        if key is not None:
            sent.append(("idempotency-key", key))
        if query:
            path += "?" + "&".join(f"{name}={quote(str(v))}" for name, v in query.items())
        if headers is not None:
            names = {name for name, _ in headers}
            sent = [each for each in sent if each[0] not in names] + headers
        transport = httpx.ASGITransport(self.app, client=(PEER, 50_000))  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://node") as client:
            answer = await client.request(
                method, path, content=content, headers=[(n, v.encode("latin-1")) for n, v in sent]
            )
        return Answer(answer.status_code, answer.headers, answer.content)

    async def get(self, path: str, **more: Any) -> Any:
        """The body of a GET that works."""
        return await self.done("GET", path, **more)

    async def done(self, method: str, path: str, **more: Any) -> Any:
        """The body of a request that works."""
        answer = await self.ask(method, path, **more)
        assert answer.status in (200, 201), (answer.status, answer.content)
        return answer.json

    async def furnish(self) -> None:
        """The org acme, its app web, and one version of two secrets."""
        await self.done("POST", "/v1/orgs", body={"org": "acme"})
        await self.done("POST", "/v1/orgs/acme/apps", body={"app": "web"})
        await self.set(A="alpha", B="beta")

    async def set(self, path: str = SECRETS, **values: str) -> Any:
        return await self.done("PATCH", path, body={"set": values})

    async def mint(self, *caveats: str, org: str | None = "acme", fresh: bool = False) -> str:
        """A token with these caveats; of all of an org's actions unless they say which."""
        if not any(caveat.startswith("action ") for caveat in caveats):
            caveats = (*caveats, f"action in {', '.join(ORG_ACTIONS)}")
        found = self._minted.get((org, caveats))
        if found is None or fresh:
            until = rfc3339(self.cluster.clock.unix_ms() + 3_600_000)
            body = {"org": org, "caveats": [*caveats, f"time < {until}"]}
            if org is None:
                del body["org"]
            found = (await self.done("POST", "/v1/tokens", body=body))["token"]
            self._minted[org, caveats] = found
        return found

    async def revoke(self, token: str) -> None:
        await self.done("DELETE", f"/v1/orgs/acme/tokens/{nonce_of(token).hex()}")

    async def forget(self, token: str) -> None:
        """Take away the row that says that a token was issued."""
        await self.cluster.change("DELETE FROM tokens WHERE nonce = ?", nonce_of(token))


def narrowed(token: str, *caveats: str) -> str:
    """The token with more caveats, as its holder adds them."""
    return encode_token(attenuate(parse_token(token).root, caveats))


def nonce_of(token: str) -> bytes:
    """What tells a token from every other; in hexadecimal digits it is the token's id."""
    return Identifier.parse(parse_token(token).root.identifier).nonce
