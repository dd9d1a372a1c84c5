"""The application as a whole: nothing outside the policy, and one shape for every answer."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import pytest
from structlog.testing import capture_logs

from petsem.server.api import tenants
from petsem.server.api.app import create_app, refuse_gaps
from petsem.server.api.reply import SECURITY_HEADERS
from tests.unit.server.api.world import SECRETS, Api

MARK = "hunter2canary"


def test_a_route_outside_the_policy() -> None:
    """A route that the policy does not know is refused at the start."""
    unknown = replace(tenants.ROUTES[0], path="/v1/backdoor")
    with pytest.raises(RuntimeError, match="POST /v1/backdoor has no entry in the policy"):
        refuse_gaps([unknown, *_all_but_none()])


def test_an_entry_without_a_route() -> None:
    """An entry of the policy that nothing serves is refused at the start."""
    with pytest.raises(RuntimeError, match="has no route"):
        refuse_gaps(tenants.ROUTES)


def test_a_route_twice() -> None:
    """Two handlers for one method and path are refused at the start."""
    with pytest.raises(RuntimeError, match="twice"):
        refuse_gaps([*tenants.ROUTES, tenants.ROUTES[0]])


def _all_but_none() -> list[Any]:
    from petsem.server import policy

    route = tenants.ROUTES[0]
    return [replace(route, method=method, path=path) for method, path in policy.HTTP]


async def test_nothing_else_is_served(api: Api) -> None:
    """Litestar's router holds the policy's routes, the probes by HEAD too, and OPTIONS which are
    all refused."""
    from petsem.server import policy

    served = {
        (method, route.path_format) for route in api.app.litestar.routes for method in route.methods
    }
    paths = {path for _, path in policy.HTTP}
    probes = {("HEAD", "/healthz"), ("HEAD", "/readyz")}
    assert served == policy.HTTP.keys() | probes | {("OPTIONS", path) for path in paths}


@pytest.mark.parametrize(
    "path",
    ["/", "/v1", "/v1/orgs/acme", "/v1/orgs/a/b/c/d", "/v2/orgs", "/schema/swagger", "/docs"],
)
async def test_unknown_paths(api: Api, path: str) -> None:
    """A path that is not there is `not_found`; of one that is, the methods are told."""
    answer = await api.ask("GET", path, token=None)
    expected = (405, "invalid", None) if path == "/v1/orgs/acme" else (404, "not_found", None)
    assert answer.error == expected


@pytest.mark.parametrize("method", ["PUT", "OPTIONS", "HEAD", "TRACE", "DELETE"])
async def test_unknown_methods(api: Api, method: str) -> None:
    """A method that a path does not take is 405, with those that it does take."""
    answer = await api.ask(method, "/v1/orgs", token=None)
    assert answer.status == 405
    assert sorted(answer.headers["allow"].split(", ")) == ["GET", "POST"]


async def test_every_answer_has_the_headers(api: Api) -> None:
    """Good, refused, unknown and broken answers alike forbid caching and sniffing."""
    answers = [
        await api.ask("GET", "/v1/orgs"),
        await api.ask("GET", "/v1/orgs", token=None),
        await api.ask("GET", "/nowhere"),
        await api.ask("OPTIONS", "/v1/orgs"),
        await api.ask("GET", "/metrics"),
        await api.ask("GET", "/schema"),
        await api.ask("GET", SECRETS, headers=[("host", 'x"y')]),
        await api.ask("POST", "/v1/orgs", content=b"{"),
    ]
    assert [a.status for a in answers] == [200, 401, 404, 405, 200, 200, 400, 400]
    for answer in answers:
        for name, value in SECURITY_HEADERS:
            assert answer.headers.get_list(name.decode()) == [value.decode()]  # type: ignore[attr-defined]
        assert len(answer.headers.get_list("content-type")) == 1  # type: ignore[attr-defined]
        assert int(answer.headers["content-length"]) == len(answer.content)


async def test_an_unexpected_exception(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is `internal` outside; inside it is logged by type and place, without the request."""

    async def broken(*_: object) -> None:
        raise ValueError(MARK)

    monkeypatch.setattr(type(api.node.secrets), "patch", broken)
    with capture_logs() as logs:
        answer = await api.ask("PATCH", SECRETS, body={"set": {"A": MARK}})
    assert answer.error == (500, "internal", None)
    assert answer.json["message"] == "internal error; see the node's log"
    (record,) = logs
    assert (record["event"], record["route"], record["error"], record["log_level"]) == (
        "request_failed",
        "PATCH /v1/orgs/{org}/apps/{app}/secrets",
        "ValueError",
        "error",
    )
    assert "in broken" in record["where"]
    assert MARK not in repr(logs)
    assert MARK.encode() not in answer.content


async def test_litestar_logs_nothing(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    """The framework has no logger of its own, which could show a request."""
    with caplog.at_level(logging.DEBUG):
        await api.ask("POST", "/v1/orgs", content=b"{" + MARK.encode())
    assert MARK not in caplog.text
    assert api.app.litestar.logger is None
    assert not api.app.litestar.debug


async def test_no_state_is_shared_between_applications(api: Api) -> None:
    """A second application of the same node can be made: nothing is registered globally."""
    second = Api(api.cluster, create_app(api.node))
    assert (await second.ask("GET", "/metrics")).status == 200


async def test_slashes(api: Api) -> None:
    """A path is the same with a slash too many; an escaped one is no part of a name."""
    assert (await api.ask("GET", SECRETS + "/")).status == 200
    assert (await api.ask("GET", "/v1/orgs/acme/apps/we%2Fb/secrets")).error[1] == "not_found"
    assert (await api.ask("GET", "/v1/orgs/ac%FFme/settings")).error == (400, "invalid", None)
