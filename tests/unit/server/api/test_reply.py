"""An answer as it goes to the server."""

from __future__ import annotations

from typing import Any

import pytest

from petsem.server.api.reply import Reply


@pytest.mark.parametrize(("method", "body"), [("GET", b"{}"), ("POST", b"{}"), ("HEAD", b"")])
async def test_a_head_has_no_body(method: str, body: bytes) -> None:
    """And all of the headers, the body's length among them."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope: Any = {"type": "http", "method": method}
    await Reply(200, b"{}")(scope, None, send)  # type: ignore[arg-type]
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"2"),
        (b"cache-control", b"no-store"),
        (b"x-content-type-options", b"nosniff"),
    ]
    assert sent == [
        {"type": "http.response.start", "status": 200, "headers": headers},
        {"type": "http.response.body", "body": body, "more_body": False},
    ]
