"""People sign in on running nodes, with real providers, through a replica too; and attacks that
only show over HTTP."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from typing import Any

import httpx
import pytest

from petsem import base64url
from tests.support.doors import Doors
from tests.support.fleet import Fleet, fleet
from tests.support.login_browser import send_form
from tests.support.oidc import CLIENT_ID, CLIENT_SECRET, EvilProvider, MockProvider
from tests.support.patience import PATIENCE_S

pytestmark = pytest.mark.xdist_group("sso")

P3 = "/.well-known/petsem/3p"
PORT = 41_998


@dataclass
class World:
    """A leader and a replica; `doors` are the replica's, which answers nothing of this itself."""

    nodes: Fleet
    leader: Doors
    doors: Doors
    provider: EvilProvider

    def set_sso(self, issuer: str, secret: str | None = CLIENT_SECRET) -> None:
        sso = {"issuer": issuer, "client_id": CLIENT_ID, "client_secret": secret}
        sso["domains"] = ["example.com"]  # type: ignore[assignment]
        self.leader.done("PATCH", "/v1/orgs/acme/settings", {"sso": sso})

    def begin(self, doors: Doors | None = None, **more: Any) -> tuple[Any, str]:
        """What a command line is told, and its secret."""
        doors = doors or self.doors
        secret = os.urandom(32)
        ticket = doors.done("POST", "/v1/login", {"org": "acme"}, token=None)["ticket"]
        commitment = base64url.encode(hashlib.sha256(secret).digest())
        body = {"ticket": ticket, "commitment": commitment, **more}
        told = doors.done("POST", P3, body, token=None)["user_interactive"]
        return {**told, "ticket": ticket}, base64url.encode(secret)

    def poll(self, **body: str) -> Any:
        return self.doors.ask("POST", P3 + "/poll", body, token=None)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with (
        fleet(tmp_path_factory.mktemp("sso"), replicas=1) as nodes,
        EvilProvider() as provider,
        nodes.leader.doors() as leader,
        nodes.replicas[0].doors() as doors,
    ):
        made = World(nodes, leader, doors, provider)
        made.set_sso(provider.issuer)
        nodes.converged(nodes.replicas[0])
        yield made


@pytest.fixture
def browser() -> Iterator[httpx.Client]:
    with httpx.Client(trust_env=False, timeout=PATIENCE_S) as found:
        yield found


def _via(world: World, url: str) -> str:
    """The URL on the replica."""
    path = url.partition("/sso")[2]
    return f"http://127.0.0.1:{world.nodes.replicas[0].daemon.http}/sso{path}"


def test_by_code_through_a_replica(world: World, browser: httpx.Client) -> None:
    """The replica passes pages, cookies and forms on; the discharge then buys a token."""
    told, secret = world.begin()
    page = browser.get(_via(world, told["user_url"]))
    assert page.status_code == 200
    for shown in ("acme", "127.0.0.1", world.provider.issuer):
        assert shown in page.text
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert f"form-action 'self' {world.provider.issuer};" in policy
    # With another policy browsers would hide where the form was, from us too.
    assert page.headers["referrer-policy"] == "same-origin"
    assert page.headers["cache-control"] == "no-store"
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    cookie = page.headers["set-cookie"]
    assert cookie.endswith("; Max-Age=600; Path=/sso; HttpOnly; SameSite=Lax")
    (flow,) = re.findall(r'name="flow" value="([^"]+)"', page.text)
    form = {"flow": unescape(flow), "code": told["code"]}
    sent = send_form(browser, _via(world, "/sso"), form)
    assert sent.status_code == 303
    assert sent.headers["referrer-policy"] == "no-referrer"
    came = world.provider.sign_in(sent.headers["location"])
    done = browser.get(_via(world, "/sso/callback/acme"), params={**came, "session_state": "x"})
    assert (done.status_code, "ana@example.com" in done.text) == (200, True)
    assert "Max-Age=0" in done.headers["set-cookie"]
    assert world.poll(flow=told["flow"]).body == {"state": "ready"}
    found = world.poll(flow=told["flow"], secret=secret).body
    assert found.keys() == {"discharge", "session", "user", "expires_at"}
    body = {"ticket": told["ticket"], "discharge": found["discharge"]}
    token = world.doors.done("POST", "/v1/login/token", body, token=None)
    assert token["token"].startswith("petsem_")
    again = {"ticket": told["ticket"], "session": found["session"]}
    renewed = world.doors.done("POST", P3, again, token=None)
    assert renewed["user"] == "ana@example.com"


def test_by_loopback(world: World, browser: httpx.Client) -> None:
    """The browser ends at the requester's port with what releases the result."""
    told, secret = world.begin(redirect_port=PORT)
    assert told["code"] is None
    sent = browser.get(told["user_url"])
    assert sent.status_code == 302
    came = world.provider.sign_in(sent.headers["location"])
    done = browser.get(_at_leader(world, "/sso/callback/acme"), params=came)
    assert done.status_code == 302
    at = httpx.URL(done.headers["location"])
    assert (at.scheme, at.host, at.port, at.path) == ("http", "127.0.0.1", PORT, "/done")
    assert world.poll(flow=told["flow"], secret=secret).body == {"state": "pending"}
    release = at.params["ticket"]
    assert world.poll(flow=told["flow"], secret=secret, release=release).body["user"]
    error = world.poll(flow=told["flow"], secret=secret, release=release).error
    assert error == (404, "not_found", None)


def test_with_a_provider_of_others(tmp_path: Path, world: World) -> None:
    """`oidc-provider-mock`: sign in, renew without a new ID token, and be refused once revoked."""
    ana = {"email": "ana@example.com", "email_verified": True}
    with MockProvider(ana=ana) as provider, httpx.Client(trust_env=False) as browser:
        world.set_sso(provider.issuer)
        try:
            told, secret = world.begin(world.leader)
            browser.get(told["user_url"])
            form = {"flow": told["flow"], "code": told["code"]}
            sent = send_form(browser, _at_leader(world, "/sso"), form)
            done = browser.get(provider.sign_in(sent.headers["location"], "ana"))
            assert done.status_code == 200, done.text
            body = {"flow": told["flow"], "secret": secret}
            found = world.leader.done("POST", P3 + "/poll", body, token=None)
            assert found["user"] == "ana@example.com"
            again = {"ticket": told["ticket"], "session": found["session"]}
            renewed = world.leader.done("POST", P3, again, token=None)
            assert renewed["user"] == "ana@example.com"
            provider.revoke("ana")
            again["session"] = renewed["session"]
            assert world.leader.ask("POST", P3, again, token=None).status == 400
        finally:
            world.set_sso(world.provider.issuer)


def test_refusals_are_pages(world: World, browser: httpx.Client) -> None:
    """Whatever goes wrong in a browser is said on a page, with its status, and quotes nothing."""
    told, _ = world.begin()
    port, _ = world.begin(redirect_port=PORT)
    browser.get(_via(world, told["user_url"]))
    form = {"flow": told["flow"], "code": "<b>x</b>"}
    urlencoded = {"content-type": "application/x-www-form-urlencoded"}
    sso = _via(world, "/sso")
    here = {"origin": sso.removesuffix("/sso")}
    answers = [
        (400, browser.get(sso)),
        (400, browser.get(sso, params={"flow": "<script>"})),
        (400, browser.get(sso, params={"flow": told["flow"], "next": "https://evil.example"})),
        (400, browser.get(sso + "/callback/acme")),
        (400, browser.get(sso + "/callback/acme", params={"state": "x", "code": "y"})),
        (400, browser.get(sso + "/callback/acme?state=a&state=b&code=c")),
        (
            400,
            browser.get(
                sso + "/callback/acme", params={"state": told["flow"], "code": "c" * 5_000}
            ),
        ),
        (400, browser.post(sso, json=form, headers=here)),
        (400, send_form(browser, sso, {**form, "x": "y"})),
        (400, browser.post(sso, content="flow=a&flow=b&code=c", headers={**urlencoded, **here})),
        (400, browser.post(sso, content="refuse=yes", headers={**urlencoded, **here})),
        (400, send_form(browser, sso, {**form, "flow": port["flow"]})),
        (400, send_form(browser, sso, {**form, "flow": port["flow"], "refuse": "yes"})),
        (403, send_form(browser, sso, form)),
        (403, httpx.post(sso, data={**form, "code": told["code"]}, headers=here, trust_env=False)),
        (413, send_form(browser, sso, {**form, "code": "x" * 10_000})),
    ]
    for status, answer in answers:
        assert answer.status_code == status, answer.text
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert "location" not in answer.headers
        for quoted in ("<script>", "<b>", "evil.example"):
            assert quoted not in answer.text


def test_forms_of_other_sites(world: World, browser: httpx.Client) -> None:
    """A page of a thief's has the browser that was shown ours send flow and code: whatever the
    browser sends along, the form is not taken, through a replica either. Nor is a refusal."""
    told, _ = world.begin()
    sso = _via(world, "/sso")
    browser.get(_via(world, told["user_url"]))
    form = {"flow": told["flow"], "code": told["code"]}
    here = sso.removesuffix("/sso")
    said: list[dict[str, str]] = [
        {},
        {"origin": "null"},
        {"origin": "https://evil.example"},
        {"origin": here.replace("http:", "https:")},
        {"origin": "http://127.0.0.1:1"},
        {"origin": here, "sec-fetch-site": "cross-site"},
        {"origin": here, "sec-fetch-site": "same-site"},
        {"origin": "https://evil.example", "sec-fetch-site": "same-origin"},
    ]
    for headers in said:
        for sent in (form, {**form, "refuse": "yes"}):
            answer = browser.post(sso, data=sent, headers=headers)
            assert (answer.status_code, "location" in answer.headers) == (403, False), headers
    assert world.poll(flow=told["flow"]).body == {"state": "pending"}
    here_too = {"origin": "null", "sec-fetch-site": "same-origin"}
    assert browser.post(sso, data=form, headers=here_too).status_code == 303


def test_bodies_that_are_refused(world: World) -> None:
    """Unknown fields, hosts in place of ports, and what is too long."""
    told, _ = world.begin()
    ticket, commitment = told["ticket"], base64url.encode(bytes(32))
    good = {"ticket": ticket, "commitment": commitment}
    for more in (
        {"redirect_port": "evil.example"},
        {"redirect_port": 80},
        {"redirect_port": 70_000},
        {"redirect_port": 8080.5},
        {"redirect_host": "evil.example"},
        {"redirect_url": "https://evil.example"},
        {"commitment": "x"},
        {"session": ""},
        {"session": "A" * 17_000},
        {"ticket": "A" * 9_000},
    ):
        answer = world.doors.ask("POST", P3, {**good, **more}, token=None)
        assert answer.error == (400, "invalid", None), more
    answer = world.doors.ask("POST", P3, {**good, "session": "A" * 40_000}, token=None)
    assert answer.error == (413, "invalid", "TOO_LARGE")
    assert world.poll(flow=told["flow"], user="x").error == (400, "invalid", None)
    answer = world.doors.ask("POST", P3, {**good, "ticket": ticket[:-4]}, token=None)
    assert answer.error == (401, "unauthenticated", None)


def _at_leader(world: World, path: str) -> str:
    return f"http://127.0.0.1:{world.nodes.leader.daemon.http}{path}"
