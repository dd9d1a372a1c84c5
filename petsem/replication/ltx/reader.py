"""One file pulled from a source of chunks, for files larger than memory.

Guarantees: at most one chunk, one frame and one page of a source are held at a time. The pages
come before the file checksum was compared: whoever uses them must read to the end and look at
`trailer` before he lets them count.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from petsem.replication.ltx.decoder import Decoder, Event, Page
from petsem.replication.ltx.header import Header
from petsem.replication.ltx.trailer import Trailer


class Reader:
    """An iterator over the pages of the file whose bytes `chunks` gives.

    `header` is there at once, `trailer` when the iterator has ended and so found every rule kept.
    `LtxError` where one is broken, also if the source ends too early or too late.
    """

    __slots__ = ("_events", "_trailer", "header")

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._events = _events(chunks)
        self._trailer: Trailer | None = None
        first = next(self._events)
        assert isinstance(first, Header)
        self.header = first

    @property
    def trailer(self) -> Trailer:
        """The trailer; only after the last page."""
        assert self._trailer is not None, "read to the end first"
        return self._trailer

    def __iter__(self) -> Iterator[Page]:
        for event in self._events:
            if isinstance(event, tuple):
                yield event
            else:
                assert isinstance(event, Trailer)
                self._trailer = event


def _events(chunks: Iterable[bytes]) -> Iterator[Event]:
    decoder = Decoder()
    for chunk in chunks:
        decoder.receive(chunk)
        while (event := decoder.next_event()) is not None:
            yield event
    decoder.finish()
