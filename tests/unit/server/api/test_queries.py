"""Query strings: known parameters, each once, each of its type."""

from __future__ import annotations

import pytest

from petsem.errors import Code, PetsemError
from petsem.server.api.queries import Delete, NoQuery, Page, ValuesQuery, decode_query

CASES: list[tuple[bytes, type, str]] = [
    (b"x=1", NoQuery, "a query parameter is not known; this route takes none"),
    (b"hunter2=1", Delete, "a query parameter is not known; this route knows now"),
    (b"limit=1&limit=1", Page, "the query parameter limit is given twice"),
    (b"limit=", Page, "limit must be a whole number"),
    (b"limit=+1", Page, "limit must be a whole number"),
    (b"limit=-1", Page, "limit must be a whole number"),
    (b"limit=1.0", Page, "limit must be a whole number"),
    (b"limit=01", Page, "limit must be a whole number"),
    (b"limit=1_0", Page, "limit must be a whole number"),
    ("limit=١".encode(), Page, "the query is not made of NAME=VALUE in UTF-8 with & between them"),
    (b"limit=%D9%A1", Page, "limit must be a whole number"),
    (b"limit=99999999999999999999", Page, "limit must be a whole number"),
    (b"limit=0", Page, "limit must be at least 1"),
    (b"limit=501", Page, "limit must be at most 500"),
    (b"version=4294967296", ValuesQuery, "version must be at most 4294967295"),
    (b"now=yes", Delete, "now must be true or false"),
    (b"now=1", Delete, "now must be true or false"),
    (b"now", Delete, "the query is not made of NAME=VALUE in UTF-8 with & between them"),
    (b"names=", ValuesQuery, "names is empty; leave it out, or give it a value"),
    (b"names=%ff", ValuesQuery, "the query is not made of NAME=VALUE in UTF-8 with & between them"),
    (
        b"&".join(b"a%d=1" % n for n in range(17)),
        ValuesQuery,
        "the query is not made of NAME=VALUE in UTF-8 with & between them",
    ),
]


@pytest.mark.parametrize(("raw", "kind", "sentence"), CASES, ids=range(len(CASES)))
def test_refused(raw: bytes, kind: type, sentence: str) -> None:
    """Each bad query gets its own sentence, with nothing of the query in it."""
    with pytest.raises(PetsemError) as caught:
        decode_query(raw, kind)
    assert (caught.value.code, caught.value.message) == (Code.INVALID, sentence)


def test_accepted() -> None:
    """What is given is read by its type, and what is not has its default."""
    assert decode_query(b"", Delete) == Delete(now=False)
    assert decode_query(b"now=true", Delete) == Delete(now=True)
    assert decode_query(b"after=a%2Fb+c&limit=7", Page) == Page(after="a/b c", limit=7)
    assert decode_query(b"names=A,B%2CC&durable=true&version=3", ValuesQuery) == ValuesQuery(
        version=3, names="A,B,C", durable=True
    )
