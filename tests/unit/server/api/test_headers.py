"""The headers that the API reads: one credential, JSON, nothing compressed."""

from __future__ import annotations

import pytest

from petsem.errors import Code, PetsemError
from petsem.server.api.headers import read_headers

Headers = list[tuple[bytes, bytes]]


@pytest.mark.parametrize("scheme", [b"Bearer", b"bearer", b"BEARER"])
def test_token(scheme: bytes) -> None:
    """The scheme may be written in any case, with more than one space after it."""
    assert read_headers([(b"authorization", scheme + b" petsem_x")]).token == "petsem_x"
    assert read_headers([(b"authorization", scheme + b"  petsem_x ")]).token == "petsem_x"


@pytest.mark.parametrize(
    ("value", "token"), [(b"Bearer", ""), (b"Bearer ", ""), (b"Bearer \xff", "\xff")]
)
def test_what_is_no_token(value: bytes, token: str) -> None:
    """Whether what follows the scheme is a token is judged where tokens are."""
    assert read_headers([(b"authorization", value)]).token == token


@pytest.mark.parametrize("value", [b"Basic dXNlcjpodW50ZXIy", b"petsem_x", b"", b"Bearer\tx"])
def test_other_schemes(value: bytes) -> None:
    """Any other scheme is unauthenticated, and not quoted."""
    with pytest.raises(PetsemError) as caught:
        _ = read_headers([(b"authorization", value)]).token
    assert caught.value.code is Code.UNAUTHENTICATED
    assert caught.value.message == "only the Bearer scheme is known; send 'Bearer TOKEN'"


@pytest.mark.parametrize(
    "name", ["authorization", "content-type", "content-encoding", "idempotency-key"]
)
def test_twice(name: str) -> None:
    """Of two headers nobody can say which counts, so there may not be two, even equal ones."""
    with pytest.raises(PetsemError, match="more than one") as caught:
        read_headers([(name.encode(), b"x"), (b"host", b"n"), (name.encode(), b"x")])
    assert caught.value.code is Code.INVALID


def test_others_are_not_read() -> None:
    """Headers that the API does not read may come in any number."""
    found = read_headers([(b"accept", b"a"), (b"accept", b"b"), (b"x-forwarded-for", b"1.2.3.4")])
    assert (found.token, found.key, found.content_type) == (None, None, None)


@pytest.mark.parametrize(
    "value",
    [
        b"application/json",
        b"Application/JSON",
        b"application/json; charset=utf-8",
        b'application/json;charset="UTF-8"',
    ],
)
def test_json(value: bytes) -> None:
    """JSON in UTF-8 is JSON, however that is spelled."""
    read_headers([(b"content-type", value), (b"content-encoding", b"identity")]).require_json()


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b"text/plain",
        b"application/x-www-form-urlencoded",
        b"application/json; charset=utf-16",
        b"application/jsonx",
        b"application/problem+json",
    ],
)
def test_not_json(value: bytes | None) -> None:
    """A body that does not say that it is JSON is refused: a form in a browser can send others."""
    headers: Headers = [] if value is None else [(b"content-type", value)]
    with pytest.raises(PetsemError, match="the body must be JSON"):
        read_headers(headers).require_json()


@pytest.mark.parametrize("value", [b"gzip", b"br", b"identity, gzip"])
def test_compressed(value: bytes) -> None:
    """A compressed body is refused: what it becomes has no bound."""
    headers = [(b"content-type", b"application/json"), (b"content-encoding", value)]
    with pytest.raises(PetsemError, match="compressed"):
        read_headers(headers).require_json()


def test_repr_hides_the_credential() -> None:
    """The token does not stand in the `repr` of what was read."""
    assert "petsem_x" not in repr(read_headers([(b"authorization", b"Bearer petsem_x")]))
