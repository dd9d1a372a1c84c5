"""A cluster to measure: made as a user makes one, with an org, an app and tokens."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import httpx

from petsem.clock import rfc3339
from petsem.server.address import Address
from petsem.server.init import init_cluster
from petsem.tokens.macaroon import attenuate
from petsem.tokens.text import encode_token, parse_token

ANY_PORT = Address("127.0.0.1", 0)


@dataclass(frozen=True, slots=True)
class Cluster:
    """A directory that `serve` can run, and its operator token."""

    directory: Path
    operator: str


def make(root: Path) -> Cluster:
    """A new cluster under `root`, on free ports."""
    made = init_cluster(root / "node", region="ams", http=ANY_PORT, grpc=ANY_PORT, peer=ANY_PORT)
    return Cluster(root / "node", made.operator_token_file.read_text().strip())


class Api:
    """The few calls that prepare a measurement."""

    def __init__(self, port: int, token: str) -> None:
        self._http = httpx.Client(
            base_url=f"http://127.0.0.1:{port}", headers={"Authorization": f"Bearer {token}"}
        )

    def call(self, method: str, path: str, body: object) -> dict[str, object]:
        """One call, which must succeed."""
        answer = self._http.request(method, path, json=body)
        answer.raise_for_status()
        found: dict[str, object] = answer.json()
        return found

    def text(self, path: str) -> str:
        """The body of a GET."""
        return self._http.get(path).raise_for_status().text

    def org_and_app(self, org: str = "acme", app: str = "web") -> None:
        """An org with one app."""
        self.call("POST", "/v1/orgs", {"org": org})
        self.call("POST", f"/v1/orgs/{org}/apps", {"app": app})

    def host_token(self, org: str = "acme") -> str:
        """A token of kind host that reads; with its org caveat it has three caveats."""
        caveats = ["action = secrets:read", f"time < {in_a_day()}"]
        made = self.call("POST", "/v1/tokens", {"org": org, "kind": "host", "caveats": caveats})
        return str(made["token"])


def narrowed(token: str, *caveats: str) -> str:
    """The token with more caveats, as the boot client sends it."""
    root = parse_token(token).root
    return encode_token(attenuate(root, caveats))


def in_a_day() -> str:
    """A time that a caveat can name, a day from now."""
    return rfc3339(int(time.time() + 86_400) * 1000)
