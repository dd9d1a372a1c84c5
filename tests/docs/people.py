"""A house whose org has a provider and boots of two keys, and what people and hosts do there."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from petsem import base64url
from petsem.clock import ManualClock
from petsem.crypto.keys import Purpose
from petsem.tokens.macaroon import bind_discharge
from petsem.tokens.text import encode_token, parse_token
from tests.docs.house import Doors, House
from tests.support.oidc import CLIENT_ID, CLIENT_SECRET, EvilProvider

_P3: Final = "/.well-known/petsem/3p"
_PORT: Final = 49_152
_SECRET: Final = base64url.encode(bytes(range(32)))
_COMMITMENT: Final = base64url.encode(hashlib.sha256(bytes(range(32))).digest())
_MACHINE: Final = {"app": "web", "machine": "m1"}


class Household(House):
    """The same house, with `kept`: what its people and hosts have at hand. Its provider listens at
    `port` while it is `at_home`."""

    def __init__(self, directory: Path, clock: ManualClock, port: int) -> None:
        super().__init__(directory, clock)
        self.port = port
        file = directory.with_name("people.json")
        self.kept: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
        self.provider: EvilProvider | None = None

    def copy(self, to: Path) -> Household:
        """The same directory again, to be altered."""
        made = super().copy(to)
        (to / "people.json").write_text(json.dumps(self.kept))
        return Household(made.directory, made.clock, self.port)

    @contextlib.asynccontextmanager
    async def open(self, without: Collection[Purpose] = ()) -> AsyncIterator[Doors]:
        """The node running, where browsers can be sent to it."""
        async with super().open(without) as doors:
            doors.node.authenticator.public_url = "http://127.0.0.1"
            yield doors

    @contextlib.contextmanager
    def at_home(self) -> Iterator[None]:
        """With the provider, whose clock is right whatever the node's is."""
        now_s = self.clock.unix_ms() // 1000
        with EvilProvider(lambda: now_s, self.port) as self.provider:
            self.provider.remember(self.kept.get("standing", ()))
            yield


async def sign_in(doors: Doors) -> str:
    """All of `petsem login`, with a browser on the same machine; what came of it is in `reply`."""
    outcome = await doors.http("POST", "/v1/login", {"org": "acme"})
    if outcome != "serve":
        return outcome
    ticket = doors.reply["ticket"]
    asked = {"ticket": ticket, "commitment": _COMMITMENT, "redirect_port": _PORT}
    if (outcome := await doors.http("POST", _P3, asked)) != "serve":
        return outcome
    page = doors.reply["user_interactive"]
    url = urlsplit(page["user_url"])
    if (outcome := await doors.page(f"{url.path}?{url.query}")) != "serve":
        return outcome
    house = doors.house
    assert isinstance(house, Household)
    assert house.provider is not None
    came = house.provider.sign_in(doors.reply)
    back = f"/sso/callback/acme?state={came['state']}&code={came['code']}"
    if (outcome := await doors.page(back)) != "serve":
        return outcome
    release = doors.reply.partition("?ticket=")[2]
    poll = {"flow": page["flow"], "secret": _SECRET, "release": release}
    assert await doors.http("POST", f"{_P3}/poll", poll) == "serve"
    found = doors.reply
    body = {"ticket": ticket, "discharge": found["discharge"]}
    outcome = await doors.http("POST", "/v1/login/token", body)
    if outcome == "serve":
        doors.reply = {**found, **doors.reply, "ticket": ticket}
    return outcome


async def _renew(doors: Doors) -> str:
    kept = _kept(doors)
    asked = {name: kept[name] for name in ("ticket", "session")}
    outcome = await doors.http("POST", _P3, {**asked, "commitment": _COMMITMENT})
    if outcome == "serve" and "user_interactive" in doors.reply:
        return "ask the person"
    return outcome


async def _exchange(doors: Doors) -> str:
    body = {"org": "acme", **_MACHINE, "host_key": "5a" * 32, "actions": ["secrets:read"]}
    token = _kept(doors)["exchanger"]
    return await doors.http("POST", "/v1/tokens/exchange", body, token=token)


async def allow(doors: Doors) -> str:
    """Let the host boot the machine; its whole token is in `reply`."""
    kept = _kept(doors)
    host = parse_token(kept["host"]).root
    (ticket,) = (base64url.encode(each.cid) for each in host.caveats if each.vid is not None)
    body = {**_MACHINE, "ticket": ticket}
    return await doors.http("POST", "/v1/orgs/acme/boots", body, token=kept["person"])


OPERATIONS: Final[Mapping[str, Callable[[Doors], Awaitable[str]]]] = {
    "sign in": sign_in,
    "silent renewal": _renew,
    "list, with a person's token": lambda d: d.app("GET", "/secrets", token=_kept(d)["person"]),
    "exchange": _exchange,
    "boot allow": allow,
    "Fetch, its boot allowed": lambda d: d.fetch(machine="m1", token=_kept(d)["allowed"]),
}


def _damage(use: str) -> Callable[[House], None]:
    return lambda house: house.damage("root_keys", "envelope", f"use = '{use}'")


DAMAGE: Final[Mapping[str, Callable[[House], None]]] = {
    "sign in": _damage("sso"),
    "silent renewal": _damage("sso"),
    "list, with a person's token": _damage("sso"),
    "exchange": lambda house: house.damage("root_keys", "envelope", "org IS NOT NULL"),
    "boot allow": _damage("boot"),
    "Fetch, its boot allowed": _damage("boot"),
}
"""The key that the org shares with whoever discharges; for the exchange, that which signs."""


async def move_in(model: House, root: Path, port: int) -> Household:
    """The house with a provider, a person who is signed in, and a host that may boot."""
    made = model.copy(root)
    house = Household(made.directory, made.clock, port)
    with house.at_home():
        async with house.open() as doors:
            assert house.provider is not None
            sso = {
                "issuer": house.provider.issuer,
                "client_id": CLIENT_ID,
                "client_secret": CLIENT_SECRET,
                "domains": ["example.com"],
                "actions": ["secrets:list", "machines:boot"],
            }
            patch = {"sso": sso, "two_key": True}
            assert await doors.http("PATCH", "/v1/orgs/acme/settings", patch) == "serve"
            assert await doors.mint("action = secrets:read", "app = web") == "serve"
            house.kept["host"] = doors.reply["token"]
            allowed = "action in tokens:exchange, secrets:read"
            assert await doors.mint(allowed, kind="org") == "serve"
            house.kept["exchanger"] = doors.reply["token"]
            assert await sign_in(doors) == "serve"
            for name in ("ticket", "session"):
                house.kept[name] = doors.reply[name]
            house.kept["person"] = _whole(doors.reply["token"], doors.reply["discharge"])
            house.kept["standing"] = house.provider.standing
            assert await allow(doors) == "serve"
            house.kept["allowed"] = _whole(house.kept["host"], doors.reply["discharge"])
    return house


def _kept(doors: Doors) -> dict[str, Any]:
    assert isinstance(doors.house, Household)
    return doors.house.kept


def _whole(token: str, discharge: str) -> str:
    root = parse_token(token).root
    return encode_token(root, [bind_discharge(root, parse_token(discharge).root)])
