"""The way past Litestar finds what Litestar finds, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from petsem.server import policy
from petsem.server.api import secrets, verification
from petsem.server.api.diff_rate import DiffRate
from petsem.server.api.often_asked import OftenAsked
from tests.unit.server.api.world import Api

ROUTES = [route for route in (*secrets.routes(DiffRate()), *verification.ROUTES) if route.often]


async def _app(*_: Any) -> None:
    raise AssertionError


def _find(method: str, path: str) -> tuple[bool, object]:
    scope: Any = {"type": "http", "method": method, "path": path}
    found = OftenAsked((route, _app) for route in ROUTES).find(scope)
    return found is not None, scope.get("path_params")


def test_there_are_some() -> None:
    """The routes that are asked at each boot, request and deployment."""
    assert {route.label for route in ROUTES} == {
        "PATCH /v1/orgs/{org}/apps/{app}/secrets",
        "GET /v1/orgs/{org}/apps/{app}/secrets/values",
        "POST /v1/tokens/verify",
        "POST /v1/tokens/verify-batch",
    }


def test_plain_paths_are_found_with_their_names() -> None:
    """As Litestar would put them into the scope."""
    names = {"org": "acme", "app": "web"}
    assert _find("PATCH", "/v1/orgs/acme/apps/web/secrets") == (True, names)
    assert _find("GET", "/v1/orgs/acme/apps/web/secrets/values") == (True, names)
    assert _find("POST", "/v1/tokens/verify") == (True, {})


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PATCH", "/v1/orgs/acme/apps/web/secrets/"),
        ("PATCH", "/v1/orgs//apps/web/secrets"),
        ("PATCH", "/v1/orgs/acme/apps//secrets"),
        ("PATCH", "//v1/orgs/acme/apps/web/secrets"),
        ("PATCH", "/v1/orgs/acme/app/web/secrets"),
        ("PATCH", "/v2/orgs/acme/apps/web/secrets"),
        ("PATCH", "/v1/orgs/acme/apps/web/x/secrets"),
        ("PATCH", "/v1/orgs/acme/apps/web/Secrets"),
        ("patch", "/v1/orgs/acme/apps/web/secrets"),
        ("DELETE", "/v1/orgs/acme/apps/web/secrets"),
        ("HEAD", "/v1/orgs/acme/apps/web/secrets/values"),
        ("OPTIONS", "/v1/tokens/verify"),
        ("POST", "/v1/tokens/verify/"),
        ("POST", "/"),
        ("POST", ""),
    ],
)
def test_what_is_not_spelt_plainly_is_left_to_litestar(method: str, path: str) -> None:
    """Litestar normalises some of these and refuses others."""
    assert _find(method, path) == (False, None)


@pytest.mark.parametrize("method", [None, "OPTIONS", "PUT", "HEAD"])
@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.label)
async def test_both_ways_answer_the_same(api: Api, route: Any, method: str | None) -> None:
    """Asked plainly, and with a slash too many, which only Litestar takes: one answer, and one
    row of the policy."""
    assert (route.method, route.path) in policy.HTTP
    path = route.path.format(org="acme", app="web")
    asked = method or route.method
    body = {} if asked in ("PATCH", "POST") else None
    plain = await api.ask(asked, path, body=body)
    odd = await api.ask(asked, path + "/", body=body)
    assert (plain.status, plain.content) == (odd.status, odd.content)
    if method is not None:
        assert plain.status == 405
