"""Query strings: what each route takes, read strictly.

Guarantees: a parameter that is not known, is given twice, is empty or is not of its type is
`invalid`, with a sentence that quotes nothing. An empty one is refused too, because it is more
likely a variable that was not set than a wish for the default.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Annotated, Any, Final, Literal, TypeVar
from urllib.parse import parse_qsl

import msgspec
from msgspec import Meta

from petsem import limits
from petsem.errors import invalid
from petsem.server.api.explain import explain

REVOCATIONS_WAIT_MAX_S: Final = 30

T = TypeVar("T", bound=msgspec.Struct)

_WHOLE_NUMBER = re.compile(r"0|[1-9][0-9]{0,18}", re.ASCII)
_FIELDS_MAX: Final = 16


class _Query(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The parameters of one route; every field is an int, a bool or a str, and optional."""


class NoQuery(_Query, frozen=True):
    """A route that takes no parameters."""


_Limit = Annotated[int, Meta(ge=1, le=limits.PAGE_MAX_ROWS, description="entries of one page")]
_Version = Annotated[int, Meta(ge=0, le=limits.VERSION_MAX)]


class Page(_Query, frozen=True):
    """A listing by name."""

    after: Annotated[str, Meta(description="the `next` of the page before")] | None = None
    limit: _Limit = limits.PAGE_MAX_ROWS


class ListQuery(_Query, frozen=True):
    """Which version's names."""

    version: Annotated[_Version, Meta(description="0, the default, is the current one")] = 0


class VersionPage(_Query, frozen=True):
    """A listing of versions, newest first."""

    before: (
        Annotated[
            int,
            Meta(ge=1, le=limits.VERSION_MAX, description="the `next` of the page before"),
        ]
        | None
    ) = None
    limit: _Limit = 100


class Delete(_Query, frozen=True):
    """Whether to keep the week in which a deletion can be undone."""

    now: Annotated[
        bool, Meta(description="purge at once, with no undelete; needs `orgs:admin`")
    ] = False


class ValuesQuery(_Query, frozen=True):
    """Which values, and how fresh."""

    version: Annotated[_Version, Meta(description="0, the default, is the current one")] = 0
    names: (
        Annotated[str, Meta(description="names with commas between them; all if left out")] | None
    ) = None
    machine: Annotated[str, Meta(description="the machine that the values are for")] | None = None
    min_version: Annotated[
        _Version, Meta(description="wait, for about 2 s, until this version is here; else `stale`")
    ] = 0
    min_position: (
        Annotated[str, Meta(description="the same for a position that a write answered")] | None
    ) = None
    durable: Annotated[
        bool, Meta(description="answer only with what a failover would not lose")
    ] = False


class RevocationsQuery(_Query, frozen=True):
    """Where in the feed, and how long to wait for news."""

    org: (
        Annotated[
            str, Meta(description="of one org; all, for tokens of the cluster key, if left out")
        ]
        | None
    ) = None
    after: (
        Annotated[
            str,
            Meta(
                description="the `next` of the answer before; without it the answer comes at once, "
                "empty, with the position to begin at"
            ),
        ]
        | None
    ) = None
    wait_s: Annotated[
        int,
        Meta(ge=0, le=REVOCATIONS_WAIT_MAX_S, description="how long to wait for a revocation"),
    ] = REVOCATIONS_WAIT_MAX_S


class FlowQuery(_Query, frozen=True):
    """Which sign-in."""

    flow: (
        Annotated[str, Meta(description="as `user_interactive` has it in its `user_url`")] | None
    ) = None


class CallbackQuery(_Query, frozen=True):
    """What a provider sends a browser back with; others of its own are not looked at."""

    state: Annotated[str, Meta(description="what the browser was sent with")] | None = None
    code: (
        Annotated[str, Meta(description="the provider's code, if it let the person in")] | None
    ) = None
    error: Annotated[str, Meta(description="why it did not")] | None = None
    iss: Annotated[str, Meta(description="the provider's issuer (RFC 9207)")] | None = None


def decode_query(raw: bytes, kind: type[T]) -> T:
    """The parameters of type `kind` that a query string spells."""
    if not raw:
        return kind()
    parameters: dict[str, Any] = {}
    readers = _readers(kind)
    for name, text in _pairs(raw):
        reader = readers.get(name)
        if reader is None:
            raise invalid(f"a query parameter is not known; {_known(readers)}")
        if name in parameters:
            raise invalid(f"the query parameter {name} is given twice")
        parameters[name] = _READ[reader](name, text)
    try:
        return msgspec.convert(parameters, type=kind, strict=True)
    except msgspec.ValidationError as e:
        sentence = explain(e, kind, "the query")
    raise invalid(sentence)


def _pairs(raw: bytes) -> list[tuple[str, str]]:
    try:
        return parse_qsl(
            raw.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=True,
            errors="strict",
            max_num_fields=_FIELDS_MAX,
        )
    except ValueError:
        sentence = "the query is not made of NAME=VALUE in UTF-8 with & between them"
    raise invalid(sentence)


def _known(readers: dict[str, _Reader]) -> str:
    return f"this route knows {', '.join(readers)}" if readers else "this route takes none"


def _whole_number(name: str, text: str) -> int:
    if _WHOLE_NUMBER.fullmatch(text) is None:
        raise invalid(f"{name} must be a whole number")
    return int(text)


def _yes_or_no(name: str, text: str) -> bool:
    if text not in ("true", "false"):
        raise invalid(f"{name} must be true or false")
    return text == "true"


def _text(name: str, text: str) -> str:
    if not text:
        raise invalid(f"{name} is empty; leave it out, or give it a value")
    return text


_Reader = Literal["int", "bool", "str"]
_READ: Final = {"int": _whole_number, "bool": _yes_or_no, "str": _text}


@lru_cache(maxsize=32)
def _readers(kind: type[msgspec.Struct]) -> dict[str, _Reader]:
    """How the text of each parameter is read, by the type of its field."""
    found = msgspec.inspect.type_info(kind)
    assert isinstance(found, msgspec.inspect.StructType)
    return {field.name: _reader(field.type) for field in found.fields}


def _reader(kind: msgspec.inspect.Type) -> _Reader:
    if isinstance(kind, msgspec.inspect.Metadata):
        return _reader(kind.type)
    if isinstance(kind, msgspec.inspect.UnionType):
        (one,) = (each for each in kind.types if not isinstance(each, msgspec.inspect.NoneType))
        return _reader(one)
    if isinstance(kind, msgspec.inspect.IntType):
        return "int"
    if isinstance(kind, msgspec.inspect.BoolType):
        return "bool"
    assert isinstance(kind, msgspec.inspect.StrType)
    return "str"
