"""A node in this process with its doors, a disk that tests may alter, and keys to be withheld."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from shutil import copytree, ignore_patterns
from typing import Any, Final

import httpx

from petsem.clock import ManualClock, rfc3339
from petsem.crypto.keyring import Keyring
from petsem.crypto.keys import Purpose
from petsem.errors import PetsemError
from petsem.server import sql
from petsem.server.api.app import create_app
from petsem.server.api.errors import STATUS
from petsem.server.database import open_writer
from petsem.server.datadir import DataDir
from petsem.server.init import init_cluster
from petsem.server.node import Node, build_node
from petsem.server.principal import Request
from petsem.server.rpc.connect import connect_app

_CONNECT_CODES: Final = {
    "data_loss": "corrupt",
    "permission_denied": "denied",
    "failed_precondition": "stale",
}
_APP: Final = "/v1/orgs/acme/apps/web"
SECOND: Final = {"set": {"A": "second of A"}}
"""The batch that made version 2 of web, sent with the Idempotency-Key `k`."""


class House:
    """A stopped node's directory: org acme, apps web (A and B, version 2) and api (A).

    `operator` is a token of the cluster key, `host` one of acme's that reads web.
    """

    def __init__(self, directory: Path, clock: ManualClock) -> None:
        self.directory = directory
        self.clock = clock
        self.operator = directory.with_name("node.operator.token").read_text().strip()
        host = directory.with_name("host.token")
        self.host = host.read_text() if host.exists() else ""

    def copy(self, to: Path) -> House:
        """The same directory again, to be altered."""
        for name in ("node.keyring.json", "node.operator.token", "host.token"):
            (to / name).write_bytes(self.directory.with_name(name).read_bytes())
            (to / name).chmod(0o600)
        copytree(self.directory, to / "node", ignore=ignore_patterns("ballast"))
        return House(to / "node", ManualClock(self.clock.unix_ms()))

    def rows(self, query: str, *args: object) -> list[tuple[Any, ...]]:
        """What whoever has the disk may read."""
        db = open_writer(DataDir(self.directory).database)
        try:
            return sql.rows(db, query, args)
        finally:
            db.close()

    def write(self, statement: str, *args: object) -> None:
        """What whoever has the disk may write."""
        db = open_writer(DataDir(self.directory).database)
        try:
            assert sql.run(db, statement, args) > 0, "nothing was altered"
        finally:
            db.close()

    def damage(self, table: str, column: str, where: str = "true") -> None:
        """Flip a bit in the sealed column of every row that matches."""
        found = self.rows(f"SELECT DISTINCT {column} FROM {table} WHERE {where}")
        assert found, "nothing was damaged"
        for (sealed,) in found:
            altered = sealed[:-1] + bytes([sealed[-1] ^ 1])
            self.write(f"UPDATE {table} SET {column} = ? WHERE {column} = ?", altered, sealed)

    def files(self) -> dict[str, bytes]:
        """Every file of the directory with its bytes."""
        found = (path for path in self.directory.rglob("*") if path.is_file())
        return {str(path.relative_to(self.directory)): path.read_bytes() for path in found}

    @asynccontextmanager
    async def open(self, without: Collection[Purpose] = ()) -> AsyncIterator[Doors]:
        """The node running, with a keyring that lacks some purposes."""
        whole = Keyring.parse(self.directory.with_name("node.keyring.json").read_bytes())
        keyring = Keyring()
        held = whole.keys()
        for purpose, key in held:
            if purpose not in without:
                keyring = keyring.with_key(purpose, key)
        environ = {"PETSEM_KEYRING": keyring.encode().decode()}
        node = build_node(DataDir(self.directory), environ, clock=self.clock)
        await node.start()
        try:
            async with _client(create_app(node)) as api, _client(connect_app(node)) as connect:
                yield Doors(self, node, api, connect)
        finally:
            await node.stop()


class Doors:
    """The ways into a running node. Each call answers `serve` or `refuse CODE`."""

    def __init__(
        self, house: House, node: Node, api: httpx.AsyncClient, connect: httpx.AsyncClient
    ) -> None:
        self.house = house
        self.node = node
        self._api = api
        self._connect = connect
        self.reply: Any = None
        """The body of the last answer."""

    async def http(
        self, method: str, path: str, body: object = None, *, token: str = "", key: str = ""
    ) -> str:
        """One call of the HTTP API, as the operator unless `token` says otherwise."""
        headers = {"authorization": f"Bearer {token or self.house.operator}"}
        if key:
            headers["idempotency-key"] = key
        answer = await self._api.request(method, path, json=body, headers=headers)
        return self._outcome(answer)

    async def page(self, path: str) -> str:
        """What a browser is shown there, or where it is sent on to, which is then in `reply`."""
        answer = await self._api.get(path)
        if answer.status_code < 400:
            self.reply = answer.headers.get("location")
            return "serve"
        code = next(code for code, status in STATUS.items() if status == answer.status_code)
        return f"refuse {code.value}"

    async def app(self, method: str, path: str, body: object = None, **more: str) -> str:
        """One call below the app web."""
        return await self.http(method, _APP + path, body, **more)

    async def fetch(self, app: str = "web", *, machine: str = "", token: str = "") -> str:
        """One boot read."""
        headers = {"authorization": f"Bearer {token or self.house.operator}"}
        body = {"org": "acme", "app": app, "machine": machine}
        answer = await self._connect.post("/petsem.v1.Secrets/Fetch", json=body, headers=headers)
        return self._outcome(answer)

    async def watch(self) -> str:
        """The first word of a watch."""
        source = self.node.boot.watch(Request(self.house.operator, None), "", "acme", "web", 0)
        try:
            async with aclosing(source) as changes:
                await anext(changes)
        except PetsemError as e:
            return f"refuse {e.code.value}"
        return "serve"

    async def mint(self, *caveats: str, kind: str = "host", token: str = "") -> str:
        """A token of acme that lives an hour; it is in `reply`."""
        until = rfc3339(self.house.clock.unix_ms() + 3_600_000)
        body = {"org": "acme", "kind": kind, "caveats": [*caveats, f"time < {until}"]}
        return await self.http("POST", "/v1/tokens", body, token=token)

    def _outcome(self, answer: httpx.Response) -> str:
        self.reply = answer.json()
        if answer.is_success:
            return "serve"
        code = self.reply["code"]
        return f"refuse {_CONNECT_CODES.get(code, code)}"


async def build(root: Path) -> House:
    """The house as it is before anything happens to it."""
    clock = ManualClock()
    init_cluster(root / "node", region="ams", clock=clock)
    house = House(root / "node", clock)
    async with house.open() as doors:
        assert await doors.http("POST", "/v1/orgs", {"org": "acme"}) == "serve"
        for app in ("web", "api"):
            assert await doors.http("POST", "/v1/orgs/acme/apps", {"app": app}) == "serve"
        batch = {"set": {"A": "first of web's A", "B": "the value of B"}}
        assert await doors.app("PATCH", "/secrets", batch) == "serve"
        assert await doors.app("PATCH", "/secrets", SECOND, key="k") == "serve"
        other = {"set": {"A": "the value of api"}}
        assert await doors.http("PATCH", "/v1/orgs/acme/apps/api/secrets", other) == "serve"
        assert await doors.mint("action = secrets:read", "app = web") == "serve"
        house.directory.with_name("host.token").write_text(doors.reply["token"])
    return House(root / "node", clock)


def _client(app: Any) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app=app)
    return httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1")
