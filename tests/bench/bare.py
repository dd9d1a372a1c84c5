"""The bare servers that Petsem is measured against, each a process of its own.

`python -m tests.bench.bare grpc BYTES` answers every unary call with the same BYTES bytes;
`python -m tests.bench.bare litestar` parses the body of a PATCH as the API does and answers a
small struct; `python -m tests.bench.bare stream BYTES` answers a call with as many messages of
BYTES bytes as its four bytes say, one each 5 ms, that begin with the `time.monotonic_ns()` at
which they left. All print their port on one line.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import time
from collections.abc import AsyncIterator
from typing import Final

import grpc
import grpc.aio
import msgspec
import uvicorn
import uvloop
from litestar import Litestar, Response, patch

from petsem.wire import http

_STREAM_PAUSE_S: Final = 0.005


class _Any(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # not generic at run time
    def __init__(self, answer: bytes) -> None:
        async def handle(_request: bytes, _context: object) -> bytes:
            return answer

        self._handler = grpc.unary_unary_rpc_method_handler(handle)

    def service(self, _details: object) -> grpc.RpcMethodHandler[bytes, bytes]:
        return self._handler


class _Stream(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # not generic at run time
    def __init__(self, size: int) -> None:
        rest = bytes(size - 8)

        async def handle(request: bytes, _context: object) -> AsyncIterator[bytes]:
            for _ in range(int.from_bytes(request, "big")):
                await asyncio.sleep(_STREAM_PAUSE_S)
                yield time.monotonic_ns().to_bytes(8, "big") + rest

        self._handler = grpc.unary_stream_rpc_method_handler(handle)

    def service(self, _details: object) -> grpc.RpcMethodHandler[bytes, bytes]:
        return self._handler


async def _grpc(handler: grpc.GenericRpcHandler) -> None:  # type: ignore[type-arg]
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(json.dumps({"port": port}), flush=True)
    await server.wait_for_termination()


@patch("/v1/orgs/{org:str}/apps/{app:str}/secrets")
async def _patch(org: str, app: str, data: http.SecretsPatch) -> Response[bytes]:
    body = msgspec.json.encode({"version": len(data.set), "org": org, "app": app})
    return Response(body, media_type="application/json")


def _litestar() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    print(json.dumps({"port": listener.getsockname()[1]}), flush=True)
    app = Litestar([_patch], openapi_config=None)
    config = uvicorn.Config(
        app, http="httptools", ws="none", lifespan="off", access_log=False, log_config=None
    )
    uvloop.run(uvicorn.Server(config).serve([listener]))


def main() -> None:
    if sys.argv[1] == "grpc":
        uvloop.run(_grpc(_Any(bytes(int(sys.argv[2])))))
    elif sys.argv[1] == "stream":
        uvloop.run(_grpc(_Stream(int(sys.argv[2]))))
    else:
        _litestar()


if __name__ == "__main__":
    main()
