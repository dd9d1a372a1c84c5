"""A running node asked through each of its doors, and what it answered in comparable form."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Self

import grpc
import httpx
from google.protobuf.message import Message

from petsem.clock import rfc3339
from petsem.tokens.macaroon import attenuate
from petsem.tokens.text import encode_token, parse_token
from petsem.wire import petsem_pb2 as pb
from petsem.wire.errors import STATUS_KEY, decode_status
from tests.support.daemon import Daemon, Ran, run
from tests.support.patience import PATIENCE_S

REPLIES: Final[Mapping[str, type[Message]]] = {
    "/petsem.v1.Secrets/Fetch": pb.FetchResponse,
    "/petsem.v1.Secrets/Watch": pb.AppChanged,
    "/petsem.v1.Tokens/Verify": pb.VerifyResponse,
    "/petsem.v1.Tokens/VerifyBatch": pb.VerifyBatchResponse,
    "/petsem.v1.Tokens/WatchRevocations": pb.Revocation,
}


STREAMS: Final = frozenset({"/petsem.v1.Secrets/Watch", "/petsem.v1.Tokens/WatchRevocations"})


@dataclass(frozen=True)
class Answer:
    """One answer over HTTP. `error` is None of an answer that is no error."""

    status: int
    headers: httpx.Headers = field(repr=False)
    raw: bytes = field(repr=False)

    @property
    def body(self) -> Any:
        """The JSON in it."""
        return json.loads(self.raw)

    @property
    def error(self) -> tuple[int, str, str | None] | None:
        """(status, code, reason)."""
        if self.status < 400:
            return None
        body = self.body
        assert body.keys() == {"code", "message", "details"}, body.keys()
        assert isinstance(body["message"], str)
        return self.status, body["code"], body["details"].get("reason")


@dataclass(frozen=True)
class Reply:
    """One answer over gRPC or Connect: the transport's status, and our detail of an error."""

    status: str
    message: Any = None
    code: str | None = None
    reason: str | None = None
    sentence: str = ""
    raw: bytes = field(default=b"", repr=False)
    detail: pb.ErrorDetail | None = None

    @property
    def error(self) -> tuple[str, str | None, str | None] | None:
        """(status, code, reason)."""
        return None if self.status in ("OK", "200") else (self.status, self.code, self.reason)


class Doors:
    """Clients of one node, with its operator's token by default."""

    def __init__(self, daemon: Daemon, operator: str, *, source: str = "127.0.0.1") -> None:
        self.daemon = daemon
        self.operator = operator
        self.http = httpx.Client(
            base_url=f"http://127.0.0.1:{daemon.http}",
            timeout=PATIENCE_S,
            trust_env=False,
            transport=httpx.HTTPTransport(local_address=source),
        )
        self.channel = grpc.insecure_channel(f"127.0.0.1:{daemon.grpc}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.http.close()
        self.channel.close()

    # HTTP

    def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        token: str | None = "",
        **headers: str,
    ) -> Answer:
        """One request. `token` None: none at all. Underscores in names of headers are hyphens."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if token is not None:
            sent["authorization"] = f"Bearer {token or self.operator}"
        content: bytes | None = None
        if isinstance(body, bytes):
            content = body
        elif body is not None:
            content = json.dumps(body).encode()
        if content is not None:
            sent.setdefault("content-type", "application/json")
        came = self.http.request(method, path, content=content, headers=sent)
        return Answer(came.status_code, came.headers, came.content)

    def done(self, method: str, path: str, body: object = None, **more: Any) -> Any:
        """The JSON of one request that must succeed."""
        answer = self.ask(method, path, body, **more)
        assert answer.error is None, f"{method} {path}: {answer.raw!r}"
        return answer.body

    def furnish(self, org: str, *apps: str) -> None:
        """An org with apps."""
        self.done("POST", "/v1/orgs", {"org": org})
        for app in apps:
            self.done("POST", f"/v1/orgs/{org}/apps", {"app": app})

    def mint(self, org: str | None, *caveats: str, kind: str | None = None, **more: Any) -> str:
        """A token good for an hour."""
        body = {"caveats": [*caveats, in_seconds(3_600)]}
        asked = {"org": org, "kind": kind, **body}
        sent = {name: value for name, value in asked.items() if value is not None}
        return str(self.done("POST", "/v1/tokens", sent, **more)["token"])

    def set(self, app: str, **values: str | bytes) -> Any:
        """One batch for `ORG/APP`; the reply."""
        return self.done("PATCH", secrets_of(app), {"set": coded(values)})

    # gRPC and Connect

    def rpc(
        self,
        path: str,
        message: Message,
        *,
        token: str | None = "",
        timeout_s: float = PATIENCE_S,
    ) -> Reply:
        """One call over gRPC. Of a stream, the first message."""
        try:
            if path in STREAMS:
                stream = self.stream(path, message, token=token, timeout_s=timeout_s)
                raw = next(stream)
                stream.cancel()
            else:
                call: Any = self.channel.unary_unary(path, None, None)
                metadata = self._metadata(token)
                raw = call(message.SerializeToString(), metadata=metadata, timeout=timeout_s)
        except grpc.RpcError as error:
            return grpc_error(error)
        return Reply("OK", REPLIES[path].FromString(raw), raw=raw)

    def stream(
        self,
        path: str,
        message: Message,
        *,
        token: str | None = "",
        timeout_s: float = PATIENCE_S,
    ) -> Any:
        """An open stream over gRPC: an iterator of bytes that can be cancelled."""
        call: Any = self.channel.unary_stream(path, None, None)
        return call(message.SerializeToString(), metadata=self._metadata(token), timeout=timeout_s)

    def _metadata(self, token: str | None) -> tuple[tuple[str, str], ...]:
        return () if token is None else (("authorization", f"Bearer {token or self.operator}"),)

    def connect(
        self,
        path: str,
        message: Message | bytes,
        *,
        token: str | None = "",
        proto: bool = True,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        """One call over Connect; `message` may be the bytes of a body."""
        body = message if isinstance(message, bytes) else message.SerializeToString()
        answer = self.ask(
            "POST",
            path,
            body,
            token=token,
            content_type="application/proto" if proto else "application/json",
            **(headers or {}),
        )
        if answer.status != 200:
            return connect_error(answer)
        found = REPLIES[path].FromString(answer.raw) if proto else answer.body
        return Reply("200", found, raw=answer.raw)

    def fetch(self, app: str, *, token: str | None = "", **asked: Any) -> Reply:
        """The boot read over gRPC."""
        return self.rpc("/petsem.v1.Secrets/Fetch", fetch_request(app, **asked), token=token)

    # The command line

    def cli(
        self, *arguments: str, stdin: bytes = b"", token: str = "", app: str = "", **environ: str
    ) -> Ran:
        """One command of the command line against this node."""
        given = {
            "PETSEM_ADDR": f"http://127.0.0.1:{self.daemon.http}",
            "PETSEM_GRPC": f"127.0.0.1:{self.daemon.grpc}",
            "PETSEM_TOKEN": token or self.operator,
            **({"PETSEM_APP": app} if app else {}),
        }
        return run(*arguments, stdin=stdin, environ={**given, **environ})


def grpc_error(error: grpc.RpcError) -> Reply:
    """What a failed call over gRPC says."""
    status: grpc.StatusCode = error.code()
    metadata = dict(error.trailing_metadata() or ())
    packed = metadata.get(STATUS_KEY)
    detail = None if packed is None else decode_status(packed)
    return Reply(
        status.name,
        None,
        None if detail is None else detail.code,
        None if detail is None else detail.reason or None,
        error.details() or "",
        packed or b"",
        detail,
    )


def connect_error(answer: Answer) -> Reply:
    """What a failed call over Connect says: status is HTTP's and Connect's name of the code."""
    body = answer.body
    assert body.keys() == {"code", "message", "details"}, body.keys()
    detail = None
    if body["details"]:
        (packed,) = body["details"]
        assert packed["type"] == "petsem.v1.ErrorDetail"
        value = packed["value"]
        detail = pb.ErrorDetail.FromString(base64.b64decode(value + "=" * (-len(value) % 4)))
    return Reply(
        f"{answer.status} {body['code']}",
        None,
        None if detail is None else detail.code,
        None if detail is None else detail.reason or None,
        body["message"],
        answer.raw,
        detail,
    )


def fetch_request(app: str, **asked: Any) -> pb.FetchRequest:
    """A fetch of `ORG/APP`."""
    org, _, name = app.partition("/")
    return pb.FetchRequest(org=org, app=name, **asked)


def values_of(reply: Reply) -> dict[str, bytes]:
    """Name and value of each secret that a fetch answered."""
    assert reply.error is None, reply
    return {each.name: each.value for each in reply.message.secrets}


def secrets_of(app: str) -> str:
    """The path of the secrets of `ORG/APP`."""
    org, _, name = app.partition("/")
    return f"/v1/orgs/{org}/apps/{name}/secrets"


def coded(values: Mapping[str, str | bytes]) -> dict[str, Any]:
    """Values as a batch spells them."""
    return {
        name: value if isinstance(value, str) else {"base64": base64.b64encode(value).decode()}
        for name, value in values.items()
    }


def in_seconds(seconds: float) -> str:
    """The caveat that ends a token so many seconds from now."""
    return f"time < {rfc3339(int(time.time() + seconds) * 1000)}"


def narrowed(token: str, *caveats: str) -> str:
    """The token with more caveats, as any holder can make it."""
    return encode_token(attenuate(parse_token(token).root, caveats))
