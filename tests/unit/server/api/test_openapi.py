"""The OpenAPI document: complete, consistent, and true to the wire types."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from petsem.errors import Code
from petsem.server import policy
from petsem.server.api import (
    cluster,
    exchange,
    login,
    openapi,
    probes,
    revoking,
    secrets,
    sso,
    tenants,
    tokens,
    verification,
)
from petsem.server.api.diff_rate import DiffRate
from petsem.server.api.errors import STATUS
from petsem.server.api.route import Route
from petsem.tokens.reasons import TokenRefused
from petsem.tokens.text import parse_token
from tests.unit.server.api.world import Api
from tests.unit.server.cluster import Cluster

ROUTES = (
    *tenants.ROUTES,
    *login.ROUTES,
    *sso.ROUTES,
    *exchange.ROUTES,
    *secrets.routes(DiffRate()),
    *tokens.ROUTES,
    *revoking.ROUTES,
    *verification.ROUTES,
    *cluster.ROUTES,
    *probes.routes(None, open_metrics=False),  # type: ignore[arg-type]
    probes.schema_route(lambda: b"", open_schema=True),
)


@pytest.fixture(scope="module")
def document() -> Any:
    return msgspec.json.decode(msgspec.json.encode(openapi.document(ROUTES)))


async def test_served(api: Api, document: Any) -> None:
    """The document is served as JSON, to whoever asks."""
    answer = await api.ask("GET", "/schema", token=None)
    assert answer.headers["content-type"] == "application/json"
    assert answer.json == document


def _operations(document: Any) -> Iterator[tuple[str, str, Any]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


def test_every_route_is_documented(document: Any) -> None:
    """Each entry of the policy is an operation, with words, its action and a unique id."""
    found = {(method, path) for method, path, _ in _operations(document)}
    assert found == policy.HTTP.keys()
    ids = [operation["operationId"] for _, _, operation in _operations(document)]
    assert len(set(ids)) == len(ids)
    for method, path, operation in _operations(document):
        rule = policy.HTTP[method, path]
        assert operation["summary"]
        assert operation["tags"]
        says = f"`{rule.action}`" if rule is not None else "Needs no token."
        assert says in operation["description"]


def test_security(document: Any) -> None:
    """Each operation says whether it needs a token."""
    assert document["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer"
    for method, path, operation in _operations(document):
        guarded = policy.HTTP[method, path] is not None
        assert operation["security"] == ([{"bearer": []}] if guarded else [])


def test_examples(document: Any) -> None:
    """Each body and each good answer has an example."""
    for method, path, operation in _operations(document):
        contents = [
            c for r in operation["responses"].values() for c in r.get("content", {}).values()
        ]
        contents += operation.get("requestBody", {}).get("content", {}).values()
        assert contents, (method, path)
        for content in contents:
            assert content.get("example") or content["examples"], (method, path)


def test_errors(document: Any) -> None:
    """Each operation lists the errors that any of its kind can answer."""
    for method, path, operation in _operations(document):
        statuses = {int(status) for status in operation["responses"]}
        expected = {500}
        if policy.HTTP[method, path] is not None:
            expected |= {400, 401, 403, 503}
        if method in ("PATCH", "DELETE"):
            expected |= {404, 409, 429, 504}
        if "requestBody" in operation:
            expected |= {400, 413}
        assert expected <= statuses, (method, path)
    shown = {
        example["value"]["code"]
        for response in document["components"]["responses"].values()
        for example in response["content"]["application/json"]["examples"].values()
    }
    assert shown == set(Code)
    responses = document["components"]["responses"]
    assert responses.keys() == {f"Error{status}" for status in {*STATUS.values(), 413}}


def test_pages(document: Any) -> None:
    """A form is one, with its bound; what refuses a browser is a page, but for what nobody
    expected."""
    paths = document["paths"]
    confirm = paths["/sso"]["post"]
    for operation in (paths["/sso"]["get"], confirm, paths["/sso/callback/{org}"]["get"]):
        for status, response in operation["responses"].items():
            assert ("text/html" in response.get("content", {})) == (status != "500"), status
        assert operation["responses"]["429"]["headers"].keys() == {"Retry-After"}
    form = confirm["requestBody"]["content"]["application/x-www-form-urlencoded"]
    assert form["schema"] == {"$ref": "#/components/schemas/SsoForm"}
    assert document["components"]["schemas"]["SsoForm"]["required"] == ["flow", "code"]
    assert "413" in confirm["responses"]


def test_references(document: Any) -> None:
    """Every reference leads somewhere, and every schema is referred to."""
    text = json.dumps(document)
    used = {part.split('"')[0] for part in text.split('"#/components/')[1:]}
    there = {
        f"{kind}/{name}"
        for kind in ("schemas", "responses")
        for name in document["components"][kind]
    }
    tops = {"schemas/" + kind.__name__ for kind in _kinds()}
    assert used <= there
    assert there - tops <= used


def test_parameters(document: Any) -> None:
    """Every parameter of a path is declared, and every parameter is described."""
    for _, path, operation in _operations(document):
        declared = {p["name"] for p in operation["parameters"] if p["in"] == "path"}
        assert declared == {part[1:-1] for part in path.split("/") if part.startswith("{")}
        for parameter in operation["parameters"]:
            assert parameter["description"]
            assert parameter["schema"]


def _kinds() -> set[type[msgspec.Struct]]:
    return {kind for route in ROUTES for kind in (route.body, route.reply) if kind}


@pytest.mark.parametrize("route", [r for r in ROUTES if r.reply], ids=lambda r: r.label)
def test_examples_are_of_their_types(route: Route) -> None:
    """Each example, written and read again, is what it was."""
    kinds = [(route.reply, route.examples), (route.body, route.body_examples)]
    for kind, examples in kinds:
        for _, value in examples:
            assert msgspec.json.decode(msgspec.json.encode(value), type=kind) == value


def test_no_token_in_it(document: Any) -> None:
    """What looks like a token in the examples is none."""
    found = set(re.findall(r"petsem_[^\s\"]+", json.dumps(document, ensure_ascii=False)))
    assert found
    for text in found:
        with pytest.raises(TokenRefused):
            parse_token(text)


async def test_closed(tmp_path: Path) -> None:
    """With `open_schema = false` any valid token opens it, and nothing else does."""
    cluster = Cluster(tmp_path / "node")
    _configure(cluster, "open_schema = false", "open_metrics = true")
    async with cluster.running():
        api = Api(cluster)
        assert (await api.ask("GET", "/schema", token=None)).error == (401, "unauthenticated", None)
        assert (await api.ask("GET", "/schema", token="x")).error[2] == "MALFORMED"
        document = await api.get("/schema")
        assert document["paths"]["/schema"]["get"]["security"] == [{"bearer": []}]
        assert document["paths"]["/metrics"]["get"]["security"] == []
        assert (await api.ask("GET", "/metrics", token=None)).status == 200


def _configure(cluster: Cluster, *lines: str) -> None:
    path = cluster.datadir.config_file
    text = path.read_text()
    path.write_text(text.replace("[http]\n", "\n".join(["[http]", *lines, ""])))
