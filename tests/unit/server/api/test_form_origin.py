"""Forms that other sites have a browser send, by what browsers say of where a form was."""

from __future__ import annotations

import pytest

from petsem.errors import Code, PetsemError
from petsem.server.api.form_origin import check_form_origin

URL = "https://petsem.example"
HOST = "petsem.example"


@pytest.mark.parametrize(
    ("site", "origin", "host", "url"),
    [
        ("same-origin", URL, HOST, URL),
        ("same-origin", None, HOST, URL),
        ("same-origin", "null", HOST, URL),
        (None, URL, HOST, URL),
        (None, URL, "10.0.0.7:7400", URL),
        (None, URL, None, URL),
        (None, "https://petsem.example", "PETSEM.example:443", "https://Petsem.Example:443"),
        (None, "https://petsem.example:8443", HOST, "https://petsem.example:8443"),
        (None, "https://fra.petsem.example", "fra.petsem.example", URL),
        (None, "http://127.0.0.1:7410", "127.0.0.1:7410", "http://127.0.0.1:7400"),
    ],
)
def test_our_own_page(site: str | None, origin: str | None, host: str | None, url: str) -> None:
    """The public URL's, also behind a proxy that names the node otherwise, or another node's."""
    check_form_origin(site, origin, host, url)


@pytest.mark.parametrize(
    ("site", "origin"),
    [
        ("cross-site", URL),
        ("same-site", URL),
        ("none", URL),
        ("same-origin, same-origin", URL),
        ("same-origin", "https://evil.example"),
        (None, "https://evil.example"),
        (None, "https://petsem.example.evil.example"),
        (None, "https://evil.petsem.example"),
        (None, "http://petsem.example"),
        (None, "https://petsem.example:8443"),
        (None, f"{URL}, {URL}"),
        (None, f"{URL}/"),
        (None, ""),
        (None, "null"),
        (None, None),
    ],
)
def test_another_sites(site: str | None, origin: str | None) -> None:
    """Another host, scheme or port, one that hides itself, and who does not say where the form was:
    with the cookie or without it, the form is not taken."""
    with pytest.raises(PetsemError) as caught:
        check_form_origin(site, origin, HOST, URL)
    assert caught.value.code is Code.DENIED
    assert "evil" not in caught.value.message


def test_without_a_public_url() -> None:
    """Nobody's form is our own."""
    for origin in ("http://petsem.example", "://petsem.example", "petsem.example"):
        with pytest.raises(PetsemError):
            check_form_origin(None, origin, HOST, None)
