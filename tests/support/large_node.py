"""`petsem serve` that does much in one transaction: `python -m tests.support.large_node DIR`.

The order is a file beside the directory, `DIR.bulk`: how many pages, and `random` or `zeros`. The
next write's transaction begins with them, as rows of a table of the test's own; the API has no
request that changes so much at once.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

import apsw

from petsem.replication.image import PAGE_SIZE
from petsem.server import main as server
from petsem.server.writing_connection import WritingConnection

COMMAND: Final = (sys.executable, "-m", "tests.support.large_node")
_ROW_PAGES: Final = 1_024


def order(directory: Path, pages: int, content: str) -> None:
    """Have the next write bring so many pages with it."""
    path = _order_of(directory)
    new = path.with_suffix(".new")
    new.write_text(f"{pages} {content}")
    new.replace(path)


def obeyed(directory: Path) -> bool:
    """Whether a write did."""
    return not _order_of(directory).exists()


def _order_of(directory: Path) -> Path:
    return directory.with_name(directory.name + ".bulk")


def _put(db: apsw.Connection, pages: int, content: str) -> None:
    made = {"random": "randomblob(?)", "zeros": "zeroblob(?)"}[content]
    db.execute("CREATE TABLE IF NOT EXISTS bulk(content BLOB)")
    for first in range(0, pages, _ROW_PAGES):
        size = min(_ROW_PAGES, pages - first) * PAGE_SIZE
        db.execute(f"INSERT INTO bulk VALUES ({made})", (size,))


def main(directory: str) -> int:
    """As the command line does, but for that."""
    path = _order_of(Path(directory))
    begin = WritingConnection.begin

    async def begin_large(self: WritingConnection) -> apsw.Connection:
        db = await begin(self)
        if path.exists():
            pages, content = path.read_text().split()
            path.unlink()
            _put(db, int(pages), content)
        return db

    WritingConnection.begin = begin_large  # type: ignore[method-assign]
    return server.serve(Path(directory), insecure=False, environ=os.environ)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
