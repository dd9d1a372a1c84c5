"""The Connect door, asked in ASGI."""

from __future__ import annotations

import base64
import functools
import json
from typing import Any

import pytest

from petsem.errors import Code, PetsemError
from petsem.limits import HTTP_BODY_MAX_BYTES, VERIFY_BATCH_MAX
from petsem.server.rpc.connect import connect_app
from petsem.server.service import boot
from petsem.wire import petsem_pb2 as pb
from tests.unit.server.rpc.world import (
    FETCH,
    PEER,
    VALUES,
    VERIFY,
    VERIFY_BATCH,
    WATCH,
    WATCH_REVOCATIONS,
    Answer,
    World,
    asked,
    narrowed,
    post,
    question,
    raises,
    values,
)

BODY = asked().SerializeToString()
JSON = "application/json"


def _error(answer: Answer) -> tuple[int, str, pb.ErrorDetail]:
    """(status, code, detail) of an answer that is an error."""
    shown = json.loads(answer.body)
    assert answer.headers[b"content-type"] == b"application/json"
    assert shown.keys() == {"code", "message", "details"}
    (detail,) = shown["details"]
    raw = base64.b64decode(detail["value"] + "==")
    return answer.status, shown["code"], pb.ErrorDetail.FromString(raw)


async def test_a_fetch_in_protobuf(world: World) -> None:
    """The same bytes as over gRPC, and nothing that a cache or a browser might keep."""
    answer = await post(world, FETCH, BODY, token=await world.token())
    assert answer.status == 200
    assert answer.headers[b"content-type"] == b"application/proto"
    assert answer.headers[b"cache-control"] == b"no-store"
    reply = pb.FetchResponse.FromString(answer.body)
    assert (values(reply), reply.version) == (VALUES, 1)
    assert reply.freshness.server_time_ms == world.clock.unix_ms()


@pytest.mark.parametrize(
    "media_type",
    [JSON, "application/json; charset=utf-8", 'Application/JSON;charset="UTF-8"'],
)
async def test_a_fetch_in_json(world: World, media_type: str) -> None:
    """Canonical names, values in base64."""
    body = b'{"org":"acme","app":"web","names":["B"]}'
    answer = await post(world, FETCH, body, token=await world.token(), media_type=media_type)
    assert (answer.status, answer.headers[b"content-type"]) == (200, b"application/json")
    reply = json.loads(answer.body)
    assert reply["secrets"] == [{"name": "B", "value": "YmV0YQ==", "version": 1}]
    assert reply["freshness"]["serverTimeMs"] == str(world.clock.unix_ms())


async def test_a_body_may_come_in_parts(world: World) -> None:
    """As the network cuts it."""
    answer = await post(world, FETCH, BODY, token=await world.token(), parts=3)
    assert values(pb.FetchResponse.FromString(answer.body)) == VALUES


async def test_verify_and_verify_batch(world: World) -> None:
    """A permission and a refusal, alone and together."""
    asker = await world.token()
    good, bad = await world.token("action = web:deploy"), await world.token("action = web:other")
    one = await post(world, VERIFY, question(good).SerializeToString(), token=asker)
    assert pb.VerifyResponse.FromString(one.body).allowed
    batch = pb.VerifyBatchRequest(requests=[question(good), question(bad)])
    both = await post(world, VERIFY_BATCH, batch.SerializeToString(), token=asker)
    replies = pb.VerifyBatchResponse.FromString(both.body).responses
    assert [(r.allowed, r.reason) for r in replies] == [(True, ""), (False, "CAVEAT")]


@pytest.mark.parametrize(
    ("caveats", "change", "wanted"),
    [
        ((), {"org": "acme", "app": "api"}, (404, "not_found", "not_found", "")),
        (("app = api",), {}, (403, "permission_denied", "denied", "CAVEAT")),
        (("action = secrets:list",), {}, (403, "permission_denied", "denied", "CAVEAT")),
        ((), {"org": "other"}, (403, "permission_denied", "denied", "WRONG_ORG")),
        ((), {"org": "Acme!"}, (400, "invalid_argument", "invalid", "")),
        (("ip in 192.0.2.8",), {}, (403, "permission_denied", "denied", "CAVEAT")),
    ],
)
async def test_refusals(
    world: World, caveats: tuple[str, ...], change: dict[str, Any], wanted: tuple[Any, ...]
) -> None:
    """Connect's status and code, Petsem's code and reason, and the time."""
    body = asked(**change).SerializeToString()
    status, code, detail = _error(await post(world, FETCH, body, token=await world.token(*caveats)))
    assert (status, code, detail.code, detail.reason) == wanted
    assert detail.server_time_ms == world.clock.unix_ms()


async def test_the_address_is_the_peer_s(world: World) -> None:
    """A caveat on it holds, and a header that anybody can write changes nothing."""
    token = await world.token(f"ip in {PEER}")
    forged = ((b"x-forwarded-for", b"198.51.100.1"),)
    assert (await post(world, FETCH, BODY, token=token)).status == 200
    assert (await post(world, FETCH, BODY, token=token, headers=forged)).status == 200


async def test_no_token_and_an_expired_one(world: World) -> None:
    """401 says which scheme is wanted; the reason says what is wrong with the token."""
    answer = await post(world, FETCH, BODY)
    status, code, detail = _error(answer)
    assert (status, code, detail.reason) == (401, "unauthenticated", "")
    assert answer.headers[b"www-authenticate"].startswith(b"Bearer")
    token = narrowed(await world.token(), "time < 2026-01-01T00:00:00Z")
    status, code, detail = _error(await post(world, FETCH, BODY, token=token))
    assert (status, code, detail.reason) == (401, "unauthenticated", "EXPIRED")


async def test_a_fence_not_reached_is_told_with_both_positions(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a client knows whether another node, or patience, will help."""
    impatient = functools.partial(boot.until_fresh, wait_s=0.0)
    monkeypatch.setattr(boot, "until_fresh", impatient)
    body = asked(min_version=9).SerializeToString()
    status, code, detail = _error(await post(world, FETCH, body, token=await world.token()))
    assert (status, code) == (400, "failed_precondition")
    assert (detail.have_version, detail.need_version) == (1, 9)


async def test_a_known_etag_brings_no_secrets(world: World) -> None:
    """The version and freshness are told all the same."""
    token = await world.token()
    first = pb.FetchResponse.FromString((await post(world, FETCH, BODY, token=token)).body)
    body = asked(known_etag=first.etag).SerializeToString()
    again = pb.FetchResponse.FromString((await post(world, FETCH, body, token=token)).body)
    assert (again.not_modified, again.version, list(again.secrets)) == (True, 1, [])
    assert again.etag == first.etag


@pytest.mark.parametrize("path", [WATCH, WATCH_REVOCATIONS])
async def test_streams_are_not_implemented(world: World, path: str) -> None:
    """They are gRPC's."""
    answer = await post(world, path, b"", token=await world.token())
    assert (answer.status, json.loads(answer.body)["code"]) == (501, "unimplemented")


@pytest.mark.parametrize("path", ["/petsem.v1.Secrets/Peek", "/petsem.v1.", FETCH + "/"])
async def test_unknown_methods_are_404(world: World, path: str) -> None:
    """Nothing of the path is quoted."""
    answer = await post(world, path, b"")
    assert (answer.status, json.loads(answer.body)["code"]) == (404, "unimplemented")
    assert b"Peek" not in answer.body


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "OPTIONS"])
async def test_only_post_is_answered(world: World, method: str) -> None:
    """A GET would leave what was asked in logs and caches."""
    answer = await post(world, FETCH, b"", method=method)
    assert (answer.status, answer.headers[b"allow"]) == (405, b"POST")


@pytest.mark.parametrize(
    "media_type",
    [
        "", "text/plain", "application/grpc", "application/connect+proto", "application/jsonx",
        "application/json; charset=latin-1",
    ],
)  # fmt: skip
async def test_other_content_types_are_415(world: World, media_type: str) -> None:
    """With those that would do."""
    answer = await post(world, FETCH, BODY, token=await world.token(), media_type=media_type)
    assert (answer.status, answer.headers[b"accept-post"]) == (
        415,
        b"application/proto, application/json",
    )


async def test_compressed_requests_are_refused(world: World) -> None:
    """As Connect says it: unimplemented, with the encodings that are."""
    answer = await post(world, FETCH, BODY, headers=((b"content-encoding", b"gzip"),))
    assert (answer.status, json.loads(answer.body)["code"]) == (501, "unimplemented")
    assert answer.headers[b"accept-encoding"] == b"identity"


@pytest.mark.parametrize(("version", "status"), [(b"1", 200), (b"2", 400), (b"", 400)])
async def test_the_protocol_s_version(world: World, version: bytes, status: int) -> None:
    """It need not be said, but if it is it must be 1."""
    headers = ((b"connect-protocol-version", version),)
    answer = await post(world, FETCH, BODY, token=await world.token(), headers=headers)
    assert answer.status == status


@pytest.mark.parametrize("name", [b"authorization", b"content-type", b"connect-timeout-ms"])
async def test_a_header_that_counts_may_be_there_once(world: World, name: bytes) -> None:
    """Which of two tokens is meant is not ours to guess; other headers may be doubled."""
    doubled = ((name, b"1"), (name, b"1"))
    status, code, _ = _error(await post(world, FETCH, BODY, headers=doubled))
    assert (status, code) == (400, "invalid_argument")
    harmless = ((b"via", b"a"), (b"via", b"b"))
    answer = await post(world, FETCH, BODY, token=await world.token(), headers=harmless)
    assert answer.status == 200


@pytest.mark.parametrize(
    ("deadline", "wanted"),
    [
        (b"10000", 200), (b"0000000001", 504), (b"0", 504), (b"-1", 400), (b"1.5", 400),
        (b"", 400), (b"12345678901", 400), (b"\xb2", 400),
    ],
)  # fmt: skip
async def test_the_caller_s_deadline(world: World, deadline: bytes, wanted: int) -> None:
    """Kept to while a fetch waits for a version; a number that is none is refused."""
    ahead = 9 if wanted == 504 else 0
    answer = await post(
        world,
        FETCH,
        asked(min_version=ahead).SerializeToString(),
        token=await world.token(),
        headers=((b"connect-timeout-ms", deadline),),
    )
    assert answer.status == wanted
    if wanted == 504:
        assert _error(answer)[1:] == (
            "deadline_exceeded",
            pb.ErrorDetail(code="indeterminate", server_time_ms=world.clock.unix_ms()),
        )


async def test_a_body_over_the_limit_is_413(world: World) -> None:
    """However it is cut, and before anything is parsed or anybody authenticated."""
    answer = await post(world, FETCH, bytes(HTTP_BODY_MAX_BYTES + 1), parts=7)
    status, code, detail = _error(answer)
    assert (status, code, detail.reason) == (413, "invalid_argument", "TOO_LARGE")


@pytest.mark.parametrize(
    ("media_type", "body"),
    [
        ("application/proto", b"\xffCANARY"),
        (JSON, b"{"),
        (JSON, b'{"CANARY":1}'),
        (JSON, b'{"org":"acme","org":"CANARY"}'),
        (JSON, b""),
    ],
)
async def test_malformed_bodies_are_invalid_and_not_quoted(
    world: World, media_type: str, body: bytes
) -> None:
    """In both content types."""
    answer = await post(world, FETCH, body, token=await world.token(), media_type=media_type)
    assert _error(answer)[:2] == (400, "invalid_argument")
    assert b"CANARY" not in answer.body


async def test_a_batch_over_the_limit_is_invalid(world: World) -> None:
    """512 tokens and no more."""
    batch = pb.VerifyBatchRequest(requests=[question("x")] * (VERIFY_BATCH_MAX + 1))
    answer = await post(world, VERIFY_BATCH, batch.SerializeToString(), token=await world.token())
    assert _error(answer)[:2] == (400, "invalid_argument")


async def test_an_unexpected_exception_is_an_internal_error(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """500, and nothing of the exception."""
    monkeypatch.setattr(world.node.boot, "fetch", raises(ValueError("CANARY")))  # type: ignore[arg-type]
    answer = await post(world, FETCH, BODY, token="x")
    status, code, detail = _error(answer)
    assert (status, code, detail.code) == (500, "internal", "internal")
    assert b"CANARY" not in answer.body


@pytest.mark.parametrize(
    ("code", "header"), [(Code.LIMIT, b"retry-after"), (Code.UNAVAILABLE, b"retry-after")]
)
async def test_when_to_try_again(
    world: World, monkeypatch: pytest.MonkeyPatch, code: Code, header: bytes
) -> None:
    """429 and 503 say in a header how long to wait."""
    monkeypatch.setattr(world.node.boot, "fetch", raises(PetsemError(code, "later")))
    answer = await post(world, FETCH, BODY, token="x")
    assert answer.headers[header] == b"1"


async def test_a_client_that_hangs_up_is_not_answered(world: World) -> None:
    """There is nobody left to hear it."""
    sent: list[object] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def send(event: object) -> None:
        sent.append(event)

    headers = [(b"content-type", b"application/proto")]
    scope = {"type": "http", "method": "POST", "path": FETCH, "headers": headers, "client": None}
    await connect_app(world.node)(scope, receive, send)
    assert sent == []
