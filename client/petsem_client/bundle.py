"""An app's secrets at one version, as a mapping that does not show them by accident.

Guarantees: immutable; no `repr`, `str`, `format` or pickle has a value in it, and no serialiser
takes it for a dict or a dataclass. Whoever indexes it, or calls `dict` on it, holds plain bytes and
answers for them. It does not wipe memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NoReturn

from petsem.model import Freshness


class Bundle(Mapping[str, bytes]):
    """Secrets by name. Values are bytes, exactly as they were set."""

    __slots__ = ("_app", "_etag", "_filtered", "_freshness", "_values", "_version")

    def __init__(
        self,
        app: str,
        values: Mapping[str, bytes],
        *,
        version: int,
        freshness: Freshness,
        etag: bytes,
        filtered: bool = False,
    ) -> None:
        self._app = app
        self._values = dict(values)
        self._version = version
        self._freshness = freshness
        self._etag = etag
        self._filtered = filtered

    @property
    def app(self) -> str:
        """Whose secrets these are: `ORG/APP`."""
        return self._app

    @property
    def version(self) -> int:
        """The app's version that this is; 0 for an app in which nothing was ever set."""
        return self._version

    @property
    def freshness(self) -> Freshness:
        """Which node answered last, and how far behind the leader it may have been."""
        return self._freshness

    @property
    def etag(self) -> bytes:
        """Names this content: hand the bundle back as `known` to be spared the same bytes."""
        return self._etag

    @property
    def filtered(self) -> bool:
        """Whether the token's caveats left some names out."""
        return self._filtered

    def confirmed(self, freshness: Freshness) -> Bundle:
        """The same secrets, after a node has said that they still hold."""
        return Bundle(
            self._app,
            self._values,
            version=self._version,
            freshness=freshness,
            etag=self._etag,
            filtered=self._filtered,
        )

    def __getitem__(self, name: str) -> bytes:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        left_out = ", filtered" if self._filtered else ""
        return f"<Bundle {self._app} version {self._version}: {len(self)} secrets{left_out}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Bundle cannot be serialised")
